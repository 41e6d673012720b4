"""The ledger as Parquet files that anything reads: DuckDB, Spark, a BI tool. No prompts, no answers.

``DEST/month=2026-11/ledger.parquet``: every attempt that was submitted, present, past and archived, with
the columns of :data:`SCHEMA`. Written page by page, so that memory does not grow with the ledger.
"""

from __future__ import annotations

import json
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.accounting import sql
from aio_provider.accounting.asked import Asked
from aio_provider.accounting.book import archived as moved_out
from aio_provider.accounting.book import archived_rows, described, opened
from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import Ledger
from aio_provider.jobs.ledger.schema import jobs, past_attempts

#: of the columns below; in every file's metadata under ``aio_ledger_export``. It grows when one changes.
EXPORT_VERSION: Final = 1
METADATA_KEY: Final = b"aio_ledger_export"
_TIME = pa.timestamp("us", tz="UTC")
#: column -> (type, the ledger's column). ``submitted_at`` decides the month.
_COLUMNS: Final[dict[str, tuple[Any, str]]] = {
    "job_key": (pa.string(), "key"),
    "attempt": (pa.int64(), "attempt"),
    "state": (pa.string(), "state"),
    "service": (pa.string(), "scope"),
    "kind": (pa.string(), "kind"),
    "model": (pa.string(), "model"),
    "connection": (pa.string(), "conn_id"),
    "team": (pa.string(), "team"),
    "dag": (pa.string(), "dag_id"),
    "run": (pa.string(), "run_id"),
    "task": (pa.string(), "task_id"),
    "map_index": (pa.int64(), "map_index"),
    "user": (pa.string(), "user_name"),
    "notebook": (pa.string(), "notebook"),
    "label": (pa.string(), "label"),
    "service_task_id": (pa.string(), "service_task_id"),
    "credits": (pa.float64(), "credits"),
    "estimate_low": (pa.float64(), "estimate_low"),
    "estimate_likely": (pa.float64(), "estimate_likely"),
    "estimate_high": (pa.float64(), "estimate_high"),
    "reserved": (pa.float64(), "reserved"),
    "intended_at": (_TIME, "intended_at"),
    "accepted_at": (_TIME, "accepted_at"),
    "finished_at": (_TIME, "finished_at"),
}
SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, kind) for name, (kind, _) in _COLUMNS.items()),
        pa.field("superseded", pa.bool_()),
        pa.field("submitted_at", _TIME),
    ]
)
_PAGE = 10_000


@dataclass(frozen=True)
class Exported:
    """What was written.

    :param files: path or URL -> its rows.
    """

    rows: int
    credits: float
    files: dict[str, int]


def export_ledger(
    dest: str | Path,
    ledger: Ledger | str | Path | None = None,
    *,
    partition: str | None = "month",
    since: object = None,
    until: object = None,
    archived: bool = True,
) -> Exported:
    """Write the ledger as Parquet into a folder, local or at any fsspec URL (``s3://bucket/ledger``).

    A second export replaces the files of the months it writes, each at once: a reader sees a month's old rows
    or its new ones. With a period, only whole months can be replaced.

    :param partition: ``"month"``: a folder ``month=2026-11`` for each, as Hive, DuckDB and Spark read them;
        None: one file.
    :param since: from this month on; ``until``: up to this one, which is no longer written.
    :raises ConfigurationError: a period that cuts a month in two, an unknown partition, a file in the place
        of the folder, or a folder that holds an export of the other partitioning: read together, every row
        would count twice.
    :raises LedgerUnavailableError: an archive of the ledger is damaged. One that is missing is a
        ConfigurationError: nothing is left out silently.
    """
    if partition not in (None, "month"):
        raise ConfigurationError(f"partition={partition!r}: it is 'month' or None.")
    asked = Asked.of((), since, until)
    for name, when in (("since", asked.since), ("until", asked.until)):
        if when is not None and (when.day, when.hour, when.minute, when.second, when.microsecond) != (
            1,
            0,
            0,
            0,
            0,
        ):
            raise ConfigurationError(
                f"{name}={when:%Y-%m-%d %H:%M}: an export replaces whole months: give one (2026-11)."
            )
    import fsspec

    fs, root = fsspec.core.url_to_fs(str(dest))
    _refuse_other_partitioning(fs, root, str(dest), partition)
    with opened(ledger) as book, sql.snapshot(book.store) as conn:
        moved = moved_out(conn, include=archived)
        if moved.missing:
            raise ConfigurationError(
                f"{moved.lacking()}. Nothing was written: bring what is missing here, or leave archived rows "
                "out (archived=False, --no-archived)."
            )
        metadata = {
            METADATA_KEY: json.dumps({"version": EXPORT_VERSION, "book": described(book)["url"]}).encode()
        }
        schema = SCHEMA.with_metadata(metadata)
        with archived_rows(conn, moved, columns=tuple(column for _, column in _COLUMNS.values())) as extra:
            months = _months(conn, asked, extra) if partition else [None]
            written = [_write(conn, asked, extra, month, fs, root, schema) for month in months]
        if partition:
            _drop_stale(fs, root, asked, {month for month in months if month})
    return Exported(
        sum(rows for _, rows, _ in written),
        float(sum(credits for *_, credits in written)),
        {fs.unstrip_protocol(path): rows for path, rows, _ in written},
    )


def _refuse_other_partitioning(fs: Any, root: str, dest: str, partition: str | None) -> None:
    if _renames(fs) and any(path.is_file() for path in (Path(root), *Path(root).parents)):
        raise ConfigurationError(f"{dest} is a file, or below one: give a folder for the export.")
    there = fs.ls(root, detail=False) if fs.exists(root) else []
    names = {str(path).rstrip("/"): posixpath.basename(str(path).rstrip("/")) for path in there}
    if partition is None:
        months = sorted(path for path, name in names.items() if name.startswith("month="))
        other = next((path for path in months if fs.exists(posixpath.join(path, "ledger.parquet"))), None)
        what, same = "by month", "partition='month' (--partition month)"
    else:
        other = next((path for path, name in names.items() if name == "ledger.parquet"), None)
        what, same = "in one file", "partition=None (--partition none)"
    if other is not None:
        raise ConfigurationError(
            f"{dest} holds an export {what} ({posixpath.relpath(other, root)}): whoever reads the folder "
            f"would count every row twice. Nothing was written: give {same}, another folder, or delete that "
            "export."
        )


def _months(conn: Connection, asked: Asked, extra: sa.Table | None) -> list[str | None]:
    found: set[str | None] = set()
    for table in _tables(extra):
        month = sql.dimension(table, "month", conn)
        found.update(conn.execute(sa.select(month).where(sql.where(table, asked, conn)).distinct()).scalars())
    return sorted(found, key=lambda month: month or "")


def _write(
    conn: Connection,
    asked: Asked,
    extra: sa.Table | None,
    month: str | None,
    fs: Any,
    root: str,
    schema: pa.Schema,
) -> tuple[str, int, float]:
    folder = posixpath.join(root, f"month={month}") if month else root
    fs.makedirs(folder, exist_ok=True)
    path = posixpath.join(folder, "ledger.parquet")
    # Object stores show an object once it is whole; a file gets its name then. The dot hides it from readers.
    temporary = posixpath.join(folder, f".ledger-{uuid.uuid4().hex[:12]}.tmp") if _renames(fs) else path
    rows, credits = 0, 0.0
    try:
        with fs.open(temporary, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in _pages(conn, asked, extra, month, schema):
                writer.write_batch(batch)
                rows += batch.num_rows
                credits += sum(value for value in batch.column("credits").to_pylist() if value is not None)
        if temporary != path:
            Path(temporary).replace(path)
    except BaseException:
        if temporary != path:
            Path(temporary).unlink(missing_ok=True)
        raise
    return path, rows, credits


def _pages(
    conn: Connection, asked: Asked, extra: sa.Table | None, month: str | None, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for table in _tables(extra):
        columns = [table.c[column].label(name) for name, (_, column) in _COLUMNS.items()]
        superseded = (
            table.c.superseded
            if "superseded" in table.c
            else sa.literal_column(str(int(table is past_attempts)))
        )
        columns += [superseded.label("superseded"), sql.submitted_at(table).label("submitted_at")]
        query = sa.select(*columns).where(sql.where(table, asked, conn))
        if month is not None:
            query = query.where(sql.dimension(table, "month", conn) == month)
        rows = conn.execute(query.execution_options(stream_results=True))
        while page := rows.fetchmany(_PAGE):
            yield _batch(page, schema)


def _batch(page: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*page, strict=True))
    columns[-2] = tuple(bool(value) for value in columns[-2])
    return pa.RecordBatch.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


def _drop_stale(fs: Any, root: str, asked: Asked, written: set[str]) -> None:
    """Months of an earlier export, within the period, that the ledger no longer has a row of."""
    for folder in fs.ls(root, detail=False) if fs.exists(root) else []:
        name = posixpath.basename(str(folder).rstrip("/"))
        month = name.removeprefix("month=")
        inside = (asked.since is None or month >= f"{asked.since:%Y-%m}") and (
            asked.until is None or month < f"{asked.until:%Y-%m}"
        )
        file = posixpath.join(str(folder), "ledger.parquet")
        if name != month and month not in written and inside and fs.exists(file):
            fs.rm_file(file)


def _tables(extra: sa.Table | None) -> list[sa.Table]:
    return [jobs, past_attempts] if extra is None else [jobs, past_attempts, extra]


def _renames(fs: Any) -> bool:
    return type(fs).__name__ == "LocalFileSystem"
