"""A key's count of requests in a database: a SQLite file on one machine, PostgreSQL for several."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import sqlalchemy as sa
from pyrate_limiter import Decision, Rate, SlidingWindowLog
from sqlalchemy.engine import Connection, Engine
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.windows import minute_rate, spacing_rate

#: entries dated later than this were made before the clock was set back
_FUTURE_MS = 5 * 60_000
#: how long to wait for another process's lock on the file, and for a server, seconds
_BUSY_SECONDS = 10.0

_metadata = sa.MetaData()
_log = sa.Table(
    "aio_limiter_log",
    _metadata,
    sa.Column("key_id", sa.String(32), nullable=False),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("sent_at", sa.BigInteger, nullable=False),  # milliseconds since the epoch
    sa.Column("counted_at", sa.BigInteger, nullable=False),
    sa.Index("aio_limiter_log_sent", "key_id", "sent_at"),
    sa.Index("aio_limiter_log_counted", "key_id", "counted_at"),
)
_gate = sa.Table(
    "aio_limiter_gate",
    _metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("closed_until", sa.BigInteger, nullable=False),
)


class SqlWindow:
    """The count in a database: a SQLite file for this machine's processes, PostgreSQL for several machines'.

    :param url: ``sqlite:///…`` or ``postgresql://…``.
    :param key_id: which key; see :func:`aio_provider.jobs.settings.key_id`.
    :param per_minute: requests in any 60 seconds, above 0.
    :raises ConfigurationError: no such database, or no driver for it.
    """

    blocking = True

    def __init__(self, url: str, key_id: str, per_minute: float) -> None:
        self._key = key_id
        self._rate = minute_rate(per_minute)
        self._turns = spacing_rate(per_minute)
        self._jitter = 0.2 * 60.0 / per_minute
        self._rule = SlidingWindowLog()
        # One connection, used by one thread at a time.
        self._mutex = threading.Lock()
        self._sqlite = url.startswith("sqlite")
        self._engine = _engine(url, self._sqlite)
        # Processes that create one SQLite file at once may find it locked where SQLite itself does not wait.
        again = Retrying(
            retry=retry_if_exception_type(sa.exc.OperationalError),
            stop=stop_after_attempt(10 if self._sqlite else 1),
            wait=wait_random(0.02, 0.1),
            reraise=True,
        )
        try:
            for attempt in again:
                with attempt, self._locked() as conn:
                    _metadata.create_all(conn)
        except sa.exc.DBAPIError as error:
            raise ConfigurationError(f"The rate limiter's database {_trouble(error, url)}.") from error

    def take(self, now: float, spaced: bool = True) -> tuple[str | None, float]:
        """Enter one request, if there is room; else say when to ask again.

        :param spaced: also keep the distance between requests of all processes.
        """
        with self._locked() as conn:
            at = self._now(conn)
            closed = self._closed_until(conn)
            if at < closed:
                return None, min(closed - at, _FUTURE_MS) / 1000 + self._late()
            self._forget(conn, at)
            rules = ((self._turns, _log.c.sent_at), (self._rate, _log.c.counted_at))
            for rate, column in rules if spaced else rules[1:]:
                decision = self._decide(conn, rate, column, at)
                if not decision.allowed:
                    return None, (decision.retry_after_ms or 1) / 1000 + self._late()
            name = uuid.uuid4().hex
            conn.execute(_log.insert().values(key_id=self._key, name=name, sent_at=at, counted_at=at))
            return name, 0.0

    def answered(self, item: str, now: float) -> None:
        """The answer is here: the entry's minute begins."""
        with self._locked() as conn:
            conn.execute(_log.update().where(_log.c.name == item).values(counted_at=self._now(conn) + 1))

    def withdraw(self, item: str) -> None:
        """Nothing was sent after all."""
        with self._locked() as conn:
            conn.execute(_log.delete().where(_log.c.name == item))

    def close_for(self, seconds: float, now: float) -> None:
        """Admit nothing of any process for a while."""
        with self._locked() as conn:
            until = self._now(conn) + ceil(seconds * 1000)
            done = conn.execute(
                _gate.update().where(_gate.c.key_id == self._key).values(closed_until=until)
            ).rowcount
            if not done:
                conn.execute(_gate.insert().values(key_id=self._key, closed_until=until))

    def room(self, now: float) -> int:
        """How many requests would be admitted now, were they not spaced."""
        with self._locked() as conn:
            at = self._now(conn)
            if at < self._closed_until(conn):
                return 0
            used = self._count(conn, _log.c.counted_at, self._rule.window_start(self._rate, at))
            return max(0, self._rate.limit - used)

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _closed_until(self, conn: Connection) -> int:
        query = sa.select(_gate.c.closed_until).where(_gate.c.key_id == self._key)
        return conn.execute(query).scalar_one_or_none() or 0

    def _decide(self, conn: Connection, rate: Rate, column: Any, at: int) -> Decision:
        def newest(offset: int) -> int | None:
            query = sa.select(column).where(_log.c.key_id == self._key).order_by(column.desc())
            found: int | None = conn.execute(query.limit(1).offset(offset)).scalar_one_or_none()
            return found

        used = self._count(conn, column, self._rule.window_start(rate, at))
        return self._rule.decide([rate], [used], 1, at, newest)

    def _count(self, conn: Connection, column: Any, since: int) -> int:
        query = sa.select(sa.func.count()).where(_log.c.key_id == self._key, column >= since)
        return int(conn.execute(query).scalar_one())

    def _forget(self, conn: Connection, at: int) -> None:
        old = at - max(self._rate.interval, self._turns.interval) - 1000
        conn.execute(
            _log.delete().where(
                _log.c.key_id == self._key,
                sa.or_(
                    sa.and_(_log.c.counted_at < old, _log.c.sent_at < old),
                    _log.c.counted_at > at + _FUTURE_MS,
                ),
            )
        )

    def _late(self) -> float:
        # Those who wait for the same moment come one after the other, each time in another order.
        return random.uniform(0.0, self._jitter)

    def _now(self, conn: Connection) -> int:
        if self._sqlite:
            return time.time_ns() // 1_000_000
        seconds = conn.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        return int(float(seconds) * 1000)

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        """A transaction that no other process's overlaps."""
        with self._mutex, self._engine.begin() as conn:
            if not self._sqlite:
                conn.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": self._key})
            yield conn


def _trouble(error: sa.exc.DBAPIError, url: str) -> str:
    if "not a database" in str(error.orig):
        path = url.removeprefix("sqlite:///")
        return f"cannot be used: {path} is another kind of file, or damaged; name another one, or remove it"
    return f"cannot be used: {type(error.orig).__name__}"


def _engine(url: str, sqlite: bool) -> Engine:
    options: dict[str, Any] = {"future": True, "hide_parameters": True, "pool_size": 1, "max_overflow": 0}
    try:
        if not sqlite:
            patience = {"connect_timeout": int(_BUSY_SECONDS), "application_name": "aio-provider"}
            return sa.create_engine(url, pool_pre_ping=True, connect_args=patience, **options)
        from sqlalchemy.pool import QueuePool

        path = url.removeprefix("sqlite:///")
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = sa.create_engine(
            url,
            poolclass=QueuePool,
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
            **options,
        )
    except OSError as error:
        raise ConfigurationError(f"The rate limiter's file cannot be opened: {error.strerror}.") from error
    except (ImportError, sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise ConfigurationError(
            f"limiter_url cannot be used ({type(error).__name__}); PostgreSQL needs 'aio-provider[postgres]'."
        ) from error

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we begin ourselves, see below
        connection.execute("PRAGMA journal_mode=WAL")
        # What is lost with the machine's power is at most a minute old by the time it is back.
        connection.execute("PRAGMA synchronous=OFF")

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
