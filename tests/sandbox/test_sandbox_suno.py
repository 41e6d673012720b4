"""Suno's sub-routes, in the forms of its own reference."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from aio_provider.sandbox import ManualClock, Sandbox

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]


@pytest.fixture
def client(shared: Sandbox, connect: Connect) -> httpx.Client:
    return connect(shared)


@pytest.fixture
def song(client: httpx.Client) -> str:
    body = {"model": "chirp-v5", "prompt": "Walking down the street", "title": "Summer Dreams"}
    return str(client.post("/audio/music", json=body).json()["data"]["task_id"])


def test_the_feed_goes_through_its_stages(client: httpx.Client, song: str, shared: Sandbox) -> None:
    task = shared.account.tasks[song]
    stages = []
    for share in (0.1, 0.6, 1.0):
        shared.settings.clock.advance(
            max(0, task.accepted_at + share * (task.ready_at - task.accepted_at) - now(shared))
        )
        data = client.get("/audio/music/feed", params={"task_id": song}).json()["data"]
        stages.append([clip["status"] for clip in data["response_data"]])
    old_name = client.get("/audio/music/feed", params={"workId": song}).json()["data"]

    assert stages == [["text"] * 2, ["first"] * 2, ["complete"] * 2]
    assert data == old_name
    assert data["type"] == "SUCCESS"
    clip = data["response_data"][0]
    assert (clip["title"], clip["model_name"], clip["duration"]) == ("Summer Dreams", "chirp-v5", 186)
    assert client.get(clip["audio_url"]).headers["content-type"] == "audio/wav"
    assert client.get(clip["image_url"]).headers["content-type"] == "image/png"
    assert client.get(f"/tasks/{song}").json()["data"]["response"] == [
        c["audio_url"] for c in data["response_data"]
    ]


def now(sandbox: Sandbox) -> float:
    return sandbox.settings.clock.time()


def test_a_song_is_extended(client: httpx.Client, song: str, shared: Sandbox) -> None:
    body = {"origin_task_id": song, "extend_audio_index": 1}

    answer = client.post("/audio/music/extend", json=body)

    assert answer.json()["data"]["status"] == "IN_PROGRESS"
    assert 5 <= shared.submissions[-1].credits <= 12
    assert shared.submissions[-1].kind == "custom"
    assert client.post("/audio/music/extend", json={**body, "origin_task_id": "gone"}).status_code == 404
    assert client.post("/audio/music/extend", json={**body, "extend_audio_index": 2}).status_code == 400
    assert client.post("/audio/music/extend", json={**body, "custom_mode": True}).status_code == 400


@pytest.mark.parametrize("name", ["task_id", "taskId"])
def test_a_cover_is_made_once(client: httpx.Client, song: str, shared: Sandbox, name: str) -> None:
    shared.credits = 0
    assert client.post("/audio/music/cover/generate", json={name: song}).status_code == 402
    shared.credits = 100
    answer = client.post("/audio/music/cover/generate", json={name: song}).json()
    cover = answer["data"]["taskId"]
    assert answer == {"code": 200, "msg": "success", "data": {"taskId": cover}}
    assert shared.submissions[-1].credits == 1

    running = client.get("/audio/music/cover/status", params={"task_id": cover}).json()
    shared.settings.clock.advance(100)
    done = client.get("/audio/music/cover/status", params={"task_id": cover}).json()
    again = client.post("/audio/music/cover/generate", json={"task_id": song})

    assert (running["data"]["status"], running["data"]["images"]) == ("IN_PROGRESS", [])
    assert (done["msg"], done["data"]["taskId"], done["data"]["status"]) == ("success", cover, "SUCCESS")
    types = [client.get(url).headers["content-type"] for url in done["data"]["images"]]
    assert types == ["image/png", "image/png"]
    assert (again.status_code, again.json()["error"]["type"]) == (400, "bad_request")


def test_an_uploaded_clip_is_covered(client: httpx.Client, shared: Sandbox) -> None:
    body = {"audio_id": "clip-1", "custom_mode": True, "prompt": "jazz"}
    task_id = client.post("/audio/music/upload-cover/generate", json=body).json()["data"]["task_id"]
    shared.settings.clock.advance(100)

    data = client.get("/audio/music/upload-cover/status", params={"task_id": task_id}).json()["data"]

    assert (data["task_id"], data["status"], len(data["response_data"])) == (task_id, "SUCCESS", 2)
    assert task_id.startswith("upl")


def test_lyrics_come_at_once_with_their_times(client: httpx.Client, song: str, shared: Sandbox) -> None:
    answer = client.post("/audio/music/timestamped-lyrics", json={"task_id": song, "audio_id": "clip1"})

    data = answer.json()["data"]
    assert data["text"] == "Walking down the street"
    assert [line["text"] for line in data["lyricParams"]] == ["Walking", "down", "the", "street"]
    assert data["lyricParams"][0]["end"] == data["lyricParams"][1]["start"]
    assert all(0 <= level <= 1 for level in data["waveform"])
    assert (shared.submissions[-1].credits, shared.submissions[-1].status) == (2, "SUCCESS")


def test_status_routes_know_only_their_own_tasks(client: httpx.Client, shared: Sandbox) -> None:
    image = client.post("/images/generations", json={"model": "flux-2", "prompt": "garden"}).json()
    task_id = image["data"]["task_id"]

    codes = [
        client.get(f"/audio/music/{route}", params={"task_id": task_id}).status_code
        for route in ("feed", "cover/status", "upload-cover/status")
    ]

    assert codes == [404, 404, 404]
    assert client.get("/audio/music/feed").status_code == 400


def test_a_failed_song_says_so_in_its_feed(serve: Serve, connect: Connect, clock: ManualClock) -> None:
    sandbox = serve(faults=["failed"])
    client = connect(sandbox)
    song = client.post("/audio/music", json={"model": "suno", "prompt": "la"}).json()["data"]["task_id"]
    clock.advance(100)

    data = client.get("/audio/music/feed", params={"task_id": song}).json()["data"]

    assert data["type"] == "FAILED"
    assert {(c["status"], c["audio_url"]) for c in data["response_data"]} == {("error", "")}
    assert sandbox.charged == 0
