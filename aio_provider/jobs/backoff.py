"""How long to wait after polls that told nothing: of one task, or of all while the service is down."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aio_provider.api.errors import AioError

log = logging.getLogger(__name__)

#: pauses double from the first on, up to the longest, in seconds
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
#: a service without the task must say so at least this often before it is believed
_NOT_FOUND_TIMES = 3


@dataclass(slots=True, eq=False)
class _Trouble:
    """What stood in the way of the last polls for a task."""

    failures: int = 0
    missing: int = 0
    missing_since: float | None = None


class Backoff:
    """When to ask again. It is told the time, in seconds on the poller's clock.

    :param not_found_grace: seconds for which a 404 only means that the task is not visible yet, or not for
        the moment.
    """

    def __init__(self, not_found_grace: float) -> None:
        self._grace = not_found_grace
        self._troubles: dict[str, _Trouble] = {}
        #: polls in a row that did not reach the service, one a pause
        self.failures = 0
        #: before this, nobody asks after any task
        self.pause_until = float("-inf")

    def unreachable(self, error: AioError, now: float) -> None:
        """The service is down for all tasks alike: pause for all, not once a task."""
        if now < self.pause_until:
            return  # one of those sent before the pause began
        self.failures += 1
        pause = _pause(self.failures)
        self.pause_until = now + pause
        log.log(
            logging.WARNING if self.failures > 2 else logging.DEBUG,
            "Polling paused for %.1f s: %s: %s",
            pause,
            type(error).__name__,
            error,
        )

    def reached(self) -> None:
        """The service is there."""
        self.failures = 0

    def failed(self, task_id: str, now: float) -> float:
        """A poll had no usable answer; says when to ask after this task again."""
        trouble = self._trouble(task_id)
        trouble.failures += 1
        return now + _pause(trouble.failures)

    def missing(self, task_id: str, submitted_at: float, sent_at: float, now: float) -> float | None:
        """A 404 soon after acceptance means running; one that stays means the task is gone.

        :param sent_at: when the poll was sent.
        :returns: when to ask again; ``None``: it is gone.
        """
        trouble = self._trouble(task_id)
        trouble.missing += 1
        if trouble.missing_since is None:
            trouble.missing_since = sent_at
        young = sent_at - submitted_at < self._grace
        recent = sent_at - trouble.missing_since < self._grace
        if trouble.missing >= _NOT_FOUND_TIMES and not young and not recent:
            return None
        return now + (self._grace / 20 if young else self._grace / 4)

    def forget(self, task_id: str) -> None:
        """The task was found, or nobody follows it any longer."""
        self._troubles.pop(task_id, None)

    def _trouble(self, task_id: str) -> _Trouble:
        return self._troubles.setdefault(task_id, _Trouble())


def _pause(failures: int) -> float:
    return min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 9), _LONGEST_PAUSE)
