"""Checks of operators' arguments, when the DAG file is parsed."""

from __future__ import annotations

from datetime import timedelta


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
