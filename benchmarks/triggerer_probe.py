"""Runs ``airflow triggerer`` and measures its event loop from inside, for ``benchmarks/triggerer.py``.

    python benchmarks/triggerer_probe.py FOLDER [arguments of airflow triggerer]

What is counted is processor time of the loop's thread, which other work on the machine does not lengthen:

step      what the loop runs in one piece, from one ``await`` to the next
turn      all steps between two looks at the sockets: so long nobody else is served
ours      the part of a step that is spent below a trigger of ours, or in tasks and connections of the poller

A collection of the garbage collector falls on whoever allocates just then; it is counted apart, and is no
part of a step. ``FOLDER/phase`` names what the figures belong to, ``FOLDER/probe.json`` has them.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import selectors
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: seconds between two looks at what a long step is doing; and from when on a step is long
_LOOK_EVERY, _LONG = 0.005, 0.010
#: packages that nobody else in a triggerer's event loop uses here
_OURS = ("aio_provider", "aiohttp", "httpx", "httpcore", "httpx_aiohttp", "h11", "anyio.streams")
_KEPT = 5

Callback = Callable[..., Any]


class Figures:
    """What is known of one phase; seconds of the loop thread's processor time."""

    def __init__(self) -> None:
        self.steps = self.turns = self.collections = 0
        self.ours = self.others = self.collecting = 0.0
        self.worst: dict[str, list[tuple[float, float, str]]] = {
            name: [] for name in ("ours", "others", "turn", "turn_ours", "collection")
        }

    def note(self, name: str, cpu: float, wall: float, what: Callable[[], str]) -> None:
        """Keep it if it is among the longest."""
        worst = self.worst[name]
        if len(worst) < _KEPT or cpu > worst[-1][0]:
            worst.append((cpu, wall, what()))
            worst.sort(reverse=True)
            del worst[_KEPT:]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(vars(self))


class Probe:
    """Measures the event loop of the thread it is made in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = threading.get_ident()
        self._phase = "start"
        self._figures: dict[str, Figures] = {}
        self.now = self._of("start")
        self._ours: dict[Any, bool] = {}
        self._seen: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._step_began: float | None = None
        # of the present step: time below our triggers, collections in all and below our triggers
        self._below = self._gc = self._gc_below = 0.0
        self._depth = 0
        # of the present turn
        self._turn = self._turn_wall = self._turn_ours = 0.0
        self._collection_began = (0.0, 0.0)

    def start(self) -> None:
        """From now on."""
        self._wrap_steps()
        self._wrap_turns()
        self._wrap_triggers()
        gc.callbacks.append(self._collected)
        threading.Thread(target=self._look, daemon=True, name="probe").start()

    # -- in the loop's thread

    def _wrap_steps(self) -> None:
        run, probe = asyncio.Handle._run, self

        def timed(handle: asyncio.Handle) -> None:
            if threading.get_ident() != probe._thread:
                return run(handle)
            callback, probe._loop = handle._callback, handle._loop  # type: ignore[attr-defined]
            ours = probe._is_ours(callback)
            who = functools.partial(probe._who, callback)
            probe._below = probe._gc = probe._gc_below = 0.0
            wall, cpu = time.perf_counter(), time.thread_time()
            probe._step_began = wall
            try:
                return run(handle)
            finally:
                cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
                probe._step_began = None
                probe._stepped(ours, cpu, wall, who)

        asyncio.Handle._run = timed  # type: ignore[method-assign]

    def _stepped(self, ours: bool, cpu: float, wall: float, who: Callable[[], str]) -> None:
        figures = self.now
        net = cpu - self._gc
        mine = net if ours else self._below - self._gc_below
        figures.steps += 1
        figures.ours += mine
        figures.others += net - mine
        self._turn += net
        self._turn_wall += wall
        self._turn_ours += mine
        if mine > 0.001:
            figures.note("ours", mine, wall, who)
        if net - mine > 0.001:
            figures.note("others", net - mine, wall, who)
        if self._seen:
            self._seen = Counter()

    def _wrap_turns(self) -> None:
        select, probe = selectors.EpollSelector.select, self

        def timed(selector: Any, timeout: float | None = None) -> Any:
            if threading.get_ident() == probe._thread:
                probe._turned()
            return select(selector, timeout)

        selectors.EpollSelector.select = timed  # type: ignore[method-assign]

    def _turned(self) -> None:
        turn, wall, mine = self._turn, self._turn_wall, self._turn_ours
        self._turn = self._turn_wall = self._turn_ours = 0.0
        self.now.turns += 1
        if turn > 0.001:
            self.now.note("turn", turn, wall, lambda: f"ours: {mine * 1e3:.1f} ms")
        if mine > 0.001:
            self.now.note("turn_ours", mine, wall, lambda: f"all: {turn * 1e3:.1f} ms")

    def _wrap_triggers(self) -> None:
        from aio_provider.triggers.aio import AioBatchTrigger

        run, make, probe = AioBatchTrigger.run, AioBatchTrigger.__init__, self

        class Timed:
            """The trigger's own generator; time in it is counted."""

            def __init__(self, events: Any) -> None:
                self._events = events

            def __aiter__(self) -> Timed:
                return self

            def __anext__(self) -> Any:
                return step(self._events.__anext__())

        @types.coroutine
        def step(awaitable: Any) -> Any:
            inner = awaitable.__await__()
            resume = functools.partial(inner.send, None)
            while True:
                began = probe._enter()
                try:
                    given = resume()
                except StopIteration as stop:
                    return stop.value
                finally:
                    probe._leave(began)
                try:
                    resume = functools.partial(inner.send, (yield given))
                except BaseException as error:  # noqa: BLE001 - handed in, as it came
                    resume = functools.partial(inner.throw, error)

        def timed_make(trigger: Any, **arguments: Any) -> None:
            began = probe._enter()
            try:
                make(trigger, **arguments)
            finally:
                probe._leave(began)

        AioBatchTrigger.run = lambda trigger: Timed(run(trigger))  # type: ignore[method-assign, assignment, return-value]
        AioBatchTrigger.__init__ = timed_make  # type: ignore[method-assign, assignment]

    def _enter(self) -> float:
        self._depth += 1
        return time.thread_time()

    def _leave(self, began: float) -> None:
        self._depth -= 1
        if not self._depth:
            self._below += time.thread_time() - began

    def _collected(self, moment: str, info: dict[str, int]) -> None:
        if threading.get_ident() != self._thread:
            return
        if moment == "start":
            self._collection_began = time.thread_time(), time.perf_counter()
            return
        cpu = time.thread_time() - self._collection_began[0]
        wall = time.perf_counter() - self._collection_began[1]
        self._gc += cpu
        if self._depth:
            self._gc_below += cpu
        self.now.collections += 1
        self.now.collecting += cpu
        self.now.note("collection", cpu, wall, lambda: f"generation {info['generation']}")

    def _is_ours(self, callback: Any) -> bool:
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            code = getattr(owner.get_coro(), "cr_code", None)
            place = code and code.co_filename
        elif isinstance(owner, asyncio.Transport):
            place = type(owner.get_protocol())
        else:
            place = callback if owner is None else type(owner)
            if owner is None and not isinstance(callback, types.FunctionType):
                place = type(callback)
            elif owner is None:
                place = callback.__code__.co_filename
        found = self._ours.get(place)
        if found is None:
            module = place if isinstance(place, str) else getattr(place, "__module__", "") or ""
            if "/" in module:
                parts = module.split("/")
                found = any(name in parts for name in _OURS)
            else:
                found = module.split(".")[0] in _OURS
            self._ours[place] = found
        return found

    def _who(self, callback: Any) -> str:
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            name = getattr(owner.get_coro(), "__qualname__", "task")
        else:
            name = getattr(callback, "__qualname__", None) or repr(callback)[:80]
        seen = "; ".join(f"{times} × {stack}" for stack, times in self._seen.most_common(3))
        return f"{name} [{seen}]" if seen else str(name)

    # -- in a thread of its own

    def _look(self) -> None:
        told = 0.0
        while True:
            time.sleep(_LOOK_EVERY)
            began = self._step_began
            if began is not None and time.perf_counter() - began > _LONG:
                frame = sys._current_frames().get(self._thread)
                self._seen[_stack(frame)] += 1
            if time.monotonic() - told > 0.25:
                told = time.monotonic()
                self._tell()

    def _tell(self) -> None:
        phase = (self._folder / "phase").read_text()
        if phase and phase != self._phase:
            self._phase, self.now = phase, self._of(phase)
            if "collect" in phase and self._loop is not None:
                self._loop.call_soon_threadsafe(gc.collect)
        from aio_provider.jobs.shared_poller import _shared

        shared = [one for pollers in list(_shared.values()) for one in list(pollers.values())]
        found = {
            "pid": os.getpid(),
            "phase": self._phase,
            "followed": sum(len(one.poller) for one in shared),
            "figures": {name: figures.to_dict() for name, figures in list(self._figures.items())},
        }
        whole = self._folder / "probe.json.new"
        whole.write_text(json.dumps(found))
        whole.rename(self._folder / "probe.json")

    def _of(self, phase: str) -> Figures:
        return self._figures.setdefault(phase, Figures())


def _stack(frame: types.FrameType | None) -> str:
    """The innermost three frames."""
    names = []
    while frame is not None and len(names) < 3:
        place = Path(frame.f_code.co_filename)
        names.append(f"{place.parent.name}/{place.name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(names)


def main() -> None:
    """Airflow's triggerer, measured in the process that it forks to run triggers."""
    from airflow.__main__ import main as airflow
    from airflow.jobs.triggerer_job_runner import TriggerRunner

    folder, run = Path(sys.argv[1]), TriggerRunner.run

    def measured(runner: TriggerRunner) -> None:
        Probe(folder).start()
        run(runner)

    TriggerRunner.run = measured  # type: ignore[method-assign]
    sys.argv = ["airflow", "triggerer", *sys.argv[2:]]
    airflow()


if __name__ == "__main__":
    main()
