"""Every price rule of the catalog against the tables that the service publishes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from aio_provider.api.catalog import KINDS, Model, load_catalog
from aio_provider.api.prices import CreditRange, price, price_key
from aio_provider.api.requests import GenerationRequest

FACTS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "published_prices.json").read_text()
)["models"]
CATALOG = load_catalog()
MODELS = [model for model in CATALOG.models() if model.name in FACTS]


def of(model: Model, setting: dict[str, Any] | None = None) -> CreditRange:
    params = dict(setting or {})
    value = params.pop("model", None) or (model.default_value if model.values else None)
    return price(GenerationRequest(model.kind, CATALOG.endpoint(model.kind).path, value, params))


def every_setting(model: Model) -> Iterator[dict[str, Any]]:
    """Each combination of the model's values, switches and choices."""
    choices: dict[str, list[Any]] = {"model": list(model.values) or [None]}
    for name, spec in CATALOG.params(model.kind, model).items():
        if "boolean" in spec.type:
            choices[name] = [True, False]
        elif spec.enum and name not in ("aspect_ratio", "size", "style", "output_format", "bitrate"):
            choices[name] = list(spec.enum)
        elif name == "duration":
            choices[name] = [3, 5, 10, 15]
    for values in product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def test_every_model_has_its_published_price_here() -> None:
    assert {model.name for model in CATALOG.models()} == set(FACTS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_setting_is_within_what_is_published(model: Model) -> None:
    facts = FACTS[model.name]
    for setting in every_setting(model):
        estimate = of(model, setting)
        if model.kind == "speech":
            continue  # by characters: below
        if facts["base"] is None and facts["min"] is None:
            assert estimate == CreditRange(0, None, None, "unknown", "no price is published")
        elif facts["max"] is None:  # a base, no bound
            assert (estimate.likely, estimate.high, estimate.source) == (facts["base"], None, "published")
            assert estimate.note
        else:
            assert estimate.source == "published"
            assert estimate.high is not None
            assert facts["min"] <= estimate.low <= estimate.high <= facts["max"], setting
            if estimate.likely is not None:
                assert estimate.low <= estimate.likely <= estimate.high, setting


RULES = [
    (model, rule) for model in MODELS for rule in FACTS[model.name]["rules"] if "path" not in rule["when"]
]


@pytest.mark.parametrize(("model", "rule"), RULES, ids=lambda part: getattr(part, "name", None) or str(part))
def test_every_published_rule(model: Model, rule: dict[str, Any]) -> None:
    estimate = of(model, rule["when"])
    if "credits" in rule:
        assert (estimate.low, estimate.likely, estimate.high) == (rule["credits"],) * 3
    elif "multiplier" in rule:
        [(name, _)] = rule["when"].items()
        assert estimate.low == rule["multiplier"] * of(model, {name: False}).low
    else:
        assert (estimate.low, estimate.high) == (rule["credits_min"], rule["credits_max"])


@pytest.mark.parametrize(
    "rule", [rule for rule in FACTS["suno"]["rules"] if rule["when"].get("path", "").startswith("/")],
    ids=lambda rule: rule["when"]["path"],
)  # fmt: skip
def test_suno_s_other_routes(rule: dict[str, Any]) -> None:
    estimate = price(GenerationRequest("custom", rule["when"]["path"], None, {}))
    low, high = rule.get("credits_min", rule.get("credits")), rule.get("credits_max", rule.get("credits"))
    # two pages differ about the low end of a cover: the lower one is kept
    assert estimate.low <= low
    assert estimate.high == high


def test_the_usual_model_of_each_kind_has_a_price() -> None:
    for kind in KINDS:
        path, model = CATALOG.endpoint(kind).path, CATALOG.endpoint(kind).default_model
        assert price(GenerationRequest(kind, path, model, {})).source == "published", kind


def test_one_figure_where_one_is_published() -> None:
    exact = {
        name for name, facts in FACTS.items() if facts["min"] is not None and facts["min"] == facts["max"]
    }
    for model in MODELS:
        if model.name in exact:
            estimate = of(model)
            assert (estimate.low, estimate.likely, estimate.high) == (FACTS[model.name]["base"],) * 3


# -- what a price depends on -------------------------------------------------------------------------------


def test_requests_of_one_price_key_have_one_published_price() -> None:
    for model in MODELS:
        prices: dict[tuple[Any, str], CreditRange] = {}
        for setting in every_setting(model):
            value = setting.pop("model") or None
            request = GenerationRequest(model.kind, CATALOG.endpoint(model.kind).path, value, setting)
            found = price(request)
            assert prices.setdefault((value, price_key(request)), found) == found, setting


def test_a_price_key_names_settings_and_no_texts() -> None:
    request = GenerationRequest.video("a secret plan", model="kling-3", mode="pro", duration=10)
    assert price_key(request) == "duration=10 mode=pro multi_shots=false sound=true"
    assert price_key(GenerationRequest.image("a lamp")) == "resolution=1k type=pro"
    assert price_key(GenerationRequest.speech("x" * 1001)) == "thousands=2"
    assert price_key(GenerationRequest.remove_background("https://x.example/a.png")) == ""


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest("video", "/videos/generations", "kling-3", {"duration": "long", "mode": ["std"]}),
        GenerationRequest("image", "/images/generations", "imagen4", {"num_images": "three"}),
        GenerationRequest("speech", "/audio/speech", "elevenlabs-v3", {"dialogue": "Hi"}),
        GenerationRequest("speech", "/audio/speech", "elevenlabs-v3", {"dialogue": [None, {"text": 5}]}),
        GenerationRequest("custom", "/x", None, {"duration": {"a": 1}}),
    ],
)
def test_what_was_never_checked_has_a_price_too(request_: GenerationRequest) -> None:
    assert price(request_).low >= 0
    assert len(price_key(request_)) <= 200
