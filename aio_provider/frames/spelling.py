"""Request fields that are probably misspelled: sent as they are, they would have no effect, and cost."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from aio_provider.api.catalog import KINDS
from aio_provider.frames.spec import known_fields


@dataclass(frozen=True)
class NearMiss:
    """A field that the API does not have, and the one that was probably meant."""

    kind: str
    name: str
    meant: str

    @property
    def message(self) -> str:
        """What is wrong, as a sentence."""
        return f"{self.name!r} is no known field of {self.kind}: did you mean {self.meant!r}?"


def near_miss(kind: str, names: Iterable[object]) -> NearMiss | None:
    """The first of these request fields that is nearly a known one, unless that one is given too.

    :param kind: of generation; an unknown one has no known fields.
    """
    if kind not in KINDS:
        return None
    known, given = ["model", *known_fields(kind)], [name for name in names if isinstance(name, str)]
    for name in given:
        near = [] if name in known else difflib.get_close_matches(name, known, 1, cutoff=0.8)
        if near and near[0] not in given:
            return NearMiss(kind, name, near[0])
    return None
