"""What is sent again, when, and how often; the clock is driven."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import time_machine

from aio_provider.api import errors
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.retries import RetryPolicy, read_retry_after
from aio_provider.sandbox import Sandbox
from tests.api.conftest import Clients, Clock, answers

IMAGE = GenerationRequest.image("a cat")
GOOD = httpx.Response(200, json={"code": 200, "data": {"task_id": "n1", "status": "SUCCESS"}})
BUSY = {"error": {"code": 429, "message": "slow down", "type": "rate_limit"}}
OOPS = {"error": {"code": 500, "message": "oops", "type": "server_error"}}


@pytest.mark.parametrize(
    "passing",
    [
        httpx.Response(500, json=OOPS),
        httpx.Response(502, html="<html>"),
        httpx.Response(429, json=BUSY),
        httpx.Response(200, text="{"),
        httpx.Response(200, json={"code": 503, "message": "busy"}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("gone"),
    ],
)
def test_get_is_sent_again(passing: Any, call: Clients, clock: Clock) -> None:
    handler, seen = answers(passing, passing, GOOD)
    assert call(handler, "get_task", "n1", retry=clock.policy()).id == "n1"
    assert len(seen) == 3 and len(clock.waits) == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
@pytest.mark.parametrize("method", ["get_task", "submit"])
def test_final_answers_are_not(status: int, method: str, call: Clients, clock: Clock) -> None:
    handler, seen = answers(httpx.Response(status, json={"error": {"code": status, "message": "no"}}))
    with pytest.raises(errors.AioError):
        call(handler, method, "n1" if method == "get_task" else IMAGE, retry=clock.policy())
    assert len(seen) == 1 and not clock.waits


@pytest.mark.parametrize(
    "passing", [httpx.Response(429, json=BUSY), httpx.ConnectError("refused"), httpx.PoolTimeout("busy")]
)
@pytest.mark.parametrize("method", ["submit", "chat_stream", "request"])
def test_post_that_was_never_taken_is_sent_again(
    passing: Any, method: str, call: Clients, clock: Clock
) -> None:
    stream = httpx.Response(
        200,
        text='data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n',
        headers={"content-type": "text/event-stream"},
    )
    handler, seen = answers(passing, passing, stream if method == "chat_stream" else GOOD)
    arguments = {
        "submit": (IMAGE,),
        "chat_stream": (GenerationRequest.chat("Hi"),),
        "request": ("POST", "/x"),
    }
    call(handler, method, *arguments[method], retry=clock.policy())
    assert len(seen) == 3 and len(clock.waits) == 2


def test_gives_up_after_the_attempts(call: Clients, clock: Clock) -> None:
    handler, seen = answers(httpx.Response(502, html="<html>"))
    with pytest.raises(errors.ServerError):
        call(handler, "get_task", "n1", retry=clock.policy(attempts=4))
    assert len(seen) == 4 and len(clock.waits) == 3


def test_waits_double_with_jitter_below(call: Clients, clock: Clock) -> None:
    handler, _ = answers(httpx.ReadTimeout("slow"))
    with pytest.raises(errors.TransportError):
        call(handler, "get_task", "n1", retry=clock.policy(attempts=8, longest_wait=20))
    for wait, full in zip(clock.waits, [1, 2, 4, 8, 16, 20, 20], strict=True):
        assert 0.75 * full <= wait <= full


def test_retry_after_is_the_wait(call: Clients, clock: Clock) -> None:
    handler, seen = answers(
        httpx.Response(429, json=BUSY, headers={"retry-after": "7"}),
        httpx.Response(
            429,
            json=BUSY,
            headers={"date": "Sun, 22 Nov 2026 09:00:00 GMT", "retry-after": "Sun, 22 Nov 2026 09:00:12 GMT"},
        ),
        GOOD,
    )
    assert call(handler, "submit", IMAGE, retry=clock.policy()).id == "n1"
    assert clock.waits == [7.0, 12.0] and len(seen) == 3


def test_retry_after_of_a_503(call: Clients, clock: Clock) -> None:
    handler, _ = answers(httpx.Response(503, text="", headers={"retry-after": "9"}), GOOD)
    assert call(handler, "get_task", "n1", retry=clock.policy()).id == "n1"
    assert clock.waits == [9.0]


def test_retry_after_beyond_patience_ends_it(call: Clients, clock: Clock) -> None:
    handler, seen = answers(httpx.Response(429, json=BUSY, headers={"retry-after": "3600"}))
    with pytest.raises(errors.RateLimitError) as caught:
        call(handler, "submit", IMAGE, retry=clock.policy())
    assert caught.value.retry_after == 3600 and len(seen) == 1 and not clock.waits


def test_no_policy_sends_once(call: Clients) -> None:
    handler, seen = answers(httpx.Response(429, json=BUSY, headers={"retry-after": "0"}), GOOD)
    with pytest.raises(errors.RateLimitError):
        call(handler, "get_task", "n1", retry=None)
    assert len(seen) == 1


def test_500_is_held_unless_asked(call: Clients, clock: Clock) -> None:
    handler, seen = answers(httpx.Response(500, json=OOPS), GOOD)
    with pytest.raises(errors.SubmissionUnknownError):
        call(handler, "submit", IMAGE, retry=clock.policy())
    assert len(seen) == 1
    handler, seen = answers(httpx.Response(500, json=OOPS), GOOD)
    assert call(handler, "submit", IMAGE, retry=clock.policy(), on_server_error="retry").id == "n1"
    assert len(seen) == 2


def test_500_to_the_last_stays_unknown(call: Clients, clock: Clock) -> None:
    handler, seen = answers(httpx.Response(500, json=OOPS))
    with pytest.raises(errors.SubmissionUnknownError) as caught:
        call(handler, "submit", IMAGE, retry=clock.policy(attempts=3), on_server_error="retry")
    assert len(seen) == 3 and isinstance(caught.value.__cause__, errors.ServerError)


def test_502_is_never_sent_again(call: Clients, clock: Clock) -> None:
    handler, seen = answers(httpx.Response(502, html="<html>"), GOOD)
    with pytest.raises(errors.SubmissionUnknownError):
        call(handler, "submit", IMAGE, retry=clock.policy(), on_server_error="retry")
    assert len(seen) == 1


def test_against_the_sandbox(call: Clients, clock: Clock) -> None:
    with Sandbox(
        time_scale=0, requests_per_minute=0, faults=["429:on=submit:times=2", "502-html:on=poll:times=2"]
    ) as sb:
        settings = {"api_key": sb.api_key, "base_url": sb.base_url, "retry": clock.policy()}
        task = call(None, "get_task", call(None, "submit", IMAGE, **settings).id, **settings)
        assert task.done and len(sb.submissions) == 1 and len(clock.waits) == 4


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("nan", None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    now = datetime(2026, 11, 22, 9, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=30), usegmt=True)
    with time_machine.travel(now, tick=False):
        assert read_retry_after(later) == 30
        assert read_retry_after(format_datetime(now - timedelta(hours=1), usegmt=True)) == 0
        # The answer's own date counts, not our clock.
        assert read_retry_after(later, format_datetime(now + timedelta(seconds=20), usegmt=True)) == 10


def test_default_policy_outlasts_the_rate_limit_window() -> None:
    policy = RetryPolicy()
    waits = [policy.rate_limit_wait * 2**n for n in range(policy.attempts - 1)]
    assert sum(waits) * 0.75 > 55
