"""A key's count of requests in Redis, for several machines."""

from __future__ import annotations

import random
import uuid
from math import ceil
from typing import Any
from urllib.parse import urlsplit

from pyrate_limiter import Rate, RateItem, RedisBucket

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.windows import minute_rate, spacing_rate

#: how long to wait for the server, seconds
_PATIENCE = 10.0
#: how far ahead of Redis' clock an entry is put
_AHEAD_MS = 1000


class RedisWindow:
    """The count in Redis, by pyrate-limiter's own bucket, on Redis' clock.

    :param url: ``redis://…`` or ``rediss://…``.
    :raises ConfigurationError: no driver, a malformed URL, or no server.
    """

    blocking = True

    def __init__(self, url: str, key_id: str, per_minute: float) -> None:
        self._redis = open_redis(url, _PATIENCE)
        import redis

        self._jitter = 0.2 * 60.0 / per_minute
        self._name = f"aio:limiter:{key_id}"
        turns, self._rate = spacing_rate(per_minute), minute_rate(per_minute)
        # The bucket counts up to the item's own time, and another process may just have dated an answer a
        # moment after it: items are put a little ahead, into a window that is longer by as much.
        minute = Rate(self._rate.limit, self._rate.interval + _AHEAD_MS)
        self._keep = 2 * minute.interval
        try:
            self._turns: RedisBucket = RedisBucket.init([turns], self._redis, f"{self._name}:turns")
            self._minute: RedisBucket = RedisBucket.init([minute], self._redis, f"{self._name}:minute")
        except redis.RedisError as error:
            raise ConfigurationError(
                f"The rate limiter's Redis cannot be used: {str(error).rstrip('.')}."
            ) from error

    def take(self, now: float, spaced: bool = True) -> tuple[tuple[str, int] | None, float]:
        """Enter one request, if there is room; else say when to ask again.

        :param spaced: also keep the distance between requests of all processes.
        """
        closed = self._redis.pttl(f"{self._name}:closed")
        if closed > 0:
            return None, closed / 1000 + self._late()
        at = self._now()
        name = uuid.uuid4().hex
        decision: Any  # never awaitable: the client is not async
        if spaced:
            decision = self._turns.put_decision(RateItem(name, at))
            if not decision.allowed:
                return None, (decision.retry_after_ms or 1) / 1000 + self._late()
        decision = self._minute.put_decision(RateItem(name, at + _AHEAD_MS))
        if not decision.allowed:
            self._take_out(f"{self._name}:turns", name, at)
            return None, (decision.retry_after_ms or 1) / 1000 + self._late()
        for bucket in (self._turns, self._minute):
            bucket.leak(at)
            self._redis.pexpire(bucket.bucket_key, self._keep)
        return (name, at), 0.0

    def answered(self, item: tuple[str, int], now: float) -> None:
        """The answer is here: the entry's minute begins."""
        name, at = item
        for member in self._take_out(f"{self._name}:minute", name, at + _AHEAD_MS):
            self._redis.zadd(f"{self._name}:minute", {member: self._now()})

    def withdraw(self, item: tuple[str, int]) -> None:
        """Nothing was sent after all."""
        name, at = item
        self._take_out(f"{self._name}:turns", name, at)
        self._take_out(f"{self._name}:minute", name, at + _AHEAD_MS)

    def close_for(self, seconds: float, now: float) -> None:
        """Admit nothing of any process for a while."""
        self._redis.set(f"{self._name}:closed", 1, px=max(1, ceil(seconds * 1000)))

    def room(self, now: float) -> int:
        """How many requests would be admitted now, were they not spaced."""
        if self._redis.pttl(f"{self._name}:closed") > 0:
            return 0
        since = self._now() - self._rate.interval
        used = int(self._redis.zcount(f"{self._name}:minute", since, "+inf"))
        return max(0, self._rate.limit - used)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _take_out(self, key: str, name: str, at: int) -> list[Any]:
        mine = [m for m in self._redis.zrangebyscore(key, at, at) if m.startswith(name.encode())]
        if mine:
            self._redis.zrem(key, *mine)
        return mine

    def _now(self) -> int:
        seconds, micro = self._redis.time()
        return int(seconds) * 1000 + int(micro) // 1000

    def _late(self) -> float:
        return random.uniform(0.0, self._jitter)


def open_redis(url: str, seconds: float) -> Any:
    """A client of Redis; it has not connected yet.

    :param seconds: how long to wait for the server.
    :raises ConfigurationError: no driver, or a malformed URL, of which the message says nothing.
    """
    try:
        import redis
    except ImportError as error:
        raise ConfigurationError("redis:// needs its driver: pip install 'aio-provider[redis]'") from error
    malformed = ConfigurationError(
        "limiter_url: malformed URL: give redis://:password@host:6379/0, percent-encoded where it must be"
    )
    try:
        parts = urlsplit(url)
        client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
    except ValueError:
        raise malformed from None  # its message repeats a part of the URL
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # what looks like a host is half a password
        raise malformed
    return client
