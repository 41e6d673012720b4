"""What a report is asked for: a period, filters and groups, checked before the ledger is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger.schema import LABEL_COLUMNS

#: What figures can be grouped and filtered by -> the ledger's column (None: worked out from the time).
DIMENSIONS: Mapping[str, str | None] = {
    "day": None,
    "month": None,
    "dag": "dag_id",
    "run": "run_id",
    "task": "task_id",
    "user": "user_name",
    "notebook": "notebook",
    "model": "model",
    "kind": "kind",
    "label": "label",
    "team": "team",
    "connection": "conn_id",
    "service": "scope",
}
#: What stands before the name of any other label, such as ``label:campaign``.
LABEL = "label:"
#: The ledger's own names of the same things, as its labels are called.
ALIASES: Mapping[str, str] = {
    "dag_id": "dag",
    "run_id": "run",
    "task_id": "task",
    "conn_id": "connection",
    "scope": "service",
}


@dataclass(frozen=True)
class Asked:
    """Which rows, and in which groups.

    :param since: the first moment that counts (UTC); None: from the beginning.
    :param until: the first moment that no longer counts (UTC); None: to the end.
    :param filters: dimension -> the values that count; ``""`` stands for rows without one.
    """

    by: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        by: str | Iterable[str] = (),
        since: object = None,
        until: object = None,
        filters: Mapping[str, object] | None = None,
    ) -> Asked:
        """From what a user gave.

        :raises ConfigurationError: an unknown name, an unreadable time, ``since`` not before ``until``.
        """
        begin, end = moment("since", since), moment("until", until)
        if begin is not None and end is not None and begin >= end:
            raise ConfigurationError(
                f"since ({shown(begin)}) must be before until ({shown(end)}), which is the first moment "
                "after it."
            )
        chosen = {
            _dimension(name, "filter"): _values(name, value)
            for name, value in (filters or {}).items()
            if value is not None
        }
        return cls(_groups(by), begin, end, chosen)

    def described(self) -> str:
        """The period and the filters as one line of plain text."""
        if self.since is None and self.until is None:
            period = "all time"
        else:
            begin = shown(self.since) if self.since else "the beginning"
            if in_future(self.since):
                period = f"from {begin}{f' to {shown(self.until)}' if self.until else ''} UTC, in the future"
            else:
                period = f"{begin} to {shown(self.until) if self.until else 'now'} UTC"
        chosen = (f"{name} = {' or '.join(v or '(none)' for v in vs)}" for name, vs in self.filters.items())
        return ", ".join((period, *chosen))


def moment(name: str, value: object) -> datetime | None:
    """A time in UTC from a datetime, a date, or text: ``2026``, ``2026-11``, ``2026-11-22`` or ISO 8601.

    A time without a zone is UTC.

    :raises ConfigurationError: naming the argument.
    """
    if value is None or isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - its zone is set below
    elif isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"\d{4}(-\d{2})?", text):
            text += "-01" if len(text) > 4 else "-01-01"
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigurationError(
                f"{name}={value!r} is not a time: give a month (2026-11), a day (2026-11-22) or "
                "ISO 8601 (2026-11-22T14:30+00:00)."
            ) from None
    else:
        raise ConfigurationError(f"{name} must be a time or its text, not {type(value).__name__}.")
    if found is None:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def in_future(since: datetime | None) -> bool:
    """Whether a period has not begun."""
    return since is not None and since > datetime.now(UTC)


def shown(at: datetime) -> str:
    """A time in UTC, no longer than it must be."""
    if (at.hour, at.minute, at.second, at.microsecond) == (0, 0, 0, 0):
        return f"{at:%Y-%m-%d}"
    return f"{at:%Y-%m-%d %H:%M}" if (at.second, at.microsecond) == (0, 0) else f"{at:%Y-%m-%d %H:%M:%S}"


def _groups(by: object) -> tuple[str, ...]:
    if isinstance(by, str):
        by = by.split(",")
    if not isinstance(by, Iterable):
        raise ConfigurationError(f"by must be names such as ('day', 'model'), not {type(by).__name__}.")
    names = [_dimension(name, "by") for name in by if not (isinstance(name, str) and not name.strip())]
    return tuple(dict.fromkeys(names))


def _dimension(name: object, what: str) -> str:
    if isinstance(name, str) and name.strip().startswith(LABEL):
        own = name.strip().removeprefix(LABEL)
        if own not in LABEL_COLUMNS:
            if not own or '"' in own:  # a path in SQLite's JSON has no way to write a quote
                raise ConfigurationError(f"{what}: {name!r} names no label: give label:NAME, without quotes.")
            return LABEL + own
        name = own  # the ledger has a column for it
    plain = name.strip().lower() if isinstance(name, str) else name
    found = ALIASES.get(plain, plain) if isinstance(plain, str) else plain
    if not isinstance(found, str) or found not in DIMENSIONS:
        raise ConfigurationError(f"{what}: {name!r} is none of {', '.join(DIMENSIONS)} and label:NAME.")
    return found


def _values(name: str, value: Any) -> tuple[str, ...]:
    values: Sequence[object] = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if not values or not all(isinstance(one, str) for one in values):
        raise ConfigurationError(f"{name}: give a text or a list of texts to filter by, not {value!r:.80}.")
    return tuple(str(one) for one in values)
