"""What one wave of a batch hands to the next: what is in flight, what has come of it, how many may follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aio_provider.jobs.ledger import JobState

#: seconds in which the limit counts requests
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Flight:
    """A task that the service is working on.

    :param submitted_at: seconds since the epoch.
    :param reserved: credits set aside for it under ``max_credits``.
    :param reused: another run submitted it, and paid.
    """

    key: str
    task_id: str
    kind: str
    model: str | None
    submitted_at: float
    reserved: float = 0.0
    reused: bool = False


@dataclass(slots=True)
class Tally:
    """What has come of a batch in this attempt. ``credits`` is what was charged in it, ``saved`` before it.

    :param refused: of the failed ones, those that the service did not take.
    :param no_model: not sent, since the service has no such model.
    """

    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    over_limit: int = 0
    refused: int = 0
    no_model: int = 0
    reused: int = 0
    credits: float = 0.0
    saved: float = 0.0

    @property
    def done(self) -> int:
        """Jobs that have ended. Held ones have not: somebody has to look."""
        return self.succeeded + self.failed

    @property
    def left_out(self) -> int:
        """Jobs that are not submitted: ``max_credits`` has no room, or the service has no such model."""
        return self.over_limit + self.no_model

    def count(self, state: JobState, credits: float | None, *, reused: bool = False) -> None:
        """One more job has ended, or is held."""
        if state is JobState.SUCCEEDED:
            self.succeeded += 1
        elif state is JobState.UNKNOWN:
            self.unknown += 1
        else:
            self.failed += 1
        if reused:
            self.reused += 1
            self.saved += credits or 0.0
        else:
            self.credits += credits or 0.0


def wave_size(
    per_minute: float, room: int, in_flight: Iterable[Flight], latency: float, now: float, most: int
) -> int:
    """How many submissions to send now, so that neither they nor the polls they cause starve the other.

    Each task costs a submission and a poll. Of the next minute's requests, those are kept back that go to
    tasks which will be done by then, half of them at most.

    :param room: requests that may go at once, now.
    :param latency: seconds that a task is likely to take; infinite where nothing is polled.
    :param most: tasks in flight at once.
    """
    flights = list(in_flight)
    free = max(most - len(flights), 0)
    if not per_minute:
        return free
    soon = sum(1 for flight in flights if flight.submitted_at + latency <= now + MINUTE)
    share = per_minute - min(soon, per_minute / 2)
    if latency <= MINUTE:  # a wave's own polls fall into the same minute
        share = min(share, per_minute / 2)
    return min(max(int(share), 1), room, free)
