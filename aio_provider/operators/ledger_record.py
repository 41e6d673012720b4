"""The record of a task instance's job in a ledger."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from aio_provider.hooks.results import result_of_entry
from aio_provider.jobs.ledger import (
    Finished,
    JobConflictError,
    JobState,
    Ledger,
    LedgerStateError,
    new_owner,
)
from aio_provider.operators.record import (
    IntentLostError,
    JobIdentity,
    OnUnknown,
    RequestChangedError,
    Reuse,
    Started,
    held,
)
from aio_provider.operators.settling import LedgerCommand

if TYPE_CHECKING:
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger import Entry

log = logging.getLogger(__name__)

#: seconds to wait for another process that is just submitting the same job, and between two looks at it
_PATIENCE, _LOOK = 90.0, 1.0


class LedgerRecord:
    """The record in a ledger: one row a job, written before and after the POST.

    :param ledger: closed with the record.
    :param job: the job, while there is a request to submit; ``None`` when a finished one is handed over.
    :param settling: how the ledger is named on the command line, for the message about a held job.
    """

    def __init__(
        self,
        ledger: Ledger,
        identity: JobIdentity,
        job: Job | None = None,
        *,
        on_unknown: OnUnknown = "hold",
        retry_failed: bool = True,
        reuse: Reuse = "run",
        settling: LedgerCommand | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._identity = identity
        self._job = job
        self._on_unknown = on_unknown
        self._retry_failed = retry_failed
        self._reuse = reuse
        self._settling = settling or LedgerCommand(f"the ledger is {ledger.url}")
        self._sleep = sleep
        self._owner = new_owner()
        self._entry: Entry | None = None

    def find(self) -> Started | None:
        """See :meth:`aio_provider.operators.record.Record.find`. Waits while another process submits."""
        for _ in range(int(_PATIENCE / _LOOK)):
            self._entry = entry = self._plan()
            if entry.state is JobState.PLANNED:
                return None
            if entry.state is not JobState.INTENDED:
                return self._started(entry)
            self._sleep(_LOOK)  # its answer, or the end of its lease, decides
        raise AirflowException(
            f"{self._identity} is being submitted by another process since {entry.intended_at}. "
            "Nothing was sent; a retry looks again."
        )

    def intend(self) -> None:
        """See :meth:`aio_provider.operators.record.Record.intend`."""
        assert self._entry is not None, "find() comes first"
        if not self._ledger.intend([self._entry], owner=self._owner):
            raise IntentLostError(str(self._identity))

    def sending(self) -> AbstractContextManager[None]:
        """Renews the lease of the intent."""
        return self._ledger.renewing(self._owner)

    def accept(self, task_id: str, submitted_at: float) -> None:
        """See :meth:`aio_provider.operators.record.Record.accept`."""
        self._ledger.accept([(self._identity.key, task_id)], owner=self._owner)

    def release(self) -> None:
        """See :meth:`aio_provider.operators.record.Record.release`."""
        self._ledger.release([self._identity.key], owner=self._owner)

    def hold(self, error: str) -> AirflowFailException:
        """See :meth:`aio_provider.operators.record.Record.hold`."""
        self._ledger.hold([(self._identity.key, error)], owner=self._owner)
        return self._held(error)

    def finish(self, state: str, result: dict[str, Any]) -> None:
        """See :meth:`aio_provider.operators.record.Record.finish`."""
        try:
            self._ledger.finish([finished(self._identity.key, state, result)])
        except LedgerStateError as error:
            # Somebody has forgotten or settled the job meanwhile. What was paid for is handed over all the
            # same.
            log.warning("%s: its end is not on record (%s).", self._identity, error)

    def budget_events(self) -> list[dict[str, Any]]:
        """See :meth:`aio_provider.operators.record.Record.budget_events`."""
        return events_of(self._ledger, self._identity.key)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _plan(self) -> Entry:
        assert self._job is not None
        try:
            [entry] = self._ledger.plan(
                [self._job],
                retry_failed=self._retry_failed,
                on_unknown=self._on_unknown,
                owner=self._owner,
                scope=self._identity.service,
            )
        except JobConflictError as error:
            open_entry = self._ledger.get([self._identity.key])[self._identity.key]
            if open_entry.state is JobState.ACCEPTED and open_entry.task_id:
                raise RequestChangedError(open_entry.task_id, str(error)) from error
            raise self._held(f"it has changed since, too ({error})") from error
        if self._reuse == "never" and entry.state in (JobState.SUCCEEDED, JobState.EXPIRED):
            self._ledger.forget([entry.key])
            return self._plan()
        return entry

    def _started(self, entry: Entry) -> Started:
        if entry.state is JobState.UNKNOWN:
            raise self._held(entry.error or "its answer was lost")
        if entry.state is JobState.FAILED:
            raise AirflowFailException(
                f"Task {entry.task_id} of {self._identity} failed: {entry.error}. "
                "retry_failed=False: it is not submitted again."
            )
        if entry.state is JobState.EXPIRED:
            raise AirflowFailException(
                f"The service no longer knows task {entry.task_id} of {self._identity}, which was paid for. "
                f"To pay for a new one: {self._settling.line(f'forget {entry.key}')} and clear the task "
                f"({self._settling.where})."
            )
        submitted_at = entry.submitted_at.timestamp() if entry.submitted_at else None
        result = result_of_entry(entry) if entry.state is JobState.SUCCEEDED else None
        return Started(entry.task_id, submitted_at, result)

    def _held(self, reason: str) -> AirflowFailException:
        key = self._identity.key
        return held(
            self._identity,
            reason,
            where=self._settling.where,
            was_taken=self._settling.was_created(key),
            was_not=self._settling.was_not_created(key),
        )


def events_of(ledger: Ledger, key: str) -> list[dict[str, Any]]:
    """The events of budgets that a job counts for, in their present periods."""
    entry = ledger.get([key]).get(key)
    events = [] if entry is None else ledger.budget_events(labels=entry.labels)
    return [event.to_dict() for event in events]


def finished(key: str, state: str, result: dict[str, Any]) -> Finished:
    """An operator's result as the ledger takes it."""
    return Finished(
        key,
        JobState(state),
        urls=tuple(result.get("urls") or ()),
        text=result.get("text"),
        credits=result.get("credits"),
        error=result.get("error"),
        error_type=result.get("error_type"),
        task_id=result.get("task_id"),
    )
