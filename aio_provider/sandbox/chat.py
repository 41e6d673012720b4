"""Chat completions: one JSON answer, or server-sent events, in the OpenAI form the documentation names."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from aio_provider.sandbox.tasks import SandboxTask

if TYPE_CHECKING:
    from aio_provider.sandbox.app import Service

#: The token rate is not published; the documented example, 168 tokens for 2 credits, fits this one.
_TOKENS_PER_CREDIT = 100
_THOUGHTS = "The user wants an answer. A short one will do."


async def answer(service: Service, task: SandboxTask) -> Response:
    """Answer a completion; its credits, taken in advance, are settled by its tokens.

    Streamed unless ``stream`` is false, which is the API's default.
    """
    message = _message(task.body)
    usage = _usage(task.body, message)
    service.account.adjust(task, math.ceil(usage["total_tokens"] / _TOKENS_PER_CREDIT))
    seconds = task.ready_at - task.accepted_at
    task.ready_at = task.accepted_at  # the answer is made; only its delivery takes time
    if task.body.get("stream", True):
        events = _events(service, task, message, usage, seconds)
        return StreamingResponse(events, media_type="text/event-stream")
    await service.settings.clock.sleep(seconds)
    completion = {
        "id": task.task_id,
        "object": "chat.completion",
        "created": int(task.accepted_at),
        "model": task.model,
        "choices": [{"index": 0, "message": message, "finish_reason": _finish_reason(message)}],
        "usage": usage,
        "credits_consumed": int(task.price),
    }
    if service.settings.shapes == "varied" and task.number % 2:
        wrapped = {"code": 200, "message": "success", "data": {**completion, "model": "gemini-3-flash"}}
        return JSONResponse(wrapped)
    return JSONResponse(completion)


async def _events(
    service: Service, task: SandboxTask, message: Mapping[str, Any], usage: Mapping[str, int], seconds: float
) -> AsyncIterator[bytes]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if "reasoning_content" in message:
        deltas.append({"reasoning_content": message["reasoning_content"]})
    if "tool_calls" in message:
        calls = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
        deltas.append({"tool_calls": calls})
    words = (message["content"] or "").split(" ")
    deltas += [{"content": word if n == 0 else f" {word}"} for n, word in enumerate(words) if word or n]
    head = {
        "id": task.task_id,
        "object": "chat.completion.chunk",
        "created": int(task.accepted_at),
        "model": task.model,
    }
    for delta in deltas:
        await service.settings.clock.sleep(seconds / len(deltas))
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    last = {"index": 0, "delta": {}, "finish_reason": _finish_reason(message)}
    yield _event({**head, "choices": [last], "usage": usage, "credits_consumed": int(task.price)})
    yield b"data: [DONE]\n\n"


def _event(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _finish_reason(message: Mapping[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def _message(body: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if body.get("include_thoughts", True):
        message["reasoning_content"] = _THOUGHTS
    asked = body["messages"][-1]
    wanted = body.get("response_format") or {}
    tools = body.get("tools") or []
    if tools and asked["role"] != "tool":
        function = tools[0].get("function", tools[0])
        arguments = json.dumps(_example(function.get("parameters") or {"type": "object"}))
        call = {"name": function.get("name", "tool"), "arguments": arguments}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
    elif wanted.get("type") == "json_schema":
        message["content"] = json.dumps(_example(wanted.get("json_schema", {}).get("schema", {})))
    elif wanted.get("type") == "json_object":
        message["content"] = json.dumps({"answer": _reply(asked)}, ensure_ascii=False)
    else:
        message["content"] = _reply(asked)
    return message


def _reply(asked: Mapping[str, Any]) -> str:
    words = _text(asked)
    opening = random.Random(words).choice(("Gladly.", "Here you are.", "Certainly.", "With pleasure."))
    return f"{opening} You asked: {words[:400]}"


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _example(schema: Mapping[str, Any]) -> Any:
    """The simplest value that fits a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: _example(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"}))]
    return {"string": "sandbox", "integer": 1, "number": 1.0, "boolean": True}.get(kind)


def _usage(body: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, int]:
    """Tokens, at four characters each."""
    prompt = sum(len(_text(m)) for m in body["messages"] if isinstance(m, dict))
    completion = len(json.dumps(message))
    counts = [max(1, math.ceil(size / 4)) for size in (prompt, completion)]
    return {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
