"""The budget that the users of a key share: counted where ``limiter_url`` says, one object an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.pacing import PacedBudget, RateBudget, UnlimitedBudget, Window

log = logging.getLogger(__name__)

_budgets: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Any, ...], _SharedBudget]] = (
    WeakKeyDictionary()
)
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
    budget = budgets.get(place)
    if budget is None:
        window = _window(per_minute, limiter_url, key_id)
        budget = _SharedBudget(per_minute, window, spaced, lambda: budgets.pop(place, None))
        budgets[place] = budget
    budget.users += 1
    return budget


class _SharedBudget(PacedBudget):
    """A budget of several users: the last of them closes it."""

    def __init__(self, per_minute: float, window: Window, spaced: bool, let_go: Callable[[], object]) -> None:
        super().__init__(per_minute, window, spaced=spaced)
        self.users = 0
        self._let_go = let_go

    def close(self) -> None:
        self.users -= 1
        if not self.users:
            self._let_go()
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
