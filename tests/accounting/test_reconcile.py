"""A statement against the ledger: every outcome, every way a CSV can be written, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import Ledger

from .conftest import NOON, put, row

HOUR = timedelta(hours=1)


def task(
    task_id: str, credits: float | None = 5.0, state: str = "succeeded", **values: Any
) -> dict[str, Any]:
    return row(state, credits, service_task_id=task_id, **values)


def outcomes(found: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for each in found.rows.to_dict("records"):
        task_id = None if pd.isna(each["task_id"]) else each["task_id"]
        groups.setdefault(each["outcome"], []).append(task_id)
    return groups


@pytest.fixture
def statement(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "statement.csv"
        path.write_bytes("\n".join(lines).encode(encoding))
        return path

    return write


def test_every_outcome(any_book: Ledger, statement: Callable[..., Path]) -> None:
    put(
        any_book,
        *(task("a"), task("b", 5.0), task("c"), task("free", 0.0, "failed"), task("held", None, "accepted")),
        *(task("before", sent=NOON - 5 * HOUR), task("after", sent=NOON + 5 * HOUR), task("chat", 1.0)),
        task("refunded", 0.0, "failed"),
    )
    with any_book.store.write() as conn:
        conn.exec_driver_sql("UPDATE aio_jobs SET service_task_id = NULL WHERE service_task_id = 'chat'")
    put(any_book, task("past", 4.0), past=True)
    path = statement(
        "task_id,consumed_credits,created_at,model",
        f"a,5,{(NOON - HOUR).isoformat()},flux-2",
        f"b,6.5,{NOON.isoformat()},flux-2",
        f"b,6.5,{NOON.isoformat()},flux-2",
        f"held,5,{NOON.isoformat()},flux-2",
        f"stranger,9,{NOON.isoformat()},kling-3",
        f"past,4,{NOON.isoformat()},flux-2",
        f"refunded,5,{NOON.isoformat()},flux-2",
        f"refunded,-5,{(NOON + HOUR).isoformat()},flux-2",
        f",2,{(NOON + HOUR).isoformat()},gemini",
    )
    found = aio.reconcile(path, any_book)
    assert outcomes(found) == {
        "matched": ["a", "past", "refunded"],
        "different": ["b", "held"],
        "missing_here": ["stranger"],
        "missing_there": ["c"],
        "duplicate": ["b"],
        "without_id": [None],
    }
    assert not found.agrees and found.unmatchable == (1, 1.0)
    assert found.rows.set_index("outcome").loc["missing_there", "difference"] == -5.0
    assert found.summary.set_index("outcome").loc["different", "difference"] == pytest.approx(1.5 + 5.0)
    assert "task_id from 'task_id'" in found.said and any_book.url in found.said


def test_a_period_that_is_given(book: Ledger, statement: Callable[..., Path]) -> None:
    put(book, task("a"), task("late", sent=NOON + 2 * HOUR))
    path = statement("id,credits,time", f"a,5,{NOON.isoformat()}", f"old,5,{(NOON - 48 * HOUR).isoformat()}")
    assert outcomes(aio.reconcile(path, book, since="2026-11-22")) == {"matched": ["a"]}
    whole_day = aio.reconcile(path, book, since="2026-11-22", until="2026-11-23")
    assert outcomes(whole_day) == {"matched": ["a"], "missing_there": ["late"]}
    assert "1 lines outside it are left out" in whole_day.said
    without_times = statement("id,credits", "a,5")
    assert outcomes(aio.reconcile(without_times, book)) == {"matched": ["a"], "missing_there": ["late"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "lines",
    [
        ("Task ID,Credits,Date", 'a,"1,234.50",2026-11-22 12:00:00'),
        ("Görev Id;Kredi;Tarih", "a;1.234,5;22.11.2026 12:00"),
        ("id\tcost\ttimestamp", "a\t1234.5\t1795348800"),
        ("id|amount|created", "a|+1 234,50|22/11/2026 12:00:00"),
    ],
)
def test_however_the_csv_is_written(
    book: Ledger, statement: Callable[..., Path], encoding: str, lines: tuple[str, ...]
) -> None:
    put(book, task("a", 1234.5))
    found = aio.reconcile(statement(*lines, encoding=encoding), book)
    assert found.agrees and found.rows.loc[0, "time"] == NOON


def test_a_turkish_windows_file_wants_its_encoding_said(book: Ledger, statement: Callable[..., Path]) -> None:
    put(book, task("a"))
    path = statement("id;kredi;açıklama", "a;5;şeker", encoding="cp1254")
    with pytest.raises(ConfigurationError, match=r"line 1, is not UTF-8.*cp1254"):
        aio.reconcile(path, book)
    assert aio.reconcile(path, book, encoding="cp1254").agrees


def test_a_time_zone(book: Ledger, statement: Callable[..., Path]) -> None:
    put(book, task("a"))
    path = statement("id,credits,time", "a,5,2026-11-22 15:00:00")
    assert aio.reconcile(path, book, timezone="Europe/Istanbul").rows.loc[0, "time"] == NOON


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (("a,b", "1,2"), {}, "No column looks like the task id.*--task-id-column.*'a', 'b'"),
        (("id,b", "1,2"), {}, "No column looks like the credits"),
        (("id,credits", "1,2"), {"time_column": "when"}, "no column 'when'"),
        (("id,credits", "a,five"), {}, "line 2, column 'credits': 'five' is no number"),
        (("id,credits,time", "a,5,noon"), {}, "line 2, column 'time': 'noon' is no time"),
        (("id;credits", "a;1,500"), {}, "may be a thousand.*--decimal"),
        (("id,credits,model", "a,5,m", "b,5"), {}, "line 3: it has fewer columns"),
        (("",), {}, "is empty"),
        (("id,credits", "a,5"), {"encoding": "klingon"}, "encoding='klingon' is unknown"),
        (("id,credits", "a,5"), {"timezone": "Mars/Base"}, "timezone='Mars/Base' is unknown"),
        (("id,credits", "a,5"), {"delimiter": ";;"}, "it is one character"),
        (("id,credits", "a,5"), {"decimal": "x"}, "decimal='x'"),
        (("id,credits", 'a,"5'), {}, "is not CSV"),
    ],
)
def test_what_cannot_be_read(
    book: Ledger, statement: Callable[..., Path], lines: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        aio.reconcile(statement(*lines), book, **options)


def test_a_statement_that_is_not_there(book: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        aio.reconcile(tmp_path / "none.csv", book)


def test_the_command_and_its_exit_codes(
    book: Ledger, statement: Callable[..., Path], aio_cli: Callable[..., Any], tmp_path: Path
) -> None:
    put(book, task("a"))
    ledger = ("--ledger", book.store.path)
    good = aio_cli("reconcile", statement("id,credits", "a,5"), *ledger)
    assert good.exit_code == 0 and "They agree." in good.output
    path = statement("id,credits", "a,6", "[red]x[/red],1")
    bad = aio_cli("reconcile", path, *ledger)
    assert bad.exit_code == 1 and "They differ." in bad.output and "[red]x[/red]" in bad.output
    assert aio_cli("reconcile", path, *ledger, "-o", tmp_path / "out.json").exit_code == 1
    whole = json.loads((tmp_path / "out.json").read_text())
    assert whole["agrees"] is False and [each["outcome"] for each in whole["rows"]] == [
        "different",
        "missing_here",
    ]
    assert aio_cli("reconcile", path, *ledger, "-f", "csv").stdout.startswith("outcome,task_id,line,")
    unread = aio_cli("reconcile", path, *ledger, "--credits-column", "none")
    assert unread.exit_code == 2 and "no column 'none'" in unread.output


def test_a_file_leaves_the_outcome_in_the_terminal(
    book: Ledger, statement: Callable[..., Path], aio_cli: Callable[..., Any], tmp_path: Path
) -> None:
    put(book, task("a"))
    ledger = ("--ledger", book.store.path, "-o", tmp_path / "rec.csv")
    told = aio_cli("reconcile", statement("id,credits", "a,6"), *ledger)
    assert told.exit_code == 1 and "different" in told.stdout and "They differ." in told.stdout
    assert "They agree." in aio_cli("reconcile", statement("id,credits", "a,5"), *ledger).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "rec.xyz"], "must end in .csv or .json,"),
        (["-o", "rec.parquet"], "must end in .csv or .json,"),
        (["-o", "rec.json", "-f", "csv"], "'rec.json' is the name of a json file"),
        (["--since", "2126-12"], "since (2126-12-01 UTC) is in the future"),
    ],
)
def test_what_the_command_refuses(
    book: Ledger,
    statement: Callable[..., Path],
    aio_cli: Callable[..., Any],
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(book, task("a"))
    monkeypatch.chdir(tmp_path)
    path = statement("id,credits", "a,5")
    refused = aio_cli("reconcile", path, "--ledger", book.store.path, *arguments)
    assert refused.exit_code == 2 and said in refused.output, refused.output
    assert not list(tmp_path.glob("rec*"))
    assert (
        aio_cli("reconcile", path, "--ledger", book.store.path, "-o", "rec.txt", "-f", "csv").exit_code == 0
    )


def test_held_jobs_may_be_what_is_missing_here(
    any_book: Ledger, statement: Callable[..., Path], aio_cli: Callable[..., Any]
) -> None:
    put(
        any_book,
        row("unknown", None, service_task_id=None),
        row("unknown", None, service_task_id=None, reserved=1_000_000.0),
        row("unknown", None, service_task_id=None, sent=NOON - timedelta(days=40)),
    )
    path = statement("id,credits,date", "lost,5,2026-11-21", "lost too,5,2026-11-23")
    found = aio.reconcile(path, any_book)
    assert found.held == (2, 1_000_008.0)
    [note] = found.notes
    assert note.startswith("2 jobs are held (up to 1,000,008 credits)") and "missing here" in note
    if any_book.store.path:
        ledger = ("--ledger", any_book.store.path)
        assert note in aio_cli("reconcile", path, *ledger).output
        whole = json.loads(aio_cli("reconcile", path, *ledger, "-f", "json").stdout)
        assert whole["held"] == {"jobs": 2, "credits_at_most": 1_000_008.0}
