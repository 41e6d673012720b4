"""``aio budget``: set, list, show, remove, and what it says about input that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from aio_provider.cli import main
from aio_provider.jobs.ledger import Ledger
from tests.jobs.ledger_helpers import job, succeeded


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "ledger.sqlite")
    monkeypatch.setenv("AIO_LEDGER", path)
    monkeypatch.setenv("COLUMNS", "120")
    return path


def aio(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["budget", *arguments])


def test_a_budget_from_set_to_removed(book: str) -> None:
    said = aio("set", "12", "--dag", "nightly")
    assert said.exit_code == 0
    assert said.stdout.startswith("dag nightly, each month: 0 charged and 0 reserved of 12 credits in 20")
    assert said.stdout.endswith("12 left\n")
    assert "of other machines only those that share this file" in said.stderr
    with Ledger.open(book) as ledger:
        ledger.plan(
            [job("a", labels={"dag_id": "nightly"}), job("b", labels={"dag_id": "nightly"})], owner="me"
        )
        ledger.intend(["a", "b"], owner="me")
        ledger.accept([("a", "ta")], owner="me")
        ledger.finish([succeeded("a", "ta")])
    aio("set", "5000", "--total")
    listed = aio("list").stdout
    assert "dag nightly" in listed and "83 %" in listed and "5,000" in listed
    figures = json.loads(aio("list", "--json").stdout)
    assert [(one["scope"], one["credits"], one["charged"], one["reserved"]) for one in figures] == [
        ("dag", 12, 5, 5),
        ("total", 5000, 5, 5),
    ]
    shown = aio("show", "--dag", "nightly").stdout
    assert "5 charged and 5 reserved of 12 credits" in shown
    assert "has reached 80 %: 0 credits charged and 10 reserved of 12." in shown
    events = json.loads(aio("show", "--dag", "nightly", "--json").stdout)["events"]
    assert [event["percent"] for event in events] == [80]
    before = aio("show", "--dag", "nightly", "--month", "2020-01").stdout
    assert "0 charged and 0 reserved of 12 credits in 2020-01 (UTC)" in before
    assert aio("remove", "--dag", "nightly").stdout == "Removed.\n"
    assert aio("remove", "--dag", "nightly").exit_code == 1


def test_months(book: str) -> None:
    for extra in ([], ["--month", "2026-12"], ["--without-end"]):
        assert aio("set", "5", "--team", "ads", *extra).exit_code == 0
    with Ledger.open(book) as ledger:
        assert [budget.month for budget in ledger.budgets()] == [None, "2026-12", "each"]
    assert aio("remove", "--team", "ads", "--without-end").exit_code == 0
    with Ledger.open(book) as ledger:
        assert [budget.month for budget in ledger.budgets()] == ["2026-12", "each"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "-5", "--total"], "credits is -5.0; a budget is a finite number of credits, 0 or more."),
        (["set", "nan", "--total"], "finite number"),
        (["set", "many", "--total"], "'many' is not a valid float"),
        (["set", "5"], "one of --total, --connection ID, --dag ID, --team NAME"),
        (["set", "5", "--total", "--dag", "d"], "one of --total"),
        (["set", "5", "--total", "--month", "12"], "such as 2026-11"),
        (["set", "5", "--total", "--month", "2026-12", "--without-end"], "either --month or --without-end"),
        (["set", "5", "--user", "x"], "--user"),
        (["set", "5", "--team", "  "], "--team is empty"),
        (["set", "5", "--team", ""], "--team is empty"),
        (["set", "1000.555", "--total"], "1000.555 has more decimals than credits have: give 1000.5"),
        (["set", "100", "--team", "ads", "--dag", "x"], "not both --team and --dag"),
        (["show", "--dag", "d"], "no such budget for dag d in sqlite:///"),
        (["remove", "--total"], "`aio budget list` shows all."),
    ],
)
def test_what_cannot_be_is_said_in_a_line(book: str, arguments: list[str], message: str) -> None:
    said = aio(*arguments)
    assert said.exit_code in (1, 2)
    assert message in said.output
    assert "Traceback" not in said.output


def test_a_budget_is_for_a_name_without_the_blanks_around_it(book: str) -> None:
    assert aio("set", "5", "--team", " growth").output.startswith("team growth, each month: ")
    assert aio("show", "--team", "growth ").exit_code == 0
    assert aio("set", "0.0047", "--total").exit_code == 0


def test_an_empty_ledger_and_one_of_a_newer_version(book: str) -> None:
    assert aio("list").stdout.startswith("No budgets in sqlite:///")
    with Ledger.open(book) as ledger, ledger.store.write() as conn:
        conn.execute(sa.text("UPDATE aio_meta SET value = '99' WHERE name = 'schema_version'"))
    said = aio("list")
    assert said.exit_code == 1
    assert "schema version 99" in said.output and "upgrade aio_provider" in said.output


def test_help_reads_well() -> None:
    assert "each calendar month" in " ".join(aio("set", "--help").output.split())
    assert "what is paid for is always collected" in " ".join(aio("--help").output.lower().split())
