"""A request of a series is what building it gives: the same body, fingerprint and errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_provider.api.catalog import Catalog, load_catalog
from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.series import Series

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(exclude_categories=()), max_size=5),  # halves of surrogate pairs, too
    st.sampled_from(['"quoted" \\ and \n lines', "é ü 漢字 😀", "   ", "no", "x" * 6000, "lamp"]),
)
CALLS: list[tuple[str, str | None, dict[str, Any], list[str]]] = [
    ("image", "flux-2", {"prompt": "A red chair", "aspect_ratio": "1:1", "seed": 4}, ["prompt"]),
    ("image", None, {"prompt": "A red chair", "zeta": {"b": 1, "a": [2.5]}}, ["prompt"]),
    ("music", "suno", {"prompt": "la la", "style": "pop", "title": "é"}, ["title", "prompt"]),
    ("upscale_image", None, {"image": "https://example.com/a.png"}, ["image"]),
    ("video", "kling-3", {"prompt": "waves", "sound": True, "duration": 5}, ["prompt"]),
]


def built(kind: str, model: str | None, params: dict[str, Any]) -> object:
    try:
        return GenerationRequest.build(kind, model=model, **params)
    except InvalidRequestError as error:
        return str(error), error.field


def another(series: Series, texts: dict[str, str]) -> object:
    try:
        return series.request(texts)
    except InvalidRequestError as error:
        return str(error), error.field


@pytest.mark.filterwarnings("ignore:.*not a documented parameter")
@pytest.mark.parametrize(("kind", "model", "params", "names"), CALLS)
@given(data=st.data())
def test_one_of_a_series_is_what_building_it_gives(
    kind: str, model: str | None, params: dict[str, Any], names: list[str], data: st.DataObject
) -> None:
    first = GenerationRequest.build(kind, model=model, **params)
    series = Series.of(first, names)
    assert series is not None
    texts = {name: data.draw(TEXTS) for name in names}
    wanted, got = built(kind, model, {**params, **texts}), another(series, texts)
    assert got == wanted
    if isinstance(wanted, GenerationRequest) and isinstance(got, GenerationRequest):
        assert got.fingerprint == wanted.fingerprint
        assert got.body() == wanted.body()
        assert first.body() == GenerationRequest.build(kind, model=model, **params).body()


@pytest.mark.filterwarnings("ignore:.*not a documented parameter")
@pytest.mark.parametrize(
    ("kind", "params", "names"),
    [
        ("image", {"prompt": "A chair", "zeta": "b"}, ["zeta"]),  # the catalog does not know it
        ("image", {"prompt": "A chair", "seed": 4}, ["prompt", "seed"]),  # a number
        ("image", {"prompt": "A chair"}, ["image_urls"]),  # not there
        ("chat", {"prompt": "Hello"}, ["prompt"]),  # a list in the body
    ],
)
def test_what_is_more_than_a_text_of_its_own_makes_no_series(
    kind: str, params: dict[str, Any], names: list[str]
) -> None:
    assert Series.of(GenerationRequest.build(kind, **params), names) is None


def test_a_text_that_other_fields_depend_on_makes_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    first = GenerationRequest.image("A chair", aspect_ratio="1:1")
    assert Series.of(first, ["prompt"]) is not None
    specs = dict(load_catalog().params("image", load_catalog().model("flux-2")))
    for rule in ({"required_when": {"prompt": "x"}}, {"max_length_when": ({"when": {"prompt": "*"}},)}):
        changed = {**specs, "aspect_ratio": replace(specs["aspect_ratio"], **rule)}
        monkeypatch.setattr(Catalog, "params", lambda *_, changed=changed: changed)
        assert Series.of(first, ["prompt"]) is None
