"""The page: whole by itself, safe with any label, pure; and the command that makes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aio_provider import accounting
from aio_provider.jobs.ledger import Ledger

from .conftest import NOON, put, row


class Links(HTMLParser):
    """Whatever a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "a", "form"):
            self.found.append(tag)
        self.found += [
            name for name, _ in attrs if name in ("src", "href", "action") or name.startswith("on")
        ]


def links(page: str) -> list[str]:
    parser = Links()
    parser.feed(page)
    return parser.found + re.findall(r"url\(|@import", page)


def test_nothing_is_fetched_and_nothing_of_a_label_is_markup(book: Ledger) -> None:
    evil = "</title><script src=//x>\"'><img onerror=alert(1)>"
    labels = dict.fromkeys(("dag_id", "team", "model", "label", "run_id"), evil)
    put(book, row(**labels), row(dag_id="shop", team="crm"))
    book.set_budget("team", evil, credits=10)
    page = accounting.render(accounting.report(book, by=("label", "run"), model=[evil, "flux-2"]))
    assert links(page) == [] and "<img" not in page
    assert page.count("&lt;script") > 5


def test_it_is_a_pure_function_that_can_be_filtered(book: Ledger) -> None:
    put(
        book,
        row(dag_id="shop", credits=5.0),
        row(dag_id="crm", credits=7.0),
        row("unknown", None, dag_id="crm"),
    )
    report = accounting.report(book, dag="shop", since="2026-11", until="2026-12")
    page = accounting.render(report, title="Shop")
    assert page == accounting.render(report, title="Shop")
    assert "<b>5</b>" in page and "crm" not in page and "2026-11-01 to 2026-12-01 UTC, dag = shop" in page
    assert "nothing to settle" in page
    assert "up to 8 credits at stake" in accounting.render(accounting.report(book))


def test_budgets_are_on_it(book: Ledger) -> None:
    put(book, row(team="shop", credits=9.0))
    book.set_budget("team", "shop", credits=10, month=None)
    page = accounting.render(accounting.report(book))
    assert "team shop, without end" in page and "90 %" in page and 'class="warn"' in page


@pytest.mark.parametrize("rows", [0, 1, 60])
def test_any_number_of_models(book: Ledger, rows: int) -> None:
    put(book, *(row(model=f"model-{n}", credits=1.0 + n, sent=NOON - timedelta(days=n)) for n in range(rows)))
    page = accounting.render(accounting.report(book))
    assert ("Nothing was submitted" in page) == (rows == 0)
    assert ("54 other models" in page) == (rows == 60)


def test_a_table_of_many_rows_is_cut_and_says_so(book: Ledger) -> None:
    put(book, *(row(run_id=f"run-{n:05}") for n in range(1003)))
    page = accounting.render(accounting.report(book, by="run"))
    assert "and 3 more rows" in page and page.count("<td class=name>") == 1000


def test_days_without_a_task_are_drawn_too_and_long_periods_by_month(book: Ledger) -> None:
    put(book, row(), row(sent=NOON - timedelta(days=9)))
    assert accounting.render(accounting.report(book)).count("<g><title>") == 10
    put(book, row(sent=NOON - timedelta(days=200)))
    page = accounting.render(accounting.report(book))
    assert "Credits by month" in page and page.count("<g><title>") == 7


def test_a_model_that_is_called_as_what_stands_for_none(book: Ledger) -> None:
    put(book, row(model="(no model)", credits=5.0), row(model=None, credits=7.0))
    page = accounting.render(accounting.report(book))
    assert "((no model))" in page


def test_the_command_writes_every_format(book: Ledger, aio_cli: Callable[..., Any], tmp_path: Path) -> None:
    put(book, row(dag_id="shop"), row(dag_id="crm", credits=7.5))
    ledger = ("--ledger", book.store.path)
    for name in ("out.csv", "out.json", "out.parquet", "out.html"):
        result = aio_cli("credits", *ledger, "--by", "dag", "-o", tmp_path / name)
        assert result.exit_code == 0 and "one file on" in result.output, result.output
    assert pd.read_csv(tmp_path / "out.csv")["credits"].tolist() == [7.5, 5.0]
    assert json.loads((tmp_path / "out.json").read_text())["aio"]["totals"]["credits"] == 12.5
    parquet = pd.read_parquet(tmp_path / "out.parquet")
    assert parquet["dag"].tolist() == ["crm", "shop"]
    assert "<b>12.5</b>" in (tmp_path / "out.html").read_text()
    table = aio_cli("credits", *ledger, "--dag", "shop", "--by", "day,dag")
    assert "2026-11-22" in table.output and "crm" not in table.output
    assert "Nothing was submitted" in aio_cli("credits", *ledger, "--until", "2020-01").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by", "colour"), "none of day, month"),
        (("-o", "out.xlsx"), "must end in"),
        (("-f", "parquet"), "needs a name"),
        (("-f", "table", "-o", "x.csv"), "for the terminal"),
        (("-f", "csv", "-o", "x.json"), "'x.json' is the name of a json file, and csv was asked for"),
        (("--last", "0d"), "above 0"),
        (("--last", "900000w"), "before the year 1"),
        (("--last", "9999999999999d"), "too long"),
        (("--last", "soon"), "number and a unit"),
        (("--last", "3d", "--since", "2026"), "either"),
        (("-o", "/nowhere/at/all/out.csv"), "does not exist"),
    ],
)
def test_what_the_command_refuses(
    book: Ledger, aio_cli: Callable[..., Any], arguments: tuple[str, ...], said: str
) -> None:
    result = aio_cli("credits", "--ledger", book.store.path, *arguments)
    assert result.exit_code != 0 and said in " ".join(result.output.split())


def test_shares_are_rounded_down_and_what_is_in_flight_is_told(book: Ledger) -> None:
    put(book, *(row() for _ in range(3000)), row("failed", 0.0))
    page = accounting.render(accounting.report(book))
    assert "99.9 % succeeded" in page and "100.0 %" not in page.split("</section>")[0]
    put(book, row("accepted", None), row("intended", None), row("expired", None))
    page = accounting.render(accounting.report(book))
    assert "; 2 in flight, about 10 credits" in page
    assert "nothing to settle; up to 8 credits at stake" in page
    assert "credits were expected for results" in page
