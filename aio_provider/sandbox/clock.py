"""The sandbox's clock: the machine's, or one that a test drives by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Where the sandbox reads the time, and how it waits."""

    def time(self) -> float:
        """Seconds since the epoch; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait, in the server's event loop (chat answers and slow answers)."""


class SystemClock:
    """The machine's time, kept from going back when the wall clock is set."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def time(self) -> float:
        return time.monotonic() + self._offset

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until :meth:`advance` is called; waiting takes no time at all.

    :param start: seconds since the epoch.
    """

    def __init__(self, start: float = 1_767_225_600.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time forward.

        :param seconds: how far; raises ``ValueError`` when negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds: a clock only goes forward, got {seconds}")
        with self._lock:
            self._now += seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
