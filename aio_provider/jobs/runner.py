"""Jobs in, outcomes out: reuse what the ledger has, submit what is new, collect what is in flight.

:class:`_Run` feeds jobs in as there is room, hands outcomes out as they come, and stops cleanly whatever
happens. The life of each job is in :mod:`aio_provider.jobs.carrier`.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aio_provider.api.errors import AioError, InsufficientCreditsError
from aio_provider.jobs import outcomes
from aio_provider.jobs.budget import CreditLimit
from aio_provider.jobs.carrier import Carrier, Open
from aio_provider.jobs.job import DEADLINES, Job, Outcome
from aio_provider.jobs.ledger import AsyncLedger, JobConflictError, JobState, Ledger
from aio_provider.jobs.pacing import RateBudget
from aio_provider.jobs.poller import Poller
from aio_provider.jobs.polling import PollPlan
from aio_provider.jobs.progress import Meter, Progress
from aio_provider.jobs.submission import Fate, Observer, Submission, Submitter

if TYPE_CHECKING:
    from aio_provider.api.client import AsyncAioClient
    from aio_provider.jobs.ledger import Entry

#: jobs looked up in the ledger at once
_CHUNK = 256

#: what a run takes
Jobs: TypeAlias = Iterable[Job] | AsyncIterable[Iterable[Job]]


class CreditLimitWarning(UserWarning):
    """Some jobs were not submitted: they would have gone past ``max_credits`` or a budget of the ledger."""


class Runner:
    """Runs many jobs against one key.

    :param client: a client with ``retry=None``: every request takes its own turn of the budget.
    :param ledger: the record; one that is already an :class:`AsyncLedger` is left open.
    :param budget: the key's budget.
    :param plan: what is known about latencies.
    :param max_credits: what this run may spend. What would go past it is not submitted, with a warning.
    :param warn: give that warning; off where the caller does, in a thread and at a line of its user's.
    :param retry_failed: submit again what the ledger has as failed.
    :param refresh_urls: ask again for results that the ledger has (free): their URLs may have expired.
    :param on_unknown: ``"hold"`` jobs that may have been charged, or ``"resubmit"`` them.
    :param prefer: ``"results"`` as early as can be, or an early ``"finish"`` of the whole batch.
    :param concurrency: submissions waiting for a turn or an answer at once.
    :param max_open: jobs pulled and not yet handed out, at most: what bounds the memory.
    :param deadlines: seconds by kind, in place of :data:`~aio_provider.jobs.job.DEADLINES`.
    :param progress: called after each change.
    :param observer: called at each step of a job, for logs and metrics: ``before_intent``, ``after_intent``,
        ``accepted``, ``finished``.
    :param connect_attempts: rounds of tries to reach the service; ``connect_pause`` seconds after the first.
    :param not_found_grace: seconds for which a 404 is not believed.
    :param clock: seconds, never going back; ``wall``: seconds since the epoch.
    :param stop_grace: seconds that submissions in the air get to be answered when the run is stopped.
    """

    def __init__(
        self,
        client: AsyncAioClient,
        ledger: Ledger | AsyncLedger,
        budget: RateBudget,
        *,
        plan: PollPlan | None = None,
        max_credits: float | None = None,
        warn: bool = True,
        retry_failed: bool = False,
        refresh_urls: bool = False,
        on_unknown: Literal["hold", "resubmit"] = "hold",
        prefer: Literal["results", "finish"] = "results",
        concurrency: int = 64,
        max_open: int = 2000,
        deadlines: Mapping[str, float] | None = None,
        progress: Callable[[Progress], None] | None = None,
        observer: Observer | None = None,
        connect_attempts: int = 7,
        connect_pause: float = 1.0,
        not_found_grace: float = 60.0,
        stop_grace: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if on_unknown not in ("hold", "resubmit"):
            raise ValueError(f"on_unknown is {on_unknown!r}; it must be 'hold' or 'resubmit'.")
        if prefer not in ("results", "finish"):
            raise ValueError(f"prefer is {prefer!r}; it must be 'results' or 'finish'.")
        if max_credits is not None and not max_credits >= 0:
            raise ValueError(f"max_credits is {max_credits!r}; it must be 0 or more, or None for no limit.")
        if concurrency < 1 or max_open < 1:
            raise ValueError(f"concurrency ({concurrency}) and max_open ({max_open}) must be 1 or more.")
        self.client = client
        self.ledger = ledger
        self.budget = budget
        self.plan = PollPlan() if plan is None else plan  # an empty plan is falsy
        self.max_credits = max_credits
        self.warn = warn
        self.retry_failed = retry_failed
        self.refresh_urls = refresh_urls
        self.on_unknown: Literal["hold", "resubmit"] = on_unknown
        self.prefer: Literal["results", "finish"] = prefer
        self.concurrency = concurrency
        self.max_open = max_open
        self.deadlines = {**DEADLINES, **(deadlines or {})}
        self.progress = progress
        self.observer = observer
        self.connect_attempts = connect_attempts
        self.connect_pause = connect_pause
        self.not_found_grace = not_found_grace
        self.stop_grace = stop_grace
        self.clock = clock
        self.wall = wall
        #: after a run that was cancelled: the outcomes that could no longer be handed out
        self.left: list[Outcome] = []

    async def run(
        self, jobs: Jobs, total: int | Callable[[], int | None] | None = None
    ) -> AsyncIterator[Outcome]:
        """Carry out jobs; outcomes come in whatever order the jobs end.

        :param jobs: pulled as there is room; from a source that has to be waited for, an async iterator of
            batches of them. Two jobs with one key are one job, with an outcome each.
        :param total: how many there are, where that is known; or what says so, where it may change.
        :raises InsufficientCreditsError: after the outcomes of all jobs; what was in flight is collected, the
            rest was ``not_submitted``.
        :raises AuthenticationError: at once, after the outcomes so far; what is in flight stays on record.
        :raises TransportError: the service could not be reached for several minutes; likewise.
        :raises LedgerError: the record failed; likewise.
        """
        self.left = []
        run = _Run(self, jobs, total if callable(total) else lambda: total)
        try:
            async for outcome in run.outcomes():
                yield outcome
        finally:
            await run.stop()
            self.left = run.leftovers()


class _Run:
    def __init__(self, runner: Runner, jobs: Jobs, total: Callable[[], int | None]) -> None:
        self._runner = runner
        self._jobs = jobs
        self._meter = Meter(total, runner.budget.per_minute, runner.clock)
        self._own_ledger: AsyncLedger | None = None
        if isinstance(runner.ledger, AsyncLedger):
            self._ledger = runner.ledger
        else:
            self._ledger = self._own_ledger = AsyncLedger(runner.ledger)
        self._submitter = Submitter(
            runner.client,
            self._ledger,
            runner.budget,
            user=self,
            observer=runner.observer,
            attempts=runner.connect_attempts,
            pause=runner.connect_pause,
            clock=runner.clock,
            wall=runner.wall,
        )
        self._poller = Poller(
            runner.client,
            runner.budget,
            runner.plan,
            user=self,
            not_found_grace=runner.not_found_grace,
            clock=runner.clock,
            wall=runner.wall,
        )
        self._carrier = Carrier(
            self._ledger,
            self._submitter,
            self._poller,
            CreditLimit(runner.max_credits),
            concurrency=runner.concurrency,
            deadlines=runner.deadlines,
            prefer=runner.prefer,
            left=self._meter.left,
            budget=runner.budget,
            wall=runner.wall,
            observer=runner.observer,
            changed=self._report,
        )
        self._free = runner.max_open
        self._room = asyncio.Event()
        self._out: asyncio.Queue[list[Outcome] | None] = asyncio.Queue()
        self._open: dict[str, Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fed = False
        self._fatal: BaseException | None = None

    # -- the whole

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """Outcomes as they come, then whatever stopped the run."""
        self._spawn(self._feed())
        while (batch := await self._out.get()) is not None:
            for outcome in batch:
                yield outcome
                self._free += 1
                self._room.set()
        await self.stop()
        for outcome in self.leftovers():
            yield outcome
        if self._fatal is not None:
            raise self._fatal
        if self._runner.warn:
            for left_out in self._carrier.over():
                warnings.warn(left_out, CreditLimitWarning, stacklevel=2)
        stopped = self._submitter.stopped
        if isinstance(stopped, InsufficientCreditsError):
            raise self._carrier.short_of(stopped) from stopped
        if stopped is not None:
            raise stopped

    async def stop(self) -> None:
        """End everything: what is in the air gets a while to be answered, so that it is on record."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._land()
        await self._carrier.aclose()
        await self._poller.aclose()
        if self._own_ledger is not None:
            await self._own_ledger.aclose()

    def leftovers(self) -> list[Outcome]:
        """Outcomes that were not handed out, and of jobs that have none: pending or not submitted."""
        left: list[Outcome] = []
        while not self._out.empty():
            left.extend(self._out.get_nowait() or [])
        for opened in self._open.values():
            if opened.task_id is not None:
                outcome = outcomes.pending(opened.job, opened.task_id, opened.submitted_at, None)
            else:
                outcome = outcomes.not_submitted(opened.job, AioError("The run was stopped before this job."))
            left.extend(replace(outcome, job=job) for job in (opened.job, *opened.twins))
        self._open.clear()
        return left

    async def _land(self) -> None:
        """Wait for what is in the air; what has no answer after a while is held."""
        in_air = dict(self._submitter.in_air)
        if not in_air:
            return
        _, late = await asyncio.wait(in_air, timeout=self._runner.stop_grace)
        for sending in late:
            sending.cancel()
        answers = await asyncio.gather(*in_air, return_exceptions=True)
        for key, answer in zip(in_air.values(), answers, strict=True):
            if isinstance(answer, asyncio.CancelledError):
                answer = Submission(Fate.UNKNOWN, error=AioError("The run was stopped before the answer."))
            opened = self._open.get(key)
            if isinstance(answer, BaseException):
                self._fatal = self._fatal or answer
            elif opened is not None:
                outcome = await self._carrier.landed(opened, answer)
                if outcome is not None:
                    self._hand_out([(opened, outcome)])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._fatal is None:
            self._fatal = error
        if self._fatal is not None or (self._fed and not self._open):
            self._out.put_nowait(None)

    # -- jobs in

    async def _feed(self) -> None:
        if isinstance(self._jobs, AsyncIterable):
            async for batch in self._jobs:
                await self._feed_all(iter(batch))
        else:
            await self._feed_all(iter(self._jobs))
        self._fed = True

    async def _feed_all(self, jobs: Iterator[Job]) -> None:
        while True:
            while self._free <= 0:
                self._room.clear()
                await self._room.wait()
            chunk = list(islice(jobs, min(self._free, _CHUNK)))
            if not chunk:
                return
            self._free -= len(chunk)
            fresh = self._open_all(chunk)
            entries = await self._plan(fresh)
            await self._prime(fresh.values())
            self._begin(fresh, entries)

    def _open_all(self, chunk: list[Job]) -> dict[str, Open]:
        """Those jobs of a chunk that are not open yet; the others join the open one of their key."""
        fresh: dict[str, Open] = {}
        for job in chunk:
            twin = self._open.get(job.key)
            if twin is None:
                fresh[job.key] = self._open[job.key] = Open(job)
            elif twin.job.request.fingerprint == job.request.fingerprint:
                twin.twins.append(job)
            else:
                error = JobConflictError(
                    f"Two jobs of this run have the key {job.key} and different requests.", keys=[job.key]
                )
                self._hand_out([(Open(job), outcomes.failed(job, error))])
        return fresh

    async def _plan(self, fresh: dict[str, Open]) -> list[Entry]:
        """Enter jobs into the ledger; one in conflict with an open job fails and costs the others nothing."""
        while fresh:
            try:
                return await self._ledger.plan(
                    [opened.job for opened in fresh.values()],
                    retry_failed=self._runner.retry_failed,
                    on_unknown=self._runner.on_unknown,
                    scope=self._runner.client.base_url,
                )
            except JobConflictError as error:
                refused = [fresh.pop(key) for key in error.keys if key in fresh]
                if not refused:
                    raise
                self._hand_out([(opened, outcomes.failed(opened.job, error)) for opened in refused])
        return []

    async def _prime(self, fresh: Iterable[Open]) -> None:
        """Begin with the latencies on record of models that this plan knows nothing of yet."""
        plan, scope = self._runner.plan, self._runner.client.base_url
        for request in {(o.job.request.kind, o.job.request.model): o.job.request for o in fresh}.values():
            if request.kind != "chat" and not plan.knows(request.kind, request.model):
                plan.prime(request.kind, request.model, await self._ledger.durations(request, scope))

    def _begin(self, fresh: dict[str, Open], entries: list[Entry]) -> None:
        ended: list[tuple[Open, Outcome]] = []
        for opened, entry in zip(fresh.values(), entries, strict=True):
            again = self._runner.refresh_urls and entry.state is JobState.SUCCEEDED and entry.task_id
            if entry.state in outcomes.STATUS and not again:
                ended.append((opened, outcomes.recorded(opened.job, entry)))
            else:
                self._spawn(self._carry(opened, entry))
        if ended:
            self._hand_out(ended)

    async def _carry(self, opened: Open, entry: Entry) -> None:
        carrier = self._carrier
        again = entry.state is JobState.SUCCEEDED
        outcome = await (carrier.refresh(opened, entry) if again else carrier.carry(opened, entry))
        self._hand_out([(opened, outcome)])

    # -- outcomes out

    def _hand_out(self, ended: list[tuple[Open, Outcome]]) -> None:
        batch: list[Outcome] = []
        for opened, outcome in ended:
            if self._open.get(opened.job.key) is opened:
                del self._open[opened.job.key]
            batch.append(outcome)
            batch.extend(replace(outcome, job=twin, reused=True) for twin in opened.twins)
            self._meter.count(outcome, 1 + len(opened.twins))
        self._out.put_nowait(batch)
        self._report()

    def _report(self) -> None:
        if self._runner.progress is not None:
            self._runner.progress(self._meter.progress(self._carrier.in_flight))
