"""One budget of requests for each key: when the next one may go, and whose it is.

The exact count ("never the 61st in any 60 seconds") is pyrate-limiter's (:mod:`aio_provider.jobs.windows`).
What is ours is the order: requests spaced while work is waiting, a short burst when idle, submissions and
sure polls before speculative ones, turns shared between users, and one gate that a 429 shuts for all.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from itertools import count
from types import TracebackType
from typing import Any, Protocol


class Priority(IntEnum):
    """Which of one user's waiting requests goes first; the lowest does."""

    #: a submission, where only the end of the whole batch counts
    SUBMIT_FIRST = 0
    #: a poll that will almost surely find its task done
    SURE_POLL = 1
    SUBMIT = 2
    #: a poll that may find its task done: goes only when nothing else waits
    SPARE_POLL = 3


class Turn(Protocol):
    """The right to send one request, held from before it is sent until its answer has arrived."""

    def withdraw(self) -> None:
        """Give the turn back: nothing was sent."""


class RateBudget(Protocol):
    """What one key may send, shared by everyone who uses the key."""

    @property
    def per_minute(self) -> float:
        """Requests in any 60 seconds; 0: no limit."""

    def request(
        self, priority: Priority = Priority.SUBMIT, user: object = None
    ) -> AbstractAsyncContextManager[Turn]:
        """Wait for a turn and hold it until the answer is here.

        :param priority: its place among the same user's requests.
        :param user: whose request it is; users take turns, so a big batch does not starve a single task.
        """

    def close_for(self, seconds: float | None) -> None:
        """Let nobody send for a while, after a 429.

        :param seconds: what the service asked for; ``None`` when it did not say.
        """

    def available(self) -> int:
        """How many requests could go at once, now."""

    def close(self) -> None:
        """Release what it holds open; it must not be used after."""

    @property
    def submissions_waiting(self) -> int:
        """How many submissions wait for a turn."""


class Window(Protocol):
    """Where the last minute's requests are counted."""

    blocking: bool

    def take(self, now: float) -> tuple[Any | None, float]: ...
    def answered(self, item: Any, now: float) -> None: ...
    def withdraw(self, item: Any) -> None: ...
    def close_for(self, seconds: float, now: float) -> None: ...
    def room(self, now: float) -> int: ...
    def close(self) -> None: ...


#: without a Retry-After: the first wait after a 429, in turns (60/R seconds each)
_FIRST_BACKOFF_TURNS = 2.0


class PacedBudget:
    """A budget over any :class:`Window`.

    :param per_minute: requests in any 60 seconds, above 0.
    :param window: the count.
    :param clock: seconds; shared windows need one that all their processes agree on.
    :param burst: how many may go at once after a quiet time; a twelfth of a minute's worth by default.
    """

    def __init__(
        self,
        per_minute: float,
        window: Window,
        *,
        clock: Callable[[], float] = time.monotonic,
        burst: int | None = None,
    ) -> None:
        self._per_minute = per_minute
        self._window = window
        self._clock = clock
        self._space = 60.0 / per_minute
        self._burst = burst if burst is not None else max(1, round(per_minute / 12))
        self._queue = _Queue()
        self._server: asyncio.Task[None] | None = None
        self._nap: asyncio.Future[None] | None = None
        # When the next request is due if requests were evenly spaced (a leaky bucket's virtual time).
        self._due = float("-inf")
        self._slow = 1.0

    @property
    def per_minute(self) -> float:
        return self._per_minute

    @property
    def submissions_waiting(self) -> int:
        return self._queue.submissions

    def request(
        self, priority: Priority = Priority.SUBMIT, user: object = None
    ) -> AbstractAsyncContextManager[Turn]:
        return _Request(self, priority, user)

    def close_for(self, seconds: float | None) -> None:
        now = self._clock()
        if seconds is None:
            # Someone else uses the key. Spread the tries out, and send more slowly until it goes well again.
            self._slow = min(self._slow * 1.5, 30.0)
            seconds = self._space * self._slow * _FIRST_BACKOFF_TURNS * random.uniform(0.5, 1.0)
        self._window.close_for(seconds, now)
        self._due = max(self._due, now + seconds)

    def available(self) -> int:
        return self._window.room(self._clock())

    def close(self) -> None:
        """Release what the window holds open."""
        self._window.close()

    async def _turn(self, priority: Priority, user: object) -> Any:
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.push(priority, user, turn)
        if self._server is None:
            self._server = asyncio.create_task(self._serve())
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._window.withdraw(turn.result())
            else:
                self._queue.discard(turn)
            raise

    def _answered(self, item: Any) -> None:
        self._window.answered(item, self._clock())
        self._slow = max(1.0, self._slow * 0.98)
        self._wake()

    def _withdraw(self, item: Any) -> None:
        self._window.withdraw(item)
        self._due -= self._space
        self._wake()

    async def _serve(self) -> None:
        """Hand out turns while anyone waits."""
        try:
            while self._queue:
                now = self._clock()
                # A crowd is spaced from the start; a few go at once, up to the burst.
                slack = 0.0 if len(self._queue) > self._burst else self._burst * self._space
                if self._due - now > slack:
                    await self._sleep(self._due - now - slack)
                    continue
                item, wait = self._window.take(now)
                if item is None:
                    # After a forced wait there is no burst to make up for it: it would return every minute.
                    self._due = max(self._due, now + wait + slack)
                    await self._sleep(wait)
                    continue
                self._due = max(self._due, now - self._space) + self._space * self._slow
                turn = self._queue.pop()
                if turn is None:
                    self._withdraw(item)
                else:
                    turn.set_result(item)
        except Exception as error:  # noqa: BLE001 - the window failed: whoever waits must hear of it
            while (turn := self._queue.pop()) is not None:
                turn.set_exception(error)
        finally:
            self._server = None

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._nap = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._nap
        finally:
            timer.cancel()
            self._nap = None

    def _wake(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)


class MemoryRateBudget(PacedBudget):
    """The budget of one process.

    :param per_minute: requests in any 60 seconds; 0: no limit, at next to no cost.
    :param clock: seconds, never going back.
    """

    def __new__(cls, per_minute: float = 60, **kwargs: Any) -> Any:
        return super().__new__(cls) if per_minute else UnlimitedBudget(kwargs.get("clock", time.monotonic))

    def __init__(
        self,
        per_minute: float = 60,
        *,
        clock: Callable[[], float] = time.monotonic,
        burst: int | None = None,
    ) -> None:
        from aio_provider.jobs.windows import MemoryWindow

        super().__init__(per_minute, MemoryWindow(per_minute), clock=clock, burst=burst)


class UnlimitedBudget:
    """No limit of our own; a 429 still shuts the gate for all."""

    per_minute = 0.0
    submissions_waiting = 0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._closed_until = 0.0

    def request(
        self, priority: Priority = Priority.SUBMIT, user: object = None
    ) -> AbstractAsyncContextManager[Turn]:
        return self

    def close_for(self, seconds: float | None) -> None:
        wait = random.uniform(0.5, 1.5) if seconds is None else seconds
        self._closed_until = max(self._closed_until, self._clock() + wait)

    def available(self) -> int:
        return 0 if self._clock() < self._closed_until else 1_000_000

    def withdraw(self) -> None:
        """Nothing is counted, so nothing is given back."""

    def close(self) -> None:
        """Nothing to release."""

    async def __aenter__(self) -> Turn:
        if (wait := self._closed_until - self._clock()) > 0:
            await asyncio.sleep(wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def rate_budget(per_minute: float, limiter_url: str | None = None, key_id: str = "") -> RateBudget:
    """The budget of one key.

    :param per_minute: requests in any 60 seconds; 0: no limit.
    :param limiter_url: who shares it; see :class:`aio_provider.jobs.settings.Settings`.
    :param key_id: which key, see :func:`aio_provider.jobs.settings.key_id`.
    """
    return MemoryRateBudget(per_minute)


class _Request:
    __slots__ = ("_budget", "_item", "_priority", "_user")

    def __init__(self, budget: PacedBudget, priority: Priority, user: object) -> None:
        self._budget = budget
        self._priority = priority
        self._user = user
        self._item: Any = None

    async def __aenter__(self) -> Turn:
        self._item = await self._budget._turn(self._priority, self._user)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._item is not None:
            self._budget._answered(self._item)

    def withdraw(self) -> None:
        item, self._item = self._item, None
        if item is not None:
            self._budget._withdraw(item)


class _Queue:
    """Those who wait: users in turn, each user's own by priority, spare polls after everything else."""

    def __init__(self) -> None:
        self._seq = count()
        self._levels: tuple[_Users, _Users] = (OrderedDict(), OrderedDict())
        self._size = 0
        self.submissions = 0

    def __len__(self) -> int:
        return self._size

    def push(self, priority: Priority, user: object, turn: asyncio.Future[Any]) -> None:
        users = self._levels[priority == Priority.SPARE_POLL]
        heapq.heappush(users.setdefault(user, []), (priority, next(self._seq), turn))
        self._count(priority, +1)

    def pop(self) -> asyncio.Future[Any] | None:
        for users in self._levels:
            while users:
                user, heap = users.popitem(last=False)
                found = self._first(heap)
                if heap:
                    users[user] = heap  # at the end: the others' turn first
                if found is not None:
                    return found
        return None

    def discard(self, turn: asyncio.Future[Any]) -> None:
        for users in self._levels:
            for user, heap in users.items():
                kept = [entry for entry in heap if entry[2] is not turn]
                if len(kept) < len(heap):
                    self._count(next(entry[0] for entry in heap if entry[2] is turn), -1)
                    heapq.heapify(kept)
                    if kept:
                        users[user] = kept
                    else:
                        del users[user]
                    return

    def _first(self, heap: list[tuple[Priority, int, asyncio.Future[Any]]]) -> asyncio.Future[Any] | None:
        while heap:
            priority, _, turn = heapq.heappop(heap)
            self._count(priority, -1)
            if not turn.done():
                return turn
        return None

    def _count(self, priority: Priority, by: int) -> None:
        self._size += by
        if priority in (Priority.SUBMIT, Priority.SUBMIT_FIRST):
            self.submissions += by


_Users = OrderedDict[object, list[tuple[Priority, int, "asyncio.Future[Any]"]]]
