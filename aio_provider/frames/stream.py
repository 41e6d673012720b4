"""A call over rows that are never all in memory: checked, then read part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames import arguments as checks
from aio_provider.frames.options import Options
from aio_provider.frames.parts import Naming, Part
from aio_provider.frames.same import about
from aio_provider.frames.scan import Scan, open_scan, scan_table
from aio_provider.frames.spec import RequestSpec, make_spec
from aio_provider.frames.target import Target
from aio_provider.jobs.job import service_scope

#: rows of a part, unless the caller says otherwise
PART_ROWS: Final = 10_000


@dataclass(frozen=True)
class Stream:
    """A streamed call whose arguments have all been checked.

    :param part_rows: rows of a part.
    """

    scan: Scan
    spec: RequestSpec
    options: Options
    target: Target
    part_rows: int

    def parts(self) -> Iterator[Part]:
        """The input, part by part."""
        for part in numbered(self.scan.tables(self.part_rows)):
            part.digest = digest_of(part.rows)
            yield part

    def check_rows(self) -> None:
        """Build every row's request, for ``errors="raise"``.

        :raises InvalidRequestError: a row that cannot be sent.
        """
        if not self.scan.repeatable:
            raise ConfigurationError(
                'errors="raise" looks at all rows before anything is spent, and an iterator can be '
                "read once; give a path, a dataset or a DataFrame."
            )
        self.spec.check_rows(self.scan.tables(self.part_rows))

    def naming(self, base_url: str, run_id: str) -> Naming:
        """What says which job each row is; one for each time the parts are gone through."""
        return Naming(self.spec, self.options, base_url, run_id)

    def call(self, base_url: str) -> str:
        """What makes two calls the same call: what is sent where, for which input, and the output's form.

        :returns: 64 hex digits.
        """
        return hashlib.sha256(json.dumps(self._shape(base_url), sort_keys=True).encode()).hexdigest()

    def prepare(self, base_url: str, *, overwrite: bool, owner: str | None = None) -> None:
        """Make sure that the output can be written, and begin it: the last step before rows are sent.

        :param owner: who claims it, see :meth:`~aio_provider.frames.target.Target.prepare`.
        :raises FileExistsError: something else is there.
        :raises OSError: the place cannot be written, or has too little room.
        """
        told = about(self._shape(base_url))
        self.target.prepare(self.call(base_url), overwrite=overwrite, about=told, owner=owner)

    def _shape(self, base_url: str) -> dict[str, Any]:
        options = self.options
        return {
            **self.spec.describe(),
            "key": None if options.key is None else str(options.key),
            "prefix": options.prefix,
            "service": service_scope(base_url),
            "run": "" if options.reuse == "always" else f"{options.reuse}:{options.run_id}",
            "input": self.scan.identity,
            "part_rows": self.part_rows,
            "partition_by": self.target.partition_by,
        }


def open_stream(given: Mapping[str, Any]) -> Stream:
    """Check everything about a streamed call that can be without sending anything.

    :param given: the arguments of :func:`~aio_provider.frames.calls.generate`, by name.
    """
    spec = make_spec(given["kind"], model=given["model"], params=given["params"], fields=given["fields"])
    rows = given["max_rows_per_part"]
    if rows is None:
        rows = PART_ROWS
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ConfigurationError(f"max_rows_per_part={rows!r}; it must be a whole number above 0.")
    prefix = checks.check_prefix(given["prefix"])
    source = given["source"]
    scan = scan_table(source) if isinstance(source, pa.Table) else open_scan(source, checks.check_csv(given))
    columns = pd.DataFrame(columns=scan.schema.names)
    spec.check_columns(scan.schema.names)
    options = checks.check_options(columns, given)
    if not given["overwrite_columns"]:
        checks.check_clash(columns, prefix)
    if scan.repeatable:
        spec.check_constants(next(scan.tables(100)))
    target = Target(given["output"], scan, prefix, given["partition_by"])
    return Stream(scan, spec, options, target, rows)


def numbered(tables: Iterable[pa.Table]) -> Iterator[Part]:
    """Tables that follow each other as parts."""
    start = 0
    for number, table in enumerate(tables):
        yield Part(number, start, table)
        start += len(table)


def digest_of(table: pa.Table) -> str:
    """SHA-256 of the values of a table: the same rows have the same, whatever file they come from."""
    digest = hashlib.sha256(table.schema.remove_metadata().serialize())
    for column in table.columns:
        halves = [column.slice(0, 1), column.slice(1)]
        # a copy: a slice drags along the bits of the rows beside it
        copied = pa.concat_arrays([chunk for half in halves for chunk in half.chunks])
        digest.update(pa.record_batch([copied], names=[""]).serialize())
    return digest.hexdigest()
