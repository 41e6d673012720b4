"""Bringing a ledger's tables to the version this package writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa

from aio_provider.jobs.ledger.errors import LedgerUnavailableError, LedgerVersionError
from aio_provider.jobs.ledger.schema import (
    SCHEMA_VERSION,
    archived_use,
    archives,
    budget_events,
    budgets,
    create_indexes,
    meta,
    metadata,
)


def _from_1(conn: sa.engine.Connection) -> None:
    """Where an estimate comes from, and which files old rows were moved to."""
    conn.execute(sa.text("ALTER TABLE aio_jobs ADD COLUMN estimate_source VARCHAR(16)"))
    conn.execute(sa.text("ALTER TABLE aio_past_attempts ADD COLUMN estimate_source VARCHAR(16)"))
    archives.create(conn)


def _from_2(conn: sa.engine.Connection) -> None:
    """Connections, budgets, what prices depend on, and an index for reports in place of two others."""
    for table in ("aio_jobs", "aio_past_attempts"):
        for column in ("conn_id TEXT", "price_key TEXT", "reserved FLOAT"):
            conn.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN {column}"))
    conn.execute(sa.text("DROP INDEX IF EXISTS aio_jobs_dag"))
    conn.execute(sa.text("DROP INDEX IF EXISTS aio_jobs_model"))
    for new in (archived_use, budgets, budget_events):
        new.create(conn)
    create_indexes(conn)
    # Whose the credits in older files are is not on record: they count for the total alone.
    for path, credits, newest in conn.execute(
        sa.select(archives.c.path, archives.c.credits, archives.c.newest)
    ).all():
        month = f"{newest:%Y-%m}" if newest else ""
        conn.execute(sa.insert(archived_use).values(path=path, month=month, credits=credits))


#: version -> the step that takes a ledger of that version one further. A step that has been released is never
#: changed: ledgers out there have taken it.
STEPS: Mapping[int, Callable[[sa.engine.Connection], None]] = {1: _from_1, 2: _from_2}

# Any number that no one else's advisory lock uses: two processes must not create the tables at once.
_LOCK = 0x610_1ED6E


def ensure(conn: sa.engine.Connection) -> None:
    """Create the tables, or migrate them forward, inside the caller's transaction.

    :raises LedgerVersionError: when a newer version of this package has written the ledger.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
    if not sa.inspect(conn).has_table(meta.name):
        metadata.create_all(conn)
        create_indexes(conn)
        conn.execute(sa.insert(meta).values(name="schema_version", value=str(SCHEMA_VERSION)))
        return
    found = version(conn)
    if found > SCHEMA_VERSION:
        raise _newer(found)
    for step in range(found, SCHEMA_VERSION):
        STEPS[step](conn)
    if found < SCHEMA_VERSION:
        conn.execute(sa.update(meta).where(meta.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))


def version(conn: sa.engine.Connection) -> int:
    """The schema version on record."""
    return int(conn.execute(sa.select(meta.c.value).where(meta.c.name == "schema_version")).scalar_one())


def is_current(conn: sa.engine.Connection) -> bool:
    """Whether nothing is to be done: a look that takes no write lock."""
    return sa.inspect(conn).has_table(meta.name) and version(conn) == SCHEMA_VERSION


def require_current(conn: sa.engine.Connection, url: str) -> None:
    """For those who only look.

    :raises LedgerUnavailableError: there is no ledger in this database.
    :raises LedgerVersionError: another version of this package has written it.
    """
    if not sa.inspect(conn).has_table(meta.name):
        raise LedgerUnavailableError(f"there is no ledger at {url} yet: nothing has been run with it")
    found = version(conn)
    if found > SCHEMA_VERSION:
        raise _newer(found)
    if found < SCHEMA_VERSION:
        raise LedgerVersionError(
            f"the ledger has schema version {found}, this aio_provider reads {SCHEMA_VERSION}: the next run "
            "with this version, or `aio ledger list`, brings it up to date"
        )


def _newer(found: int) -> LedgerVersionError:
    return LedgerVersionError(
        f"the ledger has schema version {found}, this aio_provider knows up to {SCHEMA_VERSION}: "
        "upgrade aio_provider here, or give it a ledger of its own (AIO_LEDGER)"
    )
