"""Faults: the notation, which requests they hit, and what each does to a client and to the account."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aio_provider.cli_sandbox import sandbox
from aio_provider.sandbox import Fault, ManualClock, Sandbox
from aio_provider.sandbox.faults import FAULTS, FaultBoard

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]

IMAGE = {"model": "flux-2", "prompt": "garden"}
CHAT = {"model": "gemini", "stream": False, "messages": [{"role": "user", "content": "hello"}]}


# The notation.


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("429", Fault("429")),
        ("429:0.1", Fault("429", probability=0.1)),
        ("500@3", Fault("500", nth=3)),
        ("drop-after:every=5", Fault("drop-after", every=5)),
        ("failed:kind=video:0.5:times=2", Fault("failed", probability=0.5, kind="video", times=2)),
        ("slow@2:seconds=0.5:on=poll", Fault("slow", nth=2, seconds=0.5, on="poll")),
    ],
)
def test_a_fault_reads_back_as_it_is_written(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault
    assert Fault.parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teapot", "'teapot' is unknown; there are 401"),
        ("", "'' is unknown"),
        ("429:1.5", "0 to 1"),
        ("429:-1", "0 to 1"),
        ("429:often", "'often' is not a number"),
        ("429@0", "nth must be 1 or more"),
        ("429@first", "'first' is not a number"),
        ("429:every=0", "every must be 1 or more"),
        ("429@2:0.5", "names one request"),
        ("429:until=5", "'until=5' is not understood; write NAME"),
        ("failed:on=poll", "on= must be one of submit"),
        ("slow:seconds=-1", "seconds must be 0 or more"),
    ],
)
def test_a_fault_that_cannot_be_read_says_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="fault") as caught:
        Sandbox(faults=[text])

    assert said in str(caught.value)


def test_one_string_is_not_a_list_of_faults() -> None:
    with pytest.raises(ValueError, match="give a list"):
        Sandbox(faults="429")


def test_probabilities_are_seeded() -> None:
    def hits(seed: int) -> list[bool]:
        board = FaultBoard(seed)
        board.add(["429:0.3"])
        return [board.hit("before", "submit", "image") is not None for _ in range(300)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 60 < sum(hits(1)) < 120


def test_counting_faults_hit_the_requests_they_name() -> None:
    def hits(fault: str) -> list[int]:
        board = FaultBoard()
        board.add([fault])
        return [n for n in range(1, 10) if board.hit("before", "submit", "image")]

    assert hits("500@3") == [3]
    assert hits("500:every=3") == [3, 6, 9]
    assert hits("500:times=2") == [1, 2]
    assert hits("500:kind=video") == []
    assert hits("500:on=poll") == []


# What each does.


def test_before_faults_answer_and_accept_nothing(serve: Serve, connect: Connect) -> None:
    sandbox = serve()
    client = connect(sandbox)
    seen = {}
    for name in ("401", "402", "429", "500", "502-html"):
        sandbox.clear_faults()
        sandbox.add_fault(name)
        answer = client.post("/images/generations", json=IMAGE)
        seen[name] = (answer.status_code, answer.headers["content-type"].partition(";")[0])

    assert seen == {
        "401": (401, "application/json"),
        "402": (402, "application/json"),
        "429": (429, "application/json"),
        "500": (500, "application/json"),
        "502-html": (502, "text/html"),
    }
    assert sandbox.submissions == []
    assert sandbox.credits == 10_000


def test_drop_before_closes_the_connection_and_accepts_nothing(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["drop-before@1"])
    client = connect(sandbox)

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        client.post("/images/generations", json=IMAGE)

    assert sandbox.submissions == []
    assert client.post("/images/generations", json=IMAGE).status_code == 200


@pytest.mark.parametrize("body", [IMAGE, CHAT])
def test_drop_after_closes_the_connection_of_a_charged_submission(
    serve: Serve, connect: Connect, body: dict
) -> None:
    sandbox = serve(faults=["drop-after"])
    path = "/chat/completions" if body is CHAT else "/images/generations"

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        connect(sandbox).post(path, json=body)

    assert len(sandbox.submissions) == 1
    assert sandbox.charged > 0


def test_a_dropped_connection_leaves_the_others_alone(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["drop-after@2"])
    other = connect(sandbox)
    task_id = other.post("/images/generations", json=IMAGE).json()["data"]["task_id"]

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        connect(sandbox).post("/images/generations", json=IMAGE)

    assert other.get(f"/tasks/{task_id}").status_code == 200


def test_500_after_charges_first(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["500-after"])

    answer = connect(sandbox).post("/images/generations", json=IMAGE)

    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert sandbox.charged == 5


@pytest.mark.parametrize("stream", [False, True])
def test_truncated_json_cannot_be_read(serve: Serve, connect: Connect, stream: bool) -> None:
    sandbox = serve(faults=["truncated-json"])
    client = connect(sandbox)

    answers = [
        client.post("/images/generations", json=IMAGE),
        client.get(f"/tasks/{sandbox.submissions[0].task_id}"),
        client.post("/chat/completions", json={**CHAT, "stream": stream}),
    ]

    for answer in answers:
        assert answer.status_code == 200
        assert answer.content
        with pytest.raises(ValueError):
            answer.json()
    assert len(sandbox.submissions) == 2


def test_200_error_hides_a_code_in_a_good_answer(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["200-error"])

    answer = connect(sandbox).post("/images/generations", json=IMAGE)

    assert (answer.status_code, answer.json()["code"]) == (200, 500)
    assert len(sandbox.submissions) == 1


def test_never_ends_and_lost_keep_their_credits(serve: Serve, connect: Connect, clock: ManualClock) -> None:
    sandbox = serve(faults=["never-ends@1", "lost@2"])
    client = connect(sandbox)
    ids = [client.post("/images/generations", json=IMAGE).json()["data"]["task_id"] for _ in range(3)]
    clock.advance(1e6)

    answers = [client.get(f"/tasks/{task_id}") for task_id in ids]

    assert [a.status_code for a in answers] == [200, 404, 200]
    assert [answers[n].json()["data"]["status"] for n in (0, 2)] == ["IN_PROGRESS", "SUCCESS"]
    assert sandbox.charged == 15


def test_404_first_poll_hits_only_a_tasks_first_poll(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["404-first-poll"])
    client = connect(sandbox)
    ids = [client.post("/images/generations", json=IMAGE).json()["data"]["task_id"] for _ in range(2)]

    codes = [client.get(f"/tasks/{task_id}").status_code for task_id in (*ids, *ids)]

    assert codes == [404, 404, 200, 200]


def test_faults_can_be_kept_to_polls_or_a_kind(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["500:on=poll", "failed:kind=video"], time_scale=0)
    client = connect(sandbox)

    image = client.post("/images/generations", json=IMAGE)
    client.post("/videos/generations", json={"model": "kling-3", "prompt": "dog"})

    assert client.get(f"/tasks/{image.json()['data']['task_id']}").status_code == 500
    assert [s.status for s in sandbox.submissions] == ["SUCCESS", "FAILED"]


def test_slow_accepts_at_once_and_answers_late(connect: Connect) -> None:
    with Sandbox(faults=["slow@1:seconds=2"], requests_per_minute=0) as sandbox:
        client = connect(sandbox)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/images/generations", json=IMAGE, timeout=1)

        assert len(sandbox.submissions) == 1
        assert client.post("/images/generations", json=IMAGE, timeout=1.9).status_code == 200


def test_a_429_fault_takes_no_place_in_the_window(serve: Serve, connect: Connect) -> None:
    sandbox = serve(requests_per_minute=1, faults=["429@1"])
    client = connect(sandbox)

    codes = [client.get("/tasks/none").status_code for _ in range(3)]

    assert codes == [429, 404, 429]


def test_a_fault_reports_what_it_hit(serve: Serve, connect: Connect) -> None:
    sandbox = serve(faults=["500:every=2"])
    client = connect(sandbox)
    for _ in range(5):
        client.post("/images/generations", json=IMAGE)

    assert sandbox.faults == [{"fault": "500:every=2", "matched": 5, "hits": 2}]


def test_the_documentation_lists_every_fault_and_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    first_cells = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")}

    assert {f"`{name}`" for name in FAULTS} <= first_cells
    options = {option for parameter in sandbox.params for option in parameter.opts}
    assert options == set(re.findall(r"`(--[a-z-]+)`", " ".join(first_cells)))
