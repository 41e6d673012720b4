"""The documented API over real HTTP: creation answers, task answers, errors, prices, latencies."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aio_provider.api.catalog import load_catalog
from aio_provider.api.prices import price
from aio_provider.api.requests import GenerationRequest
from aio_provider.sandbox import ManualClock, Sandbox, rules

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]

PHOTO = "https://example.com/photo.jpg"
SPEECH = {"model": "elevenlabs-v3", "dialogue": [{"text": "Hello.", "voice": "narrator"}, {"text": "Hi."}]}

#: One valid body for each task endpoint: path, body, and what its documented answer holds besides the id.
CREATIONS = [
    ("/images/generations", {"model": "flux-2", "prompt": "A serene garden"}, {"status": "IN_PROGRESS"}),
    ("/videos/generations", {"model": "kling-3", "prompt": "A dog runs"}, {"status": "IN_PROGRESS"}),
    ("/audio/music", {"model": "suno", "gpt_description_prompt": "A summer song"}, {"status": "IN_PROGRESS"}),
    ("/audio/speech", SPEECH, {"status": "IN_PROGRESS"}),
    ("/images/tools/remove-bg", {"image": PHOTO}, {}),
    ("/images/tools/face-swap", {"image": PHOTO, "face_image": PHOTO}, {"status": "IN_PROGRESS"}),
    ("/videos/tools/bg-remover", {"video": "https://example.com/a.mp4"}, {"status": "IN_PROGRESS"}),
    ("/images/tools/upscale", {"image": PHOTO}, {"status": "IN_PROGRESS"}),
    ("/audio/music/upload-cover/generate", {"audio_id": "clip-1"}, {}),
]


@pytest.mark.parametrize(("path", "body", "extra"), CREATIONS)
def test_creation_answers_have_the_documented_form(
    shared: Sandbox, connect: Connect, path: str, body: dict, extra: dict
) -> None:
    answer = connect(shared).post(path, json=body)

    assert answer.status_code == 200
    payload = answer.json()
    task_id = payload["data"].pop("task_id")
    assert payload == {"code": 200, "message": "success", "data": extra}
    assert [s.task_id for s in shared.submissions] == [task_id]
    assert shared.submissions[0].body == body
    assert shared.submissions[0].endpoint == path


def test_task_ids_look_like_the_examples(serve: Serve, connect: Connect) -> None:
    sandbox = serve()
    client = connect(sandbox)
    for path, body, _ in CREATIONS[:5]:
        client.post(path, json=body)

    ids = [s.task_id for s in sandbox.submissions]

    endings = [re.sub(r"[0-9a-f]{10}_", "…_", i) for i in ids]
    assert endings == ["n41…_flux2", "n75…_kling3", "n7…_suno", "n58…_tts", "n19…_bgremove"]


def test_a_task_runs_for_its_latency_then_succeeds(
    serve: Serve, connect: Connect, clock: ManualClock
) -> None:
    client = connect(serve())
    body = {"model": "flux-2", "prompt": "A serene garden"}
    task_id = client.post("/images/generations", json=body).json()["data"]["task_id"]

    clock.advance(2.9)  # flux-2 takes 3 to 8 s
    running = client.get(f"/tasks/{task_id}").json()
    clock.advance(5.2)
    done = client.get(f"/tasks/{task_id}").json()

    assert running["data"]["status"] == "IN_PROGRESS"
    assert running["data"]["consumed_credits"] is None
    assert running["data"]["response"] == []
    urls = done["data"].pop("response")
    assert [url.rpartition("/")[2] for url in urls] == [f"{task_id}-1.png"]
    assert done == {
        "code": 200,
        "message": "success",
        "data": {
            "task_id": task_id,
            "status": "SUCCESS",
            "consumed_credits": 5,
            "error_message": None,
            "created_at": "2026-01-01T00:00:00Z",
            "request": body,
        },
    }


def test_latencies_stay_in_the_published_range_and_scale(serve: Serve, connect: Connect) -> None:
    sandbox = serve(time_scale=0.5)
    client = connect(sandbox)
    for number in range(40):
        client.post("/images/generations", json={"model": "flux-2", "prompt": f"garden {number}"})

    seconds = [task.ready_at - task.accepted_at for task in sandbox.account.tasks.values()]

    assert min(seconds) >= 1.5
    assert max(seconds) <= 4.0
    assert max(seconds) - min(seconds) > 1.0


def test_a_long_tail_exceeds_the_published_range(serve: Serve, connect: Connect) -> None:
    sandbox = serve(long_tail=1.0)
    connect(sandbox).post("/images/generations", json={"model": "flux-2", "prompt": "garden"})

    (task,) = sandbox.account.tasks.values()

    assert 9 <= task.ready_at - task.accepted_at <= 80


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic aio_sandbox_key", "aio_sandbox_key", "Bearer ü"],
)
@pytest.mark.parametrize("path", ["/tasks/n41", "/nowhere"])
def test_a_wrong_key_gets_401_everywhere(shared: Sandbox, authorization: str | None, path: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode()}

    answer = httpx.get(shared.base_url + path, headers=headers, trust_env=False)

    assert answer.status_code == 401
    assert answer.json() == {
        "error": {"code": 401, "message": "Invalid API key", "type": "authentication_error"}
    }
    assert shared.requests["401"] == 1


def test_unknown_things_get_404(shared: Sandbox, connect: Connect) -> None:
    client = connect(shared)

    answers = [
        client.get("/tasks/n41nothing"),
        client.get("/balance"),
        client.delete("/tasks/n41nothing"),
        client.post("/images/generations", json={"model": "flux-9", "prompt": "garden"}),
        client.post("/images/generations", json={"model": "kling-3", "prompt": "garden"}),
    ]

    assert {(a.status_code, a.json()["error"]["type"]) for a in answers} == {(404, "not_found")}


BAD_BODIES = [
    ("/images/generations", {"prompt": "garden"}, "model"),
    ("/images/generations", {"model": 2, "prompt": "garden"}, "model"),
    ("/images/generations", {"model": "flux-2"}, "prompt"),
    ("/images/generations", {"model": "flux-2", "prompt": None}, "prompt"),
    ("/images/generations", {"model": "flux-2", "prompt": 12}, "prompt"),
    ("/images/generations", {"model": "flux-2", "prompt": "ab"}, "prompt"),
    ("/images/generations", {"model": "flux-2", "prompt": "a" * 5001}, "prompt"),
    ("/images/generations", {"model": "flux-2", "prompt": "garden", "type": "max"}, "type"),
    ("/images/generations", {"model": "flux-2", "prompt": "garden", "input_urls": [PHOTO] * 9}, "input_urls"),
    (
        "/images/generations",
        {"model": "flux-2", "prompt": "garden", "input_urls": ["a.png"]},
        "input_urls[0]",
    ),
    ("/images/generations", {"model": "imagen4", "prompt": "garden", "num_images": 1.5}, "num_images"),
    ("/videos/generations", {"model": "kling-3", "prompt": "a" * 2501}, "prompt"),
    ("/videos/generations", {"model": "kling-3", "prompt": "dog", "duration": 2}, "duration"),
    ("/videos/generations", {"model": "kling-3", "prompt": "dog", "duration": 16}, "duration"),
    ("/videos/generations", {"model": "kling-3", "prompt": "dog", "sound": 1}, "sound"),
    ("/videos/generations", {"model": "seedance-1-5-pro", "prompt": "dog", "duration": 8}, "duration"),
    ("/videos/generations", {"model": "hailuo-2-3", "prompt": "dog"}, "image"),
    ("/audio/music", {"model": "suno", "title": "a" * 81, "prompt": "la"}, "title"),
    ("/audio/music", {"model": "suno", "style": "a" * 1001, "prompt": "la"}, "style"),
    ("/audio/music", {"model": "suno"}, "prompt"),
    ("/audio/speech", {"model": "elevenlabs-v3"}, "dialogue"),
    ("/audio/speech", {"model": "elevenlabs-v3", "dialogue": []}, "dialogue"),
    ("/audio/speech", {"model": "elevenlabs-v3", "dialogue": [{"voice": "a"}]}, "dialogue[0].text"),
    ("/audio/speech", {**SPEECH, "stability": 1.1}, "stability"),
    ("/audio/speech", {**SPEECH, "stability": True}, "stability"),
    ("/chat/completions", {"model": "gemini", "messages": []}, "messages"),
    ("/chat/completions", {"model": "gemini", "messages": [{"role": "boss", "content": "x"}]}, "role"),
    ("/images/tools/remove-bg", {}, "image"),
    ("/images/tools/remove-bg", {"image": "photo.jpg"}, "image"),
    ("/images/tools/remove-bg", {"image": "file:///etc/passwd"}, "image"),
    ("/images/tools/face-swap", {"image": PHOTO, "face_image": PHOTO, "target_index": 11}, "target_index"),
    ("/images/tools/face-swap", {"image": PHOTO}, "face_image"),
    ("/videos/tools/bg-remover", {"image": PHOTO}, "video"),
]


@pytest.mark.parametrize(("path", "body", "field"), BAD_BODIES)
def test_bad_input_gets_400_naming_the_field_and_costs_nothing(
    shared: Sandbox, connect: Connect, path: str, body: dict, field: str
) -> None:
    answer = connect(shared).post(path, json=body)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request")
    assert field in error["message"]
    assert shared.submissions == []
    assert shared.credits == 10_000


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000],
)
def test_a_body_that_is_no_json_object_gets_400(shared: Sandbox, connect: Connect, content: bytes) -> None:
    answer = connect(shared).post("/images/generations", content=content)

    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_undocumented_parameters_are_ignored(shared: Sandbox, connect: Connect) -> None:
    body = {
        "model": "flux-2",
        "prompt": "garden",
        "sparkle": {"deep": [1]},
        "callback_url": "https://a.example",
    }

    assert connect(shared).post("/images/generations", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "credits"),
    [
        (
            "/images/generations",
            {"model": "flux-2", "prompt": "garden", "type": "flex", "resolution": "2K"},
            24,
        ),
        ("/images/generations", {"model": "imagen4-ultra", "prompt": "garden", "num_images": 3}, 36),
        ("/videos/generations", {"model": "kling-3", "prompt": "dog"}, 300),
        ("/audio/music", {"prompt": "la la"}, 5),
        ("/images/tools/face-swap", {"image": PHOTO, "face_image": PHOTO}, 4),
    ],
)
def test_published_prices_are_charged_at_creation(
    shared: Sandbox, connect: Connect, path: str, body: dict, credits: float
) -> None:
    connect(shared).post(path, json=body)

    assert shared.charged == credits
    assert shared.credits == 10_000 - credits


def test_a_price_range_gives_seeded_figures_within_it(serve: Serve, connect: Connect) -> None:
    request = GenerationRequest.video("A dog runs", model="seedance-1-5-pro")
    published = price(request)

    def charges(seed: int) -> list[float]:
        sandbox = serve(seed=seed)
        client = connect(sandbox)
        for _ in range(20):
            client.post(request.endpoint, json=request.body())
        return [s.credits for s in sandbox.submissions]

    first = charges(1)

    assert first == charges(1)
    assert first != charges(2)
    assert published.low <= min(first)
    assert max(first) <= published.high
    assert len(set(first)) > 5


def test_without_credits_nothing_is_accepted(serve: Serve, connect: Connect) -> None:
    sandbox = serve(credits=9)
    client = connect(sandbox)
    body = {"model": "flux-2", "prompt": "garden"}

    answers = [client.post("/images/generations", json=body) for _ in range(2)]

    assert [a.status_code for a in answers] == [200, 402]
    assert answers[1].json()["error"]["type"] == "insufficient_credits"
    assert len(sandbox.submissions) == 1
    sandbox.credits = 5
    assert client.post("/images/generations", json=body).status_code == 200
    assert sandbox.credits == 0


def test_a_failed_task_is_refunded_when_it_fails(serve: Serve, connect: Connect, clock: ManualClock) -> None:
    sandbox = serve(credits=5, faults=["failed@1"])
    client = connect(sandbox)
    body = {"model": "flux-2", "prompt": "garden"}
    task_id = client.post("/images/generations", json=body).json()["data"]["task_id"]

    assert (sandbox.credits, sandbox.charged) == (0, 5)
    clock.advance(8)
    data = client.get(f"/tasks/{task_id}").json()["data"]

    assert (data["status"], data["consumed_credits"], data["response"]) == ("FAILED", 0, [])
    assert data["error_message"]
    assert (sandbox.credits, sandbox.charged) == (5, 0)
    assert [(s.status, s.credits) for s in sandbox.submissions] == [("FAILED", 0)]
    assert client.post("/images/generations", json=body).status_code == 200


def test_the_record_has_the_clients_fingerprint(serve: Serve, connect: Connect) -> None:
    sandbox = serve()
    request = GenerationRequest.image("Ein Gärtchen", model="flux-2", aspect_ratio="16:9")

    connect(sandbox).post(request.endpoint, json=request.body())

    (submission,) = sandbox.submissions
    assert submission.fingerprint == request.fingerprint
    assert (submission.kind, submission.model) == ("image", "flux-2")


def test_every_model_of_the_catalog_is_served(serve: Serve, connect: Connect) -> None:
    sandbox = serve(credits=100_000)
    client = connect(sandbox)
    extras = {
        "prompt": "A dog runs",
        "image": PHOTO,
        "image_urls": [PHOTO],
        "face_image": PHOTO,
        "video": "https://example.com/a.mp4",
        "task_id": "n31",
        "dialogue": [{"text": "hello"}],
        "text": "hello",
        "voice_id": "v",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": False,
    }
    values = [(m.kind, value) for m in load_catalog().models() for value in (m.values or (None,))]

    refused = {}
    for kind, value in values:
        known = load_catalog().params(kind, load_catalog().model_for(kind, value))
        body = {name: extra for name, extra in extras.items() if name in known}
        answer = client.post(load_catalog().endpoint(kind).path, json={"model": value, **body})
        if answer.status_code != 200:
            refused[value] = answer.json()

    assert refused == {}
    assert len(sandbox.submissions) == len(values)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_makes_the_server_stumble(shared: Sandbox, connect: Connect, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from(rules.routes()))
    catalog = load_catalog()
    documented = catalog.route(route.path) or catalog.endpoint(route.kind)
    models = [value for model in catalog.models(route.kind) for value in model.values]
    names = ["model", "dialogue", "messages", "prompt", "image", "num_images", *documented.params]
    body = data.draw(
        st.dictionaries(st.sampled_from(names), _JSON | st.sampled_from([PHOTO, "a word"]), max_size=5)
    )
    if models and data.draw(st.booleans()):
        body["model"] = data.draw(st.sampled_from(models))

    answer = connect(shared).post(route.path, json=body)

    assert answer.status_code in (200, 400, 402, 404), (route.path, body, answer.text)
    if answer.status_code == 200 and route.kind != "chat":
        assert connect(shared).get(f"/tasks/{shared.submissions[-1].task_id}").status_code in (200, 404)
