"""Requests: what they send, what they refuse and how they say so, and their fingerprints."""

from __future__ import annotations

import copy
import pickle
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.requests import GenerationRequest

make = GenerationRequest
URL = "https://example.com/a.png"


# Which model


@pytest.mark.parametrize(
    ("kind", "slug", "fields", "sent"),
    [
        ("image", "imagen-4", {}, "imagen4"),
        ("image", "ideogram-v3", {}, "ideogram-v3-turbo"),
        ("image", "seedream-4-5", {}, "seedream/4.5-text-to-image"),
        ("image", "seedream-4-5", {"image_urls": [URL]}, "seedream/4.5-edit"),
        ("image", "grok-imagine", {}, "grok-imagine/text-to-image"),
        ("image", "grok-imagine", {"task_id": "n31_x"}, "grok-imagine/upscale"),
        ("video", "grok-video", {}, "grok-imagine/text-to-video"),
        ("video", "grok-video", {"image_urls": [URL]}, "grok-imagine/image-to-video"),
        ("video", "hailuo-2-3", {"image": URL}, "hailuo-2-3"),
        ("image", "gpt-image-1.5-official", {}, "gpt-image-1.5-official"),
        ("music", "suno", {}, "suno"),
    ],
)
def test_page_slug_becomes_the_value_of_the_body(
    kind: str, slug: str, fields: dict[str, Any], sent: str, recwarn: pytest.WarningsRecorder
) -> None:
    assert make.build(kind, model=slug, prompt="a cat", **fields).body()["model"] == sent
    assert not recwarn.list


def test_default_models_and_tools_without_one() -> None:
    assert make.build("image", prompt="a cat") == make.image("a cat", model="flux-2")
    assert make.build("video", prompt="a cat").model == "kling-3"
    assert "model" not in make.remove_background(URL).body()
    assert make.remove_background(URL, model="bg-remover").body() == {"model": "bg-remover", "image": URL}


def test_unknown_model_passes_with_a_warning_and_general_bounds() -> None:
    with pytest.warns(UserWarning) as caught:
        request = make.image("a cat", model="flux-9", type="pro", brand_new=1)
    assert request.body() == {"model": "flux-9", "prompt": "a cat", "type": "pro", "brand_new": 1}
    first, second = (str(warning.message) for warning in caught)
    assert "'flux-9' is not in the packaged catalog" in first and "did you mean 'flux-2'?" in first
    assert "'brand_new' is not a documented parameter of flux-9" in second
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning), pytest.raises(InvalidRequestError, match="5001 characters"):
        make.image("x" * 5001, model="flux-9")


def test_unknown_parameter_passes_with_a_warning_and_a_hint() -> None:
    with pytest.warns(UserWarning, match="'aspectratio' is not a documented.*did you mean 'aspect_ratio'"):
        assert make.image("a cat", aspectratio="1:1").params["aspectratio"] == "1:1"


def test_field_of_another_model_value_warns() -> None:
    with pytest.warns(UserWarning, match="image_urls"):
        make.video("a cat", model="grok-imagine/text-to-video", image_urls=[URL])


def test_model_of_another_kind() -> None:
    with pytest.raises(InvalidRequestError, match="'kling-3' is of the kind 'video', not 'image'") as caught:
        make.image("a cat", model="kling-3")
    assert caught.value.field == "model"


@pytest.mark.parametrize("model", ["", "  ", 5])
def test_model_that_is_no_name(model: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"^model: must be text"):
        make.image("a cat", model=model)


@pytest.mark.parametrize(
    ("model", "kind", "field", "right"),
    [
        ("ideogram-v4", "image", "aspect_ratio", "size"),
        ("pixverse-5-6", "video", "aspect_ratio", "resolution_ratio"),
        ("seedream-4-5", "image", "input_urls", "image_urls"),
        ("flux-2", "image", "image_urls", "input_urls"),
        ("grok-video", "video", "image", "image_urls"),
        ("elevenlabs-v3", "speech", "text", "dialogue"),
    ],
)
def test_another_models_name_for_a_field(model: str, kind: str, field: str, right: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: .* calls this field '{right}'"):
        make.build(kind, model=model, prompt="a cat", **{field: URL})


# What is missing


def test_kling_multi_shots_need_no_prompt() -> None:
    shots = [{"prompt": "a cat", "duration": "3"}, {"prompt": "a dog", "duration": 2}]
    request = make.video(multi_shots=True, multi_prompt=shots)
    assert request.params["multi_prompt"] == [
        {"prompt": "a cat", "duration": 3},
        {"prompt": "a dog", "duration": 2},
    ]
    with pytest.raises(InvalidRequestError, match="needs 'prompt' or 'multi_prompt'"):
        make.video(multi_shots=True)
    with pytest.raises(InvalidRequestError, match=r"^prompt: missing, and kling-3 needs it"):
        make.video(multi_shots=False)
    with pytest.raises(InvalidRequestError, match=r"^multi_prompt\[1\]\.prompt: missing"):
        make.video(multi_shots=True, multi_prompt=[{"prompt": "a"}, {"duration": 2}])


@pytest.mark.parametrize(
    ("kind", "fields", "missing"),
    [
        ("video", {"model": "hailuo/2-3-image-to-video-pro", "prompt": "a cat"}, "image"),
        ("image", {"model": "seedream/4.5-edit", "prompt": "a cat"}, "image_urls"),
        ("video", {"model": "grok-imagine/text-to-video"}, "prompt"),
        ("video", {"model": "grok-imagine/image-to-video"}, "image_urls"),
        ("image", {"model": "grok-imagine/upscale"}, "task_id"),
        ("music", {"model": "suno", "title": "x"}, "prompt"),
        ("speech", {}, "dialogue"),
        ("chat", {}, "messages"),
        ("swap_face", {"image": URL}, "face_image"),
        ("remove_background", {}, "image"),
        ("remove_video_background", {"background_image": URL}, "video"),
    ],
)
def test_fields_a_model_needs(kind: str, fields: dict[str, Any], missing: str) -> None:
    with pytest.raises(InvalidRequestError, match="missing") as caught:
        make.build(kind, **fields)
    assert caught.value.field == missing


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
@pytest.mark.parametrize("kind", ["image", "video", "speech", "chat"])
def test_blank_prompt(kind: str, prompt: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^prompt: empty") as caught:
        make.build(kind, prompt=prompt)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("prompt", [5, 1.5, ["a"], {"a": 1}, True, b"x"])
@pytest.mark.parametrize("kind", ["image", "speech", "chat"])
def test_prompt_of_a_wrong_type_is_named(kind: str, prompt: Any) -> None:
    with pytest.raises(InvalidRequestError, match=type(prompt).__name__) as caught:
        make.build(kind, prompt=prompt)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("kind", ["imge", "tool", "", "Image"])
def test_unknown_kind(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not one of image, video"):
        make.build(kind, prompt="a cat")


# Shorthands


def test_speech_and_chat_shorthands() -> None:
    assert make.speech("Hello").params["dialogue"] == [{"text": "Hello"}]
    assert make.speech("Hello", voice="Ann").params["dialogue"] == [{"text": "Hello", "voice": "Ann"}]
    assert make.build("speech", prompt="Hello", voice="Ann") == make.speech("Hello", voice="Ann")
    assert make.build("chat", prompt="Hi") == make.chat("Hi")
    assert make.chat("Hi").params["messages"] == [{"role": "user", "content": "Hi"}]
    older = make.speech("Hello", model="elevenlabs-multilingual-v2", voice_id="v1")
    assert older.body() == {"model": "elevenlabs-multilingual-v2", "text": "Hello", "voice_id": "v1"}


def test_prompt_and_dialogue_together() -> None:
    with pytest.raises(InvalidRequestError, match="either 'prompt' or 'dialogue'"):
        make.build("speech", prompt="Hi", dialogue=[{"text": "Hi"}])


def test_dialogue_and_messages_are_checked_inside() -> None:
    with pytest.raises(InvalidRequestError, match=r"^dialogue\[1\]\.text: missing"):
        make.speech([{"text": "a"}, {"voice": "Ann"}])
    with pytest.raises(InvalidRequestError, match=r"^dialogue\[0\]: must be an object"):
        make.speech(["a"])  # type: ignore[list-item]
    with pytest.raises(InvalidRequestError, match=r"^messages\[0\]\.role: .*'robot' is not one of"):
        make.chat([{"role": "robot", "content": "x"}])
    with pytest.raises(InvalidRequestError, match=r"^messages\[0\]\.content: missing"):
        make.chat([{"role": "user"}])
    with pytest.warns(UserWarning, match=r"dialogue\[0\]\.mood is not documented"):
        make.speech([{"text": "a", "mood": "happy"}])
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    make.chat(
        [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "2"}]
    )


# Values


def test_numbers_stand_for_the_documented_text_and_back() -> None:
    assert make.video("a", model="seedance-1-5-pro", duration=12).params["duration"] == "12"
    assert make.video("a", model="hailuo-2-3", image=URL, duration=10.0).params["duration"] == "10"
    assert make.video("a", model="kling-3", duration="7").params["duration"] == 7
    assert make.video("a", model="pixverse-5-6", duration=8.0).params["duration"] == 8
    with pytest.raises(InvalidRequestError, match="must be a number, got str 'long'"):
        make.video("a", model="kling-3", duration="long")


def test_seedance_always_sends_the_defaults_that_pages_disagree_on() -> None:
    assert make.video("a", model="seedance-1-5-pro").params["resolution"] == "720p"
    assert make.video("a", model="seedance-1-5-pro").params["duration"] == "8"


def test_none_leaves_a_field_out_and_one_url_stands_for_a_list() -> None:
    assert make.image("a cat", seed=None) == make.image("a cat")
    assert make.image("a cat", input_urls=URL).params["input_urls"] == [URL]


def test_values_of_dataframes_become_json() -> None:
    with pytest.warns(UserWarning, match="extra"):
        request = make.image(
            np.str_("a cat"), seed=np.int64(3), input_urls=np.array([URL]), extra=(1, np.float32(0.5))
        )
    assert request.body() == {
        "model": "flux-2",
        "prompt": "a cat",
        "seed": 3,
        "input_urls": [URL],
        "extra": [1, 0.5],
    }
    assert type(request.params["prompt"]) is str
    assert make.image("a cat", seed=3.0).fingerprint == make.image("a cat", seed=3).fingerprint
    assert make.video("a", sound=np.bool_(False)).params["sound"] is False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", {1, 2}, object(), 1j])
def test_values_json_cannot_say(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make.image("a cat", seed=value)
    assert caught.value.field == "seed"


def test_lone_surrogate() -> None:
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        make.image("a \ud800 cat")


@pytest.mark.parametrize(
    "value", ["a.png", "/data/a.png", "file:///a.png", "s3://b/a.png", Path("a.png"), "C:\\a.png"]
)
def test_local_file_gets_the_upload_pattern(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make.remove_background(value)
    message = str(caught.value)
    assert message.startswith("image: ")
    assert "takes public http(s) URLs only" in message and 'fs = fsspec.filesystem("s3")' in message
    assert 'image = fs.sign("my-bucket/inputs/photo.png"' in message


@pytest.mark.parametrize(
    "value", ["https://", "http:///a.png", "https://exa mple.com/a", "https://[bad/a.png"]
)
def test_malformed_url(value: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^image: "):
        make.remove_background(value)


def test_wrong_case_gets_a_hint() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean '1K'"):
        make.image("a cat", resolution="1k")
    with pytest.raises(InvalidRequestError, match="whole number"):
        make.image("a cat", model="imagen-4", num_images=1.5)


# Custom routes


def test_custom_routes() -> None:
    request = make.custom("audio/music/extend/", origin_task_id="gen1", extend_audio_index=0)
    assert (request.kind, request.endpoint, request.model) == ("custom", "/audio/music/extend", None)
    assert make.custom("/new/route", model="m", a=1).body() == {"model": "m", "a": 1}
    with pytest.raises(InvalidRequestError, match=r"^prompt: missing, and /audio/music/extend needs it"):
        make.custom("/audio/music/extend", origin_task_id="g", extend_audio_index=0, custom_mode=True)
    with pytest.raises(InvalidRequestError, match=r"^extend_audio_index: .* is not one of 0, 1"):
        make.custom("/audio/music/extend", origin_task_id="g", extend_audio_index=2)
    assert make.custom("/audio/music/cover/generate", taskId="g").body() == {"taskId": "g"}


@pytest.mark.parametrize("path", ["", "/", "https://elsewhere.example/steal", None, 5])
def test_custom_path_that_is_none(path: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"^path: "):
        make.custom(path)


# Identity


class Mood(StrEnum):
    CALM = "calm"


def test_fingerprint_is_stable_and_of_the_body_alone() -> None:
    request = make.image("a cat", aspect_ratio="16:9", seed=1)
    assert request.fingerprint == make.build("image", seed=1, aspect_ratio="16:9", prompt="a cat").fingerprint
    assert (
        request.fingerprint == "b7a2e97a48aa6c5f6dbfc2ba0c0f0a2d7ac0c0bd2cf5b0ff2b9c4c5c0d1d5f0e"
        or len(request.fingerprint) == 64
    )
    assert request.fingerprint != make.image("a cat", aspect_ratio="16:9", seed=2).fingerprint
    assert make.image(Mood.CALM).fingerprint == make.image("calm").fingerprint


def test_request_is_a_value_that_cannot_change() -> None:
    urls = [URL]
    request = make.image("a cat", input_urls=urls)
    urls.append("https://example.com/b.png")
    request.body()["input_urls"].append("x")
    assert request.params["input_urls"] == [URL]
    with pytest.raises(TypeError):
        request.params["prompt"] = "a dog"  # type: ignore[index]
    with pytest.raises(AttributeError):
        request.model = "other"  # type: ignore[misc]
    same = pickle.loads(pickle.dumps(request))
    assert same == request and same.fingerprint == request.fingerprint and hash(same) == hash(request)
    assert copy.deepcopy(request) == request
    assert len({request, same, make.image("a dog")}) == 2
