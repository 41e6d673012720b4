"""Steering a sandbox: from Python, over its control routes, and from its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aio_provider.sandbox import ManualClock, Sandbox
from aio_provider.sandbox.tasks import read_record

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]

IMAGE = {"model": "flux-2", "prompt": "A <b>bold</b> & shiny mug"}


@pytest.fixture
def client(shared: Sandbox, connect: Connect) -> httpx.Client:
    client = connect(shared)
    client.post("/images/generations", json=IMAGE)
    return client


def ask(
    client: httpx.Client, sandbox: Sandbox, method: str, route: str, **keywords: object
) -> httpx.Response:
    return client.request(method, f"{sandbox.origin}/sandbox/{route}", **keywords)


def test_state_and_submissions(client: httpx.Client, shared: Sandbox) -> None:
    state = ask(client, shared, "GET", "state").json()
    submissions = ask(client, shared, "GET", "submissions").json()["submissions"]

    assert (state["credits"], state["charged"], state["submissions"]) == (9995, 5, 1)
    assert state["requests"] == {"requests": 1, "submit": 1, "accepted": 1}
    assert state["base_url"] == shared.base_url
    assert submissions == [s.to_dict() for s in shared.submissions]
    assert submissions[0]["body"] == IMAGE
    assert shared.api_key not in json.dumps([state, submissions])
    assert ask(client, shared, "GET", "submissions?start=1").json() == {"submissions": []}


def test_credits_and_faults_can_be_set(client: httpx.Client, shared: Sandbox) -> None:
    ask(client, shared, "POST", "credits", json={"credits": 3})
    set_faults = ask(client, shared, "POST", "faults", json={"faults": ["500@1"]}).json()

    assert shared.credits == 3
    assert set_faults == {"faults": [{"fault": "500@1", "matched": 0, "hits": 0}]}
    assert client.post("/images/generations", json=IMAGE).status_code == 500
    assert client.post("/images/generations", json=IMAGE).status_code == 402
    assert ask(client, shared, "DELETE", "faults").json() == {"faults": []}


@pytest.mark.parametrize(
    ("route", "body", "said"),
    [
        ("credits", {"credits": -1}, "0 or more"),
        ("credits", {"credits": "many"}, "'credits' (int or float)"),
        ("credits", {"credits": True}, "'credits'"),
        ("credits", [], "'credits'"),
        ("faults", {"faults": "429"}, "'faults' (list)"),
        ("faults", {"faults": ["429", "teapot"]}, "'teapot' is unknown"),
    ],
)
def test_what_cannot_be_used_is_refused_whole(
    client: httpx.Client, shared: Sandbox, route: str, body: object, said: str
) -> None:
    answer = ask(client, shared, "POST", route, json=body)

    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert shared.faults == []
    assert ask(client, shared, "POST", route, content=b"{").status_code == 400


def test_reset_forgets_charges_and_restores_the_settings(serve: Serve, connect: Connect) -> None:
    sandbox = serve(credits=7, faults=["failed"], requests_per_minute=2)
    client = connect(sandbox)
    task_id = client.post("/images/generations", json=IMAGE).json()["data"]["task_id"]
    client.get(f"/tasks/{task_id}")
    assert client.get(f"/tasks/{task_id}").status_code == 429
    sandbox.add_fault("500")

    state = ask(client, sandbox, "POST", "reset").json()

    assert (state["credits"], state["charged"], state["submissions"], state["requests"]) == (7, 0, 0, {})
    assert [fault["fault"] for fault in state["faults"]] == ["failed"]
    assert client.get(f"/tasks/{task_id}").status_code == 404


def test_ids_never_come_again(serve: Serve, connect: Connect) -> None:
    ids = set()
    for _ in range(2):
        sandbox = serve(seed=1)
        client = connect(sandbox)
        for _ in range(2):
            ids.add(client.post("/images/generations", json=IMAGE).json()["data"]["task_id"])
            sandbox.reset()

    assert len(ids) == 4


def test_draws_do_not_depend_on_the_order_of_arrival(serve: Serve, connect: Connect) -> None:
    def drawn(prompts: list[str]) -> dict[str, list[tuple[float, float]]]:
        sandbox = serve(seed=7, credits=1e6)
        client = connect(sandbox)
        for prompt in prompts:
            body = {"model": "seedance-1-5-pro", "prompt": prompt}
            assert client.post("/videos/generations", json=body).status_code == 200
        found: dict[str, list[tuple[float, float]]] = {}
        for task in sandbox.account.tasks.values():
            found.setdefault(task.body["prompt"], []).append((task.price, task.ready_at))
        return found

    one = drawn(["dog", "cat", "dog", "cow"])
    other = drawn(["cow", "dog", "dog", "cat"])

    assert one == other
    assert len(set(one["dog"])) == 2


def test_the_record_file_has_a_line_a_submission(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    assert read_record(record) == []
    first = serve(record=record)
    connect(first).post("/images/generations", json=IMAGE)
    second = serve(record=record, faults=["500@1"])  # a restart appends
    client = connect(second)
    client.post("/images/generations", json=IMAGE)
    client.post("/images/tools/remove-bg", json={"image": "https://example.com/ü.png"})

    recorded = read_record(record)

    assert recorded == [*first.submissions, *second.submissions]
    assert [s.endpoint for s in recorded] == ["/images/generations", "/images/tools/remove-bg"]


def test_the_record_file_says_what_was_charged_in_the_end(
    serve: Serve, connect: Connect, clock: ManualClock, tmp_path: Path
) -> None:
    record = tmp_path / "record.jsonl"
    sandbox = serve(record=record, faults=["failed@1"])
    client = connect(sandbox)
    chat = {"model": "gemini", "stream": False, "messages": [{"role": "user", "content": "What is a mug?"}]}
    answer = client.post("/chat/completions", json=chat).json()
    client.post("/images/generations", json=IMAGE)
    clock.advance(3600)
    assert sandbox.credits == 10_000 - answer["credits_consumed"]

    told, failed = read_record(record)

    assert told.credits == answer["credits_consumed"] == 1
    assert (failed.credits, failed.status) == (0, "FAILED")
    assert sum(each.credits for each in read_record(record)) == sandbox.charged


def test_the_page_shows_the_latest_tasks_and_trusts_no_prompt(
    client: httpx.Client, shared: Sandbox, clock: ManualClock
) -> None:
    client.post("/videos/generations", json={"model": "kling-3", "prompt": "dog"})
    client.post("/audio/music", json={"model": "suno", "prompt": "la"})
    waiting = client.get(f"{shared.origin}/").text
    shared.settings.clock.advance(1000)
    page = client.get(f"{shared.origin}/")

    assert page.headers["content-type"].startswith("text/html")
    assert "<b>bold</b>" not in page.text
    assert "A &lt;b&gt;bold&lt;/b&gt; &amp; shiny mug" in page.text
    assert "<img" not in waiting
    for tag in ("<img src=", "<video src=", "<audio src=", "/images/tools/upscale", shared.base_url):
        assert tag in page.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "host: the sandbox binds loopback only"),
        ({"host": "example.com"}, "host"),
        ({"port": 70_000}, "port"),
        ({"time_scale": -1}, "time_scale"),
        ({"time_scale": float("nan")}, "time_scale"),
        ({"credits": -5}, "credits"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"long_tail": 2}, "long_tail"),
        ({"shapes": "odd"}, "shapes: must be one of documented, varied"),
        ({"retry_after": "soon"}, "retry_after"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "two words"}, "api_key"),
        ({"record": "/no/such/folder/record.jsonl"}, "record: the folder"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sandbox(**settings)


def test_credits_cannot_be_set_to_nonsense(shared: Sandbox) -> None:
    with pytest.raises(ValueError, match="credits"):
        shared.credits = float("inf")


def test_a_port_in_use_says_which(serve: Serve) -> None:
    sandbox = serve()

    with pytest.raises(OSError, match=f"port {sandbox.port}"):
        serve(port=sandbox.port)


def test_before_it_starts_it_has_no_address() -> None:
    with pytest.raises(RuntimeError, match="not been started"):
        _ = Sandbox().base_url


def test_it_can_stop_and_start_again_on_its_port(connect: Connect) -> None:
    sandbox = Sandbox(requests_per_minute=0).start()
    with pytest.raises(RuntimeError, match="running already"):
        sandbox.start()
    port = sandbox.port
    sandbox.stop()
    with pytest.raises(httpx.ConnectError):
        connect(sandbox).get("/tasks/none")

    with Sandbox(port=port) as again:
        assert connect(again).get("/tasks/none").status_code == 404


def test_it_listens_on_ipv6_loopback(connect: Connect) -> None:
    with Sandbox(host="::1") as sandbox:
        assert sandbox.base_url == f"http://[::1]:{sandbox.port}/api/v1"
        assert connect(sandbox).get("/tasks/none").status_code == 404
