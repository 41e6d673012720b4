"""The open record: what is in it, that a second export replaces, and that it is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest

import aio_provider as aio
from aio_provider import accounting
from aio_provider.accounting.export import METADATA_KEY, SCHEMA
from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import Ledger

from .conftest import NOON, put, row

OCTOBER = datetime(2026, 10, 5, tzinfo=UTC)


def test_every_attempt_is_in_it_and_no_prompt(any_book: Ledger, tmp_path: Path) -> None:
    put(any_book, row(request={"prompt": "a secret"}, text="an answer", dag_id="shop"), row("unknown", None))
    put(any_book, row(sent=OCTOBER), past=True)
    put(any_book, row("planned", None))
    done = accounting.export_ledger(tmp_path / "out", any_book)
    assert (done.rows, done.credits, len(done.files)) == (3, 10.0, 2)
    october = tmp_path / "out" / "month=2026-10" / "ledger.parquet"
    schema = pq.read_schema(october)
    assert schema.equals(SCHEMA) and json.loads(schema.metadata[METADATA_KEY])["version"] == 1
    assert pq.read_table(october, partitioning=None).column("superseded").to_pylist() == [True]
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet"))


def test_a_second_export_replaces_the_first(book: Ledger, tmp_path: Path) -> None:
    put(book, row(sent=OCTOBER), row())
    accounting.export_ledger(tmp_path / "out", book)
    put(book, row())
    accounting.export_ledger(tmp_path / "out", book, since="2026-11")
    total = (
        f"SELECT month, sum(credits) FROM read_parquet('{tmp_path}/out/*/*.parquet') GROUP BY 1 ORDER BY 1"
    )
    assert duckdb.sql(total).fetchall() == [("2026-10", 5.0), ("2026-11", 10.0)]
    book.forget(list(book.get([e.key for e in book.entries()])))  # they stay, as past attempts
    assert accounting.export_ledger(tmp_path / "out", book).credits == 15.0
    with book.store.write() as conn:
        conn.exec_driver_sql("DELETE FROM aio_past_attempts WHERE intended_at < '2026-11'")
    accounting.export_ledger(tmp_path / "out", book)
    assert duckdb.sql(total).fetchall() == [("2026-11", 10.0)]
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_archived_rows_are_exported_and_a_missing_archive_is_an_error(book: Ledger, tmp_path: Path) -> None:
    put(book, row(credits=7.0, sent=NOON - timedelta(days=400)), row())
    [path] = book.prune(older_than=timedelta(days=300), to=tmp_path / "archive").files
    assert accounting.export_ledger(tmp_path / "out", book).credits == 12.0
    path.unlink()
    missing = r"^the file is not on this machine \(.*\), with 1 row \(7 credits\)\. Nothing.*archived=False"
    with pytest.raises(ConfigurationError, match=missing):
        accounting.export_ledger(tmp_path / "out", book)
    assert accounting.export_ledger(tmp_path / "out2", book, archived=False).credits == 5.0


@pytest.mark.parametrize("where", ["{here}/out", "memory://exports/{here}"])
def test_an_export_of_the_other_partitioning_is_not_counted_twice(
    book: Ledger, tmp_path: Path, where: str, aio_cli: Callable[..., Any]
) -> None:
    put(book, row())
    dest = where.format(here=tmp_path)
    command = ("ledger", "export", dest, "--ledger", book.store.path)
    assert aio_cli(*command).exit_code == 0
    refused = aio_cli(*command, "--partition", "none")
    assert refused.exit_code == 1
    assert f"{dest} holds an export by month (month=2026-11)" in refused.output
    fs, root = fsspec.core.url_to_fs(dest)
    assert len(fs.find(root)) == 1
    fs.rm(root, recursive=True)
    assert aio_cli(*command, "--partition", "none").exit_code == 0
    assert aio_cli(*command, "--partition", "none").exit_code == 0
    with pytest.raises(ConfigurationError, match=r"in one file \(ledger.parquet\).*--partition none"):
        accounting.export_ledger(dest, book)
    assert len(fs.find(root)) == 1


@pytest.mark.parametrize("below", ["", "/folder"])
def test_a_file_is_no_folder(book: Ledger, tmp_path: Path, below: str) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigurationError, match=f"there{below} is a file, or below one: give a folder"):
        accounting.export_ledger(f"{tmp_path}/there{below}", book)
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        ("credits", "-o", "s3://no-such-bucket-here/c.csv"),
        ("ledger", "export", "s3://no-such-bucket-here/ledger"),
        ("estimate", "s3://no-such-bucket-here/in.parquet", "image", "-c", "prompt=caption"),
        ("generate", "s3://no-such-bucket-here/in.parquet", "image", "-c", "prompt=a", "-o", "out.parquet"),
        ("generate", "in.csv", "image", "-c", "prompt=a", "-o", "s3://no-such-bucket-here/out.parquet"),
        ("reconcile", "in.csv", "-o", "s3://no-such-bucket-here/rec.csv"),
    ],
)
def test_a_bucket_without_credentials_is_one_line(
    book: Ledger,
    tmp_path: Path,
    command: tuple[str, ...],
    aio_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AIO_API_KEY", "aio_k")
    monkeypatch.setenv("AIO_BASE_URL", "http://127.0.0.1:9/api/v1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("a,task_id,credits\na lamp,x,5\n")
    put(book, row())
    result = aio_cli(*command, "--ledger", book.store.path)
    assert result.exit_code == (2 if command[0] == "reconcile" else 1), result.output
    assert isinstance(result.exception, SystemExit)
    [said] = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    url = next(word for word in command if word.startswith("s3://"))
    assert said.startswith(f"Error: {url} cannot be reached: ") and "AWS_ACCESS_KEY_ID" in said


def test_a_month_is_not_cut_in_two(book: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="whole months"):
        accounting.export_ledger(tmp_path, book, since="2026-11-05")


def test_to_an_object_store_and_by_the_command(book: Ledger, aio_cli: Callable[..., Any]) -> None:
    put(book, row())
    result = aio_cli("ledger", "export", "memory://bucket/export", "--ledger", book.store.path)
    assert result.exit_code == 0 and "1 row, 5 credits, 1 file" in result.output
    with fsspec.open("memory://bucket/export/month=2026-11/ledger.parquet") as file:
        assert pd.read_parquet(file)["credits"].tolist() == [5.0]
    assert aio_cli("ledger", "export", "x", "--since", "soon", "--ledger", book.store.path).exit_code == 1


def test_memory_does_not_grow_with_the_ledger(book: Ledger, tmp_path: Path) -> None:
    import tracemalloc

    from credits import fill, rows  # benchmarks/credits.py

    fill(book, rows(30_000))
    tracemalloc.start()
    done = accounting.export_ledger(tmp_path / "out", book, partition=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.rows == 30_000 and peak < 60e6


def test_the_results_of_several_teams_as_one(tmp_path: Path) -> None:
    from aio_provider.frames.schema import RowResult, arrow_schema, result_columns

    for team, other in (("a", "product"), ("b", "song")):
        results = [RowResult("succeeded", ("https://x/1.png",), credits=5.0, model="flux-2")] * 2
        frame = pd.DataFrame({other: ["x", "y"]}).join(result_columns(results, pd.RangeIndex(2)))
        (tmp_path / team).mkdir()
        frame.to_parquet(tmp_path / team / "out.parquet")
    whole = accounting.union_results(tmp_path / "*" / "*.parquet")
    assert whole["aio_credits"].sum() == 20.0 and whole["file"].nunique() == 2
    assert list(whole.columns) == ["file", "run_id", *arrow_schema().names]
    assert len(accounting.union_results([tmp_path / "a", str(tmp_path / "b" / "out.parquet")])) == 4
    (tmp_path / "a" / "half.parquet").write_bytes((tmp_path / "a" / "out.parquet").read_bytes()[:300])
    with pytest.raises(ConfigurationError, match=r"half\.parquet is not a whole Parquet file"):
        accounting.union_results(tmp_path)
    (tmp_path / "a" / "half.parquet").unlink()
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ConfigurationError, match="no column 'aio_status'"):
        accounting.union_results(tmp_path)
    with pytest.raises(ConfigurationError, match="no such file"):
        accounting.union_results(tmp_path / "none-*.parquet")
    assert aio.credits is accounting.credits
