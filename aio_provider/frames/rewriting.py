"""The rows of a streamed result on their way to a file with more columns, a thousand at a time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames.output import METADATA_KEY, Output
from aio_provider.frames.places import is_local, locate, to_disk
from aio_provider.frames.result import StreamResult
from aio_provider.frames.scan import open_scan
from aio_provider.frames.schema import SCHEMA_VERSION

_ROWS = 1000

#: the columns that a download adds, without prefix
ARROW: Final = {
    "file": pa.string(),
    "files": pa.list_(pa.string()),
    "bytes": pa.int64(),
    "sha256": pa.list_(pa.string()),
    "file_error": pa.string(),
}


@dataclass(frozen=True)
class Downloads:
    """What a streamed download came to.

    :param output: the Parquet file with the rows.
    :param rows: of the source; ``saved`` have their files, fetched now or before; ``failed`` have an error;
        the rest had no result.
    :param bytes: of all files together.
    """

    output: str
    rows: int
    saved: int
    failed: int
    bytes: int


class Rewriting:
    """A source that is read and a file that is written.

    :param source: the result of a streamed call, or its path, glob or URL.
    :param output: the file.
    :param what: what else makes two of these the same; the folder first.
    :raises ConfigurationError: no output.
    :raises FileExistsError: the output is there and not this same download's.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | StreamResult,
        output: str | os.PathLike[str] | None,
        what: list[Any],
        *,
        overwrite: bool,
    ) -> None:
        if output is None:
            given = "result" if isinstance(source, StreamResult) else repr(os.fspath(source))
            raise ConfigurationError(
                "output: not given. The result of a streamed download is a table that is written to a file "
                f'of its own: aio.download({given}, {what[0]!r}, output="with-files.parquet").'
            )
        self._kind = source.report.kind if isinstance(source, StreamResult) else ""
        self._scan = open_scan(source.dataset() if isinstance(source, StreamResult) else source)
        self.total = self._scan.total
        self._output = Output.at(output, prefix="")
        text = json.dumps(["download", self._scan.identity, *map(str, what)])
        self._call = hashlib.sha256(text.encode()).hexdigest()
        self._output.present(self._call, overwrite=overwrite)
        self._fs, self._path = locate(self._output.url)
        final = Path(self._path)
        # beside its place on a disk, so that a rename will do
        folder = final.parent if is_local(self._fs) else Path(tempfile.mkdtemp(prefix="aio-download-"))
        self._whole = folder / f".{final.name}.tmp"
        self._whole.touch()  # found out now, before anything is fetched
        self._writer: pq.ParquetWriter | None = None
        self._counts: Counter[str] = Counter()

    def frames(self) -> Iterator[pd.DataFrame]:
        """The rows; the output is dropped when whoever takes them stops."""
        start = 0
        try:
            for table in self._scan.tables(_ROWS):
                frame = table.to_pandas()
                if isinstance(frame.index, pd.RangeIndex):  # messages number the rows of the whole source
                    frame.index = pd.RangeIndex(start, start + len(frame))
                start += len(frame)
                frame.attrs = {"aio": {"kind": self._kind}}
                self._table = table
                yield frame
        except BaseException:
            self._drop()
            raise

    def write(self, frame: pd.DataFrame, columns: Mapping[str, pa.DataType]) -> None:
        """Write the rows that were given last, with these columns of the frame."""
        table = self._table.drop_columns([name for name in columns if name in self._table.schema.names])
        for name, kind in columns.items():
            values = pa.array(frame[name].tolist(), kind, from_pandas=True)
            table = table.append_column(pa.field(name, kind), values)
            self._count(name, frame[name])
        note = json.dumps({"schema_version": SCHEMA_VERSION, "call": self._call, "totals": {}}).encode()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: note})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._whole, table.schema)
        self._writer.write_table(table)
        self._counts["rows"] += len(frame)

    def _count(self, name: str, values: pd.Series[Any]) -> None:
        if name.endswith("file_error"):
            self._counts["failed"] += int(values.notna().sum())
        elif name.endswith("bytes"):
            self._counts["bytes"] += int(values.sum())
            self._counts["saved"] += int(values.notna().sum())

    def finish(self) -> Downloads:
        """The file is whole."""
        assert self._writer is not None, "a scan without rows is refused"
        self._writer.close()
        if is_local(self._fs):
            to_disk(self._whole)
            self._whole.replace(self._path)
        else:
            self._fs.put_file(str(self._whole), self._path)
        self._drop()
        counts = self._counts
        return Downloads(self._output.url, counts["rows"], counts["saved"], counts["failed"], counts["bytes"])

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._whole.unlink(missing_ok=True)
        if not is_local(self._fs):
            self._whole.parent.rmdir()
