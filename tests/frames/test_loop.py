from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from aio_provider.frames.loop import background_loop, run_blocking


def nothing() -> None: ...


async def where() -> tuple[asyncio.AbstractEventLoop, str]:
    return asyncio.get_running_loop(), threading.current_thread().name


def test_out_of_a_loop_and_inside_one_use_the_same_thread() -> None:
    first, name = run_blocking(where(), tick=nothing)

    async def cell() -> tuple[asyncio.AbstractEventLoop, str]:
        return run_blocking(where(), tick=nothing)  # as a notebook cell does, its loop running

    second, _ = asyncio.run(cell())
    assert first is second is background_loop()
    assert name == "aio-provider-loop"


def test_errors_keep_their_type() -> None:
    async def bad() -> None:
        raise ZeroDivisionError("as it was")

    with pytest.raises(ZeroDivisionError, match="as it was"):
        run_blocking(bad(), tick=nothing)


def test_it_ticks_in_the_callers_thread_while_waiting() -> None:
    gate = asyncio.Event()
    names: list[str] = []

    def tick() -> None:
        names.append(threading.current_thread().name)
        if len(names) == 3:
            background_loop().call_soon_threadsafe(gate.set)

    run_blocking(_wait_for(gate), tick=tick, every=0.001)
    assert len(names) >= 3
    assert set(names) == {threading.current_thread().name}


async def _wait_for(gate: asyncio.Event) -> None:
    await gate.wait()


def test_ctrl_c_lets_the_coroutine_wind_down_and_goes_on() -> None:
    wound_down = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            wound_down.append(True)

    def tick() -> None:
        if started.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_blocking(work(), tick=tick, every=0.001)
    assert wound_down == [True]


def test_waiting_for_itself_is_refused() -> None:
    async def outer() -> None:
        run_blocking(where(), tick=nothing)

    with pytest.raises(RuntimeError, match="agenerate"):
        run_blocking(outer(), tick=nothing)


def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    run_blocking(where(), tick=nothing)
    child = os.fork()
    if child == 0:
        # only a loop that runs can answer; the parent's thread is not here
        run_blocking(where(), tick=nothing)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
