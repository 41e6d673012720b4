"""The contract: every request and answer example of the documentation, by both clients and the sandbox."""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx
import pytest

from aio_provider.api import errors
from aio_provider.api.catalog import KINDS, load_catalog
from aio_provider.api.prices import price
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.tasks import TaskStatus, read_completion, read_task
from aio_provider.sandbox import Sandbox
from tests.api.conftest import DOCUMENTED, KEY, Clients, answers

SUBMISSIONS = [pytest.param(example, id=example["name"]) for example in DOCUMENTED["submissions"]]
TASKS = [pytest.param(example, id=example["name"]) for example in DOCUMENTED["tasks"]]
ERRORS = [pytest.param(e, id=f"{e['status']}-{e['type']}") for e in DOCUMENTED["errors"]]


def make(example: dict[str, Any], **changes: Any) -> GenerationRequest:
    constructor, fields = example["make"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a documented request must not warn
        request: GenerationRequest = getattr(GenerationRequest, constructor)(**{**fields, **changes})
    return request


@pytest.mark.parametrize("example", SUBMISSIONS)
def test_request_is_sent_as_documented(example: dict[str, Any], call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json=example["answer"]))
    task = call(handler, "submit", make(example))
    assert len(seen) == 1
    assert seen[0].method == "POST"
    assert str(seen[0].url) == "https://api.example.test/api/v1" + example["path"]
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert seen[0].headers["content-type"] == "application/json"
    assert seen[0].headers["user-agent"].startswith("aio-provider/")
    assert json.loads(seen[0].content) == example["body"]
    assert (task.id, task.raw_status, task.status) == (example["task_id"], example["raw_status"], "running")


@pytest.mark.parametrize("example", SUBMISSIONS)
def test_price_of_documented_request(example: dict[str, Any]) -> None:
    estimate = price(make(example))
    assert estimate.source == "published"
    if example["credits"] is not None:
        assert (estimate.low, estimate.likely, estimate.high) == (example["credits"],) * 3
    else:
        assert estimate.high is not None and estimate.low < estimate.high


@pytest.mark.parametrize("example", SUBMISSIONS)
def test_sandbox_accepts_documented_request(example: dict[str, Any], call: Clients) -> None:
    with Sandbox(time_scale=0, requests_per_minute=0) as sandbox:
        settings = {"api_key": sandbox.api_key, "base_url": sandbox.base_url}
        changes = {}
        if example.get("needs_song"):
            changes["task_id"] = call(None, "submit", GenerationRequest.music("la la la"), **settings).id
        submitted = call(None, "submit", make(example, **changes), **settings)
        task = call(None, "get_task", submitted.id, **settings)
        assert task.status is TaskStatus.SUCCEEDED
        assert task.urls and all(url.startswith(sandbox.origin) for url in task.urls)
        record = sandbox.submissions[-1]
        assert record.body == {**example["body"], **changes}
        assert record.fingerprint == make(example, **changes).fingerprint
        assert task.credits == record.credits
        estimate = price(make(example, **changes))
        assert estimate.low <= record.credits <= estimate.high


@pytest.mark.parametrize("example", TASKS)
def test_documented_task_is_read(example: dict[str, Any], call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json=example["answer"]))
    task = call(handler, "get_task", "asked-for")
    assert seen[0].method == "GET"
    assert seen[0].url.path == "/api/v1/tasks/asked-for"
    expected = {**example["task"], "task_id": "asked-for"}
    assert task.to_dict() == expected
    assert read_task(example["answer"], "asked-for") == task
    json.dumps(task.to_dict())


@pytest.mark.parametrize("example", ERRORS)
def test_documented_error_has_its_exception(example: dict[str, Any], call: Clients) -> None:
    envelope = {"code": example["status"], "message": "What went wrong", "type": example["type"]}
    handler, _ = answers(httpx.Response(example["status"], json={"error": envelope}))
    with pytest.raises(getattr(errors, example["raises"]), match="What went wrong") as caught:
        call(handler, "get_task", "n41_x")
    assert type(caught.value).__name__ == example["raises"]
    assert (caught.value.status, caught.value.type) == (example["status"], example["type"])


@pytest.mark.parametrize("answer", DOCUMENTED["chat"]["answers"], ids=["bare", "wrapped"])
def test_documented_chat(answer: dict[str, Any], call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json=answer))
    completion = call(handler, "chat", GenerationRequest.chat("Hello"))
    assert seen[0].url.path == "/api/v1/chat/completions"
    assert json.loads(seen[0].content) == DOCUMENTED["chat"]["body"]
    assert completion == read_completion(answer)
    assert (completion.id, completion.text, completion.credits) == ("chatcmpl_xyz", "Hi there", 2.0)
    assert completion.usage["total_tokens"] == 168


def test_sandbox_chat_whole_and_streamed(call: Clients) -> None:
    with Sandbox(time_scale=0, requests_per_minute=0) as sandbox:
        settings = {"api_key": sandbox.api_key, "base_url": sandbox.base_url}
        request = GenerationRequest.chat("What is a lighthouse?")
        whole = call(None, "chat", request, **settings)
        chunks = call(None, "chat_stream", request, **settings)
        assert whole.text and whole.credits and whole.thoughts
        assert len(chunks) > 3
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert chunks[-1].finish_reason == "stop"
        assert chunks[-1].credits == whole.credits
        assert [s.body["stream"] for s in sandbox.submissions] == [False, True]


def test_every_published_shape_from_the_sandbox(call: Clients) -> None:
    with Sandbox(time_scale=0, requests_per_minute=0, shapes="varied", faults=["failed:every=4"]) as sandbox:
        settings = {"api_key": sandbox.api_key, "base_url": sandbox.base_url}
        for number in range(16):
            request = GenerationRequest.image(f"picture {number}")
            task = call(None, "get_task", call(None, "submit", request, **settings).id, **settings)
            record = sandbox.submissions[-1]
            assert task.id == record.task_id
            assert task.status == ("failed" if number % 4 == 3 else "succeeded")
            assert task.credits == record.credits
            assert bool(task.urls) is (task.status == "succeeded")
            assert bool(task.error) is (task.status == "failed")


def test_sandbox_errors(call: Clients) -> None:
    with Sandbox(time_scale=0, requests_per_minute=3, credits=4, retry_after="seconds") as sandbox:
        settings = {"api_key": sandbox.api_key, "base_url": sandbox.base_url}
        with pytest.raises(errors.AuthenticationError):
            call(None, "get_task", "n41_x", **{**settings, "api_key": "aio_wrong"})
        with pytest.raises(errors.NotFoundError):
            call(None, "get_task", "n41_x", **settings)
        with pytest.raises(errors.InsufficientCreditsError):
            call(None, "submit", GenerationRequest.image("a cat"), **settings)
        with pytest.raises(errors.InvalidRequestError):
            call(None, "request", "POST", "/images/generations", **settings)
        with pytest.raises(errors.RateLimitError) as limited:
            call(None, "submit", GenerationRequest.image("a cat"), **settings)
        assert limited.value.retry_after and 0 < limited.value.retry_after <= 60
        assert sandbox.submissions == []


def test_check_tells_good_keys_from_bad(call: Clients) -> None:
    with Sandbox(requests_per_minute=0) as sandbox:
        assert call(None, "check", api_key=sandbox.api_key, base_url=sandbox.base_url) is None
        with pytest.raises(errors.AuthenticationError):
            call(None, "check", api_key="aio_revoked", base_url=sandbox.base_url)
        assert sandbox.charged == 0


def test_every_kind_has_an_endpoint_and_a_latency() -> None:
    catalog = load_catalog()
    for kind in KINDS:
        assert catalog.endpoint(kind).path.startswith("/")
        latency = catalog.latency(kind, None)
        assert 0 < latency.min < latency.max
        for model in catalog.models(kind):
            assert 0 < catalog.latency(kind, model.name).min < catalog.latency(kind, model.name).max
    assert (catalog.latency("video", "kling-3").min, catalog.latency("video", "kling-3").max) == (60, 180)
    assert not catalog.latency("video", "not-yet-known").published
