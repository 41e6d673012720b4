"""Rows a stretch at a time: from files, globs, folders, datasets and iterators, never all of them at once.

Everything that can be wrong with an input is looked for when it is opened, before anything is spent: the
footer of every Parquet file, and every line of a CSV or JSON-lines file, whose types it takes all of it to
know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from aio_provider.frames.csvfiles import read_csv
from aio_provider.frames.files import AS_USUAL, Csv, Files, file_error, find_files, read_json_lines
from aio_provider.frames.output import why_not_arrow

#: rows read from a file at once
_ROWS = 5_000

#: what :func:`open_scan` takes
Source: TypeAlias = (
    str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
    | ds.Dataset
    | Iterable[pa.RecordBatch | pa.Table | pd.DataFrame]
)


@dataclass(frozen=True)
class Scan:
    """An input that has been looked at and can be read.

    :param name: for messages.
    :param schema: of every stretch.
    :param total: rows, where that is known.
    :param size: bytes on disk, about; 0 where that is not known.
    :param repeatable: can be read more than once.
    :param identity: which files these are; empty where the rows have no name.
    """

    name: str
    schema: pa.Schema
    total: int | None
    size: int
    batches: Callable[[], Iterator[pa.RecordBatch | pa.Table]]
    repeatable: bool = True
    identity: str = ""

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """The rows in order, ``rows`` at a time; the last table may have fewer.

        :raises ValueError: a file is damaged, or a batch does not have the columns of the first.
        """
        waiting: list[pa.Table] = []
        count = 0
        for batch in self.batches():
            table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
            while table.num_rows:
                some = table.slice(0, rows - count)
                table = table.slice(some.num_rows)
                waiting.append(some)
                count += some.num_rows
                if count == rows:
                    yield pa.concat_tables(waiting).combine_chunks()
                    waiting, count = [], 0
        if count:
            yield pa.concat_tables(waiting).combine_chunks()


def open_scan(source: Source | Any, csv: Csv = AS_USUAL) -> Scan:
    """Look at an input.

    :param source: the path, glob, folder or fsspec URL of Parquet, CSV or JSON-lines files (or several of
        them), a ``pyarrow.dataset.Dataset``, or an iterator of tables, record batches or DataFrames.
    :param csv: how CSV files are written and read.
    :raises TypeError: something else.
    :raises FileNotFoundError, PermissionError: no such file, or it may not be read.
    :raises ValueError: a damaged file, files with different columns or kinds, columns that are not unique, or
        no rows at all.
    """
    if isinstance(source, str | os.PathLike):
        scan = _of_files(find_files([source], csv))
    elif isinstance(source, ds.Dataset):
        files = "\n".join(getattr(source, "files", ()))
        scan = replace(_of_dataset(source, "the dataset"), identity=files)
    elif isinstance(source, list | tuple) and source and all(isinstance(x, _PATHS) for x in source):
        scan = _of_files(find_files(source, csv))
    elif hasattr(source, "__next__") or isinstance(source, pa.RecordBatchReader) or _is_batches(source):
        scan = _of_iterator(iter(source))
    else:
        raise TypeError(_not_a_source(source))
    names = scan.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{scan.name}: column {twice!r} occurs more than once; rename or drop one.")
    if scan.total == 0:
        raise ValueError(f"{scan.name} has no rows: there is nothing to do, and nothing was written.")
    return scan


def scan_table(table: pa.Table) -> Scan:
    """Rows that are in memory already."""
    return Scan("the frame", table.schema, table.num_rows, table.nbytes, lambda: iter([table]))


_PATHS = (str, os.PathLike)


def _is_batches(source: object) -> bool:
    kinds = (pa.RecordBatch, pa.Table, pd.DataFrame)
    return isinstance(source, list | tuple) and len(source) > 0 and isinstance(source[0], kinds)


def _of_files(files: Files) -> Scan:
    if files.kind == "Parquet":
        return replace(_of_dataset(files.dataset(), files.name, files.size), identity=files.identity)
    read = read_csv if files.kind == "CSV" else read_json_lines
    schema, total, batches = read(files)
    return Scan(files.name, schema, total, files.size, batches, identity=files.identity)


def _of_dataset(dataset: ds.Dataset, name: str, size: int = 0) -> Scan:
    """A dataset, a file after the other and a few rows of one at a time."""
    if not isinstance(dataset, ds.FileSystemDataset) or dataset._scan_options:
        return _of_scanner(dataset, name)
    schema = dataset.schema
    first: tuple[str, pa.Schema] | None = None
    total = 0
    fragments = list(dataset.get_fragments())
    for fragment in fragments:
        try:
            found = fragment.physical_schema
            total += fragment.count_rows()
        except (pa.ArrowException, OSError) as error:
            raise file_error(fragment.path, "Parquet", error) from error
        first = first or (fragment.path, found)
        _same_columns(found, fragment.path, *first[::-1])

    def batches() -> Iterator[pa.RecordBatch]:
        for fragment in fragments:
            try:
                yield from _rows_of(fragment, schema)
            except (pa.ArrowException, OSError) as error:
                raise file_error(fragment.path, "data", error) from error

    return Scan(name, schema, total, size, batches)


def _rows_of(fragment: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A file's rows with the columns that its folders name."""
    if not isinstance(fragment, ds.ParquetFileFragment):
        yield from fragment.to_batches(schema=schema, batch_size=_ROWS, batch_readahead=1, use_threads=False)
        return
    folders = ds.get_partition_keys(fragment.partition_expression)
    # not the dataset's own scanner: it holds a large row group whole, and files of one row group are common
    with fragment.open() as opened:
        file = pq.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20)
        groups = [group.id for group in fragment.row_groups]
        for batch in file.iter_batches(_ROWS, row_groups=groups, use_threads=False):
            columns = [
                batch.column(field.name)
                if field.name in batch.schema.names
                else pa.repeat(pa.scalar(folders.get(field.name), field.type), len(batch))
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _of_scanner(dataset: ds.Dataset, name: str) -> Scan:
    """A dataset that is not simply files: filtered, in memory, or of several."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield from dataset.to_batches(batch_size=_ROWS, batch_readahead=1, fragment_readahead=1)

    return Scan(name, dataset.schema, dataset.count_rows(), 0, batches)


def _same_columns(found: pa.Schema, path: str, wanted: pa.Schema, first: str) -> None:
    if found.equals(wanted):
        return
    for one, other, has, lacks in ((found, wanted, path, first), (wanted, found, first, path)):
        extra = next((name for name in one.names if name not in other.names), None)
        if extra is not None:
            raise ValueError(f"{has!r} has a column {extra!r} that {lacks!r} has not: {_ALIKE}")
    for field in found:
        kind = wanted.field(field.name).type
        if kind != field.type:
            raise ValueError(
                f"{path!r}: column {field.name!r} is {field.type}, and {kind} in {first!r}: {_ALIKE}"
            )


_ALIKE = "all files need the same columns and types. Nothing was sent."


def _of_iterator(source: Iterator[Any]) -> Scan:
    first = _as_table(next(source, None))
    if first is None:
        raise ValueError("The iterator gave no batch: there is nothing to do, and nothing was written.")
    schema = first.schema

    def batches() -> Iterator[pa.Table]:
        for number, batch in enumerate(chain([first], source)):
            table = _as_table(batch)
            if table is None or set(table.schema.names) != set(schema.names):
                raise ValueError(f"Batch {number} (counted from 0) does not have the columns of the first.")
            try:
                yield table.select(schema.names).cast(schema)
            except (pa.ArrowException, ValueError) as error:
                raise ValueError(
                    f"Batch {number} (counted from 0) does not have the types of the first: {error}"
                ) from error

    return Scan("the iterator", schema, None, 0, batches, repeatable=False)


def _as_table(batch: object) -> pa.Table | None:
    if batch is None or isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pa.RecordBatch):
        return pa.Table.from_batches([batch])
    if isinstance(batch, pd.DataFrame):
        try:
            return pa.Table.from_pandas(batch, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueError(f"A batch of the iterator: {why_not_arrow(batch, error)}.") from error
    raise TypeError(
        f"The iterator gives {type(batch).__name__}s; give DataFrames, pyarrow tables or record batches."
    )


def _not_a_source(source: object) -> str:
    kind = type(source)
    name = f"{kind.__module__}.{kind.__qualname__}"
    advice = (
        "pass a pandas DataFrame, the path or glob of Parquet, CSV or JSON-lines files, "
        "a pyarrow dataset, or an iterator of batches"
    )
    for method, how in (
        ("to_pandas", ".to_pandas()"),
        ("toPandas", ".toPandas()"),
        ("to_frame", ".to_frame()"),
    ):
        if hasattr(source, method):
            advice = f"convert it with {how}"
            break
    else:
        if isinstance(source, list | tuple | dict):
            advice = "wrap it in pd.DataFrame(...)"
    return f"The first argument is a {name}, not a DataFrame: {advice}."
