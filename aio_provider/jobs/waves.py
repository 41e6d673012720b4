"""A batch in waves: submit what the rate budget allows now, and leave the waiting to somebody else.

For a caller that must not wait, such as an Airflow worker: its slot is held for the seconds that a wave of
POSTs takes, however long the generations run. Everything a later wave needs is in the ledger, in a number
(how far through the jobs) and in the list of what is in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, Protocol

from aio_provider.api.errors import AioError, BudgetExceededError, NotFoundError
from aio_provider.jobs.flights import Flight, Tally
from aio_provider.jobs.ledger import ENDED, Entry, JobConflictError, JobState
from aio_provider.jobs.submission import Fate, Submission, Submitter
from aio_provider.jobs.turns import Priority

if TYPE_CHECKING:
    from aio_provider.jobs.budget import CreditLimit
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger import AsyncLedger

#: jobs looked up in the ledger at once
_CHUNK = 256


@dataclass(slots=True)
class Wave:
    """One wave: what is in flight because of it, and where the next one begins.

    :param cursor: how many jobs from the front need no further look.
    :param counted: how many jobs from the front were looked at; those behind ``cursor`` will be again.
    :param more: whether jobs are left to submit.
    :param elsewhere: jobs that another process is just submitting.
    :param sent: submissions that the service took.
    :param stopped: what ended all submissions: too few credits, or a budget.
    :param link: the first result of those that were there already.
    """

    cursor: int
    counted: int
    flights: list[Flight] = field(default_factory=list)
    more: bool = False
    elsewhere: int = 0
    sent: int = 0
    stopped: AioError | None = None
    link: str = ""


class Keeper(Protocol):
    """A second record beside the ledger, for a ledger that is one machine's only."""

    #: jobs written down together, before any of them is sent
    group: int

    def restore(self, jobs: Sequence[Job]) -> None:
        """Put into the ledger what it lacks of these jobs."""

    def intend(self, jobs: Sequence[Job]) -> None:
        """These are sent next."""

    def record(self, entries: Sequence[Entry]) -> None:
        """What has become of them."""


class Waves:
    """Sends the waves of one batch.

    :param submitter: its budget should not be spaced.
    :param limit: its ``spent`` and ``reserved`` hold what earlier waves spent, and set aside for flights.
    :param scope: base URL of the service.
    :param retry_failed: submit again what an earlier attempt left as failed.
    :param on_unknown: what to do about jobs that may have been charged.
    :param concurrency: submissions that wait for an answer at once: so many may be held after a kill.
    :param patience: seconds after which nothing more is begun in this wave.
    :param in_flight: tasks of earlier waves: while there are any, a budget of the ledger may have room again.
    :param most: tasks in flight at once.
    :param no_models: models that the service does not have, and how that is known; added to here.
    """

    def __init__(
        self,
        ledger: AsyncLedger,
        submitter: Submitter,
        limit: CreditLimit,
        *,
        scope: str,
        tally: Tally,
        retry_failed: bool = False,
        on_unknown: Literal["hold", "resubmit"] = "hold",
        keeper: Keeper | None = None,
        concurrency: int = 8,
        patience: float = 20.0,
        in_flight: int = 0,
        most: int = 1000,
        no_models: dict[str, str] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._in_flight = in_flight
        self._most = most
        self._no_models = {} if no_models is None else no_models
        #: of a budget of the ledger that has no room now
        self._refused: BudgetExceededError | None = None
        self._ledger = ledger
        self._submitter = submitter
        self._limit = limit
        self._scope = scope
        self._tally = tally
        self._retry_failed = retry_failed
        self._on_unknown: Literal["hold", "resubmit"] = on_unknown
        self._keeper = keeper
        self._sending = asyncio.Semaphore(concurrency)
        self._patience = patience
        self._wall = wall

    async def send(self, jobs: Iterator[Job], size: int, *, cursor: int = 0, counted: int = 0) -> Wave:
        """Look at jobs in their order, and submit the first ``size`` of them that are new.

        :param jobs: all jobs of the batch, the same ones in the same order each time.
        :param cursor: where the last wave said that this one begins.
        :param counted: likewise.
        :raises AuthenticationError: the key is refused. What was in the air is on record, here as below.
        :raises TransportError: the service cannot be reached.
        :raises LedgerError: the record failed.
        """
        wave = Wave(cursor, max(cursor, counted))
        chosen = await self._choose(islice(jobs, cursor, None), size, wave)
        step = self._keeper.group if self._keeper is not None else max(len(chosen), 1)
        end = self._wall() + self._patience
        unsent: list[int] = []
        for start in range(0, len(chosen), step):
            group = chosen[start : start + step]
            if self._submitter.stopped or self._refused or (start and self._wall() >= end):
                self._give_up(group, unsent)
                continue
            if self._keeper is not None:
                self._keeper.intend([one.job for one in group])
            try:
                await self._submit(group, wave, unsent, max(end - self._wall(), 1.0))
            finally:
                await self._keep([one.job for one in group])
        if unsent:
            wave.more = True
            wave.cursor = min(unsent)
        refused = self._refused
        if refused is not None and refused.may_pass and (wave.flights or self._in_flight):
            refused = None  # what is in flight may leave room
        wave.stopped = self._submitter.stopped or refused
        return wave

    # -- which jobs

    async def _choose(self, jobs: Iterator[Job], size: int, wave: Wave) -> list[_Chosen]:
        chosen: list[_Chosen] = []
        again = wave.counted - wave.cursor  # looked at before: not to be counted, or tried, a second time
        place = wave.cursor
        while chunk := list(islice(jobs, min(_CHUNK, again) if again > 0 else _CHUNK)):
            for job, entry in zip(chunk, await self._plan(chunk, fresh=again <= 0), strict=True):
                if not self._take(job, entry, chosen, size, wave, place):
                    wave.more = True
                    wave.cursor = place
                    return chosen
                place += 1
                wave.counted = max(wave.counted, place)
            again -= len(chunk)
        wave.cursor = place
        return chosen

    def _take(
        self, job: Job, entry: Entry | None, chosen: list[_Chosen], size: int, wave: Wave, place: int
    ) -> bool:
        """Deal with one job; ``False``: it has to wait for another wave."""
        if entry is None or entry.state in ENDED or entry.state is JobState.UNKNOWN:
            if place >= wave.counted:
                state = JobState.FAILED if entry is None else entry.state
                before = state is JobState.SUCCEEDED  # what failed or is held stands for nothing
                self._tally.count(state, entry.credits if entry and before else None, reused=before)
                if entry is not None and entry.urls and not wave.link:
                    wave.link = entry.urls[0]
        elif (job.request.model or "") in self._no_models and entry.state is JobState.PLANNED:
            self._tally.no_model += place >= wave.counted
        elif entry.state is JobState.ACCEPTED:
            if self._in_flight + len(wave.flights) >= self._most:
                return False
            wave.flights.append(self._found(job, entry))
        elif entry.state is JobState.INTENDED:
            wave.elsewhere += 1
        elif len(chosen) >= size:
            return False
        else:
            amount = self._limit.amount(job, entry)
            if not self._limit.fits(amount):
                if self._limit.reserved:
                    return False  # what is in flight may turn out cheaper
                self._tally.over_limit += place >= wave.counted
                return True
            self._limit.reserved += amount
            chosen.append(_Chosen(place, job, entry, amount))
        return True

    def _found(self, job: Job, entry: Entry) -> Flight:
        """A task that was in flight already, of an earlier attempt or of another run."""
        assert entry.task_id is not None, "an accepted job has a task id"
        at = entry.submitted_at.timestamp() if entry.submitted_at is not None else self._wall()
        own = _whose(entry.labels) == _whose(job.labels)
        amount = self._limit.amount(job, entry) if own else 0.0
        self._limit.reserved += amount
        request = job.request
        return Flight(entry.key, entry.task_id, request.kind, request.model, at, amount, not own)

    async def _plan(self, chunk: Sequence[Job], *, fresh: bool) -> list[Entry | None]:
        """The record of these jobs; ``None`` for one that is in conflict with an open job of its key."""
        if self._keeper is not None:
            self._keeper.restore(chunk)
        wanted = {job.key: job for job in chunk}
        found: dict[str, Entry] = {}
        while wanted:
            try:
                entries = await self._ledger.plan(
                    wanted.values(),
                    retry_failed=self._retry_failed and fresh,
                    on_unknown=self._on_unknown if fresh else "hold",
                    scope=self._scope,
                )
            except JobConflictError as error:
                if not [wanted.pop(key) for key in error.keys if key in wanted]:
                    raise
                continue
            found = {entry.key: entry for entry in entries}
            break
        return [found.get(job.key) for job in chunk]

    # -- submissions

    async def _submit(self, group: Sequence[_Chosen], wave: Wave, unsent: list[int], patience: float) -> None:
        """Submit together; whoever has not had a turn when patience ends is left for the next wave."""
        tasks = {asyncio.create_task(self._one(one)): one for one in group}
        try:
            await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            # What is in the air is carried through, and on record once it is answered.
            in_air = dict(self._submitter.in_air)
            answers = await asyncio.gather(*in_air, return_exceptions=True)
            self._submitter.in_air.clear()
        landed = dict(zip(in_air.values(), answers, strict=True))
        fatal: BaseException | None = None
        for one, result in zip(tasks.values(), results, strict=True):
            answer = landed.get(one.job.key, result) if isinstance(result, asyncio.CancelledError) else result
            if isinstance(answer, asyncio.CancelledError):
                self._give_up([one], unsent)
            elif isinstance(answer, BaseException):
                self._limit.free(one.amount)
                fatal = fatal or answer
            else:
                self._settle(one, answer, wave, unsent)
        if fatal is not None:
            raise fatal

    async def _one(self, one: _Chosen) -> Submission:
        async with self._sending:
            return await self._submitter.submit(one.job, one.entry, lambda: Priority.SUBMIT_FIRST)

    def _settle(self, one: _Chosen, answer: Submission, wave: Wave, unsent: list[int]) -> None:
        request = one.job.request
        if answer.fate is Fate.ACCEPTED and answer.task is not None:
            wave.sent += 1
            wave.flights.append(
                Flight(
                    one.job.key,
                    answer.task.id,
                    request.kind,
                    request.model,
                    answer.submitted_at,
                    one.amount,
                )
            )
            return  # its credits stay reserved
        if answer.fate is Fate.ANSWERED and answer.chat is not None:
            wave.sent += 1
            charged = answer.chat.credits
            self._limit.settle(one.job, one.amount, charged, one.entry)
            self._tally.count(JobState.SUCCEEDED, charged)
        elif answer.fate is Fate.UNKNOWN:
            self._limit.settle(one.job, one.amount, None, one.entry)
            self._tally.count(JobState.UNKNOWN, None)
        elif answer.fate is Fate.REFUSED:
            self._limit.free(one.amount)
            self._tally.count(JobState.FAILED, 0.0)
            self._tally.refused += 1
        elif answer.fate is Fate.TAKEN:
            self._limit.free(one.amount)
            wave.elsewhere += 1
        elif answer.fate is Fate.OVER_BUDGET and isinstance(answer.error, BudgetExceededError):
            self._refused = answer.error
            self._give_up([one], unsent)
        elif answer.fate is Fate.STOPPED and isinstance(answer.error, NotFoundError):
            self._limit.free(one.amount)
            self._no_models[request.model or ""] = str(answer.error)
            self._tally.no_model += 1
        else:
            self._give_up([one], unsent)

    def _give_up(self, group: Iterable[_Chosen], unsent: list[int]) -> None:
        for one in group:
            self._limit.free(one.amount)
            unsent.append(one.place)

    async def _keep(self, jobs: Sequence[Job]) -> None:
        if self._keeper is not None:
            entries = await self._ledger.get([job.key for job in jobs])
            self._keeper.record(list(entries.values()))


@dataclass(frozen=True, slots=True)
class _Chosen:
    place: int
    job: Job
    entry: Entry
    amount: float


def _whose(labels: Mapping[str, str]) -> list[str]:
    """Which Airflow task instance, over all its attempts."""
    return [str(labels.get(name)) for name in ("dag_id", "run_id", "task_id", "map_index")]
