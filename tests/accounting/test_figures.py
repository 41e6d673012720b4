"""What the figures mean, on every database; and what is said of questions that make no sense."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

import aio_provider as aio
from aio_provider.accounting.asked import DIMENSIONS
from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import JobState, Ledger, LedgerUnavailableError, LedgerVersionError
from aio_provider.jobs.ledger.schema import meta

from .conftest import NOON, put, row


def totals(ledger: Ledger, **question: Any) -> dict[str, Any]:
    [figures] = aio.credits(ledger, (), **question).to_dict("records")
    return figures


def test_every_state_is_counted_for_what_it_is(any_book: Ledger) -> None:
    put(
        any_book,
        row("succeeded", 5.0),
        row("succeeded", 6.0, estimate_likely=5.0),
        row("succeeded", None),
        row("failed", 0.0),
        row("failed", 3.0),
        row("expired", 4.0),
        row("accepted", None),
        row("intended", None),
        row("unknown", None),
        row("unknown", None, reserved=9.5),
        row("planned", None),
    )
    found = totals(any_book, price=0.01)
    assert found["credits"] == 18.0 and found["money"] == pytest.approx(0.18)
    assert (found["tasks"], found["succeeded"], found["failed"], found["in_flight"]) == (10, 3, 3, 2)
    assert (found["unknown"], found["at_stake"]) == (2, 8.0 + 9.5 + 8.0)
    assert found["wasted"] == 7.0 and found["no_charge"] == 1
    assert found["estimated"] == 10.0 and found["estimate_error"] == pytest.approx(0.1)


def test_attempts_that_were_replaced_count_and_are_wasted(any_book: Ledger) -> None:
    put(any_book, row(credits=5.0, model="flux-2"))
    put(any_book, row(credits=7.0, model="flux-2"), row("unknown", None, model="flux-2"), past=True)
    [found] = aio.credits(any_book).to_dict("records")
    assert (found["credits"], found["tasks"], found["wasted"], found["unknown"]) == (12.0, 3, 7.0, 1)


def test_latencies_of_a_group_that_lies_in_both_tables(any_book: Ledger) -> None:
    put(any_book, *(row(took=float(seconds)) for seconds in range(1, 11)), row("failed", 0.0, took=9999))
    put(any_book, *(row(took=float(seconds)) for seconds in range(11, 21)), past=True)
    found = aio.credits(any_book, ("model",))
    assert found["latency_median"].tolist() == pytest.approx([10.5], abs=0.01)
    assert found["latency_p95"].tolist() == pytest.approx([19.05], abs=0.01)
    assert found.attrs["aio"]["totals"]["latency_p95"] == pytest.approx(19.05, abs=0.01)


def test_every_dimension_groups_and_filters(any_book: Ledger) -> None:
    labels = {
        column: f"the {name}"
        for name, column in DIMENSIONS.items()
        if column not in (None, "kind", "scope", "model")
    }
    put(any_book, row(**labels), row(model=None, sent=NOON - timedelta(days=30)))
    found = aio.credits(any_book, tuple(DIMENSIONS))
    assert len(found) == 2 and found["month"].tolist() == ["2026-10", "2026-11"]
    full = found.iloc[1]
    assert full["day"] == "2026-11-22" and full["connection"] == "the connection" and full["run"] == "the run"
    assert found.iloc[0][["dag", "team", "model", "user"]].isna().all()
    for name in DIMENSIONS:
        assert totals(any_book, **{name: full[name]})["tasks"] == (2 if name in ("kind", "service") else 1), (
            name
        )
    assert totals(any_book, model="")["tasks"] == 1
    assert totals(any_book, dag=["the dag", ""])["tasks"] == 2
    assert totals(any_book, dag_id="another")["tasks"] == 0


def test_a_period_has_its_first_moment_and_not_its_last_in_utc(any_book: Ledger) -> None:
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    second = timedelta(seconds=1)
    put(any_book, *(row(sent=when) for when in (midnight - second, midnight, midnight + 24 * 3600 * second)))
    assert totals(any_book, since="2026-11-22", until="2026-11-23")["tasks"] == 1
    istanbul = "2026-11-22T03:00:00+03:00"
    assert totals(any_book, since=istanbul)["tasks"] == totals(any_book, since=midnight)["tasks"] == 2
    assert totals(any_book, until=pd.Timestamp("2026-11-22"))["tasks"] == 1
    assert aio.credits(any_book, "day")["day"].tolist() == ["2026-11-21", "2026-11-22", "2026-11-23"]


def test_an_empty_ledger_has_the_same_columns_and_types(any_book: Ledger) -> None:
    empty = aio.credits(any_book, ("day", "model"))
    put(any_book, row())
    assert len(empty) == 0 and (empty.dtypes == aio.credits(any_book, ("day", "model")).dtypes).all()
    assert totals(any_book, since="2030-01")["credits"] == 0.0


def test_the_book_that_was_read_is_named(book: Ledger, tmp_path: Path) -> None:
    note = aio.credits(tmp_path / "ledger.sqlite").attrs["aio"]
    assert note["book"]["kind"] == "file" and note["book"]["machine"] == socket.gethostname()
    assert note["book"]["url"] == book.url


def test_archived_rows_are_in_the_figures(any_book: Ledger, tmp_path: Path) -> None:
    old = NOON - timedelta(days=400)
    put(any_book, row(credits=5.0), row(credits=7.0, sent=old, dag_id="old", took=3.0))
    put(any_book, row(credits=2.0, sent=old, took=5.0), past=True)
    before = totals(any_book)
    assert any_book.prune(older_than=timedelta(days=300), to=tmp_path / "archive").rows == 2
    assert totals(any_book) == before
    assert totals(any_book, dag="old")["credits"] == 7.0
    left_out = aio.credits(any_book, (), archived=False)
    assert left_out["credits"].tolist() == [5.0]
    assert "not in these figures" in left_out.attrs["aio"]["archived"]["told"]


def test_an_archive_that_is_elsewhere_is_told_and_one_half_written_is_an_error(
    book: Ledger, tmp_path: Path
) -> None:
    put(book, row(credits=7.0, sent=NOON - timedelta(days=400)))
    [path] = book.prune(older_than=timedelta(days=300), to=tmp_path / "archive").files
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerUnavailableError, match=f"{path.name}.*half written.*archived=False"):
        aio.credits(book)
    path.unlink()
    told = aio.credits(book, ()).attrs["aio"]["archived"]["told"]
    assert told == (
        "1 row (7 credits, all time) was moved to an archive file; the file is not on this machine "
        f"({path}), with 1 row (7 credits): they are not in these figures."
    )
    put(book, row(credits=2.0, sent=NOON - timedelta(days=400)))
    book.prune(older_than=timedelta(days=300), to=tmp_path / "second")
    told = aio.credits(book, ()).attrs["aio"]["archived"]["told"]
    assert "; 1 of 2 files is not on this machine (" in told


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"by": "colour"}, "by: 'colour' is none of day, month, dag"),
        ({"by": 5}, "by must be names"),
        ({"colour": "red"}, "filter: 'colour' is none of"),
        ({"dag": 5}, "dag: give a text"),
        ({"since": "yesterday"}, "since='yesterday' is not a time"),
        (
            {"since": "2026-12", "until": "2026-11"},
            r"since \(2026-12-01\) must be before until \(2026-11-01\)",
        ),
        ({"price": "cheap"}, "credit_price='cheap'"),
        ({"price": -1}, "credit_price=-1"),
    ],
)
def test_a_question_that_makes_no_sense(book: Ledger, question: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        aio.credits(book, **question)


def test_the_price_of_a_credit(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    put(book, row(credits=100.0))
    assert "money" not in aio.credits(book)
    assert aio.credits(book, price="published")["money"].tolist() == [1.0]
    monkeypatch.setenv("AIO_CREDIT_PRICE", "0.02 EUR")
    found = aio.credits(book)
    assert found["money"].tolist() == [2.0] and found.attrs["aio"]["price"]["currency"] == "EUR"
    monkeypatch.setenv("AIO_CREDIT_PRICE", "0,02")
    with pytest.raises(ConfigurationError, match="AIO_CREDIT_PRICE='0,02'"):
        aio.credits(book)


def test_no_ledger_is_made_by_a_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no ledger at sqlite:///.*none\.sqlite"):
        aio.credits(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_a_ledger_of_a_newer_version(book: Ledger, tmp_path: Path, aio_cli: Callable[..., Any]) -> None:
    with book.store.write() as conn:
        conn.execute(sa.update(meta).values(value="99"))
    with pytest.raises(LedgerVersionError, match="schema version 99"):
        aio.credits(tmp_path / "ledger.sqlite")
    result = aio_cli("credits", "--ledger", tmp_path / "ledger.sqlite")
    assert result.exit_code == 1 and "upgrade aio_provider" in result.output


def test_any_other_label_groups_and_filters(
    any_book: Ledger, aio_cli: Callable[..., Any], tmp_path: Path
) -> None:
    put(
        any_book,
        row(credits=5.0, other_labels={"campaign": "xmas", "no.dot": "a'b"}),
        row(credits=7.0, other_labels={"campaign": "easter"}, team="ads"),
        row(credits=1.0),
    )
    put(any_book, row(credits=2.0, other_labels={"campaign": "xmas"}), past=True)
    found = aio.credits(any_book, ("label:campaign",))
    assert dict(zip(found["label:campaign"].fillna(""), found["credits"], strict=True)) == {
        "xmas": 7.0,
        "easter": 7.0,
        "": 1.0,
    }
    assert totals(any_book, **{"label:campaign": "xmas"})["credits"] == 7.0
    assert totals(any_book, **{"label:campaign": ["xmas", ""]})["credits"] == 8.0
    assert totals(any_book, **{"label:no.dot": "a'b"})["credits"] == 5.0
    # a label that has a column is that column
    assert totals(any_book, **{"label:team": "ads"})["credits"] == 7.0
    with pytest.raises(ConfigurationError, match="names no label"):
        aio.credits(any_book, ("label:",))
    # on the command line as `aio generate` takes it
    if any_book.store.path:
        question = ("--label", "campaign=xmas", "--by", "label:campaign", "-f", "csv")
        told = aio_cli("credits", "--ledger", any_book.store.path, *question)
        assert told.stdout.splitlines()[1].startswith("xmas,7.0,"), told.output
    # and in rows that were archived
    any_book.prune(older_than=timedelta(days=-9), to=tmp_path / "old")
    assert totals(any_book, **{"label:campaign": "xmas"})["credits"] == 7.0


def test_what_budgets_reserve_is_at_stake_or_in_flight(any_book: Ledger, tmp_path: Path) -> None:
    """A new user found 15 reserved and 10 at stake: an expired job of unknown charge is both."""
    for past in (False, True):
        put(
            any_book,
            *(row(state, None, estimate_likely=5.0, estimate_high=5.0) for state in JobState),
            *(row(state, 2.0) for state in ("succeeded", "failed", "expired")),
            past=past,
        )
    budget = any_book.set_budget("total", credits=1000, month=None)
    found, use = totals(any_book), any_book.budget_use(budget)
    assert (found["at_stake"], found["in_flight"], found["in_flight_credits"]) == (30.0, 4, 20.0)
    assert found["at_stake"] + found["in_flight_credits"] == use.reserved
    assert found["credits"] == use.charged == 12.0
    # what is archived is closed for both
    any_book.prune(older_than=timedelta(days=-9), to=tmp_path / "old")
    found, use = totals(any_book), any_book.budget_use(budget)
    assert found["at_stake"] + found["in_flight_credits"] == use.reserved == 30.0
    assert found["credits"] == use.charged == 12.0


def test_a_period_that_has_not_begun_says_so(book: Ledger, aio_cli: Callable[..., Any]) -> None:
    put(book, row())
    assert aio.credits(book, since="2126").attrs["aio"]["what"] == "from 2126-01-01 UTC, in the future"
    both = aio.credits(book, since="2126-01", until="2126-02").attrs["aio"]["what"]
    assert both == "from 2126-01-01 to 2126-02-01 UTC, in the future"
    assert aio.credits(book, since="2026").attrs["aio"]["what"] == "2026-01-01 to now UTC"
    assert "in the future" in aio_cli("credits", "--since", "2126", "--ledger", book.store.path).output
