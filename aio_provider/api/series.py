"""Requests that differ in texts alone, as the rows of a frame mostly do: what they share is checked once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aio_provider.api.catalog import Param, effective, load_catalog
from aio_provider.api.requests import CANONICAL, GenerationRequest
from aio_provider.api.validation import check_value, longest_text, plain

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
        #: lengths of the texts that need no closer look; of every text of the others
        self._lengths = {name: _lengths(spec, context) for name, spec in specs.items()}
        *before, (_, self._after) = _between(first, specs)
        self._before: list[tuple[str, str]] = before

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
        checked = {name: plain(texts[name], name) for name in self._lengths}
        for name, (shortest, longest) in self._lengths.items():
            text = checked[name]
            if not shortest <= len(text) <= longest or text.isspace():
                checked[name] = check_value(text, self._specs[name], name, self._context)
        canonical = "".join([before + _quoted(checked[name]) for name, before in self._before])
        digest = hashlib.sha256(f"{canonical}{self._after}".encode())
        return self._first.with_texts(checked, digest.hexdigest())


def _looked_at(spec: Param) -> Iterator[str]:
    """The fields that this one's bounds depend on."""
    yield from spec.required_when or ()
    yield from spec.required_unless or ()
    for rule in spec.max_length_when:
        yield from rule["when"]


def _lengths(spec: Param, context: Mapping[str, Any]) -> tuple[int, float]:
    if spec.enum or spec.format:
        return 1, 0
    longest = longest_text(spec, context)
    return max(spec.min_length or 0, 1), math.inf if longest is None else longest


def _between(first: GenerationRequest, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The canonical JSON of a request, cut where a text goes: the text's field, and what is before it."""
    body = dict(first.params) if first.model is None else {"model": first.model, **first.params}
    text = '{"body":{'
    for position, name in enumerate(sorted(body)):
        text += f"{',' if position else ''}{_quoted(name)}:"
        if name in names:
            yield name, text
            text = ""
        else:
            text += CANONICAL.encode(body[name])
    yield "", f'{text}}},"endpoint":{_quoted(first.endpoint)}}}'
