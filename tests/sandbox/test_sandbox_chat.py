"""Chat completions: JSON, server-sent events, tools, structured output, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx

from aio_provider.sandbox import Sandbox

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a mug?"}]
BODY = {"model": "gemini", "stream": False, "messages": MESSAGES}


def test_a_completion_has_the_documented_form(shared: Sandbox, connect: Connect) -> None:
    answer = connect(shared).post("/chat/completions", json=BODY).json()

    assert answer["id"].startswith("chatcmpl_")
    assert answer["model"] == "gemini"
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert "What is a mug?" in message["content"]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer["credits_consumed"] == shared.charged == 10_000 - shared.credits
    (submission,) = shared.submissions
    assert (submission.kind, submission.status, submission.task_id) == ("chat", "SUCCESS", answer["id"])


def test_credits_follow_the_tokens(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)
    long = [{"role": "user", "content": "word " * 1000}]

    short = client.post("/chat/completions", json=BODY).json()
    dear = client.post("/chat/completions", json={**BODY, "messages": long}).json()

    assert dear["credits_consumed"] > 10 > short["credits_consumed"] >= 1
    assert shared.charged == dear["credits_consumed"] + short["credits_consumed"]


def test_it_streams_unless_told_not_to(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)
    body = {"model": "gemini", "messages": MESSAGES}

    answer = client.post("/chat/completions", json=body)

    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == client.post("/chat/completions", json=BODY).json()["choices"][0]["message"]["content"]
    assert len(deltas) > 5
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["credits_consumed"] == shared.submissions[0].credits


def test_thoughts_can_be_left_out(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)

    given = client.post("/chat/completions", json=BODY).json()
    left_out = client.post("/chat/completions", json={**BODY, "include_thoughts": False}).json()

    assert given["choices"][0]["message"]["reasoning_content"]
    assert "reasoning_content" not in left_out["choices"][0]["message"]


def test_a_tool_is_called_and_its_result_answered(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)
    schema = {"type": "object", "properties": {"sku": {"type": "string"}, "many": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": schema}}]

    first = client.post("/chat/completions", json={**BODY, "tools": tools}).json()["choices"][0]
    result = {"role": "tool", "tool_call_id": "call_1", "content": "blue"}
    messages = [*MESSAGES, first["message"], result]
    second = client.post("/chat/completions", json={**BODY, "tools": tools, "messages": messages}).json()
    streamed = client.post("/chat/completions", json={**BODY, "tools": tools, "stream": True}).text

    assert first["finish_reason"] == "tool_calls"
    (call,) = first["message"]["tool_calls"]
    assert call["function"]["name"] == "look_up"
    assert json.loads(call["function"]["arguments"]) == {"sku": "sandbox", "many": 1}
    assert "blue" in second["choices"][0]["message"]["content"]
    assert '"finish_reason": "tool_calls"' in streamed


def test_structured_output_is_json(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)
    schema = {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"type": "string"}}, "tone": {"enum": ["warm"]}},
    }

    def content(response_format: dict) -> object:
        body = {**BODY, "response_format": response_format}
        answer = client.post("/chat/completions", json=body).json()
        return json.loads(answer["choices"][0]["message"]["content"])

    assert set(content({"type": "json_object"})) == {"answer"}
    assert content({"type": "json_schema", "json_schema": {"schema": schema}}) == {
        "tags": ["sandbox"],
        "tone": "warm",
    }


def test_content_may_be_a_list_of_parts(shared: Sandbox, connect: Connect) -> None:
    parts = [
        {"type": "text", "text": "Describe"},
        {"type": "image_url", "image_url": {"url": "https://a.example"}},
    ]
    body = {**BODY, "messages": [{"role": "user", "content": parts}]}

    answer = connect(shared).post("/chat/completions", json=body).json()

    assert "Describe" in answer["choices"][0]["message"]["content"]


def test_a_completion_is_no_task(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)
    answer = client.post("/chat/completions", json=BODY).json()

    assert client.get(f"/tasks/{answer['id']}").status_code == 404


def test_without_credits_there_is_no_answer(serve: Serve, connect: Connect) -> None:
    sandbox = serve(credits=4)  # five are taken in advance

    assert connect(sandbox).post("/chat/completions", json=BODY).status_code == 402
    assert sandbox.submissions == []


def test_varied_shapes_wrap_every_other_completion(serve: Serve, connect: Connect) -> None:
    client = connect(serve(shapes="varied"))

    forms = {tuple(client.post("/chat/completions", json=BODY).json())[:1] for _ in range(2)}

    assert forms == {("code",), ("id",)}
