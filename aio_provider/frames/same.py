"""Whether an output is this call's, another's or nobody's, and what the two calls differ in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aio_provider.frames.words import words

#: statuses of rows that have cost nothing and never will
_UNPAID: Final = frozenset({"not_submitted", "failed", "skipped"})
#: what a call is told by → how a user calls it, and whether its values are shown
_SHOWN: Final = {
    "kind": ("kind", True),
    "model": ("model", True),
    "service": ("base_url", True),
    "key": ("key", True),
    "prefix": ("prefix", True),
    "part_rows": ("max_rows_per_part", True),
    "partition_by": ("partition_by", True),
    "run": ("", False),  # what else it is told by depends on who speaks
    "input": ("the input's name", False),
    "count": ("the number of rows", True),
    "rows": ("the rows", False),
}


def about(shape: Mapping[str, Any]) -> dict[str, Any]:
    """A small description of a call for the output's metadata: it holds no prompt and no path, only digests.

    :param shape: what the call's fingerprint is made of.
    """
    told = {name: shape.get(name) for name, (_, shown) in _SHOWN.items() if shown}
    hidden = {name: _digest(shape.get(name)) for name, (_, shown) in _SHOWN.items() if not shown}
    fields = {name: _digest(value) for name, value in shape.get("fields", {}).items()}
    return {**told, **hidden, "fields": fields}


def differences(there: object, here: Mapping[str, Any] | None) -> str:
    """What two descriptions differ in, as a sentence after a space; empty where that is not known."""
    if not isinstance(there, Mapping) or here is None:
        return ""
    found = []
    for name, (title, shown) in _SHOWN.items():
        old, new = there.get(name), here.get(name)
        title = title or words.get().run
        if old != new:
            found.append(f"{title} ({_value(old)} there, {_value(new)} here)" if shown else title)
    # what is read from other columns are other rows: said only where nothing else says it
    rest = found[-1:] == ["the rows"] and found.pop()
    old_fields, new_fields = there.get("fields") or {}, here["fields"]
    names = [*new_fields, *(name for name in old_fields if name not in new_fields)]
    found += [name for name in names if old_fields.get(name) != new_fields.get(name)]
    if rest and not found:
        found.append("the rows")
    return f" It differs in {', '.join(found)}." if found else ""


def refusal(
    output: str,
    there: object,
    here: Mapping[str, Any] | None,
    *,
    begins: str = "",
    until: float | None = None,
) -> str:
    """The message about an output that is another call's.

    :param until: seconds since 1970: until then it is claimed by a call that has not written it yet.
    """
    claimed = ""
    if until is not None:
        end = datetime.fromtimestamp(until, tz=UTC)
        claimed = f", which is under way, or was stopped (its claim ends {end:%Y-%m-%d %H:%M} UTC)"
    return (
        f"{words.get().argument('output', output)} {begins}holds the result of another call{claimed}."
        f"{differences(there, here)} Pass {words.get().argument('overwrite', True)} to replace it"
        f"{words.get().replacing}, or give another name."
    )


def is_paid(statuses: Mapping[str, int], *credits: float) -> bool:
    """Whether rows with these statuses have cost anything, or may have."""
    return any(credits) or not {name for name, count in statuses.items() if count} <= _UNPAID


def _value(value: object) -> str:
    return "none" if value is None else repr(value) if isinstance(value, str) else str(value)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
