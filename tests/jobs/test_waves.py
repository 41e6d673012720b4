"""Waves against the sandbox, over real HTTP: how much is sent, what is found, and what never goes twice."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aio_provider.api.client import AsyncAioClient
from aio_provider.api.errors import AuthenticationError, InsufficientCreditsError
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.budget import CreditLimit
from aio_provider.jobs.flights import Flight, Tally, wave_size
from aio_provider.jobs.job import Job, jobs_for
from aio_provider.jobs.ledger import AsyncLedger, Finished, JobState, Ledger
from aio_provider.jobs.pacing import MemoryRateBudget
from aio_provider.jobs.submission import Submitter
from aio_provider.jobs.waves import Waves
from aio_provider.sandbox import Sandbox


@asynccontextmanager
async def waves_of(sandbox: Sandbox, ledger: Ledger, tally: Tally, **options: Any) -> AsyncIterator[Waves]:
    limit = options.pop("limit", CreditLimit(None))
    budget = options.pop("budget", None) or MemoryRateBudget(0)
    key = options.pop("api_key", sandbox.api_key)
    async with (
        AsyncAioClient(key, sandbox.base_url, retry=None) as client,
        AsyncLedger(ledger) as book,
    ):
        submitter = Submitter(client, book, budget, pause=0.01)
        yield Waves(book, submitter, limit, scope=sandbox.base_url, tally=tally, **options)


def jobs_of(sandbox: Sandbox, number: int = 10, **labels: str) -> list[Job]:
    requests = (GenerationRequest.image(f"A fox, number {n}", model="flux-2") for n in range(number))
    return list(jobs_for(requests, scope=sandbox.base_url, labels=labels))


def flights(ages: list[float], now: float = 1000.0) -> list[Flight]:
    return [Flight(str(n), str(n), "image", None, now - age) for n, age in enumerate(ages)]


@pytest.mark.parametrize(
    ("per_minute", "room", "ages", "latency", "most", "size"),
    [
        (60, 60, [], 20, 1000, 30),  # each picture needs a poll within the minute
        (60, 12, [], 20, 1000, 12),
        (60, 60, [], 180, 1000, 60),  # a video does not
        (60, 60, [60.0] * 60, 180, 1000, 60),
        (60, 60, [150.0] * 40, 180, 1000, 30),  # those are due, and get half at most
        (60, 60, [150.0] * 10, 180, 1000, 50),
        (60, 60, [], math.inf, 1000, 60),  # a chat is not polled
        (1, 1, [], 20, 1000, 1),
        (60, 0, [], 20, 1000, 0),
        (0, 1_000_000, [0.0] * 990, 20, 1000, 10),
        (60, 60, [0.0] * 1200, 20, 1000, 0),
    ],
)
def test_how_many_go(
    per_minute: float, room: int, ages: list[float], latency: float, most: int, size: int
) -> None:
    assert wave_size(per_minute, room, flights(ages), latency, 1000.0, most) == size


async def test_waves_go_through_all_jobs_once(sandbox: Sandbox, book: Ledger) -> None:
    jobs, tally, cursor, counted, found = jobs_of(sandbox), Tally(), 0, 0, []
    for more in (True, True, False):
        async with waves_of(sandbox, book, tally) as waves:
            wave = await waves.send(iter(jobs), 4, cursor=cursor, counted=counted)
        assert wave.more is more
        cursor, counted = wave.cursor, wave.counted
        found += wave.flights
    assert [flight.key for flight in found] == [job.key for job in jobs]
    assert {flight.task_id for flight in found} == {one.task_id for one in sandbox.submissions}
    assert len(sandbox.submissions) == 10 and tally.done == 0


async def test_an_earlier_attempt_is_picked_up(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 6, dag_id="shop", run_id="1")
    async with waves_of(sandbox, book, Tally()) as waves:
        first = await waves.send(iter(jobs), 4)
    done = Finished(jobs[0].key, JobState.SUCCEEDED, credits=5.0, task_id=first.flights[0].task_id)
    book.finish([done])
    tally = Tally()
    async with waves_of(sandbox, book, tally) as waves:
        again = await waves.send(iter(jobs), 10)
    assert (tally.succeeded, tally.reused, tally.saved, tally.credits) == (1, 1, 5.0, 0.0)
    assert [flight.reused for flight in again.flights] == [False] * 5
    assert (again.sent, again.more, len(sandbox.submissions)) == (2, False, 6)
    async with waves_of(sandbox, book, Tally()) as waves:
        other = await waves.send(iter(jobs_of(sandbox, 6, dag_id="shop", run_id="2")), 10)
    assert [flight.reused for flight in other.flights] == [True] * 5, "another run pays nothing"


async def test_a_crowd_in_flight_is_picked_up_bit_by_bit(sandbox: Sandbox, book: Ledger) -> None:
    jobs = jobs_of(sandbox, 6)
    async with waves_of(sandbox, book, Tally()) as waves:
        await waves.send(iter(jobs), 6)
    async with waves_of(sandbox, book, Tally(), most=4) as waves:
        some = await waves.send(iter(jobs), 6)
        rest = await waves.send(iter(jobs), 6, cursor=some.cursor, counted=some.counted)
    assert (len(some.flights), some.more, len(rest.flights), rest.more) == (4, True, 2, False)
    assert len(sandbox.submissions) == 6


async def test_what_another_process_submits_is_left_to_it(sandbox: Sandbox, book: Ledger) -> None:
    jobs, tally = jobs_of(sandbox, 3), Tally()
    [entry] = book.plan(jobs[1:2], owner="other|process", scope=sandbox.base_url)
    book.intend([entry], owner="other|process")
    async with waves_of(sandbox, book, tally) as waves:
        wave = await waves.send(iter(jobs), 10)
    assert (wave.sent, wave.elsewhere, wave.more) == (2, 1, False)
    assert len(sandbox.submissions) == 2


@pytest.mark.parametrize("gone", ["unknown", "refused"])
async def test_what_ends_at_once_is_counted_once(sandbox: Sandbox, book: Ledger, gone: str) -> None:
    jobs, tally = jobs_of(sandbox, 3), Tally()
    if gone == "unknown":
        sandbox.add_fault("drop-after@2")
    else:
        with pytest.warns(UserWarning, match="no-such-model"):
            [jobs[1]] = jobs_for(
                [GenerationRequest.image("A fox", model="no-such-model")], scope=sandbox.base_url
            )
    async with waves_of(sandbox, book, tally, concurrency=1) as waves:
        wave = await waves.send(iter(jobs), 10)
        await waves.send(iter(jobs), 10, cursor=0, counted=wave.counted)
    assert (tally.unknown, tally.failed) == ((1, 0) if gone == "unknown" else (0, 1))
    assert sandbox.requests["submit"] == 3, "not sent again"


async def test_too_few_credits_leave_the_rest(sandbox: Sandbox, book: Ledger) -> None:
    sandbox.credits = 11  # two pictures
    jobs, tally = jobs_of(sandbox, 5), Tally()
    async with waves_of(sandbox, book, tally, concurrency=1) as waves:
        wave = await waves.send(iter(jobs), 10)
    assert isinstance(wave.stopped, InsufficientCreditsError)
    assert (wave.sent, wave.more, wave.cursor, tally.done) == (2, True, 2, 0)
    sandbox.credits = 1000
    async with waves_of(sandbox, book, tally) as waves:
        rest = await waves.send(iter(jobs), 10, cursor=wave.cursor, counted=wave.counted)
    assert (rest.sent, rest.more) == (3, False)
    assert len(sandbox.submissions) == 5


async def test_a_refused_key(sandbox: Sandbox, book: Ledger) -> None:
    async with waves_of(sandbox, book, Tally(), api_key="aio_wrong") as waves:
        with pytest.raises(AuthenticationError):
            await waves.send(iter(jobs_of(sandbox)), 10)
    assert {entry.state for entry in book.entries()} == {JobState.PLANNED}


async def test_max_credits_waits_for_what_is_in_flight(sandbox: Sandbox, book: Ledger) -> None:
    jobs, tally, limit = jobs_of(sandbox, 5), Tally(), CreditLimit(11)
    async with waves_of(sandbox, book, tally, limit=limit) as waves:
        wave = await waves.send(iter(jobs), 10)
    assert (wave.sent, wave.more, wave.cursor, tally.over_limit) == (2, True, 2, 0)
    assert [flight.reserved for flight in wave.flights] == [5, 5]
    limit = CreditLimit(11)
    limit.spent = 10  # they have cost what was set aside for them
    async with waves_of(sandbox, book, tally, limit=limit) as waves:
        rest = await waves.send(iter(jobs), 10, cursor=wave.cursor, counted=wave.counted)
    assert (rest.sent, rest.more, tally.over_limit) == (0, False, 3)


async def test_nobody_waits_long_for_a_turn(sandbox: Sandbox, book: Ledger) -> None:
    """The limit is used up by others meanwhile: what has not been sent is left for the next wave."""
    jobs = jobs_of(sandbox, 6)
    began = time.monotonic()
    async with waves_of(sandbox, book, Tally(), budget=MemoryRateBudget(4), patience=0.5) as waves:
        wave = await waves.send(iter(jobs), 6)
    assert time.monotonic() - began < 5
    assert wave.more and wave.sent == len(sandbox.submissions) < 6
    assert wave.cursor == wave.sent
    assert {entry.state for entry in book.entries()} == {JobState.ACCEPTED, JobState.PLANNED}


async def test_few_are_in_the_air_at_once(sandbox: Sandbox, book: Ledger) -> None:
    """They are what a killed worker leaves held."""
    sandbox.add_fault("slow:on=submit:seconds=1")  # accepted at once, answered late
    async with waves_of(sandbox, book, Tally()) as waves:
        wave = asyncio.create_task(waves.send(iter(jobs_of(sandbox, 12)), 12))
        while len(sandbox.submissions) < 8:  # noqa: ASYNC110 - the server is in a thread
            await asyncio.sleep(0.01)
        assert len(list(book.entries(state=JobState.INTENDED))) == 8
        assert (await wave).sent == 12
