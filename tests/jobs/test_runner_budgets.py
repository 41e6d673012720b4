"""Runs under the ledger's budgets: what has room is made, what has none waits or stays unsubmitted."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import pytest

from aio_provider.api.errors import BudgetExceededError
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.flights import Tally
from aio_provider.jobs.job import Job, OutcomeStatus, jobs_for
from aio_provider.jobs.ledger import Finished, JobState, Ledger
from aio_provider.jobs.runner import CreditLimitWarning
from aio_provider.sandbox import Sandbox
from tests.jobs.test_runner import all_of, jobs_of, runner_of, states, statuses
from tests.jobs.test_waves import waves_of

SUCCEEDED, NOT_SUBMITTED = OutcomeStatus.SUCCEEDED, OutcomeStatus.NOT_SUBMITTED


def videos_of(sandbox: Sandbox, count: int) -> list[Job]:
    """Kling, 5 seconds, no sound: 120 to 1200 is published, and the sandbox draws one of them."""
    requests = [GenerationRequest.video(f"clip {n}", model="kling-3", sound=False) for n in range(count)]
    return list(jobs_for(requests, scope=sandbox.base_url))


async def test_what_has_room_is_made_and_the_rest_says_why(sandbox: Sandbox, book: Ledger) -> None:
    book.set_budget("dag", "nightly", credits=23)
    jobs = [replace(job, labels={"dag_id": "nightly"}) for job in jobs_of(sandbox, 10)]
    async with runner_of(sandbox, book) as runner:
        with pytest.warns(
            CreditLimitWarning, match=r"6 jobs were not submitted. Budget dag nightly, .* of 23"
        ):
            outcomes = await all_of(runner, jobs)
        assert statuses(outcomes) == {SUCCEEDED: 4, NOT_SUBMITTED: 6}
        assert sandbox.charged == 20
        left = [outcome for outcome in outcomes if outcome.status is NOT_SUBMITTED]
        assert {outcome.error_type for outcome in left} == {"BudgetExceededError"}
        assert "of 23; this job may cost 5" in (left[0].error or "")
        assert states(book) == {JobState.SUCCEEDED: 4, JobState.PLANNED: 6}
        book.set_budget("dag", "nightly", credits=100)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CreditLimitWarning)
            assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 10}
    assert len(sandbox.submissions) == 10


async def test_jobs_wait_for_reservations_of_their_run_to_become_charges(
    sandbox: Sandbox, book: Ledger
) -> None:
    """Only one of these can be reserved at a time; the next goes when its charge has made room."""
    book.set_budget("total", credits=2300)
    async with runner_of(sandbox, book) as runner:
        with pytest.warns(CreditLimitWarning, match="not submitted"):
            outcomes = await all_of(runner, videos_of(sandbox, 10))
    assert 2300 - 1200 < sandbox.charged <= 2300
    assert statuses(outcomes)[SUCCEEDED] == len(sandbox.submissions)
    assert set(statuses(outcomes)) == {SUCCEEDED, NOT_SUBMITTED}


async def test_a_spent_budget_is_asked_once_not_once_a_job(sandbox: Sandbox, book: Ledger) -> None:
    book.set_budget("total", credits=0)
    began = time.monotonic()
    async with runner_of(sandbox, book) as runner:
        with pytest.warns(CreditLimitWarning, match="2,000 jobs"):
            outcomes = await all_of(runner, jobs_of(sandbox, 2000))
    assert statuses(outcomes) == {NOT_SUBMITTED: 2000}
    assert sandbox.submissions == []
    assert time.monotonic() - began < 20


async def test_what_is_paid_for_is_collected_though_the_budget_is_spent(
    sandbox: Sandbox, book: Ledger
) -> None:
    jobs = jobs_of(sandbox, 4)
    async with runner_of(sandbox, book) as runner:
        async for _ in runner.run(jobs[:2]):
            break  # the other is in flight, or done
        book.set_budget("total", credits=0)
        with pytest.warns(CreditLimitWarning):
            outcomes = await all_of(runner, jobs)
    assert statuses(outcomes) == {SUCCEEDED: 2, NOT_SUBMITTED: 2}
    assert sandbox.charged == 10


# -- waves -----------------------------------------------------------------------------------------------


async def test_a_wave_stops_at_a_spent_budget_and_says_so(sandbox: Sandbox, book: Ledger) -> None:
    book.set_budget("total", credits=12)
    tally = Tally()
    async with waves_of(sandbox, book, tally) as waves:
        first = await waves.send(iter(jobs_of(sandbox, 6)), 6)
    # two are in flight, and may turn out cheaper: the rest waits for them
    assert (first.sent, first.more, first.stopped) == (2, True, None)
    for flight in first.flights:
        book.finish([Finished(flight.key, JobState.SUCCEEDED, credits=5.0, task_id=flight.task_id)])
    async with waves_of(sandbox, book, tally) as waves:
        second = await waves.send(iter(jobs_of(sandbox, 6)), 6, cursor=first.cursor, counted=first.counted)
    assert second.sent == 0
    assert isinstance(second.stopped, BudgetExceededError)
    assert "10 credits charged and 0 reserved of 12" in str(second.stopped)
    assert len(sandbox.submissions) == 2


async def test_a_wave_waits_for_flights_of_earlier_ones(sandbox: Sandbox, book: Ledger) -> None:
    book.set_budget("total", credits=8)
    jobs = jobs_of(sandbox, 2)
    async with waves_of(sandbox, book, Tally()) as waves:
        await waves.send(iter(jobs), 1)
    async with waves_of(sandbox, book, Tally(), in_flight=1) as waves:
        assert (await waves.send(iter(jobs), 2, cursor=1, counted=1)).stopped is None
    async with waves_of(sandbox, book, Tally(), in_flight=0) as waves:  # somebody else's are in flight
        assert isinstance((await waves.send(iter(jobs), 2, cursor=1, counted=1)).stopped, BudgetExceededError)
