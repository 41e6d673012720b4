"""Rows that are to be in memory: a DataFrame, or what is read into one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any

import fsspec
import pandas as pd
import pyarrow as pa

from aio_provider.frames.csvfiles import read_frame
from aio_provider.frames.files import AS_USUAL, Csv, check_csv, find_files, is_several, json_records, kind_of
from aio_provider.frames.scan import open_scan

#: rows read at once
_ROWS = 100_000


def read_source(source: Any, csv: Csv = AS_USUAL) -> pd.DataFrame:
    """The input as a DataFrame.

    :param source: a DataFrame (returned as it is), the path or fsspec URL of a ``.parquet``, ``.csv`` or
        ``.jsonl`` file, or anything else that :func:`~.scan.open_scan` takes.
    :param csv: how a CSV file is written and read.
    :raises TypeError: neither; the message says how to convert what was given.
    :raises ValueError: an unknown kind of file, one that cannot be read as what its name says, or columns
        that are not flat or not unique.
    :raises FileNotFoundError, PermissionError: the file is not there, or may not be read.
    """
    if isinstance(source, pd.DataFrame):
        frame = source
    elif isinstance(source, str | os.PathLike) and not is_several(source):
        frame = _read_file(os.fspath(source), csv)
    else:
        scan = open_scan(source, csv)
        frame = pa.concat_tables(scan.tables(_ROWS)).to_pandas()
    _check_columns(frame)
    return frame


def _check_columns(frame: pd.DataFrame) -> None:
    if isinstance(frame.columns, pd.MultiIndex):
        raise ValueError(
            "The columns are a MultiIndex; flatten them first, for example with df.columns.to_flat_index()."
        )
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(
            f"Column {twice!r} occurs more than once; rename or drop one, so that each name means one column."
        )


def _read_file(path: str | bytes, csv: Csv) -> pd.DataFrame:
    if isinstance(path, bytes):
        raise TypeError("The path is bytes; give it as text.")
    what = kind_of(path)
    check_csv(csv, what, repr(path))
    if what == "CSV":
        return read_frame(find_files([path], csv))
    try:
        with fsspec.open(path, "rb") as file:
            return _READERS[what](file)
    except OSError as error:
        # pyarrow reports a broken file as an OSError too; one with an errno is about the path
        if error.errno is None and not isinstance(error, FileNotFoundError | PermissionError):
            raise ValueError(f"{path!r} cannot be read as {what}: {error}") from error
        raise
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path!r} cannot be read as {what}: {error}") from error


def _read_json_lines(file: IO[bytes]) -> pd.DataFrame:
    # pandas' own reader turns "00123" into 123 and "updated_at" into dates; here values stay as written
    return pd.DataFrame.from_records(list(json_records(file)))


_READERS: dict[str, Callable[[IO[bytes]], pd.DataFrame]] = {
    "Parquet": pd.read_parquet,
    "JSON lines": _read_json_lines,
}
