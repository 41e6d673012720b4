"""``refresh_urls``: results that are on record are asked for again, for free, and never paid for again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from aio_provider.api.client import AsyncAioClient
from aio_provider.jobs.job import Job, Outcome, OutcomeStatus
from aio_provider.jobs.ledger import Finished, JobState, Ledger
from aio_provider.jobs.pacing import UnlimitedBudget
from aio_provider.jobs.runner import Runner
from aio_provider.sandbox import Sandbox
from tests.jobs.ledger_helpers import job

JOBS = [job(f"k{index}", f"a lamp {index}") for index in range(5)]


@asynccontextmanager
async def runner(sandbox: Sandbox, ledger: Ledger, **options: object) -> AsyncIterator[Runner]:
    async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
        yield Runner(client, ledger, UnlimitedBudget(), not_found_grace=0.0, **options)  # type: ignore[arg-type]


async def outcomes(run: Runner, jobs: list[Job] = JOBS) -> dict[str, Outcome]:
    return {outcome.key: outcome async for outcome in run.run(jobs)}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(time_scale=0.001, requests_per_minute=0) as opened:
        yield opened


async def test_old_urls_are_replaced_by_fresh_ones_for_free(sandbox: Sandbox) -> None:
    with Ledger.open(":memory:") as ledger:
        async with runner(sandbox, ledger) as first:
            made = await outcomes(first)
        old = [(key, JobState.SUCCEEDED, ("https://old/",), outcome.task_id) for key, outcome in made.items()]
        ledger.finish([Finished(key, end, urls=urls, task_id=task_id) for key, end, urls, task_id in old])
        async with runner(sandbox, ledger) as plain:
            assert {outcome.urls for outcome in (await outcomes(plain)).values()} == {("https://old/",)}
        polls = sandbox.requests["requests"]
        async with runner(sandbox, ledger, refresh_urls=True) as asking:
            again = await outcomes(asking)
        assert {key: outcome.urls for key, outcome in again.items()} == {
            key: outcome.urls for key, outcome in made.items()
        }
        assert all(outcome.reused and outcome.credits == 5.0 for outcome in again.values())
        assert sandbox.requests["requests"] == polls + len(JOBS), "one GET each"
        assert len(sandbox.submissions) == len(JOBS)
        assert ledger.get(["k0"])["k0"].urls == made["k0"].urls


async def test_a_result_that_is_gone_is_expired_and_not_paid_for_again(sandbox: Sandbox) -> None:
    with Ledger.open(":memory:") as ledger:
        async with runner(sandbox, ledger) as first:
            await outcomes(first)
        sandbox.reset()  # the service has forgotten all of it
        async with runner(sandbox, ledger, refresh_urls=True) as asking:
            gone = await outcomes(asking)
        assert {outcome.status for outcome in gone.values()} == {OutcomeStatus.EXPIRED}
        assert all(outcome.error for outcome in gone.values())
        assert ledger.counts() == {JobState.EXPIRED: (len(JOBS), 25.0)}, "what they cost stays in the book"
        async with runner(sandbox, ledger, retry_failed=True) as later:
            assert {outcome.status for outcome in (await outcomes(later)).values()} == {OutcomeStatus.EXPIRED}
        assert sandbox.submissions == []


async def test_a_service_that_cannot_be_asked_changes_nothing(sandbox: Sandbox) -> None:
    with Ledger.open(":memory:") as ledger:
        async with runner(sandbox, ledger) as first:
            made = await outcomes(first)
        sandbox.add_fault("502-html:on=poll")
        async with runner(sandbox, ledger, refresh_urls=True, deadlines={"image": 0.05}) as asking:
            again = await outcomes(asking)
        assert {key: outcome.urls for key, outcome in again.items()} == {
            key: outcome.urls for key, outcome in made.items()
        }
        assert ledger.counts() == {JobState.SUCCEEDED: (len(JOBS), 25.0)}
