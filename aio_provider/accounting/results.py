"""The result files of several runs or teams as one table, whatever their other columns are."""

from __future__ import annotations

import glob as globbing
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aio_provider.api.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd


def union_results(paths: str | Path | Iterable[str | Path], *, prefix: str = "aio_") -> pd.DataFrame:
    """The output columns of result files (``output=`` of ``aio.generate``), one under the other.

    Adds ``file`` (where a row comes from) and ``run_id`` (of the run that wrote it). The inputs' columns are
    left out: they differ from team to team.

    :param paths: files, folders or patterns (``team-*/out/*.parquet``), local or any fsspec URL.
    :param prefix: of the output columns.
    :raises ConfigurationError: nothing matches, or a file is not a whole Parquet file or not a result.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from aio_provider.frames.output import read_note
    from aio_provider.frames.schema import arrow_schema

    wanted = arrow_schema(prefix)
    tables = []
    for fs, path in _files([paths] if isinstance(paths, (str, Path)) else paths):
        name = fs.unstrip_protocol(path) if fs.protocol != ("file", "local") else path
        try:
            with fs.open(path, "rb") as file, pq.ParquetFile(file) as source:
                missing = [field for field in wanted.names if field not in source.schema_arrow.names]
                if missing:
                    raise ConfigurationError(
                        f"{name}: no result of aio.generate, it has no column {missing[0]!r}."
                    )
                table = source.read(columns=wanted.names).select(wanted.names).cast(wanted)
            with fs.open(path, "rb") as file:
                note: dict[str, Any] = read_note(file) or {}
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())[:200]
            raise ConfigurationError(f"{name} is not a whole Parquet file: {said}") from error
        texts = {"file": name, "run_id": note.get("run_id")}
        for place, (column, value) in enumerate(texts.items()):
            table = table.add_column(place, column, pa.array([value] * len(table), pa.string()))
        tables.append(table)
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    for column in frame.columns:
        if frame[column].dtype == object and column != f"{prefix}urls":
            frame[column] = frame[column].astype(pd.StringDtype("pyarrow"))
    return frame


def _files(paths: Iterable[str | Path]) -> list[tuple[Any, str]]:
    import fsspec

    found: list[tuple[Any, str]] = []
    for given in paths:
        fs, path = fsspec.core.url_to_fs(str(given))
        if fs.isdir(path):
            matches = sorted(name for name in fs.find(path) if name.lower().endswith((".parquet", ".pq")))
        else:
            matches = sorted(fs.glob(path)) if globbing.has_magic(path) else [path] * fs.exists(path)
        if not matches:
            raise ConfigurationError(f"{given}: no such file, and no Parquet file in it.")
        found += [(fs, match) for match in matches]
    if not found:
        raise ConfigurationError("union_results: no paths were given.")
    return found
