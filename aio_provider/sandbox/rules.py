"""What the service documents, as the sandbox enforces it: routes, bounds, prices, latencies."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from aio_provider.api.catalog import KINDS, Param, effective, load_catalog, matches
from aio_provider.api.prices import price
from aio_provider.api.requests import GenerationRequest
from aio_provider.sandbox.answers import ApiError

CUSTOM = "custom"

#: Nothing is published for these: what a submission costs when the catalog knows no figure at all.
_UNPUBLISHED_CREDITS = (1, 10)
#: kind → the ending of its task ids where the documentation's example shows one.
_ID_TAGS = {
    "music": ("n7", "_suno"),
    "speech": ("n58", "_tts"),
    "remove_background": ("n19", "_bgremove"),
    "swap_face": ("n33", "_faceswap"),
    "remove_video_background": ("n53", "_vbgr"),
    "upscale_image": ("n32", "_upscale"),
}
_ROUTE_IDS = {
    "/audio/music/extend": ("gen", "ksv"),
    "/audio/music/cover/generate": ("cover", ""),
    "/audio/music/upload-cover/generate": ("upl", "bksv"),
    "/audio/music/timestamped-lyrics": ("lyrics", ""),
    "/chat/completions": ("chatcmpl_", ""),
}
#: Suno's reference makes ``model`` optional and names this default; the general page requires it.
_DEFAULT_MUSIC_MODEL = "chirp-v3-5"
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "any": (object,),
}


@dataclass(frozen=True)
class Route:
    """One POST route of the API.

    :param path: below the base URL.
    :param kind: of the endpoint; ``custom`` for the Suno sub-routes.
    """

    path: str
    kind: str


@lru_cache(maxsize=1)
def routes() -> tuple[Route, ...]:
    """Every documented POST route."""
    catalog = load_catalog()
    return (
        *(Route(catalog.endpoint(kind).path, kind) for kind in KINDS),
        *(Route(path, CUSTOM) for path in _ROUTE_IDS if catalog.route(path) is not None),
    )


def check(route: Route, body: Any) -> dict[str, Any]:
    """Check a submission as the service documents it.

    Written apart from the client's own checks, and stricter: the client may turn ``5`` into ``"5"`` for a
    model that wants text, the service gets what was sent. Parameters that no page documents are ignored.

    :param body: the decoded JSON.
    :return: the body.
    :raises ApiError: 400 ``invalid_request`` naming the field, or 404 ``not_found`` for an unknown model.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "The request body must be a JSON object")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise ApiError(400, "model must be a string")
    specs = _params(route, model, body)
    context = effective({name: value for name, value in body.items() if value is not None}, specs, model)
    for name, spec in specs.items():
        if name != "model":
            _check_param(name, spec, body.get(name), context)
    return body


def _params(route: Route, model: str | None, body: Mapping[str, Any]) -> Mapping[str, Param]:
    catalog = load_catalog()
    if route.kind == CUSTOM:
        documented = catalog.route(route.path)
        return documented.params if documented else {}
    if model is None:
        if catalog.endpoint(route.kind).model_required and route.kind != "music":
            raise ApiError(400, "model is required")
        return catalog.params(route.kind, catalog.model_for(route.kind, None))
    known = catalog.model(model)
    if known is None or known.kind != route.kind or model not in (known.values or (known.name,)):
        raise ApiError(404, f"Model {model!r} was not found on this endpoint")
    if known.one_of and not any(body.get(name) for name in known.one_of):
        raise ApiError(400, f"one of {', '.join(known.one_of)} is required")
    return catalog.params(route.kind, known)


def _check_param(name: str, spec: Param, value: Any, context: Mapping[str, Any]) -> None:
    if value is None:
        if _is_required(spec, context):
            raise ApiError(400, f"{name} is required")
        return
    if not any(_is_a(value, kind) for kind in spec.type):
        raise ApiError(400, f"{name} must be a {' or '.join(spec.type)}")
    if spec.enum and value not in spec.enum:
        raise ApiError(400, f"{name} must be one of {', '.join(map(str, spec.enum))}")
    if isinstance(value, str):
        longest = [rule["max_length"] for rule in spec.max_length_when if matches(rule["when"], context)]
        _check_range(name, len(value), spec.min_length, [*longest, spec.max_length][0], " characters")
        if spec.format == "url" and not _is_url(value):
            raise ApiError(400, f"{name} must be an http or https URL")
    elif isinstance(value, list):
        _check_range(name, len(value), spec.min_items, spec.max_items, " items")
        for index, item in enumerate(value if spec.items else ()):
            assert spec.items is not None
            _check_param(f"{name}[{index}]", spec.items, item, context)
    elif isinstance(value, dict):
        for field, inner in spec.fields.items():
            _check_param(f"{name}.{field}", inner, value.get(field), value)
    elif not isinstance(value, bool):
        if spec.whole and value != int(value):
            raise ApiError(400, f"{name} must be a whole number, got {value}")
        _check_range(name, value, spec.min, spec.max, "")


def _is_required(spec: Param, context: Mapping[str, Any]) -> bool:
    if spec.required_unless is not None:
        return not matches(spec.required_unless, context)
    if spec.required_when is not None:
        return matches(spec.required_when, context)
    return spec.required


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, _TYPES[kind])


def _check_range(name: str, size: float, low: float | None, high: float | None, unit: str) -> None:
    if low is not None and size < low:
        raise ApiError(400, f"{name} must be at least {low}{unit}, got {size}")
    if high is not None and size > high:
        raise ApiError(400, f"{name} must be at most {high}{unit}, got {size}")


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def request_of(route: Route, body: Mapping[str, Any]) -> GenerationRequest:
    """The submission as the client's request, for its fingerprint and its price."""
    params = {name: value for name, value in body.items() if name != "model"}
    return GenerationRequest(kind=route.kind, endpoint=route.path, model=body.get("model"), params=params)


def draw_price(request: GenerationRequest, rng: random.Random) -> float:
    """What a submission costs: the published price, or a whole figure drawn from the published range."""
    if request.kind == "music" and request.model is None:
        request = replace(request, model=_DEFAULT_MUSIC_MODEL)
    published = price(request)
    low, high = published.low, published.high
    if published.source == "unknown":
        low, high = _UNPUBLISHED_CREDITS
    if high is None:
        return published.likely or low
    return float(rng.randint(max(1, math.ceil(low)), max(1, math.floor(high))))


def draw_latency(request: GenerationRequest, rng: random.Random, *, long_tail: float) -> float:
    """How long a task takes, in unscaled seconds: uniform over the published range of its model.

    :param long_tail: share of tasks that take three to ten times as long.
    """
    kind = "music" if request.kind == CUSTOM else request.kind
    usual = load_catalog().latency(kind, request.model)
    seconds = rng.uniform(usual.min, usual.max)
    return seconds * rng.uniform(3, 10) if rng.random() < long_tail else seconds


def id_parts(route: Route, model: str | None) -> tuple[str, str]:
    """What a task id starts and ends with, in the style of the documentation's examples (``n41…_flux2``)."""
    if route.path in _ROUTE_IDS:
        return _ROUTE_IDS[route.path]
    if route.kind in _ID_TAGS:
        return _ID_TAGS[route.kind]
    if route.kind == "image":
        return "n41", f"_{_slug(model)}"
    return "n75", f"_{_slug(model)}"


def _slug(model: str | None) -> str:
    return "".join(c for c in (model or "").lower() if c.isalnum())[:16]
