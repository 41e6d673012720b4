"""The database under the ledger: where it is, how it is opened, transactions, its errors in our words."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool, StaticPool
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random,
    wait_random_exponential,
)

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import migrations
from aio_provider.jobs.ledger.charges import Expectations
from aio_provider.jobs.ledger.errors import LedgerError, LedgerUnavailableError
from aio_provider.jobs.ledger.explaining import explain, said
from aio_provider.jobs.ledger.location import in_memory, locate, public, require_folder

#: How long a writer waits for another process's write, seconds.
BUSY_SECONDS = 30.0
#: How long to go on trying to write down what has been paid for, seconds.
PATIENCE_SECONDS = 60.0
#: Claims stop while this much room is left, so that what is in the air can still be written down.
MIN_FREE_BYTES = 16 * 1024 * 1024


class Store:
    """One database, SQLite or PostgreSQL, opened and brought to the present schema.

    Thread-safe. Safe to use after a fork (the child opens its own connections).

    :param target: a path, a database URL, ``":memory:"``, None for ``$AIO_LEDGER`` or the user's own file.
    :param clock: stands in for the database's clock (for tests).
    :param busy_seconds: how long to wait for a lock that another process holds.
    :param patience_seconds: how long to keep trying to write down what has been paid for.
    :param readonly: look only: nothing is created, and no table brought up to date.
    :raises ConfigurationError: when the target makes no sense.
    :raises LedgerUnavailableError: when the database cannot be opened.
    :raises LedgerVersionError: when a newer version of this package has written it; ``readonly``: an older
        one, too.
    """

    def __init__(
        self,
        target: str | Path | None = None,
        *,
        clock: Callable[[], datetime] | None = None,
        busy_seconds: float = BUSY_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        readonly: bool = False,
    ) -> None:
        self._url = locate(target)
        self._readonly = readonly
        self._clock = clock
        self._busy = busy_seconds
        self._patience = patience_seconds
        self._pid = os.getpid()
        self.expectations = Expectations()
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.path = None if not self.is_sqlite or in_memory(self._url) else Path(str(self._url.database))
        self.url = public(self._url)
        # SQLite has one writer at a time; queueing our own threads here beats SQLite's sleep-and-retry.
        self._writing: threading.RLock | _NoLock = threading.RLock() if self.is_sqlite else _NoLock()
        if self.path is not None and not readonly:
            self._prepare(self.path)
        self._engine = self._create()
        self._reader = self._engine.execution_options(aio_read=True)
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    # -- transactions -----------------------------------------------------------------------------------

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that changes rows: committed at the end of the block, rolled back on any error.

        On SQLite it takes the write lock at once (``BEGIN IMMEDIATE``): what it reads cannot change under it.

        :raises LedgerUnavailableError: when the database cannot be written.
        """
        self._after_fork()
        with self._errors(), self._writing, self._engine.begin() as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite (WAL) it neither waits for writers nor makes them wait."""
        self._after_fork()
        lock = self._writing if self.path is None else _NoLock()
        with self._errors(), lock, self._reader.begin() as conn:
            yield conn

    def attempt(self, work: Callable[[Connection], Any], *, patient: bool = False) -> Any:
        """Run ``work`` in one :meth:`write` transaction, again when PostgreSQL breaks a deadlock.

        :param patient: also again, for a minute, while the database is locked or unreachable. For what has
            been paid for and must be written down; ``work`` must be safe to run twice, as a lost connection
            does not tell whether the commit came through.
        """
        again = Retrying(
            retry=retry_if_exception(_is_passing if patient else _is_deadlock),
            stop=stop_after_delay(self._patience) if patient else stop_after_attempt(8),
            wait=wait_random_exponential(0.1, max=2),
            reraise=True,
        )
        for attempt in again:
            with attempt, self.write() as conn:
                return work(conn)

    def now(self, conn: Connection) -> datetime:
        """The time by the database's clock (SQLite has none of its own and takes the machine's)."""
        if self._clock is not None:
            return self._clock().astimezone(UTC)
        if self.is_sqlite:
            return datetime.now(UTC)
        value: datetime = conn.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        return value.astimezone(UTC)

    def exclusive(self, conn: Connection, lock: int) -> None:
        """Keep other processes from the same critical section until the transaction ends."""
        if not self.is_sqlite:  # SQLite's write transactions exclude each other anyway
            conn.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": lock})

    def require_room(self) -> None:
        """Refuse to go on when the disk under an SQLite ledger is nearly full.

        Called before an intent, so that the ids of what is already in the air still find room.
        """
        if self.path is None:
            return
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise LedgerUnavailableError(f"ledger {self.url}: cannot look at its disk: {error}") from error
        if free < MIN_FREE_BYTES:
            raise LedgerUnavailableError(
                f"ledger {self.url}: {free / 2**20:.1f} MiB left on its disk, "
                f"{MIN_FREE_BYTES // 2**20} MiB are kept for what is in flight; nothing more was submitted: "
                "free some space and run again"
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # -- opening ----------------------------------------------------------------------------------------

    def _create(self) -> Engine:
        options: dict[str, Any] = {"future": True, "hide_parameters": True}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": self._busy, "check_same_thread": False}
            options["json_deserializer"] = _from_json
            # max_overflow=-1: never make a thread wait for a connection, SQLite's own lock is the queue
            pool: dict[str, Any] = (
                {"poolclass": StaticPool}
                if self.path is None
                else {"poolclass": QueuePool, "max_overflow": -1}
            )
            options |= pool
        else:
            options["pool_pre_ping"] = True
            # What a budget's check reads after it has waited for its lock must be new, not a snapshot.
            options["isolation_level"] = "READ COMMITTED"
            if self._url.get_driver_name() == "psycopg2":
                options["executemany_mode"] = "values_plus_batch"
            options["connect_args"] = {"connect_timeout": 10, "application_name": "aio-provider"}
        url = self._url
        if self._readonly and self.path is not None:
            url = url.set(database=f"file:{quote(str(self.path))}", query={"mode": "ro", "uri": "true"})
        try:
            engine = sa.create_engine(url, **options)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            raise ConfigurationError(
                f"ledger {self.url}: its driver is not installed ({error}): "
                "pip install 'aio-provider[postgres]'"
            ) from error
        if self.is_sqlite:
            _speak_sqlite(engine, self._busy)
        return engine

    def _migrate(self) -> None:
        # Two processes that create a file at once may find it locked where SQLite itself does not wait.
        for attempt in Retrying(
            retry=retry_if_exception(_is_locked),
            stop=stop_after_delay(self._busy),
            wait=wait_random(0, 0.1),
            reraise=True,
        ):
            with attempt:
                with self.read() as conn:
                    if self._readonly:
                        return migrations.require_current(conn, self.url)
                    if migrations.is_current(conn):
                        return
                with self.write() as conn:
                    migrations.ensure(conn)

    def _prepare(self, path: Path) -> None:
        require_folder(self._url)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_dir():
                raise ConfigurationError(f"ledger {self.url} is a directory: name a file in it")
            # SQLite would take the umask; its -wal and -shm files copy this file's mode.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise LedgerUnavailableError(
                f"ledger {self.url} cannot be opened for writing ({error.strerror}); "
                "give a writable path (AIO_LEDGER); nothing was submitted"
            ) from error

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._engine.dispose(close=False)
            self._pid = os.getpid()

    # -- errors -----------------------------------------------------------------------------------------

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DataError, sa.exc.IntegrityError) as error:
            raise LedgerError(f"ledger {self.url}: {said(error, self._url)}") from error
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
            meaning = explain(error, self._url, self._busy)
            raise LedgerUnavailableError(f"ledger {self.url} {meaning}") from error


class _NoLock:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_decode = json.JSONDecoder().raw_decode


def _from_json(text: str) -> Any:
    return _decode(text)[0]  # our own JSON: `json.loads` looks for blanks around it, which takes as long


def _speak_sqlite(engine: Engine, busy_seconds: float) -> None:
    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver would open transactions by itself, and late; ours are opened by the event below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        # 16 MB, not 2: keys are digests, so a large ledger's are looked up all over its index
        cursor.execute("PRAGMA cache_size=-16000")
        # FULL: every commit is on the disk before it returns. NORMAL would survive a killed process but not a
        # power cut, and an intent lost that way is a job paid for twice.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("aio_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _is_deadlock(error: BaseException) -> bool:
    return _code(error) in {"40P01", "40001"}


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, LedgerUnavailableError) and "is locked" in str(error)


def _is_passing(error: BaseException) -> bool:
    if _is_deadlock(error) or _is_locked(error):
        return True
    # PostgreSQL: no code, no server to give one; 08, 57P: connection lost, server stopping
    code = _code(error)
    lost = isinstance(error.__cause__, (sa.exc.OperationalError, sa.exc.InterfaceError))
    return lost and code is not None and (not code or code.startswith(("08", "57P")))


def _code(error: BaseException) -> str | None:
    """PostgreSQL's code behind one of our errors: "" when it gave none, None when it is not PostgreSQL's."""
    if not isinstance(error, LedgerError):
        return None
    cause: Any = getattr(error.__cause__, "orig", None)
    return str(cause.pgcode or "") if hasattr(cause, "pgcode") else None
