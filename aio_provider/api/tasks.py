"""Reads the service's answers: every published form of a task, and of a chat completion, into one value each.

The forms: wrapped ``{code, message, data}``, wrapped without a status, ``{msg, data: {taskId}}``, bare
``{id | task_id, status, …}``, Suno's feed; statuses in any letter case. What cannot be read is a
:class:`ProtocolError` that quotes the answer, never a KeyError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from aio_provider.api.errors import ProtocolError, error_for


class TaskStatus(StrEnum):
    """How a task stands. A status we do not know means that it is still running."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_SUCCEEDED = {"success", "succeeded", "completed", "complete"}
_FAILED = {"failed", "failure", "fail", "error", "aborted", "cancelled", "canceled", "rejected", "expired"}

# Where results are found: in this order in an object that stands for one result …
_ONE = ("video_url", "audio_url", "image_url", "url")
# … and in this order in an object that holds several.
_MANY = (
    "response",
    "response_data",
    "output",
    "outputs",
    "result",
    "results",
    "urls",
    "images",
    "videos",
    "audios",
)
_NAMES = (*_ONE, *_MANY)


@dataclass(frozen=True)
class Task:
    """A task of the service, as last read.

    :param id: the service's id, opaque.
    :param raw_status: the status as the service wrote it; None when the answer had none.
    :param urls: result URLs; untrusted input.
    :param credits: what was charged (``consumed_credits``); None when not stated.
    :param error: the service's message about a failure.
    :param raw: the answer's data as it came.
    """

    id: str
    status: TaskStatus = TaskStatus.RUNNING
    raw_status: str | None = None
    urls: tuple[str, ...] = ()
    credits: float | None = None
    error: str | None = None
    model: str | None = None
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status is not TaskStatus.RUNNING

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: ``task_id, status, urls, credits, model, error, created_at`` (ISO 8601)."""
        return {
            "task_id": self.id,
            "status": self.status.value,
            "urls": list(self.urls),
            "credits": self.credits,
            "model": self.model,
            "error": self.error,
            "created_at": self.created_at.isoformat() if self.created_at else None,
        }


def read_submission(payload: object) -> Task:
    """The task that a creation answer announces.

    :raises AioError: the exception of the error that the answer holds.
    :raises ProtocolError: when no task id can be found in it.
    """
    raise_for_code(payload)
    data = _data(payload)
    task_id = _first(data, "task_id", "taskId", "id")
    if not isinstance(task_id, str | int) or isinstance(task_id, bool) or not str(task_id).strip():
        raise unreadable(payload, "no task id in the answer")
    return _task(data, str(task_id))


def read_task(payload: object, task_id: str) -> Task:
    """The task that a status answer describes.

    :param task_id: the id that was asked for, used where the answer does not repeat it.
    :raises AioError: the exception of the error that the answer holds.
    :raises ProtocolError: when it is not one of the published forms.
    """
    task = None
    if isinstance(payload, Mapping) and isinstance(payload.get("data"), Mapping):
        task = _task(payload["data"], task_id)
        if task.status is TaskStatus.FAILED:
            return task  # a failed task may come with the failure's own code around it
    raise_for_code(payload)
    data = _data(payload)
    if not any(name in data for name in ("status", "task_id", "taskId", "id", "response", "response_data")):
        raise unreadable(payload, "not the answer of a task")
    return task or _task(data, task_id)


def raise_for_code(payload: object) -> None:
    """Raise the error that a body holds although its HTTP status may be 200."""
    if not isinstance(payload, Mapping):
        raise unreadable(payload, "not a JSON object")
    error = payload.get("error")
    inner = error.get("code") if isinstance(error, Mapping) else None
    code = _integer(inner if inner is not None else payload.get("code"))
    if isinstance(error, Mapping) and error:
        raise error_for(code if code is not None and code >= 300 else 500, payload)
    if code is not None and not 200 <= code < 300:
        raise error_for(code, payload)


def unreadable(payload: object, why: str) -> ProtocolError:
    """A :class:`ProtocolError` that quotes the answer's first 500 characters."""
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, default=repr)
    return ProtocolError(f"{why}: {text[:500]}")


def _data(payload: object) -> Mapping[str, Any]:
    """The part of an answer that describes the task: ``data`` where it is wrapped, else the whole."""
    if not isinstance(payload, Mapping):
        raise unreadable(payload, "not a JSON object")
    data = payload.get("data")
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], Mapping):
        data = data[0]
    return data if isinstance(data, Mapping) else payload


def _task(data: Mapping[str, Any], task_id: str) -> Task:
    raw_status = _first(data, "status", "state")
    if raw_status is None and "response_data" in data:
        raw_status = data.get("type")  # Suno's feed names its status so
    raw_status = raw_status if isinstance(raw_status, str) else None
    urls = tuple(dict.fromkeys(_urls(data)))
    request = data.get("request")
    model = data.get("model") or (request.get("model") if isinstance(request, Mapping) else None)
    return Task(
        id=task_id,
        status=_status(raw_status, bool(urls)),
        raw_status=raw_status,
        urls=urls,
        credits=_number(_first(data, "consumed_credits", "credits_consumed", "credits")),
        error=_error(data),
        model=model if isinstance(model, str) else None,
        created_at=_time(_first(data, "created_at", "createdAt")),
        raw=data,
    )


def _status(raw: str | None, has_urls: bool) -> TaskStatus:
    if raw is None:
        return TaskStatus.SUCCEEDED if has_urls else TaskStatus.RUNNING
    word = raw.strip().lower()
    if word in _SUCCEEDED:
        return TaskStatus.SUCCEEDED
    return TaskStatus.FAILED if word in _FAILED else TaskStatus.RUNNING


def _urls(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value.startswith(("http://", "https://")):
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _urls(item)
    elif isinstance(value, Mapping):
        for name in _ONE:
            if isinstance(value.get(name), str) and value[name]:
                yield from _urls(value[name])
                return
        for name in _NAMES:
            if name in value:
                yield from _urls(value[name])


def _error(data: Mapping[str, Any]) -> str | None:
    for name in ("error_message", "error", "fail_message"):
        value = data.get(name)
        if isinstance(value, Mapping):
            value = value.get("message") or json.dumps(value, ensure_ascii=False)
        if value:
            return str(value)
    clips = data.get("response_data")
    for clip in clips if isinstance(clips, list) else ():
        if isinstance(clip, Mapping) and (clip.get("error_message") or clip.get("fail_message")):
            return str(clip.get("error_message") or clip.get("fail_message"))
    return None


def _first(data: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        value = data.get(name)
        if value is not None:
            return value
    return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if number == number and abs(number) != float("inf") else None


def _integer(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None else None


def _time(value: object) -> datetime | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = value / 1000 if value > 1e11 else value  # milliseconds
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True)
class ChatCompletion:
    """A whole answer of the chat endpoint.

    :param text: what the assistant said.
    :param thoughts: its reasoning, where the answer has it apart; the field's name is not documented.
    :param tool_calls: calls of the tools offered, in OpenAI's form.
    :param usage: tokens, as the service counts them.
    :param credits: what was charged (``credits_consumed``); None when not stated.
    """

    id: str | None
    model: str | None
    text: str
    thoughts: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    credits: float | None = None
    finish_reason: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class ChatChunk:
    """One event of a streamed answer: what it adds. Usage and credits come with the last ones, if at all."""

    text: str = ""
    thoughts: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    credits: float | None = None
    finish_reason: str | None = None
    id: str | None = None
    model: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read_completion(payload: object) -> ChatCompletion:
    """A chat answer: OpenAI's form at the top, or wrapped in ``{code, message, data}``.

    :raises AioError: the exception of the error that the answer holds.
    :raises ProtocolError: when there is no choice in it.
    """
    chunk = read_chunk(payload)
    if not isinstance(chunk.raw.get("choices"), list) or not chunk.raw["choices"]:
        raise unreadable(payload, "no choice in the chat answer")
    return join_chunks([chunk])


def read_chunk(payload: object) -> ChatChunk:
    """One event of a chat stream (``delta``), or a whole answer (``message``)."""
    raise_for_code(payload)
    data = _data(payload)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    said = choice.get("delta") or choice.get("message") or {}
    text, thoughts = _said(said if isinstance(said, Mapping) else {})
    calls = said.get("tool_calls") if isinstance(said, Mapping) else None
    usage = data.get("usage")
    return ChatChunk(
        text=text,
        thoughts=thoughts,
        tool_calls=tuple(call for call in calls or () if isinstance(call, Mapping)),
        usage=usage if isinstance(usage, Mapping) else {},
        credits=_number(_first(data, "credits_consumed", "consumed_credits", "credits")),
        finish_reason=choice.get("finish_reason"),
        id=data.get("id"),
        model=data.get("model"),
        raw=data,
    )


def join_chunks(chunks: Iterable[ChatChunk]) -> ChatCompletion:
    """The whole answer out of the events of its stream."""
    parts = list(chunks)
    calls: dict[int, dict[str, Any]] = {}
    for call in (call for part in parts for call in part.tool_calls):
        whole = calls.setdefault(call.get("index", len(calls)), {"type": "function", "function": {}})
        function = call.get("function") or {}
        arguments = whole["function"].get("arguments", "") + (function.get("arguments") or "")
        whole["function"].update({k: v for k, v in function.items() if v is not None}, arguments=arguments)
        whole.update({k: v for k, v in call.items() if k not in ("index", "function") and v is not None})
    thoughts = "".join(part.thoughts or "" for part in parts)
    return ChatCompletion(
        id=next((part.id for part in parts if part.id), None),
        model=next((part.model for part in parts if part.model), None),
        text="".join(part.text for part in parts),
        thoughts=thoughts or None,
        tool_calls=tuple(calls.values()),
        usage=next((part.usage for part in reversed(parts) if part.usage), {}),
        credits=next((part.credits for part in reversed(parts) if part.credits is not None), None),
        finish_reason=next((part.finish_reason for part in reversed(parts) if part.finish_reason), None),
        raw=parts[-1].raw if parts else {},
    )


def _said(message: Mapping[str, Any]) -> tuple[str, str | None]:
    """Text and thoughts of a message, whose content is a string or a list of parts."""
    text, thoughts = "", ""
    for name in ("reasoning_content", "reasoning", "thoughts", "thinking"):
        if isinstance(message.get(name), str):
            thoughts += message[name]
            break
    content = message.get("content")
    for part in [content] if isinstance(content, str) else content or ():
        if isinstance(part, str):
            text += part
        elif isinstance(part, Mapping):
            piece = part.get("text") or part.get("thinking") or ""
            if part.get("thought") or part.get("type") in ("thinking", "thought", "reasoning"):
                thoughts += str(piece)
            else:
                text += str(piece)
    return text, thoughts or None
