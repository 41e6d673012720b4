"""The rate budget, on a clock that jumps: what is asserted is exact."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import virtual

from aio_provider.jobs.limiter import rate_budget
from aio_provider.jobs.pacing import MemoryRateBudget, PacedBudget, Priority, UnlimitedBudget
from aio_provider.jobs.windows import MemoryWindow

Sent = list[tuple[float, str]]


def budget(per_minute: float = 60, **options: int) -> PacedBudget:
    return MemoryRateBudget(per_minute, clock=virtual.clock, **options)


async def send(
    budget: PacedBudget,
    sent: Sent,
    name: str = "",
    *,
    priority: Priority = Priority.SUBMIT,
    user: object = None,
    answer: float = 0.0,
) -> None:
    async with budget.request(priority, user):
        sent.append((virtual.clock(), name))
        await asyncio.sleep(answer)


def run(test: Callable[[], Awaitable[None]]) -> None:
    virtual.run(test())  # type: ignore[arg-type]


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(1 for t in times if start <= t < start + 60.0) for start in times)


def test_never_one_too_many_however_long_the_answers_take() -> None:
    counted: list[float] = []

    async def main() -> None:
        paced = budget(60)

        async def one(index: int) -> None:
            async with paced.request():
                # The service counts at some moment before the answer: here at the last one. Answers are slow
                # at first, so that a count from the sending would let too many into one minute.
                await asyncio.sleep(3.0 if index < 30 else 0.0)
                counted.append(virtual.clock())

        await asyncio.gather(*(one(i) for i in range(300)))

    run(main)
    assert len(counted) == 300
    assert 55 <= most_in_a_minute(sorted(counted)) <= 60


def test_a_crowd_is_spaced_from_the_start() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60)
        await asyncio.gather(*(send(paced, sent) for _ in range(30)))

    run(main)
    times = [t for t, _ in sent]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # The last few of the queue are no crowd any more and may use the burst.
    assert gaps[:20] == pytest.approx([1.0] * 20, abs=0.11)


def test_a_wave_goes_at_once_and_the_next_waits_for_room() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        wave = PacedBudget(10, MemoryWindow(10), clock=loop.time, spaced=False)
        times: list[float] = []

        async def send() -> None:
            async with wave.request():
                times.append(loop.time())

        await asyncio.gather(*(send() for _ in range(15)))
        assert times[9] - times[0] < 0.01
        assert times[10] - times[0] >= 60
        assert most_in_a_minute(times) == 10

    run(test)


def test_a_few_go_at_once_after_a_quiet_time_but_not_again_and_again() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60)
        for _ in range(12):
            await send(paced, sent)

    run(main)
    times = [t for t, _ in sent]
    assert times[:6] == pytest.approx([0.0] * 6, abs=1.01)
    assert times[11] == pytest.approx(6.0, abs=1.01)


def test_the_window_holds_the_long_run_rate() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60)
        await asyncio.gather(*(send(paced, sent, answer=0.1) for _ in range(600)))

    run(main)
    makespan = sent[-1][0]
    assert 590 <= makespan <= 604


def test_a_request_without_an_answer_stays_counted() -> None:
    async def main() -> None:
        window = MemoryWindow(2)
        first, _ = window.take(0.0)
        window.take(0.0)
        assert window.take(300.0)[0] is None, "both are still in the air after five minutes"
        assert first is not None
        window.answered(first, 300.0)
        assert window.take(359.9)[0] is None
        assert window.take(360.1)[0] is not None

    run(main)


def test_a_429_shuts_the_gate_for_all() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60)
        await send(paced, sent)
        paced.close_for(30.0)
        assert paced.available() == 0
        await asyncio.gather(*(send(paced, sent, user=u) for u in ("a", "b")))

    run(main)
    assert [t for t, _ in sent] == pytest.approx([0.0, 30.0, 30.0], abs=2.1)
    assert min(t for t, _ in sent[1:]) >= 30.0


def test_without_retry_after_it_backs_off_and_recovers() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60)
        for _ in range(6):
            paced.close_for(None)
            paced.close_for(None)  # the answer to another request of the same rush
            await asyncio.sleep(60.0)
        paced.close_for(None)
        await asyncio.gather(*(send(paced, sent) for _ in range(120)))

    run(main)
    times = [t for t, _ in sent]
    assert times[0] > 360.0 + 5.0
    assert times[20] - times[0] > 60.0, "slower at first"
    assert times[119] - times[99] < 30.0, "then at the usual pace again"


def test_priorities_of_one_user() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60, burst=1)
        names = [("spare", Priority.SPARE_POLL), ("submit", Priority.SUBMIT), ("poll", Priority.SURE_POLL)]
        names.append(("first", Priority.SUBMIT_FIRST))
        await asyncio.gather(*(send(paced, sent, name, priority=priority) for name, priority in names))

    run(main)
    assert [name for _, name in sent] == ["first", "poll", "submit", "spare"]


def test_a_big_batch_does_not_starve_a_single_task() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60)
        batch = [asyncio.create_task(send(paced, sent, "batch", user="batch")) for _ in range(200)]
        await asyncio.sleep(10.0)
        began = virtual.clock()
        await send(paced, sent, "single", user="single")
        assert virtual.clock() - began <= 2.0
        await asyncio.gather(*batch)

    run(main)


def test_spare_polls_wait_for_everyone() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60, burst=1)
        tasks = [send(paced, sent, "spare", user="a", priority=Priority.SPARE_POLL)]
        tasks += [send(paced, sent, "work", user="b") for _ in range(5)]
        await asyncio.gather(*tasks)

    run(main)
    assert [name for _, name in sent][-1] == "spare"


def test_who_leaves_the_queue_takes_no_turn() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(60, burst=1)
        waiting = [asyncio.create_task(send(paced, sent, str(i))) for i in range(4)]
        await asyncio.sleep(0.5)
        assert paced.submissions_waiting == 3
        waiting[1].cancel()
        waiting[2].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert paced.submissions_waiting == 0

    run(main)
    assert [name for _, name in sent] == ["0", "3"]
    assert sent[1][0] == pytest.approx(1.0, abs=0.11)


def test_a_turn_given_back_is_not_counted() -> None:
    async def main() -> None:
        paced = budget(60)
        for _ in range(100):
            async with paced.request() as turn:
                turn.withdraw()
        assert virtual.clock() == pytest.approx(0.0)
        assert paced.available() == 60

    run(main)


class Broken(MemoryWindow):
    blocking = True
    closed = False

    def take(self, now: float, spaced: bool = True) -> tuple[Any | None, float]:
        raise ConnectionError("the limiter's server is gone")

    def room(self, now: float) -> int:
        raise ConnectionError("the limiter's server is gone")

    def close(self) -> None:
        self.closed = True


def test_a_window_that_fails_is_replaced_by_our_own() -> None:
    async def main() -> None:
        broken = Broken(60)
        paced = PacedBudget(60, broken)
        async with paced.request():
            pass
        assert paced.available() == 59
        paced.close()
        assert broken.closed

    asyncio.run(main())


def test_so_is_one_that_cannot_tell_what_is_left() -> None:
    paced = PacedBudget(60, Broken(60))
    assert paced.available() == 60
    paced.close()


@pytest.mark.parametrize("make", [lambda: MemoryRateBudget(0), lambda: rate_budget(0), UnlimitedBudget])
async def test_no_limit(make: Callable[[], UnlimitedBudget]) -> None:
    unlimited = make()
    assert unlimited.per_minute == 0
    for _ in range(10_000):
        async with unlimited.request():
            pass
    unlimited.close_for(0.05)
    assert unlimited.available() == 0
    began = asyncio.get_running_loop().time()
    async with unlimited.request():
        assert asyncio.get_running_loop().time() - began >= 0.04


def test_one_budget_a_key_in_one_loop() -> None:
    async def main() -> None:
        first = rate_budget(60, "memory://", "key")
        second = rate_budget(60, "memory://", "key")
        other = rate_budget(60, "memory://", "another key")
        assert first is second
        assert first is not other
        first.close()
        async with second.request():
            pass
        second.close()
        assert rate_budget(60, "memory://", "key") is not first

    asyncio.run(main())


def test_below_one_a_minute() -> None:
    sent: Sent = []

    async def main() -> None:
        paced = budget(0.5)
        for _ in range(3):
            await send(paced, sent)

    run(main)
    assert [t for t, _ in sent] == pytest.approx([0.0, 120.0, 240.0], abs=0.1)
