"""What a job's record is: its states, the steps allowed between them, and one row as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple


class JobState(StrEnum):
    """Where a job stands. A job is only ever submitted from ``planned``, through ``intended``."""

    #: known, nothing sent
    PLANNED = "planned"
    #: written down before the POST: from here on it may have been charged
    INTENDED = "intended"
    #: the service took it and gave a task id; poll it, never submit it again
    ACCEPTED = "accepted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: the service no longer knows the task, or its result is gone
    EXPIRED = "expired"
    #: it may or may not have been submitted; held until someone settles it
    UNKNOWN = "unknown"


#: Nothing more will happen to these by themselves.
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.EXPIRED})
#: Money may be in the air (``planned`` is neither: nothing has been sent).
OPEN = frozenset({JobState.INTENDED, JobState.ACCEPTED, JobState.UNKNOWN})

#: The steps one attempt may take. A new attempt (``failed`` again under ``retry_failed``, ``unknown`` under
#: ``on_unknown="resubmit"``, an ended job whose request changed) starts at ``planned`` and leaves the old
#: attempt in ``past_attempts``.
STEPS: Mapping[JobState, frozenset[JobState]] = {
    JobState.PLANNED: frozenset({JobState.INTENDED}),
    # straight to an end: chat answers at once, a refused request (400, 422) fails at once
    JobState.INTENDED: frozenset(
        {JobState.PLANNED, JobState.ACCEPTED, JobState.SUCCEEDED, JobState.FAILED, JobState.UNKNOWN}
    ),
    JobState.ACCEPTED: ENDED,
    # a result that can no longer be fetched
    JobState.SUCCEEDED: frozenset({JobState.EXPIRED}),
    JobState.FAILED: frozenset(),
    # the service found the task again
    JobState.EXPIRED: frozenset({JobState.SUCCEEDED, JobState.FAILED}),
    # settled by hand, or by the late answer of an owner whose lease had lapsed
    JobState.UNKNOWN: frozenset({JobState.PLANNED, JobState.ACCEPTED, JobState.SUCCEEDED, JobState.FAILED}),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One job's record, as it stood when it was read.

    Times are aware UTC datetimes by the database's clock; credits and estimates are the service's credits.
    ``labels`` say who asked (Airflow's ``dag_id``, ``run_id``, ``task_id``, …); ``task_id`` is the service's.
    ``price_key`` names the settings its price depends on; ``reserved`` is what budgets set aside for it.
    """

    key: str
    fingerprint: str
    state: JobState
    attempt: int = 1
    scope: str = ""
    kind: str = ""
    endpoint: str = ""
    model: str | None = None
    task_id: str | None = None
    urls: tuple[str, ...] = ()
    text: str | None = None
    credits: float | None = None
    estimate_low: float | None = None
    estimate_likely: float | None = None
    estimate_high: float | None = None
    estimate_source: str | None = None
    price_key: str | None = None
    reserved: float | None = None
    error: str | None = None
    error_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    lease_until: datetime | None = None
    planned_at: datetime | None = None
    intended_at: datetime | None = None
    accepted_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime | None = None
    request: Mapping[str, Any] | None = None
    #: for a past attempt: when and why it ceased to be the present one
    superseded_at: datetime | None = None
    superseded_for: str | None = None

    @property
    def at_stake(self) -> float | None:
        """The most that it may have cost, in credits, while its charge is not known, as budgets reckon it."""
        reckoned = (self.reserved, self.estimate_high, self.estimate_likely)
        return next((credits for credits in reckoned if credits is not None), None)

    @property
    def submitted_at(self) -> datetime | None:
        """When the service took it; for a chat, which has no task, when it was about to be sent."""
        return self.accepted_at or self.intended_at


class Ending(NamedTuple):
    """What an outcome needs of the record of an ended job, and no more; fields as in :class:`Entry`."""

    key: str
    fingerprint: str
    state: JobState
    task_id: str | None
    urls: tuple[str, ...]
    text: str | None
    credits: float | None
    error: str | None
    error_type: str | None
    model: str | None
    submitted_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Finished:
    """How a job ended.

    :param key: the job.
    :param state: ``succeeded``, ``failed`` or ``expired``.
    :param task_id: the service's task this is about. Give it whenever there is one: it keeps a late answer
        about an old attempt from being taken for the present one.
    :param credits: what the service says it charged; ``None`` leaves what is on record.
    """

    key: str
    state: JobState
    urls: tuple[str, ...] = ()
    text: str | None = None
    credits: float | None = None
    error: str | None = None
    error_type: str | None = None
    task_id: str | None = None
