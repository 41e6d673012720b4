"""Each operator: what it sends, what it hands over, and which bad input it refuses before anything is
spent.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, AirflowFailException, Asset

from aio_provider.links.aio import AioTaskLink
from aio_provider.operators import aio as operators
from aio_provider.operators.aio import (
    AioBaseOperator,
    AioChatOperator,
    AioGenerateImageOperator,
    AioGenerateMusicOperator,
    AioGenerateOperator,
    AioGenerateSpeechOperator,
    AioGenerateVideoOperator,
    AioRemoveBackgroundOperator,
    AioRemoveVideoBackgroundOperator,
    AioSwapFaceOperator,
    AioUpscaleImageOperator,
)
from aio_provider.operators.base import DEADLINES
from aio_provider.sandbox import Sandbox

from .conftest import Instance, deferral_of, fire, wait_inline

PHOTO, FACE, FILM = "https://example.com/a.png", "https://example.com/f.png", "https://example.com/a.mp4"

SENDS: list[tuple[type[AioBaseOperator], dict[str, Any], str, dict[str, Any]]] = [
    (
        AioGenerateImageOperator,
        {"prompt": "a red fox", "request_params": {"aspect_ratio": "16:9"}},
        "/images/generations",
        {"model": "flux-2", "prompt": "a red fox", "aspect_ratio": "16:9"},
    ),
    (
        AioGenerateVideoOperator,
        {"prompt": "a fox runs", "image": PHOTO},
        "/videos/generations",
        {"model": "kling-3", "prompt": "a fox runs", "image": PHOTO},
    ),
    (
        AioGenerateMusicOperator,
        {
            "prompt": "calm piano",
            "model": "minimax-music",
            "request_params": {"lyrics": "la la la, all day long"},
        },
        "/audio/music",
        {"model": "minimax-music", "prompt": "calm piano", "lyrics": "la la la, all day long"},
    ),
    (
        AioGenerateSpeechOperator,
        {"dialogue": "Good morning.", "voice": "Rachel"},
        "/audio/speech",
        {"model": "elevenlabs-v3", "dialogue": [{"text": "Good morning.", "voice": "Rachel"}]},
    ),
    (
        AioGenerateSpeechOperator,
        {"dialogue": [{"text": "Good morning.", "voice": "Rachel"}], "request_params": {"stability": 0.5}},
        "/audio/speech",
        {
            "model": "elevenlabs-v3",
            "dialogue": [{"text": "Good morning.", "voice": "Rachel"}],
            "stability": 0.5,
        },
    ),
    (AioRemoveBackgroundOperator, {"image": PHOTO}, "/images/tools/remove-bg", {"image": PHOTO}),
    (
        AioSwapFaceOperator,
        {"image": PHOTO, "face_image": FACE},
        "/images/tools/face-swap",
        {"image": PHOTO, "face_image": FACE},
    ),
    (AioRemoveVideoBackgroundOperator, {"video": FILM}, "/videos/tools/bg-remover", {"video": FILM}),
    (AioUpscaleImageOperator, {"image": PHOTO}, "/images/tools/upscale", {"image": PHOTO}),
    (
        AioGenerateOperator,
        {"endpoint": "image", "model": "imagen-4", "request_params": {"prompt": "a red fox"}},
        "/images/generations",
        {"model": "imagen4", "prompt": "a red fox"},
    ),
    (
        AioGenerateOperator,
        {"endpoint": "/audio/music/upload-cover/generate", "request_params": {"audio_id": "a1"}},
        "/audio/music/upload-cover/generate",
        {"audio_id": "a1"},
    ),
]


@pytest.mark.parametrize(("kind", "arguments", "endpoint", "body"), SENDS)
def test_what_it_sends(
    aio_sandbox_env: Sandbox,
    kind: type[AioBaseOperator],
    arguments: dict[str, Any],
    endpoint: str,
    body: dict[str, Any],
) -> None:
    operator = kind(task_id="it", **arguments)
    result = wait_inline(operator, Instance().context(operator))
    [paid] = aio_sandbox_env.submissions
    assert paid.endpoint == endpoint
    assert {name: paid.body[name] for name in body} == body
    assert result["status"] == "succeeded" and result["urls"]
    assert result["credits"] == paid.credits


def test_each_operator_that_pays_is_tried_here() -> None:
    tried = {kind for kind, *_ in SENDS} | {AioChatOperator, AioBaseOperator}
    named = {getattr(operators, name) for name in operators.__all__}
    assert {kind for kind in named if issubclass(kind, AioBaseOperator)} == tried


@pytest.mark.parametrize(
    "kind",
    sorted({kind for kind, *_ in SENDS} | {AioChatOperator}, key=lambda kind: kind.__name__),
    ids=lambda kind: kind.__name__,
)
def test_template_fields_are_attributes_and_rendered(kind: type[AioBaseOperator]) -> None:
    names = [name for name in kind.template_fields if name != "request_params"]
    with DAG("d", schedule=None):
        operator = kind(task_id="it", **{name: f"{{{{ x }}}} {name}" for name in names})
    operator.request_params = {"negative_prompt": "{{ x }}"}
    operator.render_template_fields({"x": "rendered"})  # type: ignore[arg-type]
    assert {name: getattr(operator, name) for name in names} == {name: f"rendered {name}" for name in names}
    assert operator.request_params == {"negative_prompt": "rendered"}


def test_on_the_worker_without_deferring(aio_sandbox_env: Sandbox) -> None:
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox", deferrable=False)
    assert operator.execute(Instance().context(operator))["status"] == "succeeded"


def test_id_and_link_are_there_before_the_waiting(aio_sandbox_env: Sandbox) -> None:
    instance = Instance()
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox")
    trigger = deferral_of(operator, instance.context(operator)).trigger
    assert instance.xcom["aio_task_id"] == trigger.aio_task_id
    assert instance.xcom["aio_link"] == f"{aio_sandbox_env.base_url}/tasks/{trigger.aio_task_id}"
    result = operator.execute_complete(instance.context(operator), fire(trigger))
    assert instance.xcom["aio_link"] == result["urls"][0]


def test_no_xcom_where_none_is_wanted(aio_sandbox_env: Sandbox) -> None:
    instance = Instance()
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox", do_xcom_push=False)
    wait_inline(operator, instance.context(operator))
    assert instance.xcom == {}


def test_links_go_to_the_web_only() -> None:
    pushed: dict[str, str] = {}
    context: Any = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.__setitem__(key, value))}
    AioTaskLink.persist(context, "javascript:alert(1)")
    assert pushed == {}


@pytest.mark.parametrize(
    ("kind", "minutes"),
    [("image", 15), ("remove_background", 15), ("speech", 30), ("music", 30), ("video", 120)],
)
def test_deadlines_by_kind(kind: str, minutes: int) -> None:
    assert DEADLINES[kind] == timedelta(minutes=minutes)


@pytest.mark.parametrize("deadline", [90, 90.0, timedelta(seconds=90)])
def test_deadline_counts_from_the_submission(aio_sandbox_env: Sandbox, deadline: Any) -> None:
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox", deadline=deadline)
    deferred = deferral_of(operator, Instance().context(operator))
    trigger = deferred.trigger
    assert trigger.deadline == trigger.submitted_at + 90
    assert deferred.timeout > timedelta(seconds=90), "Airflow's own limit comes after ours"


def test_a_retry_after_the_deadline_waits_as_long_again(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends")
    instance = Instance()
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox", deadline=0.01)
    first = deferral_of(operator, instance.context(operator)).trigger
    time.sleep(0.02)
    second = deferral_of(operator, instance.context(operator)).trigger
    assert second.aio_task_id == first.aio_task_id
    assert second.deadline > time.time() - 0.01 > first.deadline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": "ab"}, "prompt"),
        ({"prompt": "x" * 5001}, "prompt.*5000"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a red fox", "request_params": "seed=5"}, "request_params: must be a dict"),
        (
            {"prompt": "a red fox", "request_params": {"prompt": "a blue fox"}},
            "prompt: give it as an argument or",
        ),
        (
            {"prompt": "a red fox", "request_params": {"model": "imagen-4"}},
            "model: give it as an argument or",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    aio_sandbox_env: Sandbox, arguments: dict[str, Any], message: str
) -> None:
    operator = AioGenerateImageOperator(task_id="it", **arguments)
    with pytest.raises(AirflowFailException, match=message) as error:
        operator.execute(Instance().context(operator))
    assert str(error.value).startswith("Nothing was sent")
    assert aio_sandbox_env.requests.get("requests", 0) == 0


def test_a_local_file_is_refused_with_a_hint(aio_sandbox_env: Sandbox) -> None:
    operator = AioRemoveBackgroundOperator(task_id="it", image="/data/photo.png")
    with pytest.raises(AirflowFailException, match="URL"):
        operator.execute(Instance().context(operator))
    assert aio_sandbox_env.requests.get("requests", 0) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_unknown": "ask"}, "on_unknown"),
        ({"reuse": "sometimes"}, "reuse"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": True}, "deadline"),
    ],
)
def test_bad_arguments_are_found_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AioGenerateImageOperator(task_id="it", prompt="a red fox", **arguments)


def test_an_unusable_key_fails_before_the_intent(
    aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", "aio://:bad%20key@127.0.0.1:1/api/v1")
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox")
    with pytest.raises(AirflowFailException, match="Nothing was sent"):
        operator.execute(Instance().context(operator))


def test_on_kill_says_that_the_task_goes_on(aio_sandbox_env: Sandbox, caplog: Any, capsys: Any) -> None:
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox")
    operator.on_kill()
    trigger = deferral_of(operator, Instance().context(operator)).trigger
    operator.on_kill()
    assert f"{trigger.aio_task_id} goes on at the service" in caplog.text + capsys.readouterr().out
    assert aio_sandbox_env.requests == {"requests": 1, "submit": 1, "accepted": 1}


def test_asset_events_carry_rows_credits_and_failures(aio_sandbox_env: Sandbox) -> None:
    asset = Asset("x-aio://pictures/fox")
    event = SimpleNamespace(extra={})
    instance = Instance()
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox", outlets=[asset])
    for expected in (
        {"rows": 1, "credits": 5, "failures": 0, "reused": 0},
        {"rows": 1, "credits": 0, "failures": 0, "reused": 1},
    ):
        context = {**instance.context(operator), "outlet_events": {asset: event}}
        if expected["reused"]:
            operator.execute(context)
        else:
            wait_inline(operator, context)
        assert event.extra == expected


def test_chat(aio_sandbox_env: Sandbox) -> None:
    operator = AioChatOperator(
        task_id="it", messages="Name three colours.", system_prompt="Answer in one line."
    )
    result = operator.execute(Instance().context(operator))
    [asked] = aio_sandbox_env.submissions
    assert asked.body["messages"] == [
        {"role": "system", "content": "Answer in one line."},
        {"role": "user", "content": "Name three colours."},
    ]
    assert asked.body["stream"] is False
    assert result["text"] and result["urls"] == [] and result["task_id"] is None
    assert result["credits"] == aio_sandbox_env.charged


def test_chat_does_not_stream(aio_sandbox_env: Sandbox) -> None:
    operator = AioChatOperator(task_id="it", messages="Hello there", request_params={"stream": True})
    with pytest.raises(AirflowFailException, match="stream"):
        operator.execute(Instance().context(operator))


def test_openlineage(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # The method is the openlineage provider's to call; that is not installed here, so these stand for its
    # classes.
    openlineage: Any = ModuleType("airflow.providers.openlineage.extractors")
    openlineage.OperatorLineage = SimpleNamespace
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", openlineage)
    monkeypatch.setattr("airflow.providers.common.compat.openlineage.facet.Dataset", SimpleNamespace)
    operator = AioGenerateImageOperator(task_id="it", prompt="a red fox")
    result = wait_inline(operator, Instance().context(operator))
    [output] = operator.get_openlineage_facets_on_complete(None).outputs
    assert f"{output.namespace}{output.name}" == result["urls"][0]


@pytest.mark.parametrize(
    ("operator", "argument", "says"),
    [
        (AioChatOperator, "prompt", r"^prompt: here it is called messages=\. \("),
        (AioGenerateSpeechOperator, "prompt", r"^prompt: here it is called dialogue=\. \("),
        (AioGenerateSpeechOperator, "text", r"^text: here it is called dialogue=\. \("),
        (
            AioGenerateImageOperator,
            "aspect_ratio",
            r"^aspect_ratio: this field of the request goes into request_params={'aspect_ratio': …}\. \(",
        ),
        (AioGenerateMusicOperator, "lyrics", r"^lyrics: this field .* request_params={'lyrics': …}"),
        (AioUpscaleImageOperator, "prompt", "^Invalid arguments were passed"),
        (AioGenerateImageOperator, "promt", "^Invalid arguments were passed"),
    ],
)
def test_an_argument_that_belongs_elsewhere_is_told_where(
    operator: type[AioBaseOperator], argument: str, says: str
) -> None:
    with pytest.raises((TypeError, AirflowException), match=says):  # the latter in Airflow 2
        operator(task_id="it", **{argument: "a red fox"})


def test_a_generic_operator_says_where_its_prompt_goes() -> None:
    with pytest.raises(TypeError, match=r"^prompt: this field .* request_params={'prompt': …}"):
        AioGenerateOperator(task_id="it", endpoint="image", prompt="a red fox")
