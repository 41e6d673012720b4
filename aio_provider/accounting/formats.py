"""Figures as files (CSV, JSON, Parquet) with the DataFrame's numbers unrounded, and as people read them.

Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aio_provider.api.amounts import in_digits
from aio_provider.api.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

#: ending of a file's name -> its format
SUFFIXES: Final = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".pq": "parquet", ".html": "html"}
#: where in a Parquet file's metadata ``attrs["aio"]`` is, as JSON
METADATA_KEY: Final = b"aio_provider"


def format_of(
    path: str, wanted: str | None = None, *, forms: Sequence[str] = ("csv", "json", "parquet", "html")
) -> str:
    """The format of a file: the one that its name asks for, or the one that is wanted.

    :param wanted: where a user says it, too; a name that asks for another one is refused.
    :param forms: what there is to choose from.
    :raises ConfigurationError: none of these, or two.
    """
    found = SUFFIXES.get(Path(path).suffix.lower())
    if wanted is not None and found is None:
        return wanted
    if found is None or found not in forms:
        said = f"{', '.join(f'.{form}' for form in forms[:-1])} or .{forms[-1]}"
        raise ConfigurationError(f"{path!r}: its name must end in {said}, which say the format.")
    if wanted is not None and wanted != found:
        raise ConfigurationError(
            f"{path!r} is the name of a {found} file, and {wanted} was asked for: change one of them."
        )
    return found


def encode(frame: pd.DataFrame, form: str) -> bytes:
    """The figures as the content of a file.

    :param form: ``csv`` (UTF-8, a header, a dot for the decimals, nothing for none), ``json`` (``{"aio":
        what was asked and which book, "rows": […]}``) or ``parquet`` (the same note in its metadata).
    """
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()
    if form == "json":
        rows = [{name: _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        text = json.dumps({**frame.attrs, "rows": rows}, indent=1, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        bare = frame.copy(deep=False)
        bare.attrs = {}
        table = pa.Table.from_pandas(bare, preserve_index=False)
        note = {METADATA_KEY: json.dumps(frame.attrs.get("aio", {})).encode()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **note})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())
    raise ConfigurationError(f"format {form!r} is none of csv, json and parquet.")


def put(target: str | Path, content: bytes, *, fs: Any = None) -> None:
    """Write a file, local or at any fsspec URL, so that a reader finds the old one or the whole new one.

    :param fs: the fsspec file system that ``target`` is a path of; None: found by its URL.
    :raises OSError: it cannot be written; what was there is untouched.
    """
    import fsspec

    if fs is None:
        fs, path = fsspec.core.url_to_fs(os.fspath(target))
    else:
        path = os.fspath(target)
    local = type(fs).__name__ == "LocalFileSystem"
    folder, _, name = path.rpartition("/")
    if local and folder and not Path(folder).is_dir():
        raise FileNotFoundError(f"{target}: the folder {folder!r} does not exist; make it first.")
    # An object store has the object whole or not at all by itself, and no renaming that is.
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:12]}.tmp" if local else path
    try:
        with fs.open(temporary, "wb") as file:
            file.write(content)
            if local:
                file.flush()
                os.fsync(file.fileno())
        if local:
            Path(temporary).replace(path)
    except BaseException:
        if local:
            Path(temporary).unlink(missing_ok=True)
        raise


def number(value: float) -> str:
    """Credits and counts for people: ``12,345.6``, as everywhere; ``–`` for none."""
    return in_digits(value)


def aligned(values: Iterable[float]) -> list[str]:
    """A column of credits: whole where all of them are, else two decimals each, so that they line up."""
    known = list(values)
    whole = all(not math.isfinite(value) or round(value, 2) == round(value) for value in known)
    return [number(value) if whole or not math.isfinite(value) else f"{value:,.2f}" for value in known]


def money(value: float) -> str:
    """Money for people: always two decimals, so that a column of it lines up."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.2f}"


def percent(value: float, *, sign: bool = False) -> str:
    """A fraction for people: ``12.5 %``."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * value:{'+' if sign else ''},.1f}"
    return f"{'0.0' if float(text.replace(',', '')) == 0 else text} %"


def share(part: float, whole: float) -> str:
    """A part of a whole for people, rounded down: 100 % only where nothing is missing."""
    return percent(math.floor(1000 * part / whole + 1e-9) / 1000) if whole else "–"


def seconds(value: float) -> str:
    """A latency for people: ``4.2 s``, ``38 s``, ``2:05 min``, ``1:10 h``."""
    if value is None or not math.isfinite(value):
        return "–"
    if round(value) < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


#: how people read each figure
READ: Final = {
    "money": money,
    "estimate_error": lambda value: percent(value, sign=True),
    "latency_median": seconds,
    "latency_p95": seconds,
}


def text(name: str, value: Any) -> str:
    """A cell for people: a figure by its name, a group's name as it is, ``(none)`` for rows without one."""
    from aio_provider.accounting.figures import FIGURES

    if name in FIGURES:
        return READ.get(name, number)(float(value))
    return "(none)" if not isinstance(value, str) else value


def shown_text(value: Any) -> str:
    """A text of the ledger or a file as a terminal may show it: no control characters, nothing for none."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


def _plain(value: Any) -> Any:
    import pandas as pd

    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
