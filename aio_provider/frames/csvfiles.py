"""CSV files: what a column holds is settled over all lines; a text stays as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aio_provider.frames.files import Files, Read, file_error

#: rows read at once
_ROWS = 5_000
#: what stands for a null in a column of numbers, besides an empty cell
_NULLS: Final = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
#: pandas dtype → what it is in Arrow
_ARROW: Final = {
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "str": pa.string(),
}


def _pattern(text: str) -> Callable[[pa.Array], pa.Array]:
    return lambda values: pc.match_substring_regex(values, f"^ *({text}) *$")


_POWER = "([eE][+-]?[0-9]{1,2})"
#: what a cell can be besides text. What a number would lose (a zero or a plus in front, the 19th digit) makes
#: it text
_CELLS: Final[Mapping[str, Callable[[pa.Array], pa.Array]]] = {
    "whole": _pattern("-?[1-9][0-9]{0,17}|0"),
    "empty": lambda values: pc.equal(values, ""),
    "number": _pattern(rf"-?((0|[1-9][0-9]*)?\.[0-9]+|[1-9][0-9]*\.){_POWER}?|-?[1-9][0-9]*{_POWER}"),
    "bool": lambda values: pc.is_in(values, pa.array(["True", "TRUE", "true", "False", "FALSE", "false"])),
    "null": lambda values: pc.is_in(values, pa.array(_NULLS)),
}


def read_csv(files: Files) -> Read:
    """CSV files: a first pass finds what each column holds in all of them, so that no stretch guesses anew.

    A column is of whole numbers, of numbers, of true and false, or else of text as it is written; with
    ``dtype="str"`` all are text.
    """
    kinds, total = _look(files)
    schema = pa.schema([pa.field(name, _ARROW[kind]) for name, kind in kinds.items()])

    def batches() -> Iterator[pa.Table]:
        for path in files.paths:
            for chunk in _chunks(files, path, kinds):
                yield pa.Table.from_pandas(chunk[list(kinds)], schema=schema, preserve_index=False)

    return schema, total, batches


def read_frame(files: Files) -> pd.DataFrame:
    """One CSV file as a DataFrame, with the values that :func:`read_csv` gives."""
    kinds, _ = _look(files)
    return pd.concat(_chunks(files, files.paths[0], kinds))


def _look(files: Files) -> tuple[dict[str, str], int]:
    """The pandas dtype of each column, and the number of rows."""
    seen: dict[str, set[str]] = {}
    total = 0
    for path in files.paths:
        names: list[str] = []
        for chunk in _chunks(files, path, None):
            names = [str(name) for name in chunk.columns]
            total += len(chunk)
            for name in names:
                kinds = seen.setdefault(name, {"text"} if files.csv.dtype else set())
                if "text" not in kinds:
                    kinds |= _kinds_of(chunk[name])
        if names and set(names) != set(seen):
            odd = sorted(set(names) ^ set(seen))[0]
            raise ValueError(
                f"{path!r}: column {odd!r} is not in all files of {files.name}. Nothing was sent."
            )
    return {name: _dtype(kinds) for name, kinds in seen.items()}, total


def _kinds_of(column: pd.Series[Any]) -> set[str]:
    values = pa.array(column, pa.string())
    found = set()
    for kind, fits in _CELLS.items():
        some = fits(values)
        if pc.any(some).as_py():
            found.add(kind)
            values = values.filter(pc.invert(some))
    return found | {"text"} if len(values) else found


def _dtype(kinds: set[str]) -> str:
    """The dtype that holds all cells of a column and changes none."""
    if kinds == {"bool"}:
        return "bool"
    if kinds & {"text", "bool"} or not kinds & {"whole", "number"}:
        return "str"
    if "number" in kinds:
        return "float64"
    return "int64" if kinds == {"whole"} else "Int64"


def _chunks(files: Files, path: str, kinds: dict[str, str] | None) -> Iterator[pd.DataFrame]:
    """A file's rows with these dtypes; without, every cell as the text that it is."""
    as_read: dict[str, Any] = {"dtype": str, "na_filter": False}
    if kinds is not None:
        nulls = {name: [""] if kind == "str" else ["", *_NULLS] for name, kind in kinds.items()}
        as_read = {"dtype": kinds, "keep_default_na": False, "na_values": nulls}
    csv = files.csv
    try:
        with (
            files.fs.open(path, "rb") as file,
            pd.read_csv(file, chunksize=_ROWS, sep=csv.delimiter, encoding=csv.encoding, **as_read) as reader,
        ):
            for chunk in reader:
                if not isinstance(chunk.index, pd.RangeIndex):  # pandas takes the first cells for row labels
                    raise ValueError("its lines have more cells than its header")
                yield chunk
    except pd.errors.EmptyDataError as error:
        raise ValueError(
            f"{path!r} cannot be read as CSV: it is empty, and should begin with a line of column names."
        ) from error
    except (ValueError, OSError) as error:
        raise file_error(path, "CSV", error) from error
