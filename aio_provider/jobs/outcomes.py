"""Outcomes, made from what the ledger, the service or an error said."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aio_provider.api.amounts import in_digits
from aio_provider.jobs.job import Job, Outcome, OutcomeStatus
from aio_provider.jobs.ledger import JobState

if TYPE_CHECKING:
    from aio_provider.api.errors import AioError
    from aio_provider.api.tasks import ChatCompletion, Task
    from aio_provider.jobs.ledger import Entry

#: the outcome of a job that the ledger has in one of these states
STATUS = {
    JobState.SUCCEEDED: OutcomeStatus.SUCCEEDED,
    JobState.FAILED: OutcomeStatus.FAILED,
    JobState.EXPIRED: OutcomeStatus.EXPIRED,
    JobState.UNKNOWN: OutcomeStatus.UNKNOWN,
}


def recorded(job: Job, entry: Entry) -> Outcome:
    """The outcome that the ledger already has."""
    return Outcome(
        job,
        STATUS[entry.state],
        task_id=entry.task_id,
        urls=entry.urls,
        text=entry.text,
        credits=entry.credits,
        error=entry.error,
        error_type=entry.error_type,
        model=entry.model,
        submitted_at=entry.submitted_at,
        finished_at=entry.finished_at,
        reused=True,
    )


def failed(job: Job, error: AioError) -> Outcome:
    """Refused as it stands; nothing was charged."""
    return Outcome(
        job,
        OutcomeStatus.FAILED,
        error=str(error),
        error_type=type(error).__name__,
        model=job.request.model,
        finished_at=datetime.now(UTC),
    )


def not_submitted(job: Job, error: AioError | None) -> Outcome:
    """Never sent."""
    return Outcome(
        job, OutcomeStatus.NOT_SUBMITTED, error=str(error), error_type=type(error).__name__ if error else None
    )


def unknown(job: Job, error: AioError) -> Outcome:
    """It may have been charged; held."""
    return Outcome(
        job,
        OutcomeStatus.UNKNOWN,
        error=str(error),
        error_type=type(error).__name__,
        model=job.request.model,
    )


#: how the error of a job begins that ``max_credits`` left out, unlike one that a budget of the ledger did
OVER_LIMIT = "It might have gone past max_credits"


def over_limit(job: Job, limit: float | None) -> Outcome:
    """Not sent: it might have cost more than is left."""
    return Outcome(
        job,
        OutcomeStatus.NOT_SUBMITTED,
        error=f"{OVER_LIMIT}={in_digits(limit)}.",
        error_type="BudgetExceededError",
        model=job.request.model,
    )


def answered(job: Job, chat: ChatCompletion, submitted_at: datetime | None) -> Outcome:
    """A chat, answered at once."""
    return Outcome(
        job,
        OutcomeStatus.SUCCEEDED,
        text=chat.text,
        credits=chat.credits,
        model=chat.model or job.request.model,
        submitted_at=submitted_at,
        finished_at=datetime.now(UTC),
    )


def ended(job: Job, task: Task, task_id: str, submitted_at: datetime | None) -> Outcome:
    """A task that succeeded or failed."""
    good = task.status.value == "succeeded"
    return Outcome(
        job,
        OutcomeStatus.SUCCEEDED if good else OutcomeStatus.FAILED,
        task_id=task_id,
        urls=task.urls,
        credits=task.credits,
        error=None if good else task.error or "The service says that the task failed, and no more.",
        error_type=None if good else "TaskFailedError",
        model=task.model or job.request.model,
        submitted_at=submitted_at,
        finished_at=datetime.now(UTC),
    )


def pending(job: Job, task_id: str | None, submitted_at: datetime | None, error: AioError | None) -> Outcome:
    """Accepted, and not done when the run stopped waiting; the next run picks it up."""
    return Outcome(
        job,
        OutcomeStatus.PENDING,
        task_id=task_id,
        error=str(error) if error else "The run was stopped; the task goes on at the service.",
        error_type=type(error).__name__ if error else None,
        model=job.request.model,
        submitted_at=submitted_at,
    )
