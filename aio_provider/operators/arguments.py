"""Checks of operators' arguments, when the DAG file is parsed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from aio_provider.api.catalog import KINDS, load_catalog


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check an argument that has to be one of a few words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")


def at_least_zero(name: str, value: float | None) -> float | None:
    """Check a number that must not be negative."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and value >= 0):
        raise ValueError(f"{name} must be a number of 0 or more, not {value!r}.")
    return value


def positive_seconds(deadline: timedelta | float | None) -> float | None:
    """Check a deadline, and give it in seconds."""
    seconds = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
    if seconds is not None and (isinstance(seconds, bool) or not seconds > 0):
        raise ValueError(f"deadline must be a positive number of seconds or a timedelta, not {deadline!r}.")
    return seconds


#: what frames call the first argument of an operator, and what some models of speech call it
_OTHER_NAMES = {"speech": ("prompt", "text"), "chat": ("prompt",)}


def misplaced_fields(kind: str, fields: tuple[str, ...], refused: Iterable[str]) -> list[str]:
    """Say where arguments belong that no operator has and that are fields of the request.

    :param kind: of the operator; empty for any.
    :param fields: those that are arguments of the operator.
    """
    catalog = load_catalog()
    known = {"prompt"}
    if kind in KINDS:
        known = set(catalog.endpoint(kind).params).union(*(model.params for model in catalog.models(kind)))
    hints = []
    for name in sorted(refused):
        if name in _OTHER_NAMES.get(kind, ()):
            hints.append(f"{name}: here it is called {fields[0]}=.")
        elif name in known:
            hints.append(f"{name}: this field of the request goes into request_params={{{name!r}: …}}.")
    return hints
