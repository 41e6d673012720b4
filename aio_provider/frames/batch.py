"""One generation call over many rows, checked and taken apart: its jobs, and its output from the record.

For those who carry the jobs out themselves, in waves: :class:`Batch` sends nothing and spends nothing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Literal

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames.columns import Expression
from aio_provider.frames.options import Reuse
from aio_provider.frames.parts import RowJob
from aio_provider.frames.report import Report
from aio_provider.frames.scan import Source
from aio_provider.frames.schema import DEFAULT_PREFIX
from aio_provider.frames.stream import open_stream
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import Ledger

#: keys asked for at once
_CHUNK = 5_000


class Batch:
    """The rows of a source as jobs, and their output. Memory does not grow with rows.

    :param source: as in :func:`aio_provider.generate`, but not an iterator: it is read more than once.
    :param kind: as in :func:`aio_provider.generate`, like all that is not described here.
    :param output: a ``.parquet`` file, or a folder for parts, by path or fsspec URL.
    :param base_url: the service; a part of each job's identity.
    :param labels: kept with each job in the ledger.
    :param max_rows_per_part: rows of one part.
    :param partition_by: columns whose values name folders below ``output``.
    :param owner: who calls, where that one does one call at a time. Until the output is written it is
        claimed: another call is refused, but for one of the same owner. A claim lasts a day, and each
        :class:`Batch` of the call renews it.
    :raises InvalidRequestError, ConfigurationError, TypeError: an argument that cannot be.
    :raises ValueError: an input that is damaged, has no rows, or files with different columns.
    :raises OSError: an input that cannot be read, or an output that cannot be written or is another call's.
    """

    def __init__(
        self,
        source: Source,
        kind: str,
        *,
        output: str | os.PathLike[str],
        model: str | Expression | None = None,
        params: Mapping[str, Any] | None = None,
        key: Hashable | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        dtype: Literal["str"] | type[str] | None = None,
        reuse: Reuse = "always",
        run_id: str = "",
        base_url: str,
        labels: Mapping[str, str] | None = None,
        prefix: str = DEFAULT_PREFIX,
        overwrite: bool = False,
        overwrite_columns: bool = False,
        max_rows_per_part: int | None = None,
        partition_by: str | list[str] | None = None,
        owner: str = "",
        **fields: str | Expression,
    ) -> None:
        if reuse == "never" and not run_id:
            raise ConfigurationError('reuse="never" needs run_id=...: it is what sets these jobs apart.')
        given = {name: value for name, value in locals().items() if name not in ("self", "owner")}
        self._stream = open_stream({**given, "run_id": run_id or None})
        if not self._stream.scan.repeatable:
            raise ConfigurationError("A batch reads its source more than once; an iterator can be read once.")
        self._base_url = base_url
        self._run_id = run_id
        self.kind = self._stream.spec.kind
        #: rows of the input
        self.total: int | None = self._stream.scan.total
        self._stream.prepare(base_url, overwrite=overwrite, owner=owner)

    def release(self) -> None:
        """Nothing was sent and nothing will be: leave the output as it was, for any call."""
        self._stream.target.discard()

    def jobs(self) -> Iterator[Job]:
        """A job for each row that has something to do, in the order of the rows; the same ones each time."""
        naming = self._stream.naming(self._base_url, self._run_id)
        try:
            for part in self._stream.parts():
                yield from naming.jobs(part)
        finally:
            naming.close()

    def called(self, job: Job) -> str:
        """What to call the row of a job of :meth:`jobs`: its number from 0, and its key column's value."""
        if not isinstance(job, RowJob):
            return job.key
        column, part = self._stream.options.key, job.part
        assert part is not None, "a row is of a part"
        return f"row {part.start + job.row}{part.with_key(job.row, column)}"

    def write(self, ledger: Ledger) -> Report:
        """Write the output from what the record says now; sends nothing and spends nothing.

        A row whose job is not on record is ``not_submitted``, one that is still running ``pending``.

        :returns: the figures; ``credits`` is what all the rows have cost, whenever that was.
        :raises OSError: the output cannot be written.
        """
        began = time.monotonic()
        target, statuses, credits, rows, count = self._stream.target, Counter[str](), 0.0, 0, 0
        naming = self._stream.naming(self._base_url, self._run_id)
        for part in self._stream.parts():
            naming.note(part)
            keys = list(part.wanting())
            for start in range(0, len(keys), _CHUNK):
                part.look_up(ledger.get(keys[start : start + _CHUNK]))
            part.name_held()
            note = target.write(part)
            statuses.update(note.statuses)
            credits += note.credits
            rows, count = rows + note.rows, count + 1
        naming.close()
        report = Report(
            run_id=self._run_id,
            kind=self.kind,
            rows=rows,
            statuses=dict(statuses),
            credits=credits,
            reused=0,
            saved=0.0,
            seconds=time.monotonic() - began,
        )
        target.complete(count, report.to_dict())
        return report
