"""One submission in its turn: what is tried again, for how long, and what is on record at each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aio_provider.api.errors import (
    AioError,
    InsufficientCreditsError,
    RateLimitError,
    ServerError,
    SubmissionUnknownError,
    TransportError,
)
from aio_provider.hooks.sending import send_in_turn
from aio_provider.jobs.pacing import UnlimitedBudget


class Try:
    """A submission whose answers are given, on a clock that only waiting moves."""

    def __init__(self, *answers: AioError | str) -> None:
        self.answers = list(answers)
        self.steps: list[str] = []
        self.now = 0.0
        self.budget = UnlimitedBudget(lambda: self.now)

    async def send(self) -> str:
        self.steps.append("send")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, AioError):
            if isinstance(answer, RateLimitError):
                self.now += (answer.retry_after or 1.0) + 1.0  # the budget's own wait
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.steps.append(f"sleep {seconds:g}")
        self.now += seconds

    def step(self, name: str) -> Callable[[], None]:
        return lambda: self.steps.append(name)

    async def run(self, **arguments: Any) -> str:
        given = {"intend": self.step("intend"), "release": self.step("release"), **arguments}
        return await send_in_turn(self.send, self.budget, clock=lambda: self.now, sleep=self.sleep, **given)


async def test_the_intent_comes_first() -> None:
    it = Try("task")
    assert await it.run() == "task"
    assert it.steps == ["intend", "send"]


async def test_a_429_is_released_and_tried_again() -> None:
    it = Try(RateLimitError("slow down", retry_after=2), "task")
    assert await it.run() == "task"
    assert it.steps == ["intend", "send", "release", "intend", "send"]


async def test_a_connection_never_made_is_tried_again_with_longer_pauses() -> None:
    it = Try(*[TransportError("no route")] * 7, "task")
    assert await it.run() == "task"
    pauses = [step for step in it.steps if step.startswith("sleep")]
    assert pauses == ["sleep 1", "sleep 2", "sleep 4", "sleep 8", "sleep 16", "sleep 30", "sleep 30"]


async def test_patience_ends_with_the_last_refusal() -> None:
    it = Try(TransportError("no route"))
    with pytest.raises(TransportError):
        await it.run(patience=10)
    assert it.now <= 10
    assert it.steps[-2:] == ["intend", "send"], "the caller releases it"


async def test_a_retry_after_beyond_patience_is_not_waited_for() -> None:
    it = Try(RateLimitError("come back tomorrow", retry_after=86_400))
    with pytest.raises(RateLimitError):
        await it.run(patience=60)
    assert it.steps == ["intend", "send"]


async def test_500s_are_tried_a_few_times_where_that_is_asked_for() -> None:
    it = Try(ServerError("500"))  # a client raises it for a submission under on_server_error="retry" only
    with pytest.raises(ServerError):
        await it.run()
    assert it.steps.count("send") == 5


@pytest.mark.parametrize("error", [SubmissionUnknownError("lost"), InsufficientCreditsError("402")])
async def test_anything_else_is_final(error: AioError) -> None:
    it = Try(error)
    with pytest.raises(type(error)):
        await it.run()
    assert it.steps == ["intend", "send"]


async def test_nothing_is_sent_without_the_intent() -> None:
    def broken() -> None:
        raise ConnectionError("the record cannot be written")

    it = Try("task")
    with pytest.raises(ConnectionError):
        await it.run(intend=broken)
    assert it.steps == []
