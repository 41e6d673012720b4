"""Where the rows come from: a DataFrame, or a Parquet, CSV or JSON-lines file, local or any fsspec URL."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import PurePath
from typing import IO

import fsspec
import pandas as pd
import pyarrow as pa

_SUFFIXES = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
}


def read_source(source: object) -> pd.DataFrame:
    """The input as a DataFrame.

    :param source: a DataFrame (returned as it is), or the path or fsspec URL of a ``.parquet``, ``.csv`` or
        ``.jsonl`` file.
    :raises TypeError: neither; the message says how to convert what was given.
    :raises ValueError: an unknown kind of file, one that cannot be read as what its name says, or columns
        that are not flat or not unique.
    :raises FileNotFoundError, PermissionError: the file is not there, or may not be read.
    """
    if isinstance(source, str | os.PathLike):
        frame = _read_file(os.fspath(source))
    elif isinstance(source, pd.DataFrame):
        frame = source
    else:
        raise TypeError(_not_a_frame(source))
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


def _read_file(path: str | bytes) -> pd.DataFrame:
    if isinstance(path, bytes):
        raise TypeError("The path is bytes; give it as text.")
    suffix = PurePath(path.split("?", 1)[0]).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"Cannot tell what kind of file {path!r} is: its name must end in {', '.join(_SUFFIXES)}. "
            "For another kind, read it with pandas and pass the DataFrame."
        )
    what = _SUFFIXES[suffix]
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
    records = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: a JSON object is needed, not {type(record).__name__}")
        records.append(record)
    return pd.DataFrame.from_records(records)


_READERS: dict[str, Callable[[IO[bytes]], pd.DataFrame]] = {
    "Parquet": pd.read_parquet,
    "CSV": pd.read_csv,
    "JSON lines": _read_json_lines,
}


def _not_a_frame(source: object) -> str:
    kind = type(source)
    name = f"{kind.__module__}.{kind.__qualname__}"
    advice = "pass a pandas DataFrame, or the path of a Parquet, CSV or JSON-lines file"
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
