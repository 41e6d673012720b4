"""Moving old rows out of the ledger into Parquet files, no row and no credit lost or doubled.

Each file is one transaction: the rows are written to ``….partial`` and flushed to the disk, deleted and the
file noted in ``aio_archives``, committed, and then the file gets its name. A crash before the commit leaves a
``.partial`` that the next run removes; one after it leaves a ``.partial`` that the next run puts in place.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.jobs.ledger.errors import LedgerUnavailableError
from aio_provider.jobs.ledger.model import ENDED
from aio_provider.jobs.ledger.schema import (
    SCHEMA_VERSION,
    SHARED,
    UtcDateTime,
    archived_use,
    archives,
    jobs,
    past_attempts,
)
from aio_provider.jobs.ledger.store import Store

#: Rows in one file and one transaction: a second or so of holding SQLite's write lock.
SLICE = 10_000
_PARTIAL = ".partial"
# An advisory lock of PostgreSQL: a `.partial` file is only ever judged while nobody is writing one.
_LOCK = 0x610_1ED6F
_ENDED = [state.value for state in ENDED]


@dataclass(frozen=True)
class Pruned:
    """What a prune moved: how many rows, what they had cost, into which files."""

    rows: int = 0
    credits: float = 0.0
    files: tuple[Path, ...] = ()


def prune(store: Store, *, before: datetime, folder: Path) -> Pruned:
    """Move what ended before ``before`` to Parquet files in ``folder``. See :meth:`.Ledger.prune`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tidy(store, folder)
        total = Pruned()
        for table in (jobs, past_attempts):
            while True:
                path = folder / f"aio-ledger-{uuid.uuid4().hex}.parquet"
                moved = store.attempt(partial(_move, store, table, before, path))
                if moved is None:
                    break
                _put_in_place(path)
                rows, credits = moved
                total = Pruned(total.rows + rows, total.credits + credits, (*total.files, path))
    except OSError as error:
        raise LedgerUnavailableError(f"archive {folder}: cannot be written: {error}") from error
    return total


def _move(
    store: Store, table: sa.Table, before: datetime, path: Path, conn: Connection
) -> tuple[int, float] | None:
    identity = table.primary_key.columns.values()[0]
    # For ended rows the last change, not the end: a refreshed result is in use.
    old = table.c.state.in_(_ENDED) & (table.c.updated_at < before)
    query = sa.select(table).where(old).order_by(identity).limit(SLICE).with_for_update()
    store.exclusive(conn, _LOCK)
    rows = conn.execute(query).mappings().all()
    if not rows:
        return None
    _write(rows, partial_of(path))
    credits = float(sum(row["credits"] or 0 for row in rows))
    ends = [row["finished_at"] for row in rows if row["finished_at"] is not None]
    identities = [row[identity.name] for row in rows]
    for start in range(0, len(identities), 500):
        conn.execute(sa.delete(table).where(identity.in_(identities[start : start + 500])))
    conn.execute(
        sa.insert(archives).values(
            path=str(path.absolute()),
            rows=len(rows),
            credits=credits,
            oldest=min(ends, default=None),
            newest=max(ends, default=None),
            created_at=store.now(conn),
        )
    )
    _note_use(conn, path, rows)
    return len(rows), credits


def _note_use(conn: Connection, path: Path, rows: Any) -> None:
    """Keep what the rows count for in budgets: by month, connection, DAG and team."""
    use: dict[tuple[str | None, ...], float] = {}
    for row in rows:
        if row["credits"] and row["intended_at"]:
            place = (f"{row['intended_at']:%Y-%m}", row["conn_id"], row["dag_id"], row["team"])
            use[place] = use.get(place, 0.0) + row["credits"]
    if use:
        names = ("month", "conn_id", "dag_id", "team")
        values = [dict(zip(names, place, strict=True), credits=credits) for place, credits in use.items()]
        conn.execute(sa.insert(archived_use), [{"path": str(path.absolute()), **value} for value in values])


def _write(rows: Any, path: Path) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    # Every file has the same columns and types, whatever its rows hold.
    fields: list[tuple[str, Any]] = []
    for name in [*SHARED, "superseded_at", "reason"]:
        column = past_attempts.c[name]
        if isinstance(column.type, UtcDateTime):
            kind = pa.timestamp("us", tz="UTC")
        elif isinstance(column.type, sa.Integer):
            kind = pa.int64()
        elif isinstance(column.type, sa.Float):
            kind = pa.float64()
        elif name == "urls":
            kind = pa.list_(pa.string())
        else:
            kind = pa.string()
        fields.append((name, kind))
    as_json = {"request", "other_labels"}
    columns = {
        name: [
            json.dumps(row[name]) if name in as_json and row.get(name) is not None else row.get(name)
            for row in rows
        ]
        for name, _ in fields
    }
    schema = pa.schema(fields, metadata={"aio_ledger_schema": str(SCHEMA_VERSION)})
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        pq.write_table(pa.table(columns, schema=schema), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


def _tidy(store: Store, folder: Path) -> None:
    """Finish, or undo, what a run that was killed left behind."""
    with store.write() as conn:
        store.exclusive(conn, _LOCK)
        for unfinished in folder.glob(f"aio-ledger-*.parquet{_PARTIAL}"):
            path = unfinished.with_name(unfinished.name.removesuffix(_PARTIAL))
            noted = sa.select(archives.c.path).where(archives.c.path == str(path.absolute()))
            if conn.execute(noted).first() is None:
                unfinished.unlink()
            else:
                _put_in_place(path)


def _put_in_place(path: Path) -> None:
    try:
        partial_of(path).replace(path)
    except FileNotFoundError:
        if not path.exists():  # unless another run's tidying did it
            raise


def partial_of(path: Path) -> Path:
    """What an archive is called until its rows have left the ledger."""
    return path.with_name(path.name + _PARTIAL)
