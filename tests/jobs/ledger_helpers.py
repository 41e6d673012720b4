"""Jobs, a clock that is set by hand, and ledgers on every database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import Finished, JobState, Ledger


class HandClock:
    """A clock that only moves when told to, also backwards."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def request(prompt: str = "a lamp") -> GenerationRequest:
    return GenerationRequest("image", "/images/generations", "flux-2", {"prompt": prompt})


def job(key: str, prompt: str = "a lamp", labels: Mapping[str, str] | None = None) -> Job:
    return Job(key, request(prompt), dict(labels or {}))


def state(ledger: Ledger, key: str) -> JobState:
    return ledger.get([key])[key].state


def succeeded(key: str, task_id: str | None, credits: float = 5.0) -> Finished:
    return Finished(key, JobState.SUCCEEDED, urls=(f"https://x/{key}.png",), credits=credits, task_id=task_id)


def bring_to(ledger: Ledger, key: str, wanted: JobState, owner: str = "me", prompt: str = "a lamp") -> None:
    """Take a new job to a state along the usual way."""
    ledger.plan([job(key, prompt)], owner=owner)
    if wanted is JobState.PLANNED:
        return
    assert ledger.intend([key], owner=owner) == {key}
    if wanted is JobState.INTENDED:
        return
    if wanted is JobState.UNKNOWN:
        ledger.hold([(key, "no answer")], owner=owner)
        return
    ledger.accept([(key, f"task-{key}")], owner=owner)
    if wanted is not JobState.ACCEPTED:
        ledger.finish([Finished(key, wanted, task_id=f"task-{key}", credits=5.0)], owner=owner)
