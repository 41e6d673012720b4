"""The polling loop: on simulated time where time matters, against the sandbox where the wire does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import virtual

from aio_provider.api.client import AsyncAioClient
from aio_provider.api.errors import (
    AioError,
    AuthenticationError,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TaskTimeoutError,
    TransportError,
)
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.tasks import Task, TaskStatus
from aio_provider.jobs import polling
from aio_provider.jobs.pacing import MemoryRateBudget, UnlimitedBudget
from aio_provider.jobs.poller import Accepted, Poller
from aio_provider.jobs.polling import PollPlan
from aio_provider.jobs.shared_poller import shared_poller
from aio_provider.sandbox import Sandbox

Answer = Callable[[float], TaskStatus | AioError]


class Service:
    """Says of each task what it is told to, by the time since the start."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[tuple[float, str]] = []
        self.closed = False

    async def get_task(self, task_id: str) -> Task:
        await asyncio.sleep(0.1)
        self.asked.append((virtual.clock(), task_id))
        answer = self.answers[task_id](virtual.clock())
        if isinstance(answer, AioError):
            raise answer
        return Task(task_id, answer)

    async def aclose(self) -> None:
        self.closed = True


def done_at(seconds: float, status: TaskStatus = TaskStatus.SUCCEEDED) -> Answer:
    return lambda now: status if now >= seconds else TaskStatus.RUNNING


def poller_of(service: Service, per_minute: float = 60, **options: Any) -> Poller:
    plan = PollPlan(lambda kind, model: (3.0, 8.0), seed=0)
    budget = MemoryRateBudget(per_minute, clock=virtual.clock)
    return Poller(service, budget, plan, clock=virtual.clock, wall=virtual.clock, **options)


def run(main: Coroutine[Any, Any, None]) -> None:
    virtual.run(main)


def test_tasks_come_as_they_end() -> None:
    service = Service(a=done_at(5), b=done_at(30), c=done_at(4, TaskStatus.FAILED))

    async def main() -> None:
        poller = poller_of(service)
        tasks = await asyncio.gather(*(poller.watch(t, kind="image", submitted_at=0.0) for t in "abc"))
        assert [task.status.value for task in tasks] == ["succeeded", "succeeded", "failed"]
        assert len(poller) == 0
        assert virtual.clock() < 40
        await poller.aclose()

    run(main())


@pytest.mark.parametrize(
    "error",
    [
        TransportError("no answer"),
        ServerError("oops", status=500),
        ProtocolError("not JSON"),
        RateLimitError("slow down", retry_after=3.0),
        RateLimitError("slow down"),
    ],
)
def test_passing_failures_are_waited_out(error: AioError) -> None:
    service = Service(a=lambda now: error if now < 60 else TaskStatus.SUCCEEDED)

    async def main() -> None:
        poller = poller_of(service)
        task = await poller.watch("a", kind="image", submitted_at=0.0)
        assert task.done
        assert virtual.clock() < 150
        assert len(service.asked) < 40, "and not by hammering"
        await poller.aclose()

    run(main())


def test_a_service_that_is_down_is_asked_by_one_not_by_all() -> None:
    tasks = {
        f"t{i}": (lambda now: TransportError("down") if now < 120 else TaskStatus.SUCCEEDED)
        for i in range(50)
    }
    service = Service(**tasks)

    async def main() -> None:
        poller = poller_of(service, per_minute=600)
        await asyncio.gather(*(poller.watch(t, kind="image", submitted_at=0.0) for t in tasks))
        await poller.aclose()

    run(main())
    assert sum(at < 120 for at, _ in service.asked) < 100


def test_a_404_soon_after_acceptance_means_running() -> None:
    service = Service(a=lambda now: NotFoundError("no such task") if now < 20 else TaskStatus.SUCCEEDED)

    async def main() -> None:
        poller = poller_of(service)
        assert (await poller.watch("a", kind="image", submitted_at=0.0)).done
        await poller.aclose()

    run(main())


def test_a_404_that_stays_means_gone() -> None:
    service = Service(a=lambda now: NotFoundError("no such task"), b=done_at(300))

    async def main() -> None:
        poller = poller_of(service)
        other = asyncio.create_task(poller.watch("b", kind="image", submitted_at=0.0))
        with pytest.raises(NotFoundError):
            await poller.watch("a", kind="image", submitted_at=0.0)
        assert 60 < virtual.clock() < 200
        assert (await other).done, "one watcher's error stays its own"
        await poller.aclose()

    run(main())


def test_an_old_task_that_is_gone_is_believed_after_a_minute() -> None:
    service = Service(a=lambda now: NotFoundError("no such task"))

    async def main() -> None:
        poller = poller_of(service)
        await asyncio.sleep(100_000)
        with pytest.raises(NotFoundError):
            await poller.watch("a", kind="image", submitted_at=0.0)
        assert virtual.clock() - 100_000 < 120
        await poller.aclose()

    run(main())


def test_the_deadline() -> None:
    service = Service(a=lambda now: TaskStatus.RUNNING, b=done_at(200))

    async def main() -> None:
        poller = poller_of(service)
        other = asyncio.create_task(poller.watch("b", kind="image", submitted_at=0.0))
        with pytest.raises(TaskTimeoutError) as raised:
            await poller.watch("a", kind="image", submitted_at=0.0, deadline=100.0)
        assert raised.value.task_id == "a"
        assert virtual.clock() == pytest.approx(100.0)
        assert len(poller) == 1
        await other
        assert not [at for at, task in service.asked if task == "a" and at > 100.2]
        await poller.aclose()

    run(main())


def test_a_refused_key_ends_it_for_everyone() -> None:
    names = "abdefghijklm"
    service = Service(**dict.fromkeys(names, lambda now: AuthenticationError("no")))

    async def main() -> None:
        poller = poller_of(service)
        results = await asyncio.gather(
            *(poller.watch(t, kind="image", submitted_at=0.0) for t in names), return_exceptions=True
        )
        assert [type(result) for result in results] == [AuthenticationError] * 12
        assert len(service.asked) <= 6
        before = len(service.asked)
        service.answers["c"] = done_at(60)  # the key was mended: nobody follows the others any longer
        assert (await poller.watch("c", kind="image", submitted_at=0.0)).done
        assert {task_id for _, task_id in service.asked[before:]} == {"c"}
        await poller.aclose()

    run(main())


def test_a_watcher_that_leaves_takes_its_task_along() -> None:
    service = Service(a=done_at(50), b=done_at(50))

    async def main() -> None:
        poller = poller_of(service)
        first = asyncio.create_task(poller.watch("a", kind="image", submitted_at=0.0))
        second = asyncio.create_task(poller.watch("a", kind="image", submitted_at=0.0))
        third = asyncio.create_task(poller.watch("b", kind="image", submitted_at=0.0))
        await asyncio.sleep(10)
        first.cancel()
        third.cancel()
        await asyncio.sleep(0)
        assert len(poller) == 1, "the second still watches a"
        assert (await second).done
        assert not [at for at, task in service.asked if task == "b" and at > 10.2]
        await poller.aclose()

    run(main())


def test_a_fault_of_ours_is_raised_not_swallowed() -> None:
    def broken(now: float) -> TaskStatus:
        raise ZeroDivisionError

    async def main() -> None:
        poller = poller_of(Service(a=broken))
        with pytest.raises(ZeroDivisionError):
            await poller.watch("a", kind="image", submitted_at=0.0)
        await poller.aclose()

    run(main())


def test_one_poller_a_key_and_the_last_closes_it() -> None:
    services = []

    def make() -> Poller:
        services.append(Service(**{f"t{i}": done_at(i) for i in range(200)}))
        return poller_of(services[-1], per_minute=0)

    async def one(index: int) -> None:
        async with shared_poller("key", make) as poller:
            await poller.watch(f"t{index}", kind="image", submitted_at=0.0)

    async def main() -> None:
        await asyncio.gather(*(one(i) for i in range(200)))
        assert len(services) == 1
        assert services[0].closed
        await one(3)
        assert len(services) == 2, "a new one for who comes later"

    run(main())


def test_a_cancelled_user_leaves_and_the_others_stay() -> None:
    service = Service(a=done_at(5), b=done_at(40))

    async def one(task_id: str) -> None:
        async with shared_poller("key", lambda: poller_of(service)) as poller:
            await poller.watch(task_id, kind="image", submitted_at=0.0)

    async def main() -> None:
        users = [asyncio.create_task(one(t)) for t in "ab"]
        await asyncio.sleep(1)
        users[0].cancel()
        await asyncio.sleep(0.1)
        assert not service.closed
        await users[1]
        assert service.closed

    run(main())


def test_a_spare_poll_that_waits_becomes_a_sure_one() -> None:
    """Submissions that never stop must not keep finished tasks from being found."""
    service = Service(a=done_at(5))

    async def main() -> None:
        poller = poller_of(service)
        over = False

        async def submissions() -> None:
            while not over:
                async with poller.budget.request():
                    await asyncio.sleep(0.1)

        crowd = [asyncio.create_task(submissions()) for _ in range(20)]
        await poller.watch("a", kind="image", submitted_at=0.0)
        assert virtual.clock() < 30
        over = True
        await asyncio.gather(*crowd)
        await poller.aclose()

    run(main())


async def test_over_the_wire() -> None:
    with Sandbox(
        time_scale=0.01, requests_per_minute=0, faults=["404-first-poll", "500@5:on=poll"]
    ) as sandbox:
        async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
            plan = PollPlan(lambda kind, model: (0.03, 0.08))
            poller = Poller(client, UnlimitedBudget(), plan, not_found_grace=1.0)
            tasks = await asyncio.gather(
                *(client.submit(GenerationRequest.image(f"a cat {i}")) for i in range(20))
            )
            found = await asyncio.gather(
                *(poller.watch(t.id, kind="image", model="flux-2", submitted_at=time.time()) for t in tasks)
            )
            assert all(task.urls for task in found)
            await poller.aclose()


# -- many at once --------------------------------------------------------------------------------------------


def test_many_tasks_each_with_its_own_end() -> None:
    service = Service(
        a=done_at(5),
        b=done_at(30, TaskStatus.FAILED),
        c=lambda now: NotFoundError("no such task"),
        d=lambda now: TaskStatus.RUNNING,
    )

    async def main() -> None:
        poller = poller_of(service)
        tasks = [Accepted(t, "image", "m", 0.0) for t in ("a", "b", "c", "d", "a")]
        found = [item async for item in poller.watch_many(tasks, deadline=300.0)]
        assert [task_id for task_id, _ in found] == ["a", "b", "c", "d"]
        kinds = [type(result) for _, result in found]
        assert kinds == [Task, Task, NotFoundError, TaskTimeoutError]
        assert virtual.clock() == pytest.approx(300.0)
        assert len(poller) == 0
        await poller.aclose()

    run(main())


def test_many_tasks_and_submissions_elsewhere() -> None:
    """Ten tasks for which there are requests enough: sparingly, far fewer polls."""

    async def polls(*, sparing: bool) -> int:
        start = virtual.clock()
        names = [f"t{n}" for n in range(10)]
        service = Service(**{name: done_at(start + 6 + n / 10) for n, name in enumerate(names)})
        poller = poller_of(service, 600)
        tasks = [Accepted(name, "image", "m", start) for name in names]
        assert len([item async for item in poller.watch_many(tasks, sparing=sparing)]) == 10
        await poller.aclose()
        return len(service.asked)

    async def main() -> None:
        lavish, sparing = await polls(sparing=False), await polls(sparing=True)
        assert sparing <= 20 < 0.7 * lavish

    run(main())


def test_many_tasks_and_a_refused_key() -> None:
    service = Service(a=done_at(1), b=lambda now: AuthenticationError("no"))

    async def main() -> None:
        poller = poller_of(service)
        tasks = [Accepted("a", "image", None, 0.0), Accepted("b", "image", None, 0.0)]
        with pytest.raises(AuthenticationError):
            async for _ in poller.watch_many(tasks):
                pass
        assert len(poller) == 0
        await poller.aclose()

    run(main())


async def test_who_follows_many_hears_of_a_refused_key_once() -> None:
    poller = Poller(Service(), MemoryRateBudget(60), PollPlan(lambda kind, model: (3600.0, 7200.0)))
    heard: dict[str, list[tuple[str, object]]] = {"one": [], "other": []}
    for name, told in heard.items():
        sinks = (lambda task_id, found, told=told: told.append((task_id, found)),)
        for number in range(100):
            poller._follow(Accepted(f"{name}-{number}", "video", None, time.time()), sinks)
    error = AuthenticationError("no")
    poller._settle_all(error)
    assert heard == {"one": [("one-0", error)], "other": [("other-0", error)]}
    assert len(poller) == 0
    await poller.aclose()


def test_who_stops_listening_to_many_leaves() -> None:
    service = Service(a=done_at(5), b=done_at(50))

    async def main() -> None:
        poller = poller_of(service)
        tasks = [Accepted(t, "image", None, 0.0) for t in "ab"]
        async with contextlib.aclosing(poller.watch_many(tasks)) as found:
            async for task_id, _ in found:
                assert task_id == "a"
                break
        assert len(poller) == 0
        await poller.aclose()

    run(main())


@pytest.fixture
def only_our_garbage() -> Iterator[None]:
    """What other tests have left in this process is no part of a collection's pause."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


async def _watch_many_thousand(
    *, each: Callable[[], None], then: Callable[[], None] = lambda: None, plan: PollPlan | None = None
) -> None:
    plan = PollPlan(lambda kind, model: (3600.0, 7200.0)) if plan is None else plan  # an empty one is falsy
    poller = Poller(Service(), MemoryRateBudget(60), plan)

    async def batch(index: int) -> None:
        now = time.time()
        tasks = (
            Accepted(f"n41_{index:02d}_{number:05d}_kling3", "video", "kling-3", now)
            for number in range(1000)
        )
        async for _ in poller.watch_many(tasks):
            pass

    batches = [asyncio.create_task(batch(index)) for index in range(20)]
    while len(poller) < 20_000:
        await asyncio.sleep(0)
        each()
    then()
    for one in batches:
        one.cancel()
    await asyncio.gather(*batches, return_exceptions=True)
    await poller.aclose()


async def test_many_thousand_tasks_are_light() -> None:
    tracemalloc.start()
    before, most = tracemalloc.get_traced_memory()[0], 0

    def measure() -> None:
        nonlocal most
        most = max(most, tracemalloc.get_traced_memory()[0])

    try:
        await _watch_many_thousand(each=measure)
    finally:
        tracemalloc.stop()
    assert (most - before) / 2**20 < 24, "100,000 tasks in 120 MB"


@pytest.mark.usefixtures("only_our_garbage")
async def test_many_thousand_tasks_are_never_in_the_way() -> None:
    """Each of twenty batches takes on a few tasks, then everybody else has a turn; no time is measured."""
    plan = _Counting()
    before, most = 0, 0

    def measure() -> None:
        nonlocal before, most
        before, most = len(plan), max(most, len(plan) - before)

    await _watch_many_thousand(each=measure, plan=plan)
    assert 20 <= most <= 20 * 50 + 1, "a hundredth of the tasks of each batch"
    assert plan.most_at_once < 200, "keys that are mended or put anew in one step of the loop"


async def test_many_thousand_tasks_that_leave_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    popped = 0

    def counted(heap: list[Any]) -> Any:
        nonlocal popped
        popped += 1
        return heapq.heappop(heap)

    counting = SimpleNamespace(heappop=counted, heappush=heapq.heappush, heapreplace=heapq.heapreplace)
    monkeypatch.setattr(polling, "heapq", counting)
    now = time.time()
    poller = Poller(Service(), MemoryRateBudget(60), PollPlan(lambda kind, model: (3600.0, 7200.0)))
    batch = poller.watch_many(Accepted(f"n{n}", "video", None, now) for n in range(20_000))
    many = asyncio.create_task(anext(batch))
    one = asyncio.create_task(poller.watch("left", kind="video", submitted_at=now + 1))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(poller) == 20_001
    many.cancel()
    most, steps = 0, 0
    while popped < 19_000 and steps < 1000:
        before, steps = popped, steps + 1
        await asyncio.sleep(0)
        most = max(most, popped - before)
    assert popped >= 19_000 and most <= 3 * 1000 + 10
    one.cancel()
    await asyncio.gather(many, one, return_exceptions=True)
    await poller.aclose()


@pytest.mark.usefixtures("only_our_garbage")
async def test_many_thousand_tasks_are_nothing_to_the_garbage_collector() -> None:
    """Its pauses grow with the objects it looks at, and fall on the whole triggerer."""
    before = len(gc.get_objects())
    kept = 0

    def count() -> None:
        nonlocal kept
        gc.collect()
        kept = len(gc.get_objects()) - before

    await _watch_many_thousand(each=lambda: None, then=count)
    assert kept < 0.3 * 20_000, "objects for each task"


class _Counting(PollPlan):
    """A plan that counts its steps between two looks at the clock of :meth:`next_due`."""

    def __init__(self) -> None:
        super().__init__(lambda kind, model: (3600.0, 7200.0))
        self.steps = self.most_at_once = 0

    def next_due(self, now: float, pressed: bool) -> float | None:
        self.steps = 0
        due = super().next_due(now, pressed)
        self.most_at_once = max(self.most_at_once, self.steps)
        return due

    def _due(self, watch: Any, pressed: bool) -> float:
        self.steps += 1
        return super()._due(watch, pressed)
