"""Every documented bound of every model, derived from the catalog; and the published figures, by hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from aio_provider.api.catalog import KINDS, Model, Param, load_catalog, matches
from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.requests import GenerationRequest

CATALOG = load_catalog()
TARGETS = [
    (kind, value)
    for kind in KINDS
    for model in CATALOG.models(kind)
    for value in (model.values if CATALOG.endpoint(kind).model_required else (None,))
]
IMAGE = "https://example.com/a.png"


def sample(spec: Param) -> Any:
    """A value that the documentation allows."""
    if spec.enum:
        return spec.enum[0]
    if spec.format == "url":
        return IMAGE
    kind = spec.type[0]
    if kind == "string":
        return "x" * max(spec.min_length or 1, 5)
    if kind == "number":
        return spec.min if spec.min is not None else 1
    if kind == "array":
        return [sample(spec.items) if spec.items else {}] * (spec.min_items or 1)
    if kind == "object":
        return {name: sample(field) for name, field in spec.fields.items() if is_needed(field, {})} or {
            "a": 1
        }
    return True


def is_needed(spec: Param, context: dict[str, Any]) -> bool:
    if spec.required_when:
        return matches(spec.required_when, context)
    if spec.required_unless:
        return not matches(spec.required_unless, context)
    return spec.required


def usable(spec: Param, model: Model | None, value: str | None) -> bool:
    return not spec.models or bool({value, model.name if model else None} & set(spec.models))


def specs_of(kind: str, value: str | None) -> dict[str, Param]:
    model = CATALOG.model_for(kind, value)
    return {n: s for n, s in CATALOG.params(kind, model).items() if usable(s, model, value)}


def needed(kind: str, value: str | None) -> dict[str, Any]:
    """The least that a request of this model must hold."""
    model, specs = CATALOG.model_for(kind, value), specs_of(kind, value)
    context = {"model": value}
    fields = {name: sample(spec) for name, spec in specs.items() if is_needed(spec, context)}
    if model and model.one_of and not any(name in fields for name in model.one_of):
        fields[model.one_of[0]] = sample(specs[model.one_of[0]])
    return fields


def build(kind: str, value: str | None, **fields: Any) -> GenerationRequest:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return GenerationRequest.build(kind, model=value, **{**needed(kind, value), **fields})


def sized(spec: Param, size: int) -> Any:
    return "x" * size if spec.type == ("string",) else [sample(spec.items) if spec.items else {}] * size


def breaches() -> Iterator[Any]:
    """(kind, model, field, allowed value or None, refused value, what the message must say)."""
    for kind, value in TARGETS:
        for name, spec in specs_of(kind, value).items():
            for at, beyond, words in edges(spec, value):
                yield pytest.param(
                    kind, value, name, at, beyond, words, id=f"{kind}-{value}-{name}-{words[:24]}"
                )


def edges(spec: Param, value: str | None) -> Iterator[tuple[Any, Any, str]]:
    longest = spec.max_length
    for rule in spec.max_length_when:
        if matches(rule["when"], {"model": value}):
            longest = rule["max_length"]
    if spec.format is None and "string" in spec.type and not spec.enum:
        if spec.min_length and spec.min_length > 1:
            yield (
                sized(spec, spec.min_length),
                sized(spec, spec.min_length - 1),
                f"{spec.min_length - 1} characters",
            )
        if longest:
            yield sized(spec, longest), sized(spec, longest + 1), f"{longest + 1} characters"
    if spec.min_items:
        yield sized(spec, spec.min_items), [], "0 items"
    if spec.max_items:
        yield sized(spec, spec.max_items), sized(spec, spec.max_items + 1), f"{spec.max_items + 1} items"
    if spec.min is not None:
        yield spec.min, spec.min - 1, str(spec.min)
    if spec.max is not None:
        yield spec.max, spec.max + 1, str(spec.max)
    for choice in spec.enum:
        yield choice, f"{choice}?" if isinstance(choice, str) else choice + 0.5, "is not one of"
    if spec.format == "url":
        yield IMAGE, "photos/a.png", "takes public http(s) URLs"
    for kind in spec.type:
        yield (
            None,
            {"string": ["x"], "number": True, "boolean": "yes", "array": 7, "object": "x"}[kind],
            "got ",
        )


@pytest.mark.parametrize(("kind", "model", "name", "allowed", "refused", "words"), list(breaches()))
def test_documented_bound(
    kind: str, model: str | None, name: str, allowed: Any, refused: Any, words: str
) -> None:
    if allowed is not None:
        assert name in build(kind, model, **{name: allowed}).body()
    if len(CATALOG.params(kind, CATALOG.model_for(kind, model))[name].type) > 1 and words == "got ":
        refused = True
    with pytest.raises(InvalidRequestError) as caught:
        build(kind, model, **{name: refused})
    assert caught.value.field == name
    assert str(caught.value).startswith(f"{name}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(("kind", "model"), TARGETS)
def test_each_needed_field(kind: str, model: str | None) -> None:
    fields = needed(kind, model)
    assert build(kind, model).body() is not None
    for name in fields:
        with pytest.raises(InvalidRequestError, match="missing") as caught:
            build(kind, model, **{name: None})
        assert caught.value.field == name


@pytest.mark.parametrize(
    ("kind", "model", "name", "low", "high"),
    [
        ("image", "flux-2", "prompt", 3, 5000),
        ("image", "imagen4-ultra", "prompt", 3, 5000),
        ("image", "grok-imagine/text-to-image", "prompt", 3, 5000),
        ("video", "kling-3", "prompt", 1, 2500),
        ("video", "pixverse-5-6", "prompt", 1, 2500),
        ("video", "grok-imagine/text-to-video", "prompt", 1, 5000),
        ("music", "suno", "title", 1, 80),
        ("music", "suno", "style", 1, 1000),
        ("music", "suno", "gpt_description_prompt", 1, 400),
        ("music", "suno", "prompt", 1, 3000),
        ("music", "chirp-v3-5", "prompt", 1, 3000),
        ("music", "chirp-v4-0", "prompt", 1, 3000),
        ("music", "chirp-v4-5", "prompt", 1, 5000),
        ("music", "chirp-v5-5", "prompt", 1, 5000),
    ],
)
def test_published_lengths(kind: str, model: str, name: str, low: int, high: int) -> None:
    for size in (low, high):
        assert build(kind, model, **{name: "x" * size}).params[name] == "x" * size
    with pytest.raises(InvalidRequestError, match=f"{name}: {high + 1} characters"):
        build(kind, model, **{name: "x" * (high + 1)})
    if low > 1:
        with pytest.raises(
            InvalidRequestError, match=f"{low - 1} characters, but the API takes {low} to {high}"
        ):
            build(kind, model, **{name: "x" * (low - 1)})


@pytest.mark.parametrize(
    ("kind", "model", "name", "low", "high"),
    [
        ("speech", "elevenlabs-v3", "stability", 0, 1),
        ("swap_face", None, "target_index", 0, 10),
        ("video", "kling-3", "duration", 3, 15),
        ("image", "kling-image-o1", "num_images", 1, 9),
        ("music", "suno", "weirdness_constraint", 0, 1),
    ],
)
def test_published_ranges(kind: str, model: str | None, name: str, low: float, high: float) -> None:
    assert build(kind, model, **{name: low}).params[name] == low
    assert build(kind, model, **{name: high}).params[name] == high
    for value in (low - 0.01, high + 0.01, -1, 99):
        with pytest.raises(InvalidRequestError) as caught:
            build(kind, model, **{name: value})
        assert caught.value.field == name


@pytest.mark.parametrize(("model", "count"), [("flux-2", 8), ("kling-image-o1", 10)])
def test_published_list_sizes(model: str, count: int) -> None:
    name = "input_urls" if model == "flux-2" else "images"
    assert len(build("image", model, **{name: [IMAGE] * count}).params[name]) == count
    with pytest.raises(InvalidRequestError, match=f"{count + 1} items, but the API takes at most {count}"):
        build("image", model, **{name: [IMAGE] * (count + 1)})
