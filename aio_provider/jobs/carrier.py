"""The life of one job: from its record in the ledger to its outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from aio_provider.api.amounts import in_digits
from aio_provider.api.errors import (
    AioError,
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    NotFoundError,
    TaskTimeoutError,
)
from aio_provider.api.prices import price
from aio_provider.jobs import outcomes
from aio_provider.jobs.budgets import Budgets
from aio_provider.jobs.job import Job, Outcome, OutcomeStatus
from aio_provider.jobs.ledger import AsyncLedger, Finished, JobState
from aio_provider.jobs.others import Others
from aio_provider.jobs.pacing import Priority
from aio_provider.jobs.submission import Fate, Observer, Submission, Submitter

if TYPE_CHECKING:
    from aio_provider.api.tasks import Task
    from aio_provider.jobs.budget import CreditLimit
    from aio_provider.jobs.ledger import Entry
    from aio_provider.jobs.pacing import RateBudget
    from aio_provider.jobs.poller import Poller

log = logging.getLogger(__name__)

#: submissions go before polls once what is left can be sent in this many times one task's latency
_END_GAME = 1.0


@dataclass(slots=True, eq=False)
class Open:
    """A job that has been pulled and has no outcome yet.

    ``twins`` are later jobs with the same key: the same job, with an outcome each.
    """

    job: Job
    twins: list[Job] = field(default_factory=list)
    task_id: str | None = None
    submitted_at: datetime | None = None


class Carrier:
    """Carries jobs through, one coroutine each.

    :param concurrency: submissions that may wait for a turn or an answer at once.
    :param left: how many jobs of the run have no outcome yet, where that is known.
    :param deadlines: seconds by kind after which an accepted task is left to a later run.
    :param changed: called when one more task is in flight.
    """

    def __init__(
        self,
        ledger: AsyncLedger,
        submitter: Submitter,
        poller: Poller,
        limit: CreditLimit,
        *,
        concurrency: int,
        deadlines: Mapping[str, float],
        prefer: Literal["results", "finish"],
        left: Callable[[], int | None],
        budget: RateBudget,
        observer: Observer | None,
        changed: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._submitter = submitter
        self._poller = poller
        self._limit = limit
        self._others = Others(ledger)
        self._sending = asyncio.Semaphore(concurrency)
        self._deadlines = deadlines
        self._prefer = prefer
        self._left = left
        self._budget = budget
        self._wall = wall
        self._tell = observer or (lambda step, job: None)
        self._changed = changed
        #: accepted tasks whose end is not on record yet
        self.in_flight = 0
        self._budgets = Budgets()
        # Jobs that would have gone past the limit.
        self._over_limit = 0
        # Jobs that a budget of the ledger had no room for, and what it said to the last of them.
        self._over_budget = 0
        self._budget_error: BudgetExceededError | None = None
        # Jobs left out since the account has too few credits, and what they would likely cost.
        self._unpaid = 0
        self._unpaid_credits = 0.0

    async def carry(self, opened: Open, entry: Entry) -> Outcome:
        """Reuse, re-attach, wait for another process, or submit; then collect.

        :raises AioError: what must stop the whole run: a refused key, an unreachable service, a lost ledger.
        """
        while True:
            if entry.state in outcomes.STATUS:
                return outcomes.recorded(opened.job, entry)
            if entry.state is JobState.ACCEPTED:
                opened.task_id, opened.submitted_at = entry.task_id, entry.submitted_at
                with self._under_way():
                    return replace(await self._collect(opened), reused=True)  # not this run's submission
            if entry.state is JobState.PLANNED:
                outcome = await self._submit(opened, entry)
                if outcome is not None:
                    return outcome
            entry = await self._others.settled(opened.job)

    async def refresh(self, opened: Open, entry: Entry) -> Outcome:
        """Ask again for a result that is on record, since its URLs may have expired. Free.

        A result that the service no longer has is ``expired``: what it cost stays on record, and it is not
        paid for again. Where the service cannot be asked, the record is handed out as it is.

        :raises AuthenticationError: the key is refused.
        """
        old = outcomes.recorded(opened.job, entry)
        assert entry.task_id is not None, "only a task has URLs"
        opened.task_id, opened.submitted_at = entry.task_id, entry.submitted_at
        try:
            with self._under_way():
                task = await self._watch(opened, entry.task_id)
        except AuthenticationError:
            raise
        except NotFoundError as error:
            gone, kind = str(error), type(error).__name__
        except AioError as error:
            log.warning("Task %s: URLs not refreshed: %s", entry.task_id, error)
            return old
        else:
            if task.status.value == "succeeded":
                fresh = Finished(opened.job.key, JobState.SUCCEEDED, urls=task.urls, task_id=entry.task_id)
                await self._ledger.finish(fresh)
                return replace(old, urls=task.urls or old.urls)
            gone, kind = task.error or "The service now says that the task failed.", "TaskFailedError"
        await self._ledger.finish(
            Finished(opened.job.key, JobState.EXPIRED, error=gone, error_type=kind, task_id=entry.task_id)
        )
        return replace(old, status=OutcomeStatus.EXPIRED, error=gone, error_type=kind)

    async def landed(self, opened: Open, submission: Submission) -> Outcome | None:
        """Take in an answer that came when the run was being stopped; ``None``: accepted, to be collected."""
        if submission.fate is Fate.ACCEPTED:
            self._attach(opened, submission)
            return None
        if submission.fate in (Fate.ANSWERED, Fate.REFUSED, Fate.UNKNOWN):
            return await self._after(opened, submission)
        return None

    def over(self) -> Iterator[str]:
        """What to warn of: jobs left out for ``max_credits`` or for a budget of the ledger."""
        if self._over_limit:
            yield (
                f"{_jobs_were(self._over_limit)} not submitted, which would have gone past "
                f"max_credits={in_digits(self._limit.limit)}."
            )
        if self._over_budget:
            yield f"{_jobs_were(self._over_budget)} not submitted. {self._budget_error}"

    def short_of(self, error: InsufficientCreditsError) -> InsufficientCreditsError:
        """The service's refusal, with how many jobs are left and what they need."""
        return InsufficientCreditsError(
            f"{str(error).rstrip('.')}. {_jobs_were(self._unpaid)} not submitted, which need "
            f"about {in_digits(self._unpaid_credits)} credits. Top up and run again: what is done is "
            "not paid for again.",
            status=error.status,
            type=error.type,
        )

    async def aclose(self) -> None:
        """Stop waiting for other processes."""
        await self._others.aclose()

    async def _submit(self, opened: Open, entry: Entry) -> Outcome | None:
        """Submit and collect; ``None`` when another process got there first."""
        job = opened.job
        if self._submitter.stopped is not None:
            return self._left_out(job, self._submitter.stopped)
        amount = await self._limit.reserve(job, entry)
        if amount is None:
            self._over_limit += 1
            return outcomes.over_limit(job, self._limit.limit)
        charged: float | None = 0.0
        try:
            submission = await self._budgets.submit(entry, lambda: self._send(job, entry), self._busy)
            if submission.fate is Fate.TAKEN:
                return None
            if submission.fate in (Fate.STOPPED, Fate.OUT_OF_CREDITS, Fate.OVER_BUDGET):
                return self._left_out(job, submission.error)
            charged = None
            with self._under_way():
                outcome = await self._after(opened, submission)
            # The service bills what succeeded; a failed task is not charged unless it says so.
            charged = outcome.credits
            if charged is None and outcome.status is OutcomeStatus.FAILED:
                charged = 0.0
            return outcome
        finally:
            self._limit.settle(job, amount, charged, entry)

    def _left_out(self, job: Job, error: AioError | None) -> Outcome:
        if isinstance(error, InsufficientCreditsError):
            expected = job.estimate or price(job.request)
            self._unpaid += 1
            self._unpaid_credits += expected.low if expected.likely is None else expected.likely
        if isinstance(error, BudgetExceededError):
            self._over_budget += 1
            self._budget_error = error
        return outcomes.not_submitted(job, error)

    async def _send(self, job: Job, entry: Entry) -> Submission:
        async with self._sending:
            return await self._submitter.submit(job, entry, lambda: self._priority(job))

    def _busy(self) -> bool:
        """Whether jobs of this run hold reservations that may turn into less."""
        return bool(self.in_flight or self._submitter.in_air)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """A job is paid for; when its end is on record, budgets may have room again."""
        self.in_flight += 1
        self._changed()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._budgets.changed()

    async def _after(self, opened: Open, submission: Submission) -> Outcome:
        job, error = opened.job, submission.error
        if error is not None:
            make = outcomes.unknown if submission.fate is Fate.UNKNOWN else outcomes.failed
            return make(job, error)
        self._attach(opened, submission)
        if submission.chat is not None:
            return outcomes.answered(job, submission.chat, opened.submitted_at)
        return await self._collect(opened, submission.task)

    def _attach(self, opened: Open, submission: Submission) -> None:
        opened.submitted_at = datetime.fromtimestamp(submission.submitted_at, UTC)
        opened.task_id = submission.task.id if submission.task is not None else None

    async def _collect(self, opened: Open, task: Task | None = None) -> Outcome:
        """Wait for an accepted task and put its end on record."""
        job, task_id = opened.job, opened.task_id
        assert task_id is not None, "an accepted job has a task id"
        try:
            # An answer to a submission may already hold the result; then there is nothing to poll.
            if task is None or not (task.done and (task.urls or task.error)):
                task = await self._watch(opened, task_id)
        except TaskTimeoutError as error:
            return outcomes.pending(job, task_id, opened.submitted_at, error)
        except NotFoundError as error:
            why = (str(error), type(error).__name__)
            await self._finish(
                Finished(job.key, JobState.EXPIRED, error=why[0], error_type=why[1], task_id=task_id), job
            )
            gone = outcomes.pending(job, task_id, opened.submitted_at, error)
            return replace(gone, status=OutcomeStatus.EXPIRED)
        except AuthenticationError:
            raise
        except AioError as error:
            return outcomes.pending(job, task_id, opened.submitted_at, error)
        outcome = outcomes.ended(job, task, task_id, opened.submitted_at)
        await self._finish(
            Finished(
                job.key,
                JobState.SUCCEEDED if outcome.status is OutcomeStatus.SUCCEEDED else JobState.FAILED,
                urls=outcome.urls,
                credits=outcome.credits,
                error=outcome.error,
                error_type=outcome.error_type,
                task_id=task_id,
            ),
            job,
        )
        return outcome

    async def _watch(self, opened: Open, task_id: str) -> Task:
        request = opened.job.request
        submitted_at = opened.submitted_at.timestamp() if opened.submitted_at is not None else None
        return await self._poller.watch(
            task_id,
            kind=request.kind,
            model=request.model,
            submitted_at=submitted_at,
            # From now, not from the submission: a job of last week gets its look too.
            deadline=self._wall() + self._deadlines.get(request.kind, self._deadlines["custom"]),
        )

    async def _finish(self, finished: Finished, job: Job) -> None:
        await self._ledger.finish(finished)
        self._tell("finished", job)

    def _priority(self, job: Job) -> Priority:
        """Submissions wait for polls that will find results, until it would delay the end of the run.

        Once what is left takes no longer to send than one task takes to run, each submission put off is a
        wait at the very end.
        """
        if self._prefer == "finish":
            return Priority.SUBMIT_FIRST
        left = self._left()
        per_minute = self._budget.per_minute
        if left is None or not per_minute:
            return Priority.SUBMIT
        slow = self._poller.plan.slowest(job.request.kind, job.request.model)
        return Priority.SUBMIT_FIRST if left * 60.0 / per_minute < _END_GAME * slow else Priority.SUBMIT


def _jobs_were(count: int) -> str:
    return "1 job was" if count == 1 else f"{count:,} jobs were"
