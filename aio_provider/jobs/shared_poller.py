"""One poller a key for everyone in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from aio_provider.jobs.poller import Poller


@dataclass(slots=True)
class _Shared:
    poller: Poller
    users: int = 0


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Shared]] = WeakKeyDictionary()


@asynccontextmanager
async def shared_poller(key: Hashable, factory: Callable[[], Poller]) -> AsyncIterator[Poller]:
    """The poller that everyone in this event loop uses for one key of the service.

    A thousand deferred tasks in one triggerer are thus one polling loop, one client and one budget. The last
    to leave closes the poller, and its client where that has an ``aclose``.

    :param key: which one; see :func:`aio_provider.jobs.settings.key_id`.
    :param factory: makes it, when there is none yet.
    """
    pollers = _shared.setdefault(asyncio.get_running_loop(), {})
    shared = pollers.get(key)
    if shared is None:
        shared = pollers[key] = _Shared(factory())
    shared.users += 1
    try:
        yield shared.poller
    finally:
        shared.users -= 1
        if not shared.users:
            del pollers[key]
            await shared.poller.aclose()
            close = getattr(shared.poller.client, "aclose", None)
            if close is not None:
                await close()
