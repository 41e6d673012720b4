"""The runner against the sandbox, over real HTTP: reuse, re-attach, refusals, faults, limits and stops."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aio_provider.api.client import AsyncAioClient
from aio_provider.api.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    TransportError,
)
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job, Outcome, OutcomeStatus, jobs_for
from aio_provider.jobs.ledger import AsyncLedger, JobState, Ledger, LedgerError, new_owner
from aio_provider.jobs.pacing import MemoryRateBudget
from aio_provider.jobs.polling import PollPlan, catalog_prior
from aio_provider.jobs.progress import Progress
from aio_provider.jobs.runner import CreditLimitWarning, Runner
from aio_provider.sandbox import Sandbox

SCALE = 0.01
SUCCEEDED, FAILED, UNKNOWN = OutcomeStatus.SUCCEEDED, OutcomeStatus.FAILED, OutcomeStatus.UNKNOWN
PENDING, NOT_SUBMITTED, EXPIRED = OutcomeStatus.PENDING, OutcomeStatus.NOT_SUBMITTED, OutcomeStatus.EXPIRED


@asynccontextmanager
async def runner_of(sandbox: Sandbox, ledger: Any, **options: Any) -> AsyncIterator[Runner]:
    key = options.pop("api_key", sandbox.api_key)
    url = options.pop("base_url", sandbox.base_url)
    budget = options.pop("budget", None) or MemoryRateBudget(0)
    options.setdefault("connect_pause", 0.02)
    options.setdefault("not_found_grace", 0.3)
    async with AsyncAioClient(key, url, retry=None, timeout=options.pop("timeout", 20)) as client:
        yield Runner(client, ledger, budget, plan=PollPlan(catalog_prior(SCALE)), **options)


def jobs_of(sandbox: Sandbox, number: int = 10, word: str = "cat") -> list[Job]:
    return list(
        jobs_for((GenerationRequest.image(f"{word} {i}") for i in range(number)), scope=sandbox.base_url)
    )


async def all_of(runner: Runner, jobs: Iterable[Job], total: int | None = None) -> list[Outcome]:
    return [outcome async for outcome in runner.run(jobs, total=total)]


def statuses(outcomes: Iterable[Outcome]) -> dict[OutcomeStatus, int]:
    return dict(Counter(outcome.status for outcome in outcomes))


def states(ledger: Ledger) -> dict[JobState, int]:
    return dict(Counter(entry.state for entry in ledger.entries()))


# -- the main path -------------------------------------------------------------------------------------------


async def test_jobs_in_outcomes_out_and_a_second_run_is_free(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 50)
    seen: list[Progress] = []
    async with runner_of(sandbox, book, progress=seen.append) as runner:
        outcomes = await all_of(runner, jobs, 50)
        assert statuses(outcomes) == {SUCCEEDED: 50}
        assert {outcome.key for outcome in outcomes} == {job.key for job in jobs}
        assert all(
            o.urls and o.credits == 5 and o.task_id and o.submitted_at and not o.reused for o in outcomes
        )
        assert sandbox.charged == sum(o.credits or 0 for o in outcomes)
        assert sandbox.requests["accepted"] == 50
        again = await all_of(runner, jobs, 50)
    assert statuses(again) == {SUCCEEDED: 50}
    assert all(outcome.reused for outcome in again)
    assert sandbox.requests["accepted"] == 50
    first = [p for p in seen if p.reused == 0]
    assert first[-1].done == 50
    assert first[-1].credits == 250
    assert first[-1].eta_seconds == 0
    assert max(p.in_flight for p in first) > 1
    assert seen[-1].reused == 50
    assert seen[-1].credits == 0


async def test_how_many_there_are_may_change(sandbox: Sandbox, book: Ledger) -> None:
    seen: list[Progress] = []
    expected = 30

    def count(progress: Progress) -> None:
        nonlocal expected
        seen.append(progress)
        expected = 20  # ten turned out to need nothing

    async with runner_of(sandbox, book, progress=count) as runner:
        outcomes = [outcome async for outcome in runner.run(jobs_of(sandbox, 20), total=lambda: expected)]
    assert len(outcomes) == 20
    assert seen[0].total == 30
    assert (seen[-1].total, seen[-1].done, seen[-1].eta_seconds) == (20, 20, 0)


async def test_the_time_left_is_not_guessed_from_the_first_result(sandbox: Sandbox, book: Ledger) -> None:
    guesses: list[float] = []
    begun = time.monotonic()
    async with runner_of(sandbox, book, progress=lambda p: guesses.append(p.eta_seconds or 0.0)) as runner:
        await all_of(runner, jobs_of(sandbox, 400), 400)
    assert max(guesses) < 10 * (time.monotonic() - begun)


async def test_every_kind(sandbox: Sandbox, book: Ledger) -> None:
    url = "https://files.example/a.png"
    requests = [
        GenerationRequest.image("a cat on a mat"),
        GenerationRequest.video("a cat walks", duration=5),
        GenerationRequest.music("a song about a cat"),
        GenerationRequest.speech("hello", voice="Rachel"),
        GenerationRequest.chat("say hello"),
        GenerationRequest.remove_background(url),
        GenerationRequest.swap_face(url, url),
        GenerationRequest.remove_video_background("https://files.example/a.mp4"),
        GenerationRequest.upscale_image(url),
    ]
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs_for(requests, scope=sandbox.base_url))
        assert statuses(outcomes) == {SUCCEEDED: len(requests)}
        by_kind = {outcome.job.request.kind: outcome for outcome in outcomes}
        assert by_kind["chat"].text
        assert by_kind["chat"].task_id is None
        assert all(outcome.urls for kind, outcome in by_kind.items() if kind != "chat")
        again = await all_of(runner, jobs_for(requests, scope=sandbox.base_url))
        assert {o.text for o in again if o.text} == {by_kind["chat"].text}, "a chat is not asked twice"
    assert len(sandbox.submissions) == len(requests)
    recorded = sum(entry.credits or 0 for entry in book.entries())
    assert recorded == sandbox.charged


async def test_what_is_in_flight_is_picked_up_not_paid_again(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 5)
    owner = new_owner()
    book.plan(jobs, owner=owner)
    async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
        book.intend([job.key for job in jobs], owner=owner)
        for job in jobs:
            task = await client.submit(job.request)
            book.accept([(job.key, task.id)], owner=owner)
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs)
    assert statuses(outcomes) == {SUCCEEDED: 5}
    assert all(outcome.reused and outcome.credits == 5 for outcome in outcomes), "this run paid for none"
    assert len(sandbox.submissions) == 5


async def test_one_key_twice_in_a_run_is_one_job(sandbox: Sandbox, book: Ledger) -> None:
    job, other = jobs_of(sandbox, 2)
    changed = Job(job.key, other.request)
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, [job, job, changed])
    assert len(sandbox.submissions) == 1
    assert statuses(outcomes) == {SUCCEEDED: 2, FAILED: 1}
    assert sorted(o.reused for o in outcomes if o.status is SUCCEEDED) == [False, True]
    assert {o.error_type for o in outcomes} == {None, "JobConflictError"}


async def test_jobs_are_pulled_as_there_is_room(sandbox: Sandbox, book: Ledger) -> None:
    pulled = 0

    def jobs() -> Iterator[Job]:
        nonlocal pulled
        for job in jobs_of(sandbox, 200):
            pulled += 1
            yield job

    async with runner_of(sandbox, book, max_open=20) as runner:
        done = 0
        async for _ in runner.run(jobs()):
            done += 1
            assert pulled - done <= 20
    assert done == 200


async def test_a_run_of_nothing(sandbox: Sandbox, book: Ledger) -> None:
    async with runner_of(sandbox, book) as runner:
        assert await all_of(runner, []) == []


async def test_an_async_ledger_is_left_open(sandbox: Sandbox, book: Ledger) -> None:
    async with AsyncLedger(book) as ledger, runner_of(sandbox, ledger) as runner:
        assert statuses(await all_of(runner, jobs_of(sandbox, 2))) == {SUCCEEDED: 2}
        assert len(await ledger.get([job.key for job in jobs_of(sandbox, 2)])) == 2


@pytest.mark.parametrize(
    "options",
    [{"on_unknown": "guess"}, {"prefer": "cheap"}, {"max_credits": -1}, {"concurrency": 0}, {"max_open": 0}],
)
async def test_settings_that_cannot_be(sandbox: Sandbox, book: Ledger, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        async with runner_of(sandbox, book, **options):
            pass


# -- answers that are no success -----------------------------------------------------------------------------


async def test_a_failed_task_fails_alone_and_may_be_retried(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 6)
    sandbox.add_fault("failed@3")
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs)
        assert statuses(outcomes) == {SUCCEEDED: 5, FAILED: 1}
        (failed,) = (o for o in outcomes if o.status is FAILED)
        assert failed.error
        assert failed.error_type == "TaskFailedError"
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 5, FAILED: 1}, "not by default"
        runner.retry_failed = True
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 6}
    assert len(sandbox.submissions) == 7


@pytest.mark.filterwarnings("ignore::UserWarning")
async def test_a_refused_request_fails_alone(sandbox: Sandbox, book: Ledger) -> None:
    bad = GenerationRequest("image", "/images/generations", "flux-2", {})
    jobs = [*jobs_of(sandbox, 3), *jobs_for([bad], scope=sandbox.base_url)]
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs)
    assert statuses(outcomes) == {SUCCEEDED: 3, FAILED: 1}
    assert [o.error_type for o in outcomes if o.status is FAILED] == ["InvalidRequestError"]
    assert states(book)[JobState.FAILED] == 1


@pytest.mark.parametrize(
    "fault", ["drop-after@2", "500-after@2", "truncated-json@2:on=submit", "502-html@2:on=submit"]
)
async def test_what_may_have_been_charged_is_held(sandbox: Sandbox, book: Ledger, fault: str) -> None:
    jobs = jobs_of(sandbox, 5)
    sandbox.add_fault(fault)
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs)
        assert statuses(outcomes) == {SUCCEEDED: 4, UNKNOWN: 1}
        assert [o.error_type for o in outcomes if o.status is UNKNOWN] == ["SubmissionUnknownError"]
        before = len(sandbox.submissions)
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 4, UNKNOWN: 1}, "held, not sent again"
        assert len(sandbox.submissions) == before
        runner.on_unknown = "resubmit"
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 5}
        assert len(sandbox.submissions) == before + 1


async def test_429s_are_nobodys_failure(sandbox: Sandbox, book: Ledger) -> None:
    sandbox.add_fault("429:0.2")
    async with runner_of(sandbox, book, budget=MemoryRateBudget(6000)) as runner:
        outcomes = await all_of(runner, jobs_of(sandbox, 20))
    assert statuses(outcomes) == {SUCCEEDED: 20}
    assert len(sandbox.submissions) == 20
    assert sandbox.requests["429"] > 0


async def test_failing_polls_fail_no_job(sandbox: Sandbox, book: Ledger) -> None:
    sandbox.add_fault("500:0.2:on=poll", "truncated-json:0.1:on=poll", "404-first-poll")
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs_of(sandbox, 10))
    assert statuses(outcomes) == {SUCCEEDED: 10}


async def test_a_task_the_service_forgot_is_expired_and_not_paid_anew(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 3)
    sandbox.add_fault("lost@2")
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs)
        assert statuses(outcomes) == {SUCCEEDED: 2, EXPIRED: 1}
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 2, EXPIRED: 1}
    assert len(sandbox.submissions) == 3


async def test_a_task_that_never_ends_is_left_to_a_later_run(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 3)
    sandbox.add_fault("never-ends@1")
    async with runner_of(sandbox, book, deadlines={"image": 1.0}) as runner:
        outcomes = await all_of(runner, jobs)
    assert statuses(outcomes) == {SUCCEEDED: 2, PENDING: 1}
    (pending,) = (o for o in outcomes if o.status is PENDING)
    assert pending.task_id
    assert pending.error_type == "TaskTimeoutError"
    assert states(book) == {JobState.SUCCEEDED: 2, JobState.ACCEPTED: 1}


# -- money ---------------------------------------------------------------------------------------------------


async def test_out_of_credits_collects_what_is_in_flight(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 12)
    sandbox.credits = 25
    outcomes: list[Outcome] = []
    async with runner_of(sandbox, book, concurrency=1) as runner:
        with pytest.raises(InsufficientCreditsError, match="7 jobs were not submitted, which need about 35"):
            async for outcome in runner.run(jobs):
                outcomes.append(outcome)
        assert statuses(outcomes) == {SUCCEEDED: 5, NOT_SUBMITTED: 7}
        assert states(book) == {JobState.SUCCEEDED: 5, JobState.PLANNED: 7}
        sandbox.credits = 1000
        rest = await all_of(runner, jobs)
    assert statuses(rest) == {SUCCEEDED: 12}
    assert len(sandbox.submissions) == 12


async def test_max_credits_is_kept_and_warned_of(sandbox: Sandbox, book: Ledger) -> None:
    async with runner_of(sandbox, book, max_credits=23) as runner:
        with pytest.warns(CreditLimitWarning, match=r"6 jobs .*max_credits=23"):
            outcomes = await all_of(runner, jobs_of(sandbox, 10))
    assert statuses(outcomes) == {SUCCEEDED: 4, NOT_SUBMITTED: 6}
    assert sandbox.charged == 20
    assert {o.error_type for o in outcomes if o.status is NOT_SUBMITTED} == {"BudgetExceededError"}


async def test_reused_results_cost_nothing_of_the_limit(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 10)
    async with runner_of(sandbox, book) as runner:
        await all_of(runner, jobs[:6])
    async with runner_of(sandbox, book, max_credits=20) as runner:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CreditLimitWarning)
            assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 10}


# -- stops ---------------------------------------------------------------------------------------------------


async def test_a_refused_key_stops_at_once(sandbox: Sandbox, book: Ledger) -> None:
    outcomes: list[Outcome] = []
    async with runner_of(sandbox, book, api_key="aio_wrong", concurrency=2) as runner:
        with pytest.raises(AuthenticationError):
            async for outcome in runner.run(jobs_of(sandbox, 30)):
                outcomes.append(outcome)
    assert statuses(outcomes) == {NOT_SUBMITTED: 30}
    assert sandbox.requests["401"] <= 3
    assert states(book) == {JobState.PLANNED: 30}


async def test_a_key_refused_in_the_middle_leaves_what_is_in_flight_on_record(
    sandbox: Sandbox, book: Ledger
) -> None:
    jobs = jobs_of(sandbox, 10)
    sandbox.add_fault("401@4:on=submit")
    outcomes: list[Outcome] = []
    async with runner_of(sandbox, book, concurrency=1) as runner:
        with pytest.raises(AuthenticationError):
            async for outcome in runner.run(jobs):
                outcomes.append(outcome)
    assert len(outcomes) == 10
    assert states(book).get(JobState.UNKNOWN, 0) == states(book).get(JobState.INTENDED, 0) == 0
    assert len(sandbox.submissions) == 3
    async with runner_of(sandbox, book) as runner:
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 10}
    assert len(sandbox.submissions) == 10


async def test_nobody_listens(sandbox: Sandbox, book: Ledger, deaf_port: int) -> None:
    url = f"http://127.0.0.1:{deaf_port}/api/v1"
    outcomes: list[Outcome] = []
    async with runner_of(sandbox, book, base_url=url, connect_attempts=3, connect_pause=0.01) as runner:
        with pytest.raises(TransportError):
            async for outcome in runner.run(jobs_of(sandbox, 5)):
                outcomes.append(outcome)
    assert statuses(outcomes) == {NOT_SUBMITTED: 5}
    assert states(book) == {JobState.PLANNED: 5}


async def test_a_cancelled_run_keeps_all_it_knows(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 40)
    sandbox.add_fault("slow:on=submit:seconds=0.3")
    outcomes: list[Outcome] = []
    async with runner_of(sandbox, book, concurrency=8) as runner:

        async def consume() -> None:
            async with contextlib.aclosing(runner.run(jobs)) as run:
                async for outcome in run:
                    outcomes.append(outcome)

        task = asyncio.create_task(consume())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        everything = outcomes + runner.left
    assert len(everything) == 40
    assert states(book).get(JobState.UNKNOWN, 0) == states(book).get(JobState.INTENDED, 0) == 0
    accepted = [o for o in everything if o.status in (SUCCEEDED, PENDING)]
    assert len(accepted) == len(sandbox.submissions) > 0, "what was in the air was answered and recorded"
    sandbox.clear_faults()
    async with runner_of(sandbox, book) as runner:
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 40}
    assert len(sandbox.submissions) == 40


async def test_an_answer_that_comes_as_the_run_is_stopped_is_kept(sandbox: Sandbox, book: Ledger) -> None:
    task: asyncio.Task[list[Outcome]]

    def stop(step: str, job: Job) -> None:
        if step == "accepted":
            task.cancel()

    async with runner_of(sandbox, book, observer=stop) as runner:
        task = asyncio.create_task(all_of(runner, jobs_of(sandbox, 1)))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [o.status for o in runner.left] == [PENDING]
        assert runner.left[0].task_id == sandbox.submissions[0].task_id


async def test_what_is_not_answered_in_its_grace_is_held(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 2)
    sandbox.add_fault("slow:on=submit:seconds=3")
    async with runner_of(sandbox, book, stop_grace=0.1) as runner:
        task = asyncio.create_task(all_of(runner, jobs))
        while len(sandbox.submissions) < 2:  # noqa: ASYNC110 - the server is in a thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {o.status for o in runner.left} <= {UNKNOWN, NOT_SUBMITTED}
    assert states(book) == {JobState.UNKNOWN: 2}


async def test_a_consumer_that_stops_early(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 20)
    async with runner_of(sandbox, book, concurrency=2) as runner:
        async with contextlib.aclosing(runner.run(jobs)) as run:
            async for _ in run:
                break
        assert len(runner.left) == 19
        assert statuses(await all_of(runner, jobs)) == {SUCCEEDED: 20}
    assert len(sandbox.submissions) == 20


async def test_a_lost_ledger_stops_before_anything_more_is_spent(
    sandbox: Sandbox, book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aio_provider.jobs.ledger import LedgerUnavailableError

    def no_room() -> None:
        if len(sandbox.submissions) >= 3:
            raise LedgerUnavailableError("the disk is full")

    monkeypatch.setattr(book.store, "require_room", no_room)
    async with runner_of(sandbox, book, concurrency=1) as runner:
        with pytest.raises(LedgerError, match="disk is full"):
            await all_of(runner, jobs_of(sandbox, 10))
    assert len(sandbox.submissions) == 3
    assert JobState.INTENDED not in states(book)


async def test_jobs_that_cannot_be_read_stop_the_run(sandbox: Sandbox, book: Ledger) -> None:
    def jobs() -> Iterator[Job]:
        yield from jobs_of(sandbox, 3)
        raise OSError("the file is gone")

    async with runner_of(sandbox, book) as runner:
        with pytest.raises(OSError, match="the file is gone"):
            await all_of(runner, jobs())


# -- two at once ---------------------------------------------------------------------------------------------


async def test_two_runs_share_the_jobs_and_both_get_all(sandbox: Sandbox, tmp_path: Path) -> None:
    jobs = jobs_of(sandbox, 40)

    async def one() -> list[Outcome]:
        with Ledger.open(tmp_path / "shared.sqlite") as ledger:
            async with runner_of(sandbox, ledger) as runner:
                return await all_of(runner, jobs)

    both = await asyncio.gather(one(), one())
    assert [statuses(outcomes) for outcomes in both] == [{SUCCEEDED: 40}] * 2
    assert len(sandbox.submissions) == 40


async def test_a_job_that_another_is_submitting_is_waited_for(sandbox: Sandbox, book: Ledger) -> None:
    (job,) = jobs_of(sandbox, 1)
    owner = new_owner()
    book.plan([job], owner=owner)
    book.intend([job.key], owner=owner)
    async with runner_of(sandbox, book) as runner:
        run = asyncio.create_task(all_of(runner, [job]))
        await asyncio.sleep(0.3)
        assert not run.done()
        async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
            task = await client.submit(job.request)
        book.accept([(job.key, task.id)], owner=owner)
        assert statuses(await run) == {SUCCEEDED: 1}
    assert len(sandbox.submissions) == 1


async def test_a_job_that_another_gave_back_is_submitted(sandbox: Sandbox, book: Ledger) -> None:
    (job,) = jobs_of(sandbox, 1)
    owner = new_owner()
    book.plan([job], owner=owner)
    book.intend([job.key], owner=owner)
    async with runner_of(sandbox, book) as runner:
        run = asyncio.create_task(all_of(runner, [job]))
        await asyncio.sleep(0.2)
        book.release([job.key], owner=owner)
        assert statuses(await run) == {SUCCEEDED: 1}


async def test_the_steps_of_a_job_in_their_order(sandbox: Sandbox, book: Ledger) -> None:
    steps: list[str] = []

    def observe(step: str, job: Job) -> None:
        (entry,) = book.entries()
        steps.append(f"{step}: {entry.state}")

    async with runner_of(sandbox, book, observer=observe) as runner:
        await all_of(runner, jobs_of(sandbox, 1))
    assert steps == [
        "before_intent: planned",
        "after_intent: intended",
        "accepted: accepted",
        "finished: succeeded",
    ]


async def test_a_model_that_the_service_does_not_have_is_asked_for_once(
    sandbox: Sandbox, book: Ledger
) -> None:
    with pytest.warns(UserWarning, match="not in the packaged catalog"):
        requests = [GenerationRequest.image(f"a cat {n}", model="flux-99") for n in range(5)]
    jobs = [*jobs_for(requests, scope=sandbox.base_url), *jobs_of(sandbox, 2)]
    async with runner_of(sandbox, book) as runner:
        outcomes = await all_of(runner, jobs)
    assert statuses(outcomes) == {FAILED: 1, NOT_SUBMITTED: 4, SUCCEEDED: 2}
    assert sandbox.requests["submit"] == 3
    left = next(outcome for outcome in outcomes if outcome.status is NOT_SUBMITTED)
    assert "refused model 'flux-99' for another job" in str(left.error)
    assert states(book) == {JobState.FAILED: 1, JobState.PLANNED: 4, JobState.SUCCEEDED: 2}
