"""What counts as one request too many, and the exact count of one process: pyrate-limiter's sliding window.

Imported only when a limit is in force: the library takes some milliseconds to load.
"""

from __future__ import annotations

from bisect import insort
from math import ceil
from operator import attrgetter

from pyrate_limiter import InMemoryBucket, Rate, RateItem

_MINUTE_MS = 60_000
#: a time no clock reaches: a request that has no answer yet is in every window
_IN_FLIGHT = 1 << 62
_timestamp = attrgetter("timestamp")


def minute_rate(per_minute: float) -> Rate:
    """The library's form of "so many in any 60 seconds"; below 1 a minute the window is longer instead."""
    if per_minute >= 1:
        return Rate(int(per_minute), _MINUTE_MS)
    return Rate(1, ceil(_MINUTE_MS / per_minute))


def spacing_rate(per_minute: float) -> Rate:
    """So many requests at once at most, and in the long run hardly faster than the limit.

    Half a second's worth, and five at least: where processes meet, each takes a moment to notice its turn,
    which the tenth that this allows above the limit makes good. The limit itself is the other count.
    """
    together = max(5, int(per_minute / 120))
    return Rate(together, max(1, int(0.9 * together * _MINUTE_MS / per_minute)))


class _AnsweredBucket(InMemoryBucket):
    """The library's sliding log, but an entry's minute begins when its answer arrives.

    The service counts a request somewhere between our sending it and our reading the answer, so counting
    from the answer is what never lets the service see one too many.
    """

    def hold(self, item: RateItem) -> None:
        """Keep the entry just put in every window until it is dated."""
        item.timestamp = _IN_FLIGHT  # it is the newest entry, and stays last: the order holds

    def date(self, item: RateItem, now_ms: int | None) -> None:
        """Set the entry's time, or take it out (``None``) when nothing was sent."""
        with self._lock:
            for index in range(len(self.items) - 1, -1, -1):
                if self.items[index] is item:
                    del self.items[index]
                    break
            if now_ms is not None:
                item.timestamp = now_ms
                insort(self.items, item, key=_timestamp)


class MemoryWindow:
    """The log of one process.

    :param per_minute: requests admitted in any 60 seconds, above 0.
    """

    #: its calls return at once
    blocking = False

    def __init__(self, per_minute: float) -> None:
        self._rate = minute_rate(per_minute)
        self._bucket = _AnsweredBucket([self._rate])
        self._closed_until = 0.0

    def take(self, now: float, spaced: bool = True) -> tuple[RateItem | None, float]:
        """Enter one request.

        :param now: seconds on the caller's clock.
        :param spaced: no difference here: in one process the budget alone keeps the distance.
        :returns: the entry and 0.0; or ``None`` and the seconds after which to ask again.
        """
        if now < self._closed_until:
            return None, self._closed_until - now
        item = RateItem("request", int(now * 1000))
        if self._bucket.count() > 2 * self._rate.limit:
            self._bucket.leak(item.timestamp)
        decision = self._bucket.put_decision(item)
        if decision.allowed:  # type: ignore[union-attr]  # never awaitable in memory
            self._bucket.hold(item)
            return item, 0.0
        wait = decision.retry_after_ms  # type: ignore[union-attr]
        # The entry in the way may itself have no answer yet; then an answer wakes the caller before this.
        return None, min(self._rate.interval, wait or 1) / 1000

    def answered(self, item: RateItem, now: float) -> None:
        """The answer is here: the entry's minute begins."""
        self._bucket.date(item, ceil(now * 1000))

    def withdraw(self, item: RateItem) -> None:
        """Nothing was sent after all."""
        self._bucket.date(item, None)

    def close_for(self, seconds: float, now: float) -> None:
        """Admit nothing for a while."""
        self._closed_until = max(self._closed_until, now + seconds)

    def room(self, now: float) -> int:
        """How many requests would be admitted now."""
        if now < self._closed_until:
            return 0
        self._bucket.leak(int(now * 1000))
        return max(0, self._rate.limit - self._bucket.count())

    def close(self) -> None:
        """Nothing to release."""
