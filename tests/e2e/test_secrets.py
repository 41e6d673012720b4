"""The key is nowhere it could be read: not in a log, the database, a rendered template or a result file."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.e2e.conftest import ExampleRun, Services


def texts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The bytes of every file below a folder; of a Parquet file, what its compressed pages say as well."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                yield path, f"{table.to_pydict()} {table.schema.metadata}".encode()


def read(services: Services, table: str) -> list[dict[str, Any]]:
    """All rows of a table of Airflow's database."""
    with closing(sqlite3.connect(f"file:{services.airflow.home}/airflow.db?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f'SELECT * FROM "{table}"')]


def test_the_key_is_in_no_file(services: Services, example: ExampleRun) -> None:
    assert example.state == "success"
    needles = [key.encode() for key in services.keys]
    needles += [base64.b64encode(key)[:-2] for key in needles]
    folders = [services.airflow.home, services.output]
    found = {
        str(path): needle
        for folder in folders
        for path, content in texts(folder)
        for needle in needles
        if needle in content
    }
    assert found == {}


def test_the_search_for_the_key_would_find_it(services: Services, example: ExampleRun) -> None:
    # The ids of the paid tasks went everywhere that the key must not go.
    one = example.submissions[-1].task_id.encode()
    where = {path for path, content in texts(services.airflow.home) if one in content}
    assert any(path.suffix == ".log" for path in where)
    assert any(path.name.startswith("airflow.db") for path in where)


def test_the_key_is_in_no_trigger_row(services: Services) -> None:
    before = len(services.still.submissions)
    run_id = services.airflow.trigger("deferred")
    services.wait_for_states("deferred", run_id, "picture", "deferred")
    rows = repr(read(services, "trigger"))
    (submission,) = services.still.submissions[before:]
    assert submission.task_id in rows  # it is readable: it would show the key as well
    assert not [key for key in services.keys if key in rows]
    assert submission.body["prompt"] not in rows
    services.clock.advance(3600)
    assert services.airflow.wait_for_run("deferred", run_id) == "success"


def test_the_key_is_in_no_table(services: Services, example: ExampleRun) -> None:
    # Rows on overflow pages are not contiguous bytes in the file, so every value is read as well.
    tables = [row["name"] for row in read(services, "sqlite_master") if row["type"] == "table"]
    assert {"trigger", "xcom", "rendered_task_instance_fields", "log", "task_state_store"} <= set(tables)
    for table in tables:
        rows = repr(read(services, table))
        assert not [key for key in services.keys if key in rows], table
