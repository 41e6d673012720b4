"""The budget that the users of a key share: counted where ``limiter_url`` says, one object an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.pacing import PacedBudget, RateBudget, UnlimitedBudget, Window

log = logging.getLogger(__name__)

_Place = tuple[Any, ...]
_budgets: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Place, _SharedBudget]] = WeakKeyDictionary()
_opening: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Place, asyncio.Task[None]]] = WeakKeyDictionary()
#: of ``memory://``, for all event loops of this process
_windows: dict[tuple[str, float], Window] = {}
_windows_lock = threading.Lock()


def rate_budget(
    per_minute: float, limiter_url: str | None = None, key_id: str = "", *, spaced: bool = True
) -> RateBudget:
    """The budget of one key; in one event loop the same for everyone who asks. Close it when done.

    :param per_minute: requests in any 60 seconds; 0: no limit.
    :param limiter_url: who shares the count: ``None``: all processes of this user on this machine, by a
        file; ``redis://…`` or ``postgresql://…``: several machines; ``file://PATH``; ``memory://``: only this
        process.
    :param key_id: which key, see :func:`aio_provider.jobs.settings.key_id`.
    :param spaced: ``False`` for a wave, see :class:`~aio_provider.jobs.pacing.PacedBudget`. It counts in the
        same window.
    :raises ConfigurationError: a ``limiter_url`` that is not understood or cannot be used.
    """
    if not per_minute:
        return UnlimitedBudget()
    try:
        budgets = _budgets.setdefault(asyncio.get_running_loop(), {})
    except RuntimeError:  # no loop is running: nobody to share with
        return PacedBudget(per_minute, _window(per_minute, limiter_url, key_id), spaced=spaced)
    place = (key_id, per_minute, limiter_url, spaced)
    if place not in budgets:
        _share(budgets, place, _window(per_minute, limiter_url, key_id))
    budgets[place].users += 1
    return budgets[place]


@asynccontextmanager
async def open_rate_budget(
    per_minute: float, limiter_url: str | None, key_id: str
) -> AsyncIterator[RateBudget]:
    """:func:`rate_budget` where others use the event loop too: a database is opened and closed in a thread.

    :raises ConfigurationError: as there; all who wait for the same budget are told.
    """
    if not per_minute:
        yield UnlimitedBudget()
        return
    loop, place = asyncio.get_running_loop(), (key_id, per_minute, limiter_url, True)
    budgets, opening = _budgets.setdefault(loop, {}), _opening.setdefault(loop, {})

    async def make() -> None:
        try:
            window = await asyncio.to_thread(_window, per_minute, limiter_url, key_id)
        finally:
            del opening[place]
        if place not in budgets:
            _share(budgets, place, window)
        else:  # somebody did not wait
            await asyncio.to_thread(window.close)

    while place not in budgets:
        if place not in opening:
            opening[place] = asyncio.create_task(make())
        await asyncio.shield(opening[place])
    budget = budgets[place]
    budget.users += 1
    try:
        yield budget
    finally:
        if budget.leave():
            await asyncio.to_thread(budget.release)


def _share(budgets: dict[_Place, _SharedBudget], place: _Place, window: Window) -> None:
    _, per_minute, _, spaced = place
    budgets[place] = _SharedBudget(per_minute, window, spaced, lambda: budgets.pop(place, None))


class _SharedBudget(PacedBudget):
    """A budget of several users: the last of them closes it."""

    def __init__(self, per_minute: float, window: Window, spaced: bool, let_go: Callable[[], object]) -> None:
        super().__init__(per_minute, window, spaced=spaced)
        self.users = 0
        self._let_go = let_go

    def close(self) -> None:
        if self.leave():
            self.release()

    def leave(self) -> bool:
        """One user less; whether it was the last, who is to release it."""
        self.users -= 1
        if not self.users:
            self._let_go()
        return not self.users

    def release(self) -> None:
        """Release what the window holds open."""
        super().close()


def _window(per_minute: float, limiter_url: str | None, key_id: str) -> Window:
    if limiter_url is not None and limiter_url.startswith("memory:"):
        from aio_provider.jobs.windows import MemoryWindow

        with _windows_lock:
            return _windows.setdefault((key_id, per_minute), MemoryWindow(per_minute))
    from aio_provider.jobs.shared_windows import shared_window

    try:
        return shared_window(limiter_url, key_id, per_minute)
    except (ConfigurationError, OSError) as error:
        if limiter_url is not None:
            raise
        log.warning("The rate limit is not shared with other processes: %s", error)
        return _window(per_minute, "memory:", key_id)
