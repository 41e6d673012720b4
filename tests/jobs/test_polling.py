"""What the plan learns from polls, and when it says to poll; pure, on made-up clocks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from aio_provider.jobs.latency import LatencyModel
from aio_provider.jobs.polling import PollPlan
from tests.yardstick import slowness


def teach(model: LatencyModel, draw: Callable[[], float], tasks: int) -> tuple[float, float]:
    """Poll tasks one after the other as the model says; mean lag and polls a task."""
    lag = polls = 0.0
    for _ in range(tasks):
        ends, age = draw(), 0.0
        while True:
            look = model.next_look(10.5, age)
            polls += 1
            if look >= ends:
                model.ended(age, look)
                lag += look - ends
                break
            age = look
        model.refresh()
    return lag / tasks, polls / tasks


def test_before_anything_is_seen_it_is_the_published_range() -> None:
    model = LatencyModel(60, 180)
    assert model.quantile(0.5) == pytest.approx(120, rel=0.1)
    assert 170 < model.quantile(0.95) < 200
    assert model.done_by(50) < 0.02
    assert model.done_by(185) > 0.9
    assert model.done_by(150, running_at=120) == pytest.approx(0.48, abs=0.1)


@pytest.mark.parametrize("factor", [0.1, 1, 10])
def test_a_wrong_published_range_is_unlearned(factor: float) -> None:
    model, draws = LatencyModel(60, 180), random.Random(1)
    teach(model, lambda: factor * draws.uniform(60, 180), 10)
    lag, polls = teach(model, lambda: factor * draws.uniform(60, 180), 40)
    assert lag / (120 * factor) < 0.038
    assert polls < 13


def test_what_is_on_record_tells_of_a_faster_service() -> None:
    model, draws = LatencyModel(60, 180), random.Random(3)
    model.recorded(draws.uniform(6, 18) * draws.uniform(1, 1.3) for _ in range(20))
    model.refresh()
    assert 6 < model.quantile(0.5) < 30 and model.quantile(0.9) < 40
    assert model.count == 0, "not this process's own observations"


@pytest.mark.parametrize("durations", [[], [-3600.0, 0.0], [170.0], [600.0] * 20])
def test_a_record_that_may_only_have_been_found_late_changes_nothing(durations: list[float]) -> None:
    """A clock that was set back; a single task; a batch of which only the end counted."""
    model = LatencyModel(60, 180)
    model.recorded(durations)
    model.refresh()
    assert model.quantile(0.5) == pytest.approx(120, rel=0.1)


def test_a_plan_is_primed_once() -> None:
    plan = PollPlan(lambda kind, model: (60.0, 180.0))
    assert not plan.knows("video", "kling-3")
    plan.prime("video", "kling-3", [10.0] * 10)
    assert plan.knows("video", "kling-3") and not plan.knows("video", None)
    assert plan.slowest("video", "kling-3") < 90


def test_polls_that_found_nothing_teach_too() -> None:
    model = LatencyModel(3, 8)
    for _ in range(8):
        model.running(10.0, None)
    model.refresh()
    assert model.quantile(0.5) > 10


def test_a_few_stragglers_do_not_put_off_the_rest() -> None:
    model, draws = LatencyModel(3, 8), random.Random(2)
    for _ in range(200):
        latency = draws.uniform(3, 8) * (6 if draws.random() < 0.05 else 1)
        model.ended(latency * 0.97, latency)
    model.refresh()
    assert model.quantile(0.97) > 15
    assert model.sure_age(0.97, 4.0) < 10


def test_doubt_lets_the_new_speed_in() -> None:
    model = LatencyModel(3, 8)
    for _ in range(100):
        model.ended(4.5, 5.0)
    for _ in range(3):
        model.doubt()
    for _ in range(10):
        model.ended(14.0, 15.0)
    model.refresh()
    assert model.quantile(0.6) > 13


def test_a_refresh_is_quick() -> None:
    model, draws = LatencyModel(3, 8), random.Random(3)
    for _ in range(300):
        latency = draws.uniform(3, 8)
        model.ended(latency * 0.9, latency)
    began = time.process_time()
    for _ in range(20):
        model.ended(4.0, 5.0)
        model.refresh()
    assert (time.process_time() - began) / 20 < 0.02 * slowness()


# -- the plan ------------------------------------------------------------------------------------------------


def prior(kind: str, model: str | None) -> tuple[float, float]:
    return (3.0, 8.0) if kind == "image" else (60.0, 180.0)


def plan_with(tasks: int, *, kind: str = "image", now: float = 0.0) -> PollPlan:
    plan = PollPlan(prior, seed=1)
    for index in range(tasks):
        plan.add(f"t{index}", kind=kind, model="m", submitted_at=now, now=now)
    return plan


def test_nothing_to_follow_nothing_to_do() -> None:
    plan = PollPlan(prior)
    assert plan.next_due(0.0, False) is None
    assert plan.pick(0.0, False) is None
    plan.running("unknown", 1.0)
    plan.ended("unknown", 1.0)
    plan.lost("unknown", 1.0)
    plan.discard("unknown")


def test_pressed_it_waits_until_a_task_is_surely_done() -> None:
    plan = plan_with(1)
    relaxed = plan.next_due(0.0, False)
    for index in range(20):  # past the scouts
        plan.add(f"more{index}", kind="image", model="m", submitted_at=0.0, now=0.0)
    plan.discard("t0")
    ages = []
    while (due := plan.next_due(0.0, True)) is not None:
        task = plan.pick(due, True)
        assert task is not None
        ages.append(due)
        plan.discard(task)
    assert relaxed is not None
    assert max(ages) > 7.0
    assert sum(age > 6.5 for age in ages) >= 10
    assert relaxed < 6.0


def test_a_task_under_way_is_not_picked_twice() -> None:
    plan = plan_with(1)
    assert plan.pick(8.0, False) == "t0"
    assert plan.pick(8.0, False) is None
    assert plan.next_due(8.0, False) is None
    plan.running("t0", 8.0)
    again = plan.next_due(8.0, False)
    assert again is not None
    assert again > 8.0


def test_a_lost_poll_is_sent_again_when_asked() -> None:
    plan = plan_with(1)
    plan.pick(8.0, False)
    plan.lost("t0", 20.0)
    assert plan.next_due(8.0, False) == 20.0
    assert plan.pick(19.9, False) is None
    assert plan.pick(20.0, False) == "t0"


def test_the_likeliest_is_asked_after_first() -> None:
    plan = PollPlan(prior)
    plan.add("old", kind="image", model="m", submitted_at=0.0, now=0.0)
    plan.add("young", kind="image", model="m", submitted_at=4.0, now=4.0)
    plan.add("video", kind="video", model="m", submitted_at=0.0, now=4.0)
    assert plan.pick(9.0, False) == "old"


def test_a_task_that_never_ends_is_asked_after_ever_less() -> None:
    plan = plan_with(1)
    now, polls = 0.0, 0
    while now < 7200:
        due = plan.next_due(now, False)
        assert due is not None
        now = due
        assert plan.pick(now, False) == "t0"
        plan.running("t0", now)
        polls += 1
    assert polls < 70


def test_a_gone_task_leaves_no_trace() -> None:
    plan = plan_with(3)
    plan.pick(5.0, False)
    plan.running("t0", 5.0)
    for index in range(3):
        plan.discard(f"t{index}")
    assert len(plan) == 0
    assert plan.next_due(100.0, False) is None


def test_many_that_leave_at_once_are_taken_out_of_the_way_bit_by_bit() -> None:
    plan = PollPlan(lambda kind, model: (3.0, 8.0), seed=0)
    for number in range(10_000):
        plan.add(f"gone-{number}", kind="image", model="m", submitted_at=0.0, now=0.0)
    plan.add("left", kind="image", model="m", submitted_at=1.0, now=1.0)
    assert plan.tidy()
    for number in range(10_000):
        plan.discard(f"gone-{number}")
    bits = 1
    while not plan.tidy():
        bits += 1
    assert 9 <= bits <= 12, "a thousand at a time"
    assert plan.next_due(100.0, False) is not None
    assert plan.pick(100.0, False) == "left"


def test_many_thousand_tasks_do_not_slow_it_down() -> None:
    plan = PollPlan(prior, seed=1)
    began = time.process_time()
    for index in range(30_000):
        plan.add(f"t{index}", kind="video", model=f"m{index % 3}", submitted_at=index / 1000, now=100.0)
    assert time.process_time() - began < 5 * slowness()
    slowest = 0.0
    for step in range(200):
        now = 300.0 + step / 10
        began = time.process_time()
        plan.next_due(now, False)
        task = plan.pick(now, False)
        assert task is not None
        (plan.ended if step % 3 else plan.running)(task, now)
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 0.05 * slowness()
