"""What a request will cost, in credits, from the published price rules; pure, and plain about what is
unknown.

Some models publish one figure, some a range, some nothing. The rules are in ``catalog.json`` beside the
models. Decided here where the documentation leaves it open:

- A price published *per image* is multiplied by ``num_images`` (Imagen). One published *per call* is not, but
  the high figure allows for it (Kling Image).
- Kling 3.0 publishes 120 to 1200 and one point (std, 5 s, sound: 300). A rate per second fits the published
  end points; it is inferred, so it only sets ``likely``.
- Chat takes 5 credits first and adjusts them by tokens at a rate that is not published. The documented
  example, 168 tokens for 2 credits, and four characters a token set ``likely`` for long prompts; there is no
  high.
- Speech is 28 credits per 1000 characters and no rounding is stated: low is pro rata rounded down, likely is
  rounded up, high counts each started thousand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aio_provider.api.catalog import effective, load_catalog, matches
from aio_provider.api.requests import GenerationRequest

#: the fields that a published price, of whatever model, depends on
_PRICED_BY = frozenset(
    {
        *("resolution", "duration", "mode", "type", "quality", "rendering_speed", "num_images", "size"),
        *("sound", "generateAudio", "generate_audio_switch", "multi_shots"),
    }
)


#: a rule of thumb for English
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class CreditRange:
    """An estimate in credits.

    :param low: the least it can cost.
    :param likely: the best single guess; None when there is no ground for one.
    :param high: the most it can cost; None when no bound is published.
    :param source: ``published`` price rules, ``learned`` from past tasks, or ``unknown``.
    :param note: what the figures rest on, where that is not plain.
    """

    low: float
    likely: float | None
    high: float | None
    source: Literal["published", "learned", "unknown"] = "published"
    note: str = ""


def price(request: GenerationRequest) -> CreditRange:
    """The published price of one request; ``source`` is ``unknown`` where nothing is published."""
    catalog = load_catalog()
    if request.kind == "custom":
        route = catalog.route(request.endpoint)
        rules, specs = (route.price, route.params) if route else (None, {})
    else:
        model = catalog.model_for(request.kind, request.model)
        specs = catalog.params(request.kind, model)
        rules = model.price if model else None
    if not rules:
        return CreditRange(0, None, None, "unknown", "no price is published")
    if "per_thousand_characters" in rules:
        return _per_thousand(rules, request.params)
    values = effective(request.params, specs, request.model)
    rule = next((r for r in rules["rules"] if matches(r.get("when", {}), values)), None)
    if rule is None:
        return CreditRange(0, None, None, "unknown", "no price is published for these settings")
    return _apply(rule, rules, values)


def price_key(request: GenerationRequest) -> str:
    """The settings that a request's price depends on, besides its model: ``"duration=5 sound=true"``.

    Past charges with the same kind, model and price key tell what this one will cost. Empty where nothing but
    the model matters.
    """
    if request.kind in ("speech", "chat"):
        return f"thousands={math.ceil(_characters(request.params) / 1000)}"
    catalog = load_catalog()
    model = catalog.model_for(request.kind, request.model)
    specs = catalog.params(request.kind, model) if request.kind != "custom" else {}
    values = effective(request.params, specs, None)
    parts = ((name, values[name]) for name in sorted(_PRICED_BY & values.keys()) if values[name] is not None)
    return " ".join(f"{name}={str(value).lower()}" for name, value in parts)[:200]


def _apply(rule: Mapping[str, Any], rules: Mapping[str, Any], values: Mapping[str, Any]) -> CreditRange:
    fixed = rule.get("credits")
    low, likely, high = rule.get("min", fixed), rule.get("likely", fixed), rule.get("max", fixed)
    per = rule.get("likely_per")
    if per and _is_number(values.get(per["field"])):
        guess = per["credits"] * values[per["field"]]
        likely = min(max(guess, low), high)
    tokens = rules.get("likely_tokens_per_credit")
    if tokens:
        likely = max(likely, math.ceil(_characters(values) / _CHARACTERS_PER_TOKEN / tokens))
    each = _count(rules.get("times"), values)
    most = each * _count(rules.get("up_to_times"), values)
    return CreditRange(
        low=low * each,
        likely=None if likely is None else likely * each,
        high=None if high is None else high * most,
        note=rule.get("note") or rules.get("note", ""),
    )


def _count(field: str | None, values: Mapping[str, Any]) -> float:
    count = values.get(field, 1) if field else 1
    return count if _is_number(count) else 1


def _per_thousand(rules: Mapping[str, Any], params: Mapping[str, Any]) -> CreditRange:
    rate = rules["per_thousand_characters"]
    characters = _characters(params)
    exact = rate * characters / 1000
    return CreditRange(
        low=math.floor(exact),
        likely=max(1, math.ceil(exact)),
        high=rate * max(1, math.ceil(characters / 1000)),
        note=rules.get("note", ""),
    )


def _characters(params: Mapping[str, Any]) -> int:
    """Of all that is said: lines of speech, messages of a chat."""
    for name, said in (("dialogue", "text"), ("messages", "content")):
        lines = params.get(name)
        if isinstance(lines, list | tuple) and lines:
            return sum(_length(line.get(said)) for line in lines if isinstance(line, Mapping))
    return _length(params.get("text"))


def _length(text: object) -> int:
    """Of a text, or of the texts among the parts of a message."""
    if isinstance(text, list | tuple):
        return sum(_length(part.get("text")) for part in text if isinstance(part, Mapping))
    return 0 if text is None else len(str(text))


def _is_number(value: object) -> bool:
    """Whether it can be counted with: a request that was not checked may hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool)
