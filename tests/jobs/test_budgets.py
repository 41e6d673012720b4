"""Budgets in the ledger: what counts, whom they stop, what they tell, and who gets the last credits."""

from __future__ import annotations

import logging
import math
import multiprocessing
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aio_provider.api.errors import BudgetExceededError, ConfigurationError
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import AsyncLedger, Budget, BudgetEvent, Finished, JobState, Ledger
from tests.jobs.ledger_helpers import HandClock, job, state, succeeded

FLUX = 5.0  # what a job of these helpers costs


def use(ledger: Ledger, place: int = 0) -> tuple[float, float]:
    figures = ledger.budget_use(ledger.budgets()[place])
    return figures.charged, figures.reserved


def plan(ledger: Ledger, *keys: str, **labels: str) -> None:
    ledger.plan([job(key, labels=labels) for key in keys], owner="me")


def kling(key: str) -> Job:
    """A job of which only a range is published, 120 to 1200."""
    params = {"prompt": "a lamp", "mode": "pro", "sound": False}
    return Job(key, GenerationRequest("video", "/videos/generations", "kling-3", params))


def unpriced(key: str) -> Job:
    return Job(key, GenerationRequest("image", "/images/generations", "nobody-knows", {"prompt": "a lamp"}))


# -- what counts -----------------------------------------------------------------------------------------


def test_a_reservation_becomes_the_charge(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=100)
    plan(ledger, "a", "b", "c", "d", "e")
    assert use(ledger) == (0, 0)
    ledger.intend(["a", "b", "c", "d"], owner="me")
    assert use(ledger) == (0, 4 * FLUX)
    ledger.accept([("a", "ta"), ("d", "td")], owner="me")
    ledger.release(["b"], owner="me")
    ledger.hold([("c", "no answer")], owner="me")
    assert use(ledger) == (0, 3 * FLUX)
    ledger.finish([succeeded("a", "ta", 3.0)])
    ledger.finish([Finished("d", JobState.FAILED, task_id="td")])
    assert use(ledger) == (3, FLUX)
    ledger.settle("c", not_submitted=True)
    assert use(ledger) == (3, 0)


def test_a_result_without_a_charge_keeps_its_reservation(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=100)
    plan(ledger, "a")
    ledger.intend(["a"], owner="me")
    ledger.finish([Finished("a", JobState.SUCCEEDED, text="hello")], owner="me")
    assert use(ledger) == (0, FLUX)


def test_jobs_from_before_the_budget_count(ledger: Ledger) -> None:
    plan(ledger, "a", "b")
    ledger.intend(["a", "b"], owner="me")
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta", 4.0)])
    ledger.set_budget("total", credits=100)
    assert use(ledger) == (4, FLUX)


def test_forgotten_and_superseded_attempts_count(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=100)
    for _ in range(2):
        plan(ledger, "a")
        ledger.intend(["a"], owner="me")
        ledger.accept([("a", "t")], owner="me")
        ledger.finish([succeeded("a", "t")])
        ledger.forget(["a"])
    assert use(ledger) == (2 * FLUX, 0)


def test_pruned_rows_count_in_their_month_for_whom_they_were(
    ledger: Ledger, clock: HandClock, tmp_path: Path
) -> None:
    for scope, value in (("total", ""), ("dag", "d"), ("dag", "other"), ("team", "ads")):
        ledger.set_budget(scope, value, credits=100)  # type: ignore[arg-type]
    ledger.set_budget("dag", "d", credits=100, month=None)
    plan(ledger, "a", dag_id="d", team="ads")
    ledger.intend(["a"], owner="me")
    ledger.accept([("a", "t")], owner="me")
    ledger.finish([succeeded("a", "t")])
    before = {budget: ledger.budget_use(budget) for budget in ledger.budgets()}
    clock.forward(3600)
    assert ledger.prune(older_than=timedelta(0), to=tmp_path / "old").rows == 1
    after = {budget: ledger.budget_use(budget) for budget in ledger.budgets()}
    assert after == before
    assert {(b.scope, b.value, b.month): u.charged for b, u in after.items()} == {
        ("dag", "d", None): FLUX,
        ("dag", "d", "each"): FLUX,
        ("dag", "other", "each"): 0,
        ("team", "ads", "each"): FLUX,
        ("total", "", "each"): FLUX,
    }


def test_a_month_is_a_calendar_month_in_utc(ledger: Ledger, clock: HandClock) -> None:
    clock.now = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    ledger.set_budget("total", credits=FLUX)
    endless = ledger.set_budget("dag", "d", credits=100, month=None)
    plan(ledger, "a", "b", dag_id="d")
    ledger.intend(["a"], owner="me")
    with pytest.raises(BudgetExceededError):
        ledger.intend(["b"], owner="me")
    clock.forward(120)  # December; what was submitted in November ends now, and stays November's
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta")])
    monthly = ledger.budgets()[1]
    assert use(ledger, 1) == (0, 0)
    assert ledger.budget_use(monthly, month="2026-11").charged == FLUX
    assert ledger.intend(["b"], owner="me") == {"b"}
    assert ledger.budget_use(endless).charged + ledger.budget_use(endless).reserved == 2 * FLUX
    assert [event.period for event in ledger.budget_events()] == ["2026-12", "2026-11"]


def test_a_budget_for_this_very_month_takes_the_place_of_the_usual_one(
    ledger: Ledger, clock: HandClock
) -> None:
    ledger.set_budget("total", credits=FLUX)
    ledger.set_budget("total", credits=2 * FLUX, month="2026-11")
    ledger.set_budget("total", credits=0, month="2026-12")
    plan(ledger, "a", "b", "c")
    assert ledger.intend(["a", "b"], owner="me") == {"a", "b"}
    clock.now = datetime(2026, 12, 2, tzinfo=UTC)
    with pytest.raises(BudgetExceededError, match="total, 2026-12"):
        ledger.intend(["c"], owner="me")
    clock.now = datetime(2027, 1, 2, tzinfo=UTC)
    assert ledger.intend(["c"], owner="me") == {"c"}


# -- whom it stops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "label"), [("connection", "conn_id"), ("dag", "dag_id"), ("team", "team")])
def test_only_jobs_in_its_scope_are_stopped(ledger: Ledger, scope: Any, label: str) -> None:
    ledger.set_budget(scope, "x", credits=0)
    plan(ledger, "stopped", **{label: "x"})
    plan(ledger, "other", **{label: "y"})
    plan(ledger, "nobody")
    with pytest.raises(BudgetExceededError) as caught:
        ledger.intend(["stopped", "other", "nobody"], owner="me")
    assert (caught.value.keys, caught.value.won) == (("stopped",), {"other", "nobody"})
    assert state(ledger, "stopped") is JobState.PLANNED
    assert state(ledger, "other") is JobState.INTENDED


def test_the_error_has_the_figures_and_survives_pickling(ledger: Ledger) -> None:
    ledger.set_budget("dag", "nightly", credits=12)
    plan(ledger, "a", "b", "c", dag_id="nightly")
    ledger.intend(["a"], owner="me")
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta", 6.0)])
    ledger.intend(["b"], owner="me")
    with pytest.raises(BudgetExceededError) as caught:
        ledger.intend(["c"], owner="me")
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.budget, error.limit) == ("dag nightly, 2026-11", 12)
        assert (error.charged, error.reserved, error.amount) == (6, 5, 5)
        assert error.may_pass
        assert str(error).startswith(
            "Budget dag nightly, 2026-11: 6 credits charged and 5 reserved of 12; this job may cost 5."
        )


@pytest.mark.parametrize(
    ("credits", "month", "first", "said"),
    [
        (
            FLUX - 2,
            "each",
            False,
            "That is more than the whole budget: raise it (aio budget set); waiting does",
        ),
        (0, None, False, "That is more than the whole budget"),
        (
            FLUX + 1,
            "each",
            True,
            "Raise the budget (aio budget set), or wait for what is in flight or for the next",
        ),
        (FLUX + 1, None, True, "Raise the budget (aio budget set), or wait for what is in flight."),
    ],
)
def test_only_what_can_help_is_said(
    ledger: Ledger, credits: float, month: str | None, first: bool, said: str
) -> None:
    ledger.set_budget("total", credits=credits, month=month)
    plan(ledger, "a", "b")
    if first:
        ledger.intend(["a"], owner="me")
    with pytest.raises(BudgetExceededError) as caught:
        ledger.intend(["b"], owner="me")
    assert f"Nothing was sent. {said}" in str(caught.value)


def test_blanks_around_a_name_make_no_other_budget(ledger: Ledger) -> None:
    ledger.set_budget("team", "growth ", credits=FLUX)
    plan(ledger, "a", "b", team=" growth")
    plan(ledger, "c", team="  ")
    assert [ledger.get([key])[key].labels.get("team") for key in "ac"] == ["growth", None]
    ledger.intend(["a", "c"], owner="me")
    with pytest.raises(BudgetExceededError, match="team growth"):
        ledger.intend(["b"], owner="me")


def test_where_several_budgets_hold_the_tightest_one_stops(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=100)
    ledger.set_budget("team", "ads", credits=FLUX)
    plan(ledger, "a", "b", team="ads")
    plan(ledger, "c", team="art")
    with pytest.raises(BudgetExceededError, match="team ads") as caught:
        ledger.intend(["a", "b", "c"], owner="me")
    assert caught.value.keys == ("b",)


def test_a_range_reserves_its_high_end(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=1300)
    ledger.plan([kling("a"), kling("b")], owner="me")
    ledger.intend(["a"], owner="me")
    assert use(ledger) == (0, 1200)
    with pytest.raises(BudgetExceededError):
        ledger.intend(["b"], owner="me")


def test_an_unknown_price_is_refused_by_a_spent_budget_only(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=12)
    ledger.plan([unpriced(key) for key in "abc"], owner="me")
    assert ledger.intend(["a"], owner="me") == {"a"}
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta", 7.0)])
    # 7 is the most it has cost; 5 are left
    with pytest.raises(BudgetExceededError, match="may cost 7"):
        ledger.intend(["b"], owner="me")
    ledger.set_budget("total", credits=14)
    assert ledger.intend(["b"], owner="me") == {"b"}
    with pytest.raises(BudgetExceededError):
        ledger.intend(["c"], owner="me")
    ledger.set_budget("total", credits=0)
    ledger.plan([Job("d", GenerationRequest("image", "/x", "never-seen", {"prompt": "p"}))], owner="me")
    with pytest.raises(BudgetExceededError, match="price is not known"):
        ledger.intend(["d"], owner="me")


def test_what_is_paid_for_is_recorded_even_past_the_limit(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=FLUX)
    plan(ledger, "a")
    ledger.intend(["a"], owner="me")
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta", 50.0)])
    assert use(ledger) == (50, 0)


def test_a_raised_or_removed_budget_holds_at_once(ledger: Ledger) -> None:
    ledger.set_budget("total", credits=0)
    plan(ledger, "a", "b")
    with pytest.raises(BudgetExceededError):
        ledger.intend(["a"], owner="me")
    ledger.set_budget("total", credits=FLUX)
    assert ledger.intend(["a"], owner="me") == {"a"}
    with pytest.raises(BudgetExceededError):
        ledger.intend(["b"], owner="me")
    assert ledger.remove_budget("total")
    assert not ledger.remove_budget("total")
    assert ledger.intend(["b"], owner="me") == {"b"}


async def test_each_caller_of_an_async_ledger_gets_its_own_answer(ledger: Ledger) -> None:
    import asyncio

    ledger.set_budget("total", credits=12)
    async with AsyncLedger(ledger) as book:
        entries = await book.plan([job(f"k{n}") for n in range(5)])
        said = await asyncio.gather(*map(book.intend, entries), return_exceptions=True)
        errors = [answer for answer in said if isinstance(answer, BudgetExceededError)]
        assert (said.count(True), len(errors)) == (2, 3)
        assert len({id(error) for error in errors}) == 3
        assert {error.keys for error in errors} == {("k2",), ("k3",), ("k4",)}
        await book.release("k0")
        assert await book.intend(entries[4])
    assert use(ledger) == (0, 10)


# -- what it tells ---------------------------------------------------------------------------------------


def test_80_and_100_percent_are_told_once_each(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    told: list[BudgetEvent] = []
    ledger.on_budget_event = told.append
    ledger.set_budget("dag", "d", credits=10 * FLUX)
    plan(ledger, *(f"k{n}" for n in range(12)), dag_id="d")
    with caplog.at_level(logging.WARNING):
        ledger.intend([f"k{n}" for n in range(7)], owner="me")
        assert told == []
        ledger.intend(["k7"], owner="me")
        ledger.intend(["k8"], owner="me")
        assert [(event.percent, event.reserved) for event in told] == [(80, 40)]
        ledger.intend(["k9"], owner="me")
        for _ in range(2):
            with pytest.raises(BudgetExceededError):
                ledger.intend(["k10"], owner="me")
    assert [event.percent for event in told] == [80, 100]
    assert [record.message for record in caplog.records] == [
        "Budget dag d, 2026-11 has reached 80 %: 0 credits charged and 40 reserved of 50.",
        "Budget dag d, 2026-11 has reached 100 %: 0 credits charged and 50 reserved of 50.",
    ]
    assert sorted(ledger.budget_events(), key=lambda event: event.percent) == told
    assert ledger.budget_events(labels={"dag_id": "other"}) == []
    assert len(ledger.budget_events(labels={"dag_id": "d"})) == 2
    ledger.set_budget("dag", "d", credits=12 * FLUX)  # raised: its marks count anew
    ledger.intend(["k10"], owner="me")
    assert [(event.percent, event.limit) for event in told[2:]] == [(80, 60)]


def test_a_refusal_below_the_limit_is_told_as_one(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.set_budget("total", credits=7)
    plan(ledger, "a", "b")
    with pytest.raises(BudgetExceededError):
        ledger.intend(["a", "b"], owner="me")
    assert ledger.budget_events() == []  # 5 are reserved, and may turn out as less
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta")])
    with pytest.raises(BudgetExceededError):
        ledger.intend(["b"], owner="me")
    assert "Budget total, 2026-11 has refused a job: 5 credits charged and 0 reserved of 7." in caplog.text


def test_a_callback_that_fails_costs_nothing(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: BudgetEvent) -> None:
        raise RuntimeError("no network")

    ledger.on_budget_event = broken
    ledger.set_budget("total", credits=FLUX)
    plan(ledger, "a")
    assert ledger.intend(["a"], owner="me") == {"a"}
    assert "no network" in caplog.text


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scope": "total", "credits": -1}, "0 or more"),
        ({"scope": "total", "credits": math.nan}, "finite"),
        ({"scope": "total", "credits": math.inf}, "finite"),
        ({"scope": "total", "credits": "5"}, "finite"),
        ({"scope": "total", "credits": True}, "finite"),
        ({"scope": "user", "value": "x", "credits": 1}, "total, connection, dag, team"),
        ({"scope": "total", "value": "x", "credits": 1}, "takes no value"),
        ({"scope": "dag", "credits": 1}, "takes the dag it is for"),
        ({"scope": "dag", "value": "x" * 251, "credits": 1}, "250 characters"),
        ({"scope": "total", "month": "2026-13", "credits": 1}, "such as '2026-11'"),
        ({"scope": "total", "month": "2026-1", "credits": 1}, "such as '2026-11'"),
        ({"scope": "total", "month": "november", "credits": 1}, "such as '2026-11'"),
    ],
)
def test_what_cannot_be_a_budget_is_refused(arguments: dict[str, Any], message: str) -> None:
    with Ledger.open(":memory:") as ledger:
        with pytest.raises(ConfigurationError, match=message):
            ledger.set_budget(**arguments)
        assert ledger.budgets() == []


def test_budgets_are_listed(ledger: Ledger) -> None:
    assert ledger.budgets() == []
    ledger.set_budget("team", "ads", credits=7.5, month=None)
    ledger.set_budget("total", credits=100)
    ledger.set_budget("total", credits=50)
    assert ledger.budgets() == [Budget("team", "ads", None, 7.5), Budget("total", "", "each", 50)]


# -- races -----------------------------------------------------------------------------------------------


def _spend(target: str, name: int, start: Any, jobs: int) -> int:
    """One process: intend as many as the budget lets it, one at a time."""
    won = 0
    with Ledger.open(target) as ledger:
        ledger.plan([job(f"{name}-{n}", labels={"dag_id": "d"}) for n in range(jobs)], owner=f"p{name}")
        start.wait()
        for n in range(jobs):
            try:
                won += len(ledger.intend([f"{name}-{n}"], owner=f"p{name}"))
            except BudgetExceededError:
                continue
            if n % 3 == 0:  # charged less than reserved: the room is anyone's
                ledger.accept([(f"{name}-{n}", f"t{name}-{n}")], owner=f"p{name}")
                ledger.finish([succeeded(f"{name}-{n}", f"t{name}-{n}", 4.0)])
    return won


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_processes_that_race_for_the_last_credits_never_overspend(
    dialect: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = str(tmp_path / "l.sqlite") if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    with Ledger.open(target) as ledger:
        ledger.set_budget("dag", "d", credits=73)
        ledger.set_budget("total", credits=1000)
    # Not forked: what else has run in this process (Ray, say) has handlers of signals, and threads.
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    with context.Pool(4, initializer=_share, initargs=(start,)) as pool:
        won = pool.starmap(_race, [(target, n) for n in range(4)], chunksize=1)
    with Ledger.open(target) as ledger:
        figures = ledger.budget_use(ledger.budgets()[0])
        assert figures.charged + figures.reserved <= 73
        assert figures.left < FLUX  # and nothing was left lying about
        taken = sum(1 for entry in ledger.entries() if entry.state is not JobState.PLANNED)
        assert sum(won) == taken
        assert sorted(event.percent for event in ledger.budget_events()) in ([80], [100], [80, 100])


_start: Any = None


def _share(start: Any) -> None:
    global _start
    _start = start


def _race(target: str, name: int) -> int:
    return _spend(target, name, _start, 12)


def test_the_check_waits_for_the_one_that_is_under_way(postgres_url: str) -> None:
    """Two transactions at the edge on PostgreSQL: the second sees what the first has taken, or waits."""
    import threading

    from aio_provider.jobs.ledger import budgets

    with Ledger.open(postgres_url) as ledger:
        ledger.set_budget("total", credits=FLUX)
        plan(ledger, "a", "b")
        second: list[Any] = []
        with ledger.store.write() as conn:
            assert not budgets.check(conn, ["a"], ledger.store.now(conn)).refused
            racer = threading.Thread(target=lambda: second.append(_try(ledger, "b")))
            racer.start()
            racer.join(0.3)
            assert second == []  # it waits
            conn.execute(
                sa.text("UPDATE aio_jobs SET state='intended', reserved=5, intended_at=now() WHERE key='a'")
            )
        racer.join(120)
        assert isinstance(second[0], BudgetExceededError)


def _try(ledger: Ledger, key: str) -> Any:
    try:
        return ledger.intend([key], owner="other")
    except BudgetExceededError as error:
        return error
