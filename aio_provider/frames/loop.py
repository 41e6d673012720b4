"""Runs a coroutine for a caller that is not one: a script, or a notebook cell whose own loop is running.

One loop in one background thread a process serves every such call, so nothing has to be patched into the
notebook's loop, and Ctrl-C reaches the caller's thread while the engine winds down in its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: seconds that a call may take to wind down after Ctrl-C
WIND_DOWN = 30.0
_THREAD = "aio-provider-loop"

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pid: int | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background loop: started on first use, and anew after a fork (no thread survives one)."""
    global _loop, _pid
    with _lock:
        if _loop is None or _pid != os.getpid() or _loop.is_closed():
            _loop, _pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name=_THREAD, daemon=True).start()
        return _loop


def run_blocking(coroutine: Coroutine[Any, Any, T], *, tick: Callable[[], None], every: float = 0.2) -> T:
    """Run a coroutine on the background loop and wait for it in this thread.

    On Ctrl-C the coroutine is cancelled and given time to wind down; then the ``KeyboardInterrupt`` goes on.
    A second Ctrl-C does not wait.

    :param tick: called in this thread every ``every`` seconds while waiting. Progress is drawn here because a
        notebook shows what a background thread prints under the wrong cell.
    :raises RuntimeError: called from the background loop itself, which would wait for ever.
    """
    if threading.current_thread().name == _THREAD:
        coroutine.close()
        raise RuntimeError("This would wait for itself; inside a coroutine use `await aio.agenerate(...)`.")
    loop = background_loop()
    ended = threading.Event()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(coroutine)
        task.add_done_callback(lambda _: ended.set())
        tasks.append(task)

    loop.call_soon_threadsafe(start)
    try:
        while not ended.wait(every):
            tick()
    except BaseException:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        ended.wait(WIND_DOWN)
        if ended.is_set() and not tasks[0].cancelled():
            tasks[0].exception()  # looked at, so that asyncio does not report it as never retrieved
        raise
    tick()
    return tasks[0].result()
