"""Every published form of an answer, and the ones that are none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from aio_provider.api import errors
from aio_provider.api.tasks import (
    Task,
    TaskStatus,
    join_chunks,
    read_chunk,
    read_completion,
    read_submission,
    read_task,
)

A, B = "https://cdn.example.com/a.png", "https://cdn.example.com/b.png"


@pytest.mark.parametrize(
    ("payload", "task_id"),
    [
        ({"code": 200, "message": "success", "data": {"task_id": "n1", "status": "IN_PROGRESS"}}, "n1"),
        ({"code": 200, "message": "success", "data": {"task_id": "n1"}}, "n1"),
        ({"code": 200, "msg": "success", "data": {"taskId": "n1"}}, "n1"),
        ({"code": "200", "data": {"taskId": "n1"}}, "n1"),
        ({"id": "n1", "status": "pending", "model": "m", "created_at": "2026-02-24T12:00:00Z"}, "n1"),
        ({"task_id": "n1", "status": "pending"}, "n1"),
        ({"code": 200, "data": [{"task_id": "n1"}]}, "n1"),
        ({"task_id": 17}, "17"),
    ],
)
def test_submission_forms(payload: Any, task_id: str) -> None:
    task = read_submission(payload)
    assert task.id == task_id
    assert task.status is TaskStatus.RUNNING and not task.done


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        None,
        "text",
        5,
        {"code": 200},
        {"code": 200, "data": None},
        {"data": {"task_id": ""}},
        {"id": None},
    ],
)
def test_submission_without_an_id_is_quoted(payload: Any) -> None:
    with pytest.raises(errors.ProtocolError) as caught:
        read_submission(payload)
    assert (payload if isinstance(payload, str) else json.dumps(payload)) in str(caught.value)


def test_quote_is_500_characters() -> None:
    with pytest.raises(errors.ProtocolError) as caught:
        read_submission({"text": "y" * 2000})
    assert 450 < str(caught.value).count("y") <= 500


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (
            ("SUCCESS", "success", "COMPLETED", "completed", "complete", "Complete", " SUCCEEDED "),
            "succeeded",
        ),
        (
            ("FAILED", "failed", "ERROR", "error", "aborted", "Cancelled", "canceled", "REJECTED", "expired"),
            "failed",
        ),
        (("IN_PROGRESS", "pending", "queued", "first", "text", "anything-new", ""), "running"),
    ],
)
def test_statuses_in_any_case(words: tuple[str, ...], status: str) -> None:
    for word in words:
        task = read_task({"code": 200, "data": {"task_id": "n1", "status": word}}, "n1")
        assert task.status == status, word
        assert task.raw_status == word
        assert task.done is (status != "running")


@pytest.mark.parametrize(
    ("fields", "urls"),
    [
        ({"response": [A, B]}, (A, B)),
        ({"response": A}, (A,)),
        ({"response": [A, A]}, (A,)),
        ({"response": None}, ()),
        ({"response": []}, ()),
        ({"response": [{"image_url": A}, {"video_url": B}]}, (A, B)),
        ({"response": {"images": [A, B]}}, (A, B)),
        ({"output": {"video_url": A}}, (A,)),
        ({"output": {"audio_url": A, "image_url": B}}, (A,)),
        ({"output": [A]}, (A,)),
        ({"video_url": A}, (A,)),
        ({"response_data": [{"audio_url": A, "image_url": B}]}, (A,)),
        ({"response_data": [{"audio_url": "", "image_url": B}]}, (B,)),
        ({"images": [A, B]}, (A, B)),
        ({"result": {"url": A}}, (A,)),
        ({"response": ["not a url", 5, None, "javascript:alert(1)", "file:///etc/passwd"]}, ()),
        ({"request": {"image": A, "input_urls": [B]}}, ()),
    ],
)
def test_urls_in_every_published_shape(fields: dict[str, Any], urls: tuple[str, ...]) -> None:
    for payload in (
        {"code": 200, "data": {"task_id": "n1", "status": "SUCCESS", **fields}},
        {"task_id": "n1", "status": "SUCCESS", **fields},
    ):
        assert read_task(payload, "n1").urls == urls


@pytest.mark.parametrize(
    ("value", "credits"),
    [
        (5, 5.0),
        ("5", 5.0),
        ("5.5", 5.5),
        (0, 0.0),
        (None, None),
        ("free", None),
        (True, None),
        ("nan", None),
        ([], None),
    ],
)
def test_credits(value: Any, credits: float | None) -> None:
    task = read_task({"data": {"task_id": "n1", "status": "SUCCESS", "consumed_credits": value}}, "n1")
    assert task.credits == credits


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"error_message": "no face found"}, "no face found"),
        ({"error": "no face found"}, "no face found"),
        ({"fail_message": "no face found"}, "no face found"),
        ({"error_message": "", "response_data": [{"fail_message": "no face found"}]}, "no face found"),
        ({"error_message": None}, None),
    ],
)
def test_failure_message(fields: dict[str, Any], error: str | None) -> None:
    task = read_task({"data": {"task_id": "n1", "status": "FAILED", **fields}}, "n1")
    assert (task.status, task.error) == ("failed", error)


def test_failed_task_inside_an_error_code_is_a_failed_task() -> None:
    payload = {
        "code": 500,
        "message": "generation failed",
        "data": {"status": "FAILED", "error_message": "nsfw"},
    }
    assert read_task(payload, "n1").error == "nsfw"


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-02-25T12:00:00Z", datetime(2026, 2, 25, 12, tzinfo=UTC)),
        ("2026-02-25 12:00:00", datetime(2026, 2, 25, 12, tzinfo=UTC)),
        ("2026-02-25T14:00:00+02:00", datetime(2026, 2, 25, 12, tzinfo=UTC)),
        (1772020800, datetime(2026, 2, 25, 12, tzinfo=UTC)),
        (1772020800000, datetime(2026, 2, 25, 12, tzinfo=UTC)),
        ("yesterday", None),
        (1e30, None),
        (None, None),
    ],
)
def test_created_at(value: Any, moment: datetime | None) -> None:
    assert read_task({"data": {"task_id": "n1", "created_at": value}}, "n1").created_at == moment


@pytest.mark.parametrize("payload", [{}, [], "x", None, {"hello": "world"}, {"data": {"hello": "world"}}])
def test_answer_that_is_no_task(payload: Any) -> None:
    with pytest.raises(errors.ProtocolError):
        read_task(payload, "n1")


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"code": 401, "message": "Invalid API key"}, errors.AuthenticationError),
        ({"code": "402", "msg": "no credits", "data": None}, errors.InsufficientCreditsError),
        ({"code": 404, "message": "gone", "data": {}}, errors.NotFoundError),
        ({"code": 429, "message": "slow"}, errors.RateLimitError),
        ({"code": 500, "message": "oops"}, errors.ServerError),
        ({"code": 1001, "message": "odd"}, errors.ProtocolError),
        ({"error": {"code": 400, "message": "bad", "type": "bad_request"}}, errors.InvalidRequestError),
        ({"error": {"message": "no code"}}, errors.ServerError),
    ],
)
@pytest.mark.parametrize("read", [read_submission, lambda payload: read_task(payload, "n1"), read_completion])
def test_error_inside_http_200(payload: Any, kind: type[errors.AioError], read: Any) -> None:
    with pytest.raises(kind) as caught:
        read(payload)
    assert type(caught.value) is kind


def test_task_to_dict_is_plain_json() -> None:
    task = Task(
        "n1", TaskStatus.SUCCEEDED, urls=(A,), credits=5.0, created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert json.loads(json.dumps(task.to_dict())) == {
        "task_id": "n1",
        "status": "succeeded",
        "urls": [A],
        "credits": 5.0,
        "model": None,
        "error": None,
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    assert A in repr(task) and "raw=" not in repr(task)


# Chat


def message(**fields: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "gemini", "choices": [{"message": {"role": "assistant", **fields}}]}


@pytest.mark.parametrize(
    ("fields", "text", "thoughts"),
    [
        ({"content": "Hi"}, "Hi", None),
        ({"content": None}, "", None),
        ({"content": "Hi", "reasoning_content": "Hm"}, "Hi", "Hm"),
        ({"content": "Hi", "thoughts": "Hm"}, "Hi", "Hm"),
        ({"content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " you"}]}, "Hi you", None),
        ({"content": [{"thought": True, "text": "Hm"}, {"text": "Hi"}]}, "Hi", "Hm"),
        ({"content": ["Hi", {"type": "thinking", "thinking": "Hm"}]}, "Hi", "Hm"),
    ],
)
def test_chat_content(fields: dict[str, Any], text: str, thoughts: str | None) -> None:
    completion = read_completion(message(**fields))
    assert (completion.text, completion.thoughts) == (text, thoughts)


def test_chat_tool_calls_whole_and_in_pieces() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    whole = read_completion(message(content=None, tool_calls=[call]))
    assert whole.tool_calls == (call,)
    pieces = [
        [{"index": 0, "id": "t1", "type": "function", "function": {"name": "weather", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"city": '}}],
        [{"index": 0, "function": {"arguments": '"Ulm"}'}}],
        [{"index": 1, "id": "t2", "function": {"name": "time", "arguments": "{}"}}],
    ]
    chunks = [read_chunk({"choices": [{"delta": {"tool_calls": piece}}]}) for piece in pieces]
    joined = join_chunks(chunks)
    assert joined.tool_calls[0] == call
    assert joined.tool_calls[1]["function"] == {"name": "time", "arguments": "{}"}


@pytest.mark.parametrize("payload", [{}, {"choices": []}, {"choices": "x"}, {"code": 200, "data": {}}])
def test_chat_without_a_choice(payload: Any) -> None:
    with pytest.raises(errors.ProtocolError, match="no choice"):
        read_completion(payload)
