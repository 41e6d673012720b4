"""A service, and ways to poll it, for :mod:`pace`: the engine itself, the peers' policies, and an oracle."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import virtual

from aio_provider.api.errors import RateLimitError
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.tasks import Task, TaskStatus
from aio_provider.jobs.job import Job, jobs_for
from aio_provider.jobs.ledger import AsyncLedger, Entry, JobState
from aio_provider.jobs.pacing import MemoryRateBudget, Priority, RateBudget
from aio_provider.jobs.polling import PollPlan, catalog_prior
from aio_provider.jobs.runner import Runner

SCOPE = "https://simulated.example/api/v1"
Latency = Callable[[random.Random, GenerationRequest], float]


class Service:
    """The service as a client sees it: latencies, round trips, and a limit in any 60 seconds.

    :param latency: draws a task's latency.
    :param speed: a function of time by which latencies are multiplied.
    """

    base_url = SCOPE

    def __init__(
        self,
        latency: Latency,
        *,
        per_minute: int = 60,
        seed: int = 0,
        round_trip: tuple[float, float] = (0.05, 0.25),
        speed: Callable[[float], float] = lambda now: 1.0,
        fail_fast: float = 0.0,
        never: float = 0.0,
    ) -> None:
        self._latency = latency
        self._limit = per_minute
        self._seed = seed
        self._random = random.Random(seed)
        self._round_trip = round_trip
        self._speed = speed
        self._fail_fast = fail_fast
        self._never = never
        self._window: deque[float] = deque()
        self.done_at: dict[str, float] = {}
        self.found_at: dict[str, float] = {}
        self.failed: set[str] = set()
        self.posts = self.gets = self.refused = 0

    async def submit(self, request: GenerationRequest) -> Task:
        async with self._answer():
            self.posts += 1
            task_id = f"t{self.posts}"
            now = virtual.clock()
            # Drawn from the request alone: the same for every policy.
            draw = random.Random(f"{self._seed}:{request.fingerprint}")
            chance = draw.random()
            wait = self._latency(draw, request) * self._speed(now)
            if chance < self._fail_fast:
                wait = min(wait, 1.0)
                self.failed.add(task_id)
            elif chance > 1 - self._never:
                wait = float("inf")
            self.done_at[task_id] = now + wait
        return Task(task_id)

    async def get_task(self, task_id: str) -> Task:
        async with self._answer():
            self.gets += 1
            done = virtual.clock() >= self.done_at[task_id]
        if not done:
            return Task(task_id)
        self.found_at.setdefault(task_id, virtual.clock())
        if task_id in self.failed:
            return Task(task_id, TaskStatus.FAILED, error="failed fast")
        return Task(task_id, TaskStatus.SUCCEEDED, urls=("https://files.example/x",), credits=5.0)

    @asynccontextmanager
    async def _answer(self) -> AsyncIterator[None]:
        """Half the round trip, the service's own moment, the other half."""
        half = self._random.uniform(*self._round_trip) / 2
        await asyncio.sleep(half)
        now = virtual.clock()
        while self._window and self._window[0] <= now - 60.0:
            self._window.popleft()
        if self._limit and len(self._window) >= self._limit:
            self.refused += 1
            await asyncio.sleep(half)
            raise RateLimitError("too many requests", status=429)
        self._window.append(now)
        try:
            yield
        finally:
            await asyncio.sleep(half)


class NoLedger(AsyncLedger):
    """Keeps nothing and takes no time: a simulation has no threads."""

    def __init__(self) -> None:
        self.owner = "simulation"

    async def aclose(self) -> None: ...

    async def plan(self, jobs: Any, **_: Any) -> list[Entry]:
        return [Entry(job.key, job.request.fingerprint, JobState.PLANNED) for job in jobs]

    async def durations(self, request: Any, scope: str) -> list[float]:
        return []

    async def intend(self, key: Any) -> bool:
        return True

    async def accept(self, key: str, task_id: str) -> None: ...

    async def release(self, key: str) -> None: ...

    async def hold(self, key: str, error: Any) -> None: ...

    async def finish(self, result: Any) -> None: ...


@dataclass(frozen=True)
class Result:
    """One policy in one case."""

    policy: str
    makespan: float
    requests: float
    lag: float
    lag_p95: float
    refused: int
    lags: Sequence[float] = field(default=(), repr=False)


Policy = Callable[[Service, list[Job], RateBudget], Any]


def simulate(name: str, policy: Policy, service: Service, jobs: list[Job], per_minute: float) -> Result:
    """Run one policy to the end and measure it."""

    async def main() -> float:
        budget = MemoryRateBudget(per_minute, clock=virtual.clock)
        await policy(service, jobs, budget)
        return virtual.clock()

    makespan = virtual.run(main())
    lags = sorted(
        service.found_at[task] - service.done_at[task]
        for task in service.found_at
        if task not in service.failed
    )
    return Result(
        name,
        makespan,
        (service.posts + service.gets + service.refused) / len(jobs),
        sum(lags) / len(lags),
        lags[int(0.95 * (len(lags) - 1))],
        service.refused,
        lags,
    )


# -- ours ----------------------------------------------------------------------------------------------------


def engine(
    prefer: str = "results", prior_factor: float = 1.0, seed: int = 0, real_time: bool = False, **options: Any
) -> Policy:
    """The engine itself: runner, poller, plan and budget; only the clock, the wire and the ledger are not."""
    if not real_time:
        options |= {"clock": virtual.clock, "wall": virtual.clock}

    async def policy(service: Service, jobs: list[Job], budget: RateBudget) -> None:
        runner = Runner(
            service,  # type: ignore[arg-type]
            NoLedger(),
            budget,
            plan=PollPlan(catalog_prior(prior_factor), seed=seed),
            prefer=prefer,  # type: ignore[arg-type]
            **options,
        )
        async for _ in runner.run(jobs, total=len(jobs)):
            pass

    return policy


# -- the peers: one poller a task, each blind to the others --------------------------------------------------


def pollers(waits: Callable[[random.Random], Iterator[float]], seed: int = 0) -> Policy:
    """Every task for itself: submit, then poll after each of ``waits``."""

    async def policy(service: Service, jobs: list[Job], budget: RateBudget) -> None:
        rng = random.Random(seed)

        async def one(job: Job) -> None:
            async with budget.request(Priority.SUBMIT):
                task = await service.submit(job.request)
            for wait in waits(rng):
                await asyncio.sleep(wait)
                async with budget.request(Priority.SUBMIT):
                    if (await service.get_task(task.id)).done:
                        return

        await asyncio.gather(*(one(job) for job in jobs))

    return policy


def fixed(seconds: float) -> Policy:
    """A fixed interval."""

    def waits(rng: random.Random) -> Iterator[float]:
        while True:
            yield seconds

    return pollers(waits)


def jittered(seconds: float, jitter: float) -> Policy:
    """A fixed interval, more or less."""

    def waits(rng: random.Random) -> Iterator[float]:
        while True:
            yield rng.uniform(seconds - jitter, seconds + jitter)

    return pollers(waits)


def exponential(first: float, most: float) -> Policy:
    """Doubling intervals."""

    def waits(rng: random.Random) -> Iterator[float]:
        wait = first
        while True:
            yield wait
            wait = min(wait * 2, most)

    return pollers(waits)


def oracle(prefer: str = "results") -> Policy:
    """Knows when each task ends, and is paced as we are."""
    poll, submit = Priority.SURE_POLL, Priority.SUBMIT
    if prefer == "finish":
        submit = Priority.SUBMIT_FIRST

    async def policy(service: Service, jobs: list[Job], budget: RateBudget) -> None:
        async def one(job: Job) -> None:
            async with budget.request(submit):
                task = await service.submit(job.request)
            await asyncio.sleep(max(service.done_at[task.id] - virtual.clock(), 0.0))
            async with budget.request(poll):
                await service.get_task(task.id)

        await asyncio.gather(*(one(job) for job in jobs))

    return policy


def peers(scale: float = 1.0) -> dict[str, Policy]:
    """The peers' policies by name; ``scale`` shortens all they wait for."""
    return {
        "fixed 0.5 s (replicate)": fixed(0.5 * scale),
        "fixed 2 s": fixed(2.0 * scale),
        "fixed 5 s": fixed(5.0 * scale),
        "fixed 10 s": fixed(10.0 * scale),
        "fixed 60 s": fixed(60.0 * scale),
        "6 ± 1.5 s (runwayml)": jittered(6.0 * scale, 1.5 * scale),
        "exponential 1–30 s": exponential(1.0 * scale, 30.0 * scale),
    }


PEERS = peers()


# -- what is asked for ---------------------------------------------------------------------------------------

IMAGES = ("flux-2", "seedream-4-5", "ideogram-v3")
VIDEOS = ("kling-3", "seedance-1-5-pro", "pixverse-5-6")


def workload(kind: str, number: int, models: int = 3) -> list[Job]:
    """Jobs: ``images``, ``videos`` or a ``mix`` of both, over a few models."""

    def requests() -> Iterator[GenerationRequest]:
        for index in range(number):
            video = kind == "videos" or (kind == "mix" and index % 2)
            names = (VIDEOS if video else IMAGES)[:models]
            model = names[(index // 2 if kind == "mix" else index) % len(names)]
            prompt = f"number {index}"
            yield GenerationRequest.build("video" if video else "image", model=model, prompt=prompt)

    return list(jobs_for(requests(), scope=SCOPE))


def uniform(factor: float = 1.0) -> Latency:
    """Even over the catalog's range, as the sandbox draws them."""

    def draw(rng: random.Random, request: GenerationRequest) -> float:
        from aio_provider.api.catalog import load_catalog

        latency = load_catalog().latency(request.kind, request.model)
        return factor * rng.uniform(latency.min, latency.max)

    return draw


def skewed(tail: float = 0.03, factor: float = 1.0) -> Latency:
    """Log-normal around the range's middle, with a share of tasks three to ten times as long."""

    def draw(rng: random.Random, request: GenerationRequest) -> float:
        from aio_provider.api.catalog import load_catalog

        latency = load_catalog().latency(request.kind, request.model)
        middle = (latency.min * latency.max) ** 0.5
        drawn = middle * rng.lognormvariate(0.0, 0.3)
        return factor * (drawn * rng.uniform(3, 10) if rng.random() < tail else drawn)

    return draw
