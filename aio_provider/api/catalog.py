"""What the service offers: its endpoints, models, parameters with bounds, prices and usual latencies.

Read from the packaged ``catalog.json``, which was gathered from https://apiin.one/docs and the model pages.
The service adds models weekly, so absence here never means that a model does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any

KINDS = (
    "image",
    "video",
    "music",
    "speech",
    "chat",
    "remove_background",
    "swap_face",
    "remove_video_background",
    "upscale_image",
)

_FALLBACK = {"remove_video_background": (30.0, 180.0)}


@dataclass(frozen=True)
class Param:
    """One field of a request body, with its documented type and bounds (None: not bounded).

    ``required_when`` and ``required_unless`` map other fields to the value that makes this one required or
    optional (``"*"``: whenever that field is given; a list: any of these). ``models`` limits the field to
    these models or model values. ``usual`` are the values documented for other models of the kind, where this
    one's page lists none. ``coerce`` lets a number stand for its text, or the reverse.
    ``send_default`` sends the default explicitly, because two different defaults are published.
    """

    name: str
    type: tuple[str, ...] = ("any",)
    required: bool = False
    required_when: Mapping[str, Any] | None = None
    required_unless: Mapping[str, Any] | None = None
    default: Any = None
    send_default: bool = False
    coerce: bool = False
    min: float | None = None
    max: float | None = None
    whole: bool = False
    min_length: int | None = None
    max_length: int | None = None
    max_length_when: tuple[Mapping[str, Any], ...] = ()
    min_items: int | None = None
    max_items: int | None = None
    enum: tuple[Any, ...] = ()
    usual: tuple[Any, ...] = ()
    format: str | None = None
    items: Param | None = None
    fields: Mapping[str, Param] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def read(cls, name: str, raw: Mapping[str, Any]) -> Param:
        """Build one from its entry in ``catalog.json``."""
        known = dict(raw)
        kinds = known.pop("type", "any")
        items = known.pop("items", None)
        fields = known.pop("fields", {})
        for plural in ("enum", "models", "max_length_when"):
            known[plural] = tuple(known.get(plural, ()))
        return cls(
            name=name,
            type=(kinds,) if isinstance(kinds, str) else tuple(kinds),
            items=cls.read(name, items) if items else None,
            fields={key: cls.read(key, value) for key, value in fields.items()},
            **known,
        )


@dataclass(frozen=True)
class Latency:
    """How long a task usually takes, in seconds. ``published`` is False for a guess of ours."""

    min: float
    max: float
    published: bool = True


@dataclass(frozen=True)
class Endpoint:
    """A route that makes something. ``path`` is below the base URL."""

    kind: str
    path: str
    default_model: str | None = None
    model_required: bool = True
    latency: Latency | None = None
    params: Mapping[str, Param] = field(default_factory=dict)
    price: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Model:
    """A model as documented.

    ``values`` are the strings that the body's ``model`` field takes; the page's slug (``name``) is often not
    one of them. ``select`` maps a given field to the value that reads it (``image_urls`` → the edit model).
    ``instead`` maps a field of other models to this model's own name for it. At least one of ``one_of`` must
    be given.
    """

    name: str
    kind: str
    values: tuple[str, ...]
    default_value: str
    params: Mapping[str, Param] = field(default_factory=dict)
    select: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    price: Mapping[str, Any] | None = None
    latency: Latency | None = None
    callback: bool | None = None
    note: str = ""


class Catalog:
    """The packaged catalog, ready to ask. Get it from :func:`load_catalog`."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.base_url: str = raw["base_url"]
        self.requests_per_minute: int = raw["requests_per_minute"]
        self._endpoints = {entry["kind"]: _read_endpoint(entry) for entry in raw["endpoints"]}
        self._routes = {entry["path"]: _read_endpoint({"kind": "custom", **entry}) for entry in raw["routes"]}
        self._models = [_read_model(entry) for entry in raw["models"]]
        self._by_name = {name: model for model in self._models for name in (model.name, *model.values)}
        self._merged: dict[tuple[str, str | None], Mapping[str, Param]] = {}

    def endpoint(self, kind: str) -> Endpoint:
        """The endpoint of a kind (one of :data:`KINDS`).

        :raises KeyError: for any other kind.
        """
        return self._endpoints[kind]

    def route(self, path: str) -> Endpoint | None:
        """A documented route that has no kind of its own (Suno's sub-routes), by its path; else None."""
        return self._routes.get(path)

    def model(self, name: str | None) -> Model | None:
        """The model with this slug or this value of the body's ``model`` field; None when not catalogued."""
        return self._by_name.get(name) if name else None

    def models(self, kind: str | None = None) -> list[Model]:
        """All models, or those of one kind."""
        return [model for model in self._models if kind in (None, model.kind)]

    def model_for(self, kind: str, name: str | None) -> Model | None:
        """The model that serves a request: by name, else the tool behind an endpoint that takes no model."""
        if name:
            return self.model(name)
        models = self.models(kind)
        return models[0] if len(models) == 1 else None

    def latency(self, kind: str, model: str | None = None) -> Latency:
        """The usual duration in seconds: the model's, else its endpoint's, else a guess (never an error)."""
        known = self.model_for(kind, model)
        if known is not None and known.kind == kind and known.latency is not None:
            return known.latency
        endpoint = self._endpoints.get(kind)
        if endpoint is not None and endpoint.latency is not None:
            # Published for the endpoint: for a model of its own it is a fair guess, no more.
            return replace(endpoint.latency, published=known is None and model is None)
        low, high = _FALLBACK.get(kind, (3.0, 15.0) if kind in KINDS else (3.0, 90.0))
        return Latency(low, high, published=False)

    def params(self, kind: str, model: Model | None) -> Mapping[str, Param]:
        """The fields of a request: the endpoint's general ones, then the model's, which narrow them.

        A model's field keeps the endpoint's length bounds where the model's page states none.
        """
        key = (kind, model.name if model else None)
        merged = self._merged.get(key)
        if merged is None:  # once a model: merging takes longer than checking a request
            merged = self._merged[key] = self._merge(kind, model)
        return merged

    def _merge(self, kind: str, model: Model | None) -> Mapping[str, Param]:
        general = self._endpoints[kind].params
        names = {model.name, *model.values} if model else set()
        merged = {name: p for name, p in general.items() if not (model and p.models) or names & set(p.models)}
        for name, param in (model.params if model else {}).items():
            base = general.get(name)
            merged[name] = param if base is None else _inherit_lengths(param, base)
        for name in model.instead if model else ():
            merged.pop(name, None)
        for name, param in merged.items():
            if param.type == ("string",) and not param.enum and not param.models and name in general:
                merged[name] = replace(param, usual=self._usual(kind, name))
        return merged

    def _usual(self, kind: str, name: str) -> tuple[Any, ...]:
        found = [model.params[name].enum for model in self.models(kind) if name in model.params]
        return tuple(dict.fromkeys(value for values in found for value in values))


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The packaged catalog, read once."""
    text = resources.files("aio_provider.api").joinpath("catalog.json").read_text(encoding="utf-8")
    return Catalog(json.loads(text))


def effective(params: Mapping[str, Any], specs: Mapping[str, Param], model: str | None) -> dict[str, Any]:
    """The values a request has in the service's eyes: what is given, else the documented default."""
    defaults = {name: spec.default for name, spec in specs.items() if spec.default is not None}
    return {**defaults, **({"model": model} if model else {}), **params}


def matches(when: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether values meet a condition of the catalog: a value, a list of them, or ``"*"`` for any."""
    for name, wanted in when.items():
        value = values.get(name)
        if wanted == "*":
            if value is None:
                return False
        elif value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _inherit_lengths(param: Param, base: Param) -> Param:
    shortest = base.min_length if param.min_length is None else param.min_length
    longest = base.max_length if param.max_length is None else param.max_length
    return replace(param, min_length=shortest, max_length=longest)


def _read_params(raw: Mapping[str, Any]) -> dict[str, Param]:
    return {name: Param.read(name, entry) for name, entry in raw.items()}


def _read_latency(raw: Mapping[str, float] | None) -> Latency | None:
    return Latency(float(raw["min"]), float(raw["max"])) if raw else None


def _read_endpoint(raw: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        kind=raw["kind"],
        path=raw["path"],
        default_model=raw.get("default_model"),
        model_required=raw.get("model_required", False),
        latency=_read_latency(raw.get("latency")),
        params=_read_params(raw["params"]),
        price=raw.get("price"),
    )


def _read_model(raw: Mapping[str, Any]) -> Model:
    values = tuple(raw["values"])
    return Model(
        name=raw["name"],
        kind=raw["kind"],
        values=values,
        default_value=raw.get("default_value") or (values[0] if values else raw["name"]),
        params=_read_params(raw["params"]),
        select=raw.get("select", {}),
        instead=raw.get("instead", {}),
        one_of=tuple(raw.get("one_of", ())),
        price=raw.get("price"),
        latency=_read_latency(raw.get("latency")),
        callback=raw.get("callback"),
        note=raw.get("note", ""),
    )
