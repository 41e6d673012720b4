"""Where the ledger is, who may read it, and what is said when it cannot be used: always before spending."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import traceback
import warnings
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from aio_provider.api.errors import AioError, ConfigurationError
from aio_provider.jobs.ledger import (
    JobState,
    Ledger,
    LedgerError,
    LedgerUnavailableError,
    LedgerVersionError,
    new_owner,
)
from aio_provider.jobs.ledger.owners import is_gone
from tests import postgres_server
from tests.jobs.ledger_helpers import bring_to, job, state


def test_the_file_and_its_folder_are_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / "a" / name)
    path = tmp_path / "a" / "aio-provider" / "ledger.sqlite"
    with Ledger.open() as ledger:
        bring_to(ledger, "k", JobState.SUCCEEDED)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes == dict.fromkeys(("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"), 0o600)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert ledger.url == f"sqlite:///{path}"
        assert not ledger.is_shared


def test_what_is_committed_survives_a_power_cut(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger, ledger.store.read() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_the_ledger_is_found_by_argument_environment_or_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with Ledger.open() as ledger:
        assert ledger.url == f"sqlite:///{tmp_path}/data/aio-provider/ledger.sqlite"
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "env.sqlite"))
    with Ledger.open() as ledger:
        assert ledger.url.endswith("/env.sqlite")
    with Ledger.open(f"sqlite:///{tmp_path}/url.sqlite") as ledger:
        assert ledger.url == f"sqlite:///{tmp_path}/url.sqlite"
    monkeypatch.setenv("HOME", str(tmp_path))
    with Ledger.open("~/home.sqlite") as ledger:
        assert ledger.url == f"sqlite:///{tmp_path}/home.sqlite"
    monkeypatch.chdir(tmp_path)
    with Ledger.open("here.sqlite") as ledger:
        assert ledger.url == f"sqlite:///{tmp_path}/here.sqlite"
    for memory in (":memory:", "sqlite://", "sqlite:///:memory:"):
        with Ledger.open(memory) as ledger:
            assert ledger.url == "sqlite://"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mysql://u:pw-secret@h/db", "mysql:// is not supported"),
        ("postgresql://u:pw-secret@h:port/db", "malformed database URL"),
        ("postgresql+nosuchdriver://u:pw-secret@h/db", "nosuchdriver"),
        ("postgresql:/u:pw-secret@h/db", "two slashes after postgresql"),
        ("sqlite://ledger.sqlite", "names no file"),
        ("sqlite://var/lib/ledger.sqlite", "names no file"),
    ],
)
def test_a_target_that_makes_no_sense(target: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        Ledger.open(target)
    assert "pw-secret" not in "".join(traceback.format_exception(caught.value))


def test_no_password_is_ever_shown(postgres_url: str) -> None:
    secret = "pw-s3cret/with:odd@characters"
    url = sa.engine.make_url(postgres_url).set(password=secret)
    with Ledger.open(url.render_as_string(hide_password=False)) as ledger:
        assert ledger.is_shared
        assert ledger.url.startswith("postgresql://postgres@")
        assert secret not in repr(ledger)
        with pytest.raises(AioError) as caught, ledger.store.write() as conn:
            conn.execute(sa.text(f'SELECT * FROM "{secret}"'))
    assert secret not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused at once
        port = taken.getsockname()[1]
        with pytest.raises(LedgerUnavailableError, match="cannot be reached") as caught:
            Ledger.open(f"postgresql://someone:pw-secret@127.0.0.1:{port}/db")
    chain = [caught.value, caught.value.__cause__, getattr(caught.value.__cause__, "orig", None)]
    assert "pw-secret" not in "".join(str(error) for error in chain)


def test_a_folder_and_a_path_through_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        Ledger.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerUnavailableError, match="cannot be opened for writing"):
        Ledger.open(tmp_path / "file" / "ledger.sqlite")


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 1000)
    with pytest.raises(LedgerUnavailableError, match="is not a ledger"):
        Ledger.open(path)
    assert path.read_text().startswith("dear diary")


def test_a_locked_file_is_waited_for_and_then_named(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger.open(path, busy_seconds=0.05, patience_seconds=0.1) as ledger:
        bring_to(ledger, "k", JobState.INTENDED)
        ledger.plan([job("p")], owner="me")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailableError, match="locked by another process"):
            ledger.intend(["p"], owner="me")
        with pytest.raises(LedgerUnavailableError, match="k=paid-id"):
            ledger.accept([("k", "paid-id")], owner="me")
        assert ledger.get(["p"])["p"].state is JobState.PLANNED, "readers are not kept waiting"
        other.execute("ROLLBACK")
        other.close()
        ledger.accept([("k", "paid-id")], owner="me")


def test_an_id_is_tried_again_until_the_lock_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger.open(path, busy_seconds=0.01, patience_seconds=30) as ledger:
        bring_to(ledger, "k", JobState.INTENDED)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        tries = []

        @sa.event.listens_for(ledger.store._engine, "checkout")
        def _count(*_: object) -> None:
            tries.append(1)
            if len(tries) == 3:
                other.execute("ROLLBACK")

        ledger.accept([("k", "paid-id")], owner="me")
        other.close()
        assert state(ledger, "k") is JobState.ACCEPTED


def test_a_connection_that_drops_is_made_again_for_what_is_paid(postgres_url: str) -> None:
    with Ledger.open(postgres_url) as ledger, Ledger.open(postgres_url) as other:
        bring_to(ledger, "k", JobState.INTENDED)
        dropped = []

        @sa.event.listens_for(ledger.store._engine, "begin")
        def _drop(conn: sa.engine.Connection) -> None:
            if not dropped:
                dropped.append(1)
                pid = conn.exec_driver_sql("SELECT pg_backend_pid()").scalar()
                with other.store.write() as killer:
                    killer.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

        ledger.accept([("k", "paid-id")], owner="me")
        assert dropped
        assert state(ledger, "k") is JobState.ACCEPTED


def test_a_connection_that_drops_before_a_claim_is_an_error(postgres_url: str) -> None:
    with Ledger.open(postgres_url) as ledger:
        ledger.plan([job("k")], owner="me")

        @sa.event.listens_for(ledger.store._engine, "begin", once=True)
        def _drop(conn: sa.engine.Connection) -> None:
            conn.connection.dbapi_connection.close()  # type: ignore[union-attr]

        with pytest.raises(LedgerUnavailableError):
            ledger.intend(["k"], owner="me")
        assert state(ledger, "k") is JobState.PLANNED
        assert ledger.intend(["k"], owner="me") == {"k"}, "and the next one finds a new connection"


def test_a_full_disk_stops_claims_first_and_names_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        bring_to(ledger, "k", JobState.INTENDED)
        ledger.plan([job("p")], owner="me")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
            with pytest.raises(LedgerUnavailableError, match=r"1\.0 MiB left on its disk.*nothing more was"):
                ledger.intend(["p"], owner="me")
        with ledger.store.write() as conn:  # SQLite's own word for a full disk
            conn.exec_driver_sql("PRAGMA max_page_count=1")
        with pytest.raises(LedgerUnavailableError, match="its disk is full"):
            ledger.plan([job(f"new{index}") for index in range(2000)], owner="me")
        assert state(ledger, "p") is JobState.PLANNED


def test_a_read_only_ledger_is_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        with ledger.store.read() as conn:
            conn.exec_driver_sql("PRAGMA query_only=1")
        with pytest.raises(LedgerUnavailableError, match="read-only"):
            ledger.plan([job("k")], owner="me")


def test_a_forked_child_opens_its_own_connections(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        bring_to(ledger, "k", JobState.INTENDED)
        child = os.fork()
        if child == 0:
            try:
                ledger.accept([("k", "from-the-child")], owner="me")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert ledger.get(["k"])["k"].task_id == "from-the-child"


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    from concurrent.futures import ThreadPoolExecutor

    keys = [f"k{index}" for index in range(40)]
    ledger.plan([job(key) for key in keys], owner="me")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda index: ledger.intend([keys[index % 40]], owner=f"t{index}"), range(160)))
    assert sum(len(keys) for keys in won) == 40


# -- owners ----------------------------------------------------------------------------------------------


def test_owners_are_told_apart_and_their_end_is_seen() -> None:
    mine = new_owner()
    assert mine != new_owner()
    assert not is_gone(mine)
    for stranger in (None, "", "someone", "a|b|c|d|e|f", mine.replace(socket.gethostname(), "elsewhere", 1)):
        assert not is_gone(stranger), "what cannot be told from here is left to the lease"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_owner().encode())
        os._exit(0)
    theirs = os.read(reader, 300).decode()
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert is_gone(theirs)
    host, _, *rest = mine.split("|")
    assert is_gone("|".join([host, "another-boot", *rest]))


# -- schema ----------------------------------------------------------------------------------------------

DATA = Path(__file__).parent / "data"


def _old_ledger(target: str, dialect: str, version: int = 1) -> None:
    """A ledger as that version wrote it: one finished job, one past attempt, one file of old rows."""
    url = target if "://" in target else f"sqlite:///{target}"
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"), future=True)
    with engine.begin() as conn:
        for statement in (DATA / f"ledger_v{version}_{dialect}.sql").read_text().split(";\n"):
            if statement.strip():
                conn.exec_driver_sql(statement)
        for table in ("aio_jobs", "aio_past_attempts"):
            past = table == "aio_past_attempts"
            conn.execute(
                sa.text(
                    f"INSERT INTO {table} (key, fingerprint, state, attempt, scope, kind, endpoint, credits, "
                    "service_task_id, planned_at, updated_at, dag_id"
                    f"{', superseded_at, reason' if past else ''}) "
                    "VALUES ('k', 'f', 'succeeded', 1, 's', 'image', '/images/generations', 5, "
                    f"'t', :at, :at, 'd'{', :at, :why' if past else ''})"
                ),
                {"at": "2026-11-01 12:00:00.000000", **({"why": "submitted again"} if past else {})},
            )
        if version > 1:
            conn.execute(
                sa.text(
                    "INSERT INTO aio_archives (path, rows, credits, newest, created_at) "
                    "VALUES ('/old.parquet', 3, 12.5, :at, :at)"
                ),
                {"at": "2026-10-31 12:00:00.000000"},
            )
    engine.dispose()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_ledger_of_an_older_version_is_brought_up_to_date(
    dialect: str, version: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = str(tmp_path / "l.sqlite") if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    _old_ledger(target, dialect, version)
    archived = [] if version == 1 else [("/old.parquet", 3, 12.5)]
    for _ in range(2):
        with Ledger.open(target) as ledger:
            entry = ledger.get(["k"])["k"]
            [past] = ledger.past_entries()
            assert (entry.state, entry.credits, entry.task_id, entry.labels) == (
                JobState.SUCCEEDED, 5.0, "t", {"dag_id": "d"},
            )  # fmt: skip
            assert (entry.estimate_source, past.estimate_source) == (None, None)
            assert (entry.reserved, entry.price_key, past.price_key) == (None, None, None)
            assert [(file["path"], file["rows"], file["credits"]) for file in ledger.archives()] == archived
            with ledger.store.read() as conn:
                use = conn.execute(sa.text("SELECT month, credits, dag_id FROM aio_archived_use")).all()
            assert use == [("2026-10", 12.5, None)][: version - 1]
    with Ledger.open(target) as ledger:
        bring_to(ledger, "new", JobState.FAILED)
        ledger.plan([job("new")], owner="me", retry_failed=True)
        assert len(list(ledger.past_entries())) == 2
        migrated = _shape(ledger)
    with (
        nullcontext(":memory:") if dialect == "sqlite" else postgres_server.schema() as fresh,
        Ledger.open(fresh) as ledger,
    ):
        assert _shape(ledger) == migrated


def _shape(ledger: Ledger) -> dict[str, tuple[set[str], set[str]]]:
    """Columns and indexes by table."""
    with ledger.store.read() as conn, warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # an index over an expression is left out
        inspector = sa.inspect(conn)
        return {
            table: (
                {f"{column['name']} {column['type']}" for column in inspector.get_columns(table)},
                {f"{index['name']} {index['column_names']}" for index in inspector.get_indexes(table)},
            )
            for table in inspector.get_table_names()
        }


def test_a_ledger_of_a_newer_version_is_left_alone(target: str, tmp_path: Path) -> None:
    if target == ":memory:":
        pytest.skip("nobody else can have written it")
    with Ledger.open(target) as ledger, ledger.store.write() as conn:
        conn.exec_driver_sql("UPDATE aio_meta SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(LedgerVersionError, match=r"version 99.*upgrade aio_provider"):
        Ledger.open(target)


def test_a_migration_that_fails_leaves_the_old_ledger_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aio_provider.jobs.ledger import migrations

    path = str(tmp_path / "l.sqlite")
    _old_ledger(path, "sqlite")

    def half(conn: sa.engine.Connection) -> None:
        conn.exec_driver_sql("ALTER TABLE aio_jobs ADD COLUMN half TEXT")
        raise LedgerError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", {1: half})
        with pytest.raises(LedgerError, match="power cut"):
            Ledger.open(path)
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT value FROM aio_meta").fetchall() == [("1",)]
        assert "half" not in {row[1] for row in plain.execute("PRAGMA table_info(aio_jobs)")}
    plain.close()
    with Ledger.open(path) as ledger:
        assert ledger.get(["k"])["k"].credits == 5.0


def test_many_processes_may_create_one_ledger_at_once(target: str) -> None:
    if target == ":memory:":
        pytest.skip("a memory is one process's")
    children = []
    for index in range(6):
        child = os.fork()
        if child == 0:
            try:
                with Ledger.open(target) as ledger:
                    bring_to(ledger, f"k{index}", JobState.SUCCEEDED)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    with Ledger.open(target) as ledger:
        assert len(list(ledger.entries())) == 6


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_who_only_looks_creates_and_changes_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = str(tmp_path / "50% of?#.sqlite")
    if kind == "postgresql":
        target = request.getfixturevalue("postgres_url")
    with pytest.raises(LedgerUnavailableError, match=r"no such directory|no ledger at"):
        Ledger.open(target, readonly=True)
    assert list(tmp_path.iterdir()) == []
    with Ledger.open(target) as ledger:
        bring_to(ledger, "k", JobState.SUCCEEDED)
        with Ledger.open(target, readonly=True) as looked_at:
            assert state(looked_at, "k") is JobState.SUCCEEDED
            if kind == "sqlite":
                with pytest.raises(LedgerUnavailableError, match="read-only"):
                    looked_at.forget(["k"])
        for version, meaning in ((99, "upgrade aio_provider"), (2, "brings it up to date")):
            with ledger.store.write() as conn:
                conn.execute(
                    sa.text(f"UPDATE aio_meta SET value = '{version}' WHERE name = 'schema_version'")
                )
            with pytest.raises(LedgerVersionError, match=meaning):
                Ledger.open(target, readonly=True)
        with ledger.store.read() as conn:
            assert conn.execute(sa.text("SELECT value FROM aio_meta")).scalar_one() == "2"
