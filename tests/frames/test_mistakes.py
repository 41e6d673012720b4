"""Mistakes of a first hour: each is told before it costs anything, in the words of who made it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import aio_provider as aio

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

ROWS = pd.DataFrame({"caption": [f"a red chair, view {n}" for n in range(200)]})


def generate(source: Any, kind: str = "image", **arguments: Any) -> Any:
    return aio.generate(source, kind, **({"progress": False, "prompt": "caption"} | arguments))


# -- arguments


@pytest.mark.parametrize("call", [generate, aio.estimate])
def test_an_argument_that_is_nearly_one_is_not_offered_as_a_field(call: Any) -> None:
    with pytest.raises(TypeError, match=r"did you mean 'max_credits'\?$"):
        call(ROWS, "image", prompt="caption", max_credit=4)
    with pytest.raises(TypeError, match=r"did you mean 'prompt'\? A field this version does not know"):
        call(ROWS, "image", promt="caption")


# -- values


def test_a_value_that_is_documented_for_no_model_is_warned_of(aio_sandbox_env: Sandbox) -> None:
    with pytest.warns(UserWarning, match=r"aspect_ratio: 'banana' is documented for no model.*'16:9'"):
        out = generate(ROWS.head(1), params={"aspect_ratio": "banana"})
    assert len(out) == 1
    with pytest.raises(aio.AioError, match=r"'banana' is not one of '1:1'"):  # this model's page lists them
        generate(ROWS.head(1), model="imagen-4", params={"aspect_ratio": "banana"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(ROWS.head(1), params={"aspect_ratio": "16:9"})


def test_of_rows_each_such_value_is_warned_of_once(aio_sandbox_env: Sandbox) -> None:
    df = ROWS.head(6).assign(ratio=["16:9", "banana", "banana", "apple", "1:1", "apple"])
    with pytest.warns(UserWarning) as caught:
        generate(df, aspect_ratio="ratio")
    assert sorted(str(one.message)[:22] for one in caught) == [
        "aspect_ratio: 'apple' ",
        "aspect_ratio: 'banana'",
    ]


# -- the address


@pytest.mark.parametrize("kind", ["image", "chat"])
def test_an_address_without_its_path_stops_at_the_first_answer(
    aio_sandbox_env: Sandbox, tmp_path: Path, kind: str
) -> None:
    root = aio_sandbox_env.base_url.removesuffix("/api/v1")
    with pytest.raises(aio.ConfigurationError, match=r"AIO_BASE_URL .*usually ends in /api/v1") as caught:
        generate(ROWS, kind, base_url=root)
    frame = caught.value.frame  # type: ignore[attr-defined]
    assert set(frame["aio_status"]) == {"not_submitted"}
    assert generate(ROWS.head(2), kind)["aio_status"].tolist() == ["succeeded"] * 2


@pytest.mark.parametrize("answer", ["<html>Not Found</html>", '{"detail": "Not Found"}', ""])
def test_a_404_that_is_no_envelope_is_a_wrong_address(answer: str) -> None:
    import httpx

    transport = httpx.MockTransport(lambda request: httpx.Response(404, text=answer))
    with aio.AioClient("aio_key_1234", "https://example.com", transport=transport) as client:
        with pytest.raises(aio.ConfigurationError, match=r"https://example\.com has no /images"):
            client.submit(aio.GenerationRequest.image("a red chair"))
        with pytest.raises(aio.NotFoundError):  # a route that nobody documents may not be there
            client.request("POST", "/images/novelties", json={})


def test_a_404_of_the_service_is_about_the_model() -> None:
    import httpx

    said = {"error": {"code": 404, "message": "Model not found", "type": "not_found"}}
    transport = httpx.MockTransport(lambda request: httpx.Response(404, json=said))
    with (
        aio.AioClient("aio_key_1234", "https://example.com", transport=transport) as client,
        pytest.raises(aio.NotFoundError, match="Model not found"),
    ):
        client.submit(aio.GenerationRequest.image("a red chair"))
