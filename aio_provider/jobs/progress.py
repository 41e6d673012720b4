"""How far a run is, and how long it will take yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aio_provider.jobs.job import Outcome, OutcomeStatus

#: seconds and results from which on the speed is believed
_ETA_AFTER = (1.0, 5)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    ``total`` and ``eta_seconds`` are ``None`` while they cannot be told; ``credits`` is what this run was
    charged so far, as the service says.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    reused: int = 0
    credits: float = 0.0
    eta_seconds: float | None = None


class Meter:
    """Counts what a run hands out, and foresees its end.

    :param total: how many jobs there are; ``None`` while that is not known.
    :param per_minute: requests in any 60 seconds; 0: no limit.
    :param clock: seconds, never going back.
    """

    def __init__(
        self, total: Callable[[], int | None], per_minute: float, clock: Callable[[], float]
    ) -> None:
        self._total = total
        self._per_minute = per_minute
        self._clock = clock
        self._done = 0
        self._failed = 0
        self._reused = 0
        self._credits = 0.0
        #: when the first own result had come, and how many had by then
        self._first: tuple[float, int] | None = None

    def count(self, outcome: Outcome, jobs: int) -> None:
        """An outcome was handed out, once for each of so many jobs with its key."""
        self._done += jobs
        if outcome.status in (OutcomeStatus.FAILED, OutcomeStatus.EXPIRED):
            self._failed += jobs
        self._reused += jobs if outcome.reused else jobs - 1
        if not outcome.reused:
            self._credits += outcome.credits or 0.0

    def left(self) -> int | None:
        """How many jobs have no outcome yet; ``None`` while that is not known."""
        total = self._total()
        return None if total is None else max(total - self._done, 0)

    def progress(self, in_flight: int) -> Progress:
        """How far the run is now.

        :param in_flight: accepted tasks whose end is not on record yet.
        """
        return Progress(
            self._total(),
            self._done,
            self._failed,
            in_flight,
            self._reused,
            self._credits,
            self._eta(in_flight),
        )

    def _eta(self, in_flight: int) -> float | None:
        """Seconds left: by the requests still to send where there is a limit, else by the speed since the
        first results. ``None`` until that means something: all may be on record, or the first have just come.
        """
        left = self.left()
        if not left:
            return None if left is None else 0.0
        own = self._done - self._reused
        if self._per_minute:
            requests = 2 * left - in_flight
            return requests * 60.0 / self._per_minute if own or in_flight else None
        if not own:
            return None
        now = self._clock()
        if self._first is None:
            self._first = now, own
        since, before = self._first
        if now - since < _ETA_AFTER[0] or own - before < _ETA_AFTER[1]:
            return None
        return left * (now - since) / (own - before)
