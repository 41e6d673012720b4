"""Requests that differ in texts alone, as the rows of a frame mostly do: what they share is checked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aio_provider.api.catalog import Param, effective, load_catalog
from aio_provider.api.requests import CANONICAL, GenerationRequest
from aio_provider.api.validation import check_value, plain

_quoted = json.encoder.encode_basestring_ascii


class Series:
    """Requests like one that was checked; :meth:`of` says whether it can stand for others.

    :param first: the checked request.
    :param specs: the documented fields that differ, by name.
    """

    def __init__(
        self, first: GenerationRequest, specs: Mapping[str, Param], context: Mapping[str, Any]
    ) -> None:
        self._first = first
        self._specs = specs
        self._context = context
        self._between = list(_between(first, specs))

    @classmethod
    def of(cls, first: GenerationRequest, names: Sequence[str]) -> Series | None:
        """The series of a checked request; ``None`` where these fields are more than texts of their own.

        :param names: the fields that differ.
        """
        if first.kind == "custom":
            return None
        catalog = load_catalog()
        specs = catalog.params(first.kind, catalog.model_for(first.kind, first.model))
        # in the request's order: of two mistakes, the same one is told
        mine = {name: specs[name] for name in first.params if name in names and name in specs}
        if len(mine) < len(names) or any(spec.type != ("string",) for spec in mine.values()):
            return None
        if any(spec.usual for spec in mine.values()):  # each may have its warning
            return None
        if any(name in mine for spec in specs.values() for name in _looked_at(spec)):
            return None
        return cls(first, mine, effective(first.params, specs, first.model))

    def request(self, texts: Mapping[str, str]) -> GenerationRequest:
        """The request with these texts: equal to one that was built and checked as a whole.

        :raises InvalidRequestError: as building it would.
        """
        values = {name: plain(texts[name], name) for name in self._specs}
        checked = {
            name: check_value(values[name], spec, name, self._context) for name, spec in self._specs.items()
        }
        first = self._first
        request = GenerationRequest(first.kind, first.endpoint, first.model, {**first.params, **checked})
        canonical = "".join(
            f"{before}{_quoted(checked[name])}" if name else before for before, name in self._between
        )
        request.__dict__["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()
        return request


def _looked_at(spec: Param) -> Iterator[str]:
    """The fields that this one's bounds depend on."""
    yield from spec.required_when or ()
    yield from spec.required_unless or ()
    for rule in spec.max_length_when:
        yield from rule["when"]


def _between(first: GenerationRequest, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The canonical JSON of a request, cut where a text goes: what is before it, and its field's name."""
    body = dict(first.params) if first.model is None else {"model": first.model, **first.params}
    text = '{"body":{'
    for position, name in enumerate(sorted(body)):
        text += f"{',' if position else ''}{_quoted(name)}:"
        if name in names:
            yield text, name
            text = ""
        else:
            text += CANONICAL.encode(body[name])
    yield f'{text}}},"endpoint":{_quoted(first.endpoint)}}}', ""
