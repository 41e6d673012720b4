"""One budget of requests for each key: when the next one may go, and whose it is.

The exact count ("never the 61st in any 60 seconds") is pyrate-limiter's (:mod:`aio_provider.jobs.windows`).
What is ours is the order: requests spaced while work is waiting, a short burst when idle, submissions and
sure polls before speculative ones, turns shared between users, and one gate that a 429 shuts for all.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from aio_provider.jobs.turns import Priority, TurnQueue

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "MemoryRateBudget",
    "PacedBudget",
    "Priority",
    "RateBudget",
    "Turn",
    "UnlimitedBudget",
    "Window",
]

log = logging.getLogger(__name__)


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

    def take(self, now: float, spaced: bool = True) -> tuple[Any | None, float]: ...
    def answered(self, item: Any, now: float) -> None: ...
    def withdraw(self, item: Any) -> None: ...
    def close_for(self, seconds: float, now: float) -> None: ...
    def room(self, now: float) -> int: ...
    def close(self) -> None: ...


#: a 429 without Retry-After: someone else uses the key. Send so many times more slowly, at most so slowly,
#: and so much faster again with each answer.
_SLOW_DOWN, _SLOWEST, _SPEED_UP = 1.5, 12.0, 0.96
#: seconds of lateness that are made good
_LATE = 0.1


class PacedBudget:
    """A budget over any :class:`Window`.

    :param per_minute: requests in any 60 seconds, above 0.
    :param window: the count.
    :param clock: seconds; shared windows need one that all their processes agree on.
    :param burst: how many may go at once after a quiet time; a twelfth of a minute's worth by default.
    :param spaced: whether requests keep a distance; without it, all that the last minute leaves room for go
        at once, as suits a wave of submissions on a worker that is not to be held up.
    """

    def __init__(
        self,
        per_minute: float,
        window: Window,
        *,
        clock: Callable[[], float] = time.monotonic,
        burst: int | None = None,
        spaced: bool = True,
    ) -> None:
        self._per_minute = per_minute
        self._window = window
        self._clock = clock
        self._spaced = spaced
        self._space = 60.0 / per_minute if spaced else 0.0
        self._burst = burst if burst is not None else max(1, round(per_minute / 12))
        self._queue = TurnQueue()
        self._server: asyncio.Task[None] | None = None
        self._nap: asyncio.Future[None] | None = None
        # When the next request is due if requests were evenly spaced (a leaky bucket's virtual time).
        self._due = float("-inf")
        self._slow = 1.0
        self._closed_until = float("-inf")
        self._thread: ThreadPoolExecutor | None = None

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
            if now >= self._closed_until:  # several answers to one rush are one refusal
                self._slow = min(self._slow * _SLOW_DOWN, _SLOWEST)
            seconds = 60.0 / self._per_minute * self._slow * random.uniform(1.0, 2.0)
        self._tell(self._window.close_for, seconds, now)
        self._closed_until = max(self._closed_until, now + seconds)
        self._due = max(self._due, self._closed_until)

    def available(self) -> int:
        try:
            return self._window.room(self._clock())
        except Exception as error:  # noqa: BLE001 - whatever the database's driver raises
            return self._alone(error).room(self._clock())

    def close(self) -> None:
        """Release what the window holds open."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
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
                if turn.exception() is None:
                    self._withdraw(turn.result())
            else:
                self._queue.discard(turn)
            raise

    def _answered(self, turn: tuple[Window, Any]) -> None:
        window, item = turn
        self._tell(window.answered, item, self._clock())
        self._slow = max(1.0, self._slow * _SPEED_UP)
        self._wake()

    def _withdraw(self, turn: tuple[Window, Any]) -> None:
        window, item = turn
        self._tell(window.withdraw, item)
        self._due -= self._space * self._slow
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
                item, wait = await self._take(now)
                if item is None:
                    # After a forced wait there is no burst to make up for it: it would return every minute.
                    self._due = max(self._due, now + wait + slack)
                    await self._sleep(wait)
                    continue
                # A timer that came a little late is made good by the next.
                self._due = max(self._due, now - min(self._space, _LATE)) + self._space * self._slow
                turn = self._queue.pop()
                if turn is None:
                    self._withdraw((self._window, item))
                else:
                    turn.set_result((self._window, item))
        except Exception as error:  # noqa: BLE001 - the window failed: whoever waits must hear of it
            while (turn := self._queue.pop()) is not None:
                turn.set_exception(error)
        finally:
            self._server = None

    async def _take(self, now: float) -> tuple[Any | None, float]:
        if not self._window.blocking:
            return self._window.take(now, self._spaced)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._worker(), self._window.take, now, self._spaced)
        except Exception as error:  # noqa: BLE001 - whatever the database's driver raises
            return self._alone(error).take(now)

    def _alone(self, error: Exception) -> Window:
        """A limit that is not shared may earn a 429, which hurts nobody; no limiter should stop a run."""
        if not self._window.blocking:  # it failed by itself
            raise error
        from aio_provider.jobs.windows import MemoryWindow

        log.warning(
            "The shared rate limit failed; this process goes on by itself: %s: %s",
            type(error).__name__,
            error,
        )
        self._tell(self._window.close)
        self._window = MemoryWindow(self._per_minute)
        return self._window

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        """Tell a window something; nobody waits for it."""
        if getattr(call, "__self__", self._window).blocking:
            self._worker().submit(call, *arguments).add_done_callback(_log_failure)
        else:
            call(*arguments)

    def _worker(self) -> ThreadPoolExecutor:
        # One thread: what is told is told in order.
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor

            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aio-limiter")
        return self._thread

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


def _log_failure(done: Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        # The entry stays as it was: it counts from when the request was sent.
        log.warning("The shared rate limit could not be told: %s: %s", type(error).__name__, error)


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
