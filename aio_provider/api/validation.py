"""Checks a request against the catalog before anything is sent, so that a mistake costs no credits.

One walk over the documented fields; every bound comes from ``catalog.json``. What the catalog does not know
is passed on with a ``UserWarning``: the service adds models and parameters weekly.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
import re
import sys
import warnings
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from aio_provider.api.catalog import Model, Param, effective, load_catalog, matches
from aio_provider.api.errors import InvalidRequestError

_TYPE_WORDS = {
    "string": "text (a string)",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object (a dict)",
}

#: what was warned of already, for a caller that builds many requests of one kind: each text once
warned: ContextVar[set[str] | None] = ContextVar("warned", default=None)
#: where warnings wait until the caller's own thread gives them; ``None``: they are given at once
waiting: ContextVar[deque[str] | None] = ContextVar("waiting", default=None)


def resolve_model(kind: str, name: str | None, given: Mapping[str, Any]) -> tuple[str | None, Model | None]:
    """The value to send as ``model`` and its catalog entry (None when it is not catalogued).

    A page slug that is not itself a value (``imagen-4``) becomes the model's value (``imagen4``), chosen by
    the fields given where a model has several (``seedream-4-5`` with ``image_urls`` → ``seedream/4.5-edit``).

    :raises InvalidRequestError: for a model of another kind, or something that is not text.
    """
    catalog = load_catalog()
    endpoint = catalog.endpoint(kind)
    if name is None:
        name = endpoint.default_model
    if name is None:
        return None, catalog.model_for(kind, None)
    if not isinstance(name, str) or not name.strip():
        raise InvalidRequestError(
            f"model: must be {_TYPE_WORDS['string']}, got {_describe(name)}", field="model"
        )
    known = catalog.model(name)
    if known is None:
        near = difflib.get_close_matches(name, [m.name for m in catalog.models(kind)], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        _warn(f"model {name!r} is not in the packaged catalog: only the general bounds are checked{hint}")
        return name, None
    if known.kind != kind:
        raise InvalidRequestError(
            f"model: {name!r} is of the kind {known.kind!r}, not {kind!r}; use that kind or another model",
            field="model",
        )
    if name in known.values:
        return name, known
    for field, value in known.select.items():
        if given.get(field) is not None:
            return value, known
    return known.default_value, known


def check_params(
    given: Mapping[str, Any], specs: Mapping[str, Param], *, model: str | None, known: Model | None, what: str
) -> dict[str, Any]:
    """The fields to send: plain JSON values, within every documented bound.

    :param given: the fields as the caller wrote them; None leaves a field out.
    :param specs: the documented fields by name.
    :param what: what is being asked for, for messages (``flux-2``, ``remove_background``).
    :raises InvalidRequestError: naming the field, the value's size or kind, and the bound.
    """
    params = {name: plain(value, name) for name, value in given.items() if value is not None}
    for name in params:
        other = known.instead.get(name) if known else None
        if other:
            raise InvalidRequestError(f"{name}: {what} calls this field {other!r}; use that name", field=name)
        spec = specs.get(name)
        if spec is None or (spec.models and known and not {model, known.name} & set(spec.models)):
            near = difflib.get_close_matches(name, specs, n=1)
            hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
            _warn(f"{name!r} is not a documented parameter of {what}; it is sent as it is{hint}")
    context = effective(params, specs, model)
    params = {
        name: check_value(value, specs[name], name, context) if name in specs else value
        for name, value in params.items()
    }
    context.update(params)
    for name, spec in specs.items():
        if name in params:
            continue
        if spec.send_default:
            params[name] = spec.default
        elif _is_required(spec, context):
            raise InvalidRequestError(f"{name}: missing, and {what} needs it", field=name)
    if known and known.one_of and not any(name in params for name in known.one_of):
        names = " or ".join(repr(name) for name in known.one_of)
        raise InvalidRequestError(f"{known.one_of[0]}: missing; {what} needs {names}", field=known.one_of[0])
    return params


def check_value(value: Any, spec: Param, field: str, context: Mapping[str, Any]) -> Any:
    """One value within its documented type and bounds, coerced where the catalog says it may be.

    :raises InvalidRequestError: naming ``field``, what it got, and what the API takes.
    """
    value = _coerce(value, spec)
    if spec.type != ("any",) and _json_type(value) not in spec.type:
        words = " or ".join(_TYPE_WORDS[kind] for kind in spec.type)
        fix = " (an encoded file?)" if isinstance(value, bytes) else ""
        raise InvalidRequestError(f"{field}: must be {words}, got {_describe(value)}{fix}", field=field)
    if isinstance(value, str):
        _check_text(value, spec, field, context)
    elif isinstance(value, list):
        _check_size(len(value), spec.min_items, spec.max_items, "items", field)
        if spec.items:
            return [check_value(item, spec.items, f"{field}[{i}]", context) for i, item in enumerate(value)]
    elif isinstance(value, dict) and spec.fields:
        return _check_object(value, spec, field)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(value, spec, field)
    if spec.enum and value not in spec.enum:
        near = next((c for c in spec.enum if str(c).lower() == str(value).lower()), None)
        hint = f"; did you mean {near!r}?" if near is not None else ""
        allowed = ", ".join(repr(choice) for choice in spec.enum)
        raise InvalidRequestError(f"{field}: {_describe(value)} is not one of {allowed}{hint}", field=field)
    if spec.usual and value not in spec.usual:
        usual = ", ".join(repr(choice) for choice in spec.usual)
        _warn(
            f"{field}: {value!r} is documented for no model of this kind; it is sent as it is. "
            f"Documented are {usual}"
        )
    return value


def plain(value: Any, field: str) -> Any:
    """A JSON value out of what dataframes hold: numpy scalars and arrays, tuples, paths as text.

    :raises InvalidRequestError: for what JSON cannot say (NaN, bytes, dates …).
    """
    if type(value) is str:  # most of what a million rows hold
        return value if value.isascii() else _unicode(value, field)
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        value = tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{field}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        # A plain str also out of a subclass (numpy.str_, an enum), so that the fingerprint does not depend on
        # it.
        return _unicode(str.__str__(value), field)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if not math.isfinite(number):
            raise InvalidRequestError(f"{field}: {number} is not a number the API can take", field=field)
        return number
    raise InvalidRequestError(f"{field}: {_describe(value)} cannot be sent as JSON", field=field)


def _unicode(text: str, field: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{field}: not valid Unicode text ({error.reason})", field=field) from error
    return text


def _coerce(value: Any, spec: Param) -> Any:
    kind = _json_type(value)
    if kind == "number" and "number" in spec.type and isinstance(value, float) and value.is_integer():
        return int(value)  # 3.0 from a column with gaps is the same request as 3
    if kind == "string" and spec.type == ("array",) and spec.items and spec.items.format == "url":
        return [value]
    if not spec.coerce:
        return value
    if kind == "number" and spec.type == ("string",):
        return str(int(value) if float(value).is_integer() else value)
    if kind == "string" and spec.type == ("number",):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number
    return value


def longest_text(spec: Param, context: Mapping[str, Any]) -> int | None:
    """How many characters a text may have beside these other fields."""
    longest = spec.max_length
    for rule in spec.max_length_when:
        if matches(rule["when"], context):
            longest = rule["max_length"]
    return longest


def _check_text(value: str, spec: Param, field: str, context: Mapping[str, Any]) -> None:
    longest = longest_text(spec, context)
    if (spec.required or spec.required_unless or spec.min_length) and not value.strip():
        raise InvalidRequestError(f"{field}: empty; it needs some text", field=field)
    _check_size(len(value), spec.min_length, longest, "characters", field)
    if spec.format == "url":
        _check_url(value, field)


def _check_object(value: dict[str, Any], spec: Param, field: str) -> dict[str, Any]:
    checked = dict(value)
    for name, sub in spec.fields.items():
        inner = f"{field}.{name}"
        if value.get(name) is not None:
            checked[name] = check_value(value[name], sub, inner, value)
        elif _is_required(sub, value):
            raise InvalidRequestError(f"{inner}: missing", field=inner)
    for name in sorted(set(value) - set(spec.fields)):
        _warn(f"{field}.{name} is not documented; it is sent as it is")
    return checked


def _check_size(size: int, low: int | None, high: int | None, unit: str, field: str) -> None:
    if (low is not None and size < low) or (high is not None and size > high):
        raise InvalidRequestError(
            f"{field}: {size} {unit}, but the API takes {_span(low, high)}", field=field
        )


def _check_number(value: float, spec: Param, field: str) -> None:
    if spec.whole and not float(value).is_integer():
        raise InvalidRequestError(f"{field}: {value} must be a whole number", field=field)
    if (spec.min is not None and value < spec.min) or (spec.max is not None and value > spec.max):
        raise InvalidRequestError(f"{field}: {value} is outside {_span(spec.min, spec.max)}", field=field)


def _check_url(value: str, field: str) -> None:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", value)
    except ValueError:
        good, parts = False, urlsplit("")
    if good:
        return
    if parts.scheme in ("http", "https"):
        raise InvalidRequestError(f"{field}: {_describe(value)} is not a valid URL", field=field)
    raise InvalidRequestError(
        f"{field}: {_describe(value)} is not a URL. The API fetches its inputs itself and takes public "
        "http(s) URLs only: upload the file to a bucket first and pass a signed URL, for example\n"
        '    fs = fsspec.filesystem("s3")\n'
        '    fs.put("photo.png", "my-bucket/inputs/photo.png")\n'
        f'    {field.split("[")[0]} = fs.sign("my-bucket/inputs/photo.png", expiration=3600)',
        field=field,
    )


def _is_required(spec: Param, context: Mapping[str, Any]) -> bool:
    if spec.required_when is not None:
        return matches(spec.required_when, context)
    if spec.required_unless is not None:
        return not matches(spec.required_unless, context)
    return spec.required


def _json_type(value: Any) -> str:
    if type(value) is str:
        return "string"
    if isinstance(value, bool):
        return "boolean"
    for python, name in ((str, "string"), ((int, float), "number"), (list, "array"), (dict, "object")):
        if isinstance(value, python):
            return name
    return "unknown"


def _span(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _warn(message: str) -> None:
    already = warned.get()
    if already is not None:
        if message in already:
            return
        already.add(message)
    later = waiting.get()
    if later is not None:
        later.append(message)
        return
    warnings.warn(message, UserWarning, stacklevel=users_level())


def give(messages: deque[str]) -> None:
    """Give warnings that waited, as from the user's own line."""
    while messages:
        warnings.warn(messages.popleft(), UserWarning, stacklevel=users_level())


def users_level() -> int:
    """How many frames up from our caller the user's own line is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("aio_provider."):
        level, frame = level + 1, frame.f_back
    return level
