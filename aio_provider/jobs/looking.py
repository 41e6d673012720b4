"""Whether a ledger and a limiter can be used where a setting says, without making anything there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import migrations
from aio_provider.jobs.ledger.explaining import explain
from aio_provider.jobs.ledger.location import in_memory, locate, public
from aio_provider.jobs.ledger.schema import SCHEMA_VERSION, jobs
from aio_provider.jobs.redis_window import open_redis
from aio_provider.jobs.shared_windows import file_of

#: how long to wait for a server or a lock, seconds
_PATIENCE = 5
_LIMITER_TABLE = "aio_limiter_log"


def look_at_ledger(target: str) -> str:
    """Say what is at a ledger's address; nothing is made or changed there.

    :param target: as for :meth:`.Ledger.open`.
    :returns: a phrase with its public URL, such as ``postgresql://aio@db/aio (schema version 3)``.
    :raises ConfigurationError: tasks could not use it; the message says why and what to do.
    """
    url = locate(target)
    if url.get_backend_name() == "sqlite" and in_memory(url):
        raise ConfigurationError("it is in memory, where no retry finds what was paid: give a path")
    return _look(url, jobs.name, _version)


def look_at_limiter(limiter_url: str) -> str:
    """Say what is at a limiter's address; no request is counted, and nothing is made there.

    :param limiter_url: as for :func:`aio_provider.jobs.limiter.rate_budget`.
    :raises ConfigurationError: tasks could not use it; the message says why and what to do.
    """
    scheme = urlsplit(limiter_url).scheme.partition("+")[0]
    if scheme == "memory":
        return "memory:// (each process for itself)"
    if scheme in ("redis", "rediss", "unix"):
        return _look_at_redis(limiter_url)
    if scheme in ("sqlite", "file"):
        path = file_of(limiter_url).absolute()
        return _look(URL.create("sqlite", database=str(path)), _LIMITER_TABLE, lambda conn: "in use")
    if scheme in ("postgresql", "postgres"):
        return _look(locate(limiter_url), _LIMITER_TABLE, lambda conn: "in use")
    raise ConfigurationError(
        f"it begins with {scheme or '(nothing)'!r}: give redis://, rediss://, postgresql://, file:// "
        "(a path on this machine) or memory://"
    )


def _look(url: URL, table: str, tell: Callable[[Connection], str]) -> str:
    shown, what = public(url), "ledger" if table == jobs.name else "database of this limiter"
    path = Path(str(url.database)) if url.get_backend_name() == "sqlite" else None
    if path is not None and not _there(path):
        return f"{shown} (not there yet: the first task makes it)"
    try:
        with _engine(url, path).connect() as conn:
            found = sa.inspect(conn).has_table(table)
            if path is None:
                _require_rights(conn, table if found else None)
            return f"{shown} ({tell(conn) if found else 'empty yet: the first task makes its tables'})"
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise ConfigurationError(
            f"{shown}: its driver is not installed ({error}): pip install 'aio-provider[postgres]'"
        ) from error
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        raise ConfigurationError(f"{shown} {explain(error, url, _PATIENCE, what)}") from error


def _there(path: Path) -> bool:
    """Whether the file is there; where it is not, it can be made."""
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        # A mistyped mount would be found by paying twice.
        raise ConfigurationError(
            f"the folder {path.parent} is not on this machine: mend the path, or make the folder (where only "
            "workers have that disk, this test cannot tell)"
        )
    written = (path, path.parent) if path.exists() else (path.parent,)
    for place in written:  # SQLite keeps two more files beside it
        if not os.access(place, os.W_OK):
            raise ConfigurationError(f"this user may not write {place}: change its owner or its mode")
    return path.exists() and path.stat().st_size > 0


def _engine(url: URL, path: Path | None) -> Engine:
    options: dict[str, Any] = {"future": True, "hide_parameters": True, "poolclass": NullPool}
    if path is None:
        return sa.create_engine(url, connect_args={"connect_timeout": _PATIENCE}, **options)
    url = url.set(database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    return sa.create_engine(url, connect_args={"timeout": _PATIENCE}, **options)


def _require_rights(conn: Connection, table: str | None) -> None:
    """That tasks could write there, too.

    :param table: one of the tables they write; None where there is none yet.
    """
    if conn.execute(sa.text("SHOW transaction_read_only")).scalar_one() == "on":
        raise ConfigurationError("the server takes no writes (a standby?): name the primary server")
    if table is None:
        right, query = "CREATE", "SELECT has_schema_privilege(current_schema(), 'CREATE')"
    else:
        right = "INSERT and UPDATE"
        query = "SELECT has_table_privilege(:table, 'INSERT') AND has_table_privilege(:table, 'UPDATE')"
    if not conn.execute(sa.text(query), {"table": table} if table else {}).scalar_one():
        what = f"on its table {table}" if table else "in its schema, to make the tables once"
        raise ConfigurationError(f"its user has no right to {right} {what}: grant it")


def _version(conn: Connection) -> str:
    found = migrations.version(conn)
    if found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"it has schema version {found}, this aio_provider knows up to {SCHEMA_VERSION}: upgrade "
            "aio_provider here, or give it another ledger"
        )
    later = ", which the next task brings up to date" if found < SCHEMA_VERSION else ""
    return f"schema version {found}{later}"


def _look_at_redis(url: str) -> str:
    client = open_redis(url, _PATIENCE)
    import redis

    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    try:
        with client:
            client.ping()
    except redis.RedisError as error:
        raise ConfigurationError(f"{shown} cannot be used: {error}") from error
    return f"{shown} (it answers)"
