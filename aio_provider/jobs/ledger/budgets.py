"""Budgets: who may spend how much, checked in the very transaction that writes an intent.

A job counts for the month (UTC) in which it was submitted: what the service charged for it, and until that
is known what was reserved. Both figures are summed from the rows of the book each time, so nothing can drift
from it. Whoever checks holds the budgets' rows locked until the intents are committed (SQLite: the one write
lock), so two processes never both take the last credits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.api.amounts import in_digits
from aio_provider.api.errors import BudgetExceededError, ConfigurationError
from aio_provider.jobs.ledger import charges
from aio_provider.jobs.ledger.model import JobState
from aio_provider.jobs.ledger.schema import archived_use, budget_events, budgets, jobs, past_attempts

Scope = Literal["total", "connection", "dag", "team"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
#: a budget's scope -> the column it looks at
COLUMNS: Mapping[str, str] = {"connection": "conn_id", "dag": "dag_id", "team": "team"}
#: percentages of a limit at which an event is recorded
MARKS = (80, 100)
#: a budget that begins anew each calendar month
EACH = "each"
_EPSILON = 1e-6  # sums of floats


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent.

    :param scope: ``total``, ``connection`` (an Airflow connection id), ``dag`` or ``team``.
    :param value: which connection, DAG or team; empty for ``total``.
    :param month: ``"each"`` calendar month (UTC), one such as ``"2026-11"``, which takes the place of
        ``"each"`` in that month, or ``None``: without end.
    :param credits: the limit.
    :raises ConfigurationError: for a scope, value, month or limit that cannot be.
    """

    scope: Scope
    value: str
    month: str | None
    credits: float

    def __post_init__(self) -> None:
        check_place(self.scope, self.value, self.month)
        number = isinstance(self.credits, int | float) and not isinstance(self.credits, bool)
        if not number or not isfinite(self.credits) or self.credits < 0:
            raise ConfigurationError(
                f"credits is {self.credits!r}; a budget is a finite number of credits, 0 or more."
            )

    def period(self, now: datetime) -> str:
        """The month it is now about, such as ``"2026-11"``; empty for a budget without end."""
        if self.month is None:
            return ""
        return f"{now.astimezone(UTC):%Y-%m}" if self.month == EACH else self.month

    def covers(self, labels: Mapping[str, Any]) -> bool:
        """Whether a job with these labels (by column) counts."""
        return self.scope == "total" or labels.get(COLUMNS[self.scope]) == self.value

    def name(self, period: str) -> str:
        """For people: ``dag nightly, 2026-11``."""
        return ", ".join(
            part for part in (f"{self.scope} {self.value}".strip(), period or "without end") if part
        )


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """How a budget stands in a period (a month, or ``""`` where it has no end), in credits.

    :param charged: by the service, for jobs submitted in the period.
    :param reserved: for jobs whose charge is not known: in flight, held, or never told.
    """

    budget: Budget
    period: str
    charged: float
    reserved: float

    @property
    def name(self) -> str:
        """For people: ``dag nightly, 2026-11``."""
        return self.budget.name(self.period)

    @property
    def left(self) -> float:
        """What a job may still reserve; below 0 where charges were higher than their estimates."""
        return self.budget.credits - self.charged - self.reserved

    @property
    def percent(self) -> float:
        """How much of the limit is charged or reserved."""
        used = self.charged + self.reserved
        return 100.0 * used / self.budget.credits if self.budget.credits else 100.0


@dataclass(frozen=True, slots=True)
class BudgetEvent:
    """A budget has reached 80 or 100 percent of its limit, or refused a job (100)."""

    scope: Scope
    value: str
    period: str
    percent: int
    limit: float
    charged: float
    reserved: float
    at: datetime

    @property
    def message(self) -> str:
        """One line for a log."""
        where = ", ".join((f"{self.scope} {self.value}".strip(), self.period or "without end"))
        refused = self.percent >= 100 and self.charged + self.reserved < self.limit - _EPSILON
        what = "has refused a job" if refused else f"has reached {self.percent} %"
        return (
            f"Budget {where} {what}: {in_digits(self.charged)} credits charged and "
            f"{in_digits(self.reserved)} reserved of {in_digits(self.limit)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for asset events and notifiers."""
        return {
            "scope": self.scope,
            "value": self.value,
            "period": self.period,
            "percent": self.percent,
            "limit": self.limit,
            "charged": self.charged,
            "reserved": self.reserved,
            "at": self.at.isoformat(timespec="seconds"),
        }


@dataclass
class Verdict:
    """What the budgets say to a batch of claims."""

    #: key -> what to set aside; empty where there is no budget at all
    reserved: dict[str, float] = field(default_factory=dict)
    refused: dict[str, BudgetExceededError] = field(default_factory=dict)
    #: recorded just now, for the first time
    events: list[BudgetEvent] = field(default_factory=list)


def check_place(scope: str, value: str, month: str | None) -> None:
    """Refuse what cannot name a budget.

    :raises ConfigurationError: naming the field and what it may be.
    """
    if scope not in SCOPES:
        raise ConfigurationError(f"scope is {scope!r}; a budget is for one of {', '.join(SCOPES)}.")
    if not isinstance(value, str) or len(value) > 250:
        raise ConfigurationError(f"the {scope} of a budget must be text of at most 250 characters.")
    if (scope == "total") != (value == ""):
        wanted = "no value" if scope == "total" else f"the {scope} it is for"
        raise ConfigurationError(f"A budget for {scope!r} takes {wanted}, not {value!r}.")
    if month is None or month == EACH:
        return
    try:
        if f"{datetime.strptime(month, '%Y-%m'):%Y-%m}" == month:  # noqa: DTZ007 - only its spelling counts
            return
    except (TypeError, ValueError):
        pass
    raise ConfigurationError(
        f"month is {month!r}; it must be 'each', one month such as '2026-11' (UTC), or None for no end."
    )


# -- the check -------------------------------------------------------------------------------------------

_ALL = sa.select(budgets.c.scope, budgets.c.value, budgets.c.month, budgets.c.credits).order_by(
    budgets.c.scope, budgets.c.value, budgets.c.month
)
# Locked, so that another process's check waits until what this one let through is committed.
_LOCKED = _ALL.with_for_update()
_WANTED = sa.select(
    *(jobs.c.key, jobs.c.scope, jobs.c.kind, jobs.c.model, jobs.c.conn_id, jobs.c.dag_id, jobs.c.team),
    *(jobs.c.estimate_high, jobs.c.estimate_likely),
).where(jobs.c.key.in_(sa.bindparam("keys", expanding=True)))


def check(conn: Connection, keys: Sequence[str], now: datetime) -> Verdict:
    """Which of these jobs the budgets let through; with no budget, all, after one look at an empty table."""
    standing = in_force(conn, now, locked=True)
    verdict = Verdict()
    if not standing:
        return verdict
    rows: dict[str, Any] = {}
    for start in range(0, len(keys), 500):
        found = conn.execute(_WANTED, {"keys": list(keys[start : start + 500])}).mappings()
        rows.update((row["key"], row) for row in found)
    uses: dict[Budget, BudgetUse] = {}
    most: dict[tuple[str, str | None, str], float] = {}
    for key in keys:
        row = rows[key]
        amount = _amount(conn, row, most)
        ours = [budget for budget in standing if budget.covers(row)]
        for budget in ours:
            if budget not in uses:
                uses[budget] = use_of(conn, budget, now)
        full = next((uses[budget] for budget in ours if not _has_room(uses[budget], amount)), None)
        if full is not None:
            verdict.refused[key] = _refusal(key, full, amount)
            continue
        verdict.reserved[key] = amount
        for budget in ours:
            uses[budget] = _add(uses[budget], amount)
    # One that only reservations stood in the way of may be let through in a minute: no event yet.
    refusing = {error.budget for error in verdict.refused.values() if not error.may_pass}
    for use in uses.values():
        verdict.events += _mark(conn, use, refused=use.name in refusing, now=now)
    return verdict


def in_force(conn: Connection, now: datetime, *, locked: bool = False) -> list[Budget]:
    """The budgets that hold now; one set for this very month takes the place of the one for each month."""
    rows = conn.execute(_LOCKED if locked else _ALL)
    found = [Budget(scope, value, month or None, credits) for scope, value, month, credits in rows]
    this_month = f"{now.astimezone(UTC):%Y-%m}"
    special = {(budget.scope, budget.value) for budget in found if budget.month == this_month}
    return [
        budget
        for budget in found
        if budget.month in (None, this_month)
        or (budget.month == EACH and (budget.scope, budget.value) not in special)
    ]


def _amount(conn: Connection, row: Any, most: dict[tuple[str, str | None, str], float]) -> float:
    """What to set aside: the high estimate, else the most that the model has cost, at least the likely."""
    if row["estimate_high"] is not None:
        return float(row["estimate_high"])
    place = (row["kind"], row["model"], row["scope"])
    if place not in most:
        most[place] = charges.most(conn, *place)
    return max(float(row["estimate_likely"] or 0.0), most[place])


def _has_room(use: BudgetUse, amount: float) -> bool:
    """Room for it, and something left: a job whose price nobody knows is refused by a spent budget only."""
    return amount <= use.left + _EPSILON and use.left > _EPSILON


def _add(use: BudgetUse, amount: float) -> BudgetUse:
    return BudgetUse(use.budget, use.period, use.charged, use.reserved + amount)


def _refusal(key: str, use: BudgetUse, amount: float) -> BudgetExceededError:
    needs = f"this job may cost {in_digits(amount)}" if amount else "this job's price is not known"
    return BudgetExceededError(
        f"Budget {use.name}: {in_digits(use.charged)} credits charged and {in_digits(use.reserved)} reserved "
        f"of {in_digits(use.budget.credits)}; {needs}. Nothing was sent. {_way_out(use, amount)}.",
        budget=use.name,
        limit=use.budget.credits,
        charged=use.charged,
        reserved=use.reserved,
        amount=amount,
        keys=[key],
    )


def _way_out(use: BudgetUse, amount: float) -> str:
    """What a user can do, without what cannot help."""
    limit = use.budget.credits
    if amount > limit + _EPSILON or limit <= _EPSILON:
        return "That is more than the whole budget: raise it (aio budget set); waiting does not help"
    waits = ["for what is in flight"] if use.reserved > _EPSILON else []
    waits += ["for the next month"] if use.period else []
    return f"Raise the budget (aio budget set){', or wait ' if waits else ''}{' or '.join(waits)}"


def _mark(conn: Connection, use: BudgetUse, *, refused: bool, now: datetime) -> Iterator[BudgetEvent]:
    """Record the highest mark that a budget has reached, unless it or a higher one is on record."""
    reached = [mark for mark in MARKS if refused or use.percent + _EPSILON >= mark]
    if not reached:
        return
    budget, limit = use.budget, use.budget.credits
    place = {"scope": budget.scope, "value": budget.value, "period": use.period, "credits_limit": limit}
    at_place = [budget_events.c[name] == value for name, value in place.items()]
    known = conn.execute(sa.select(sa.func.max(budget_events.c.percent)).where(*at_place)).scalar() or 0
    mark = max(reached)
    if mark > known:
        figures = {"charged": use.charged, "reserved": use.reserved, "at": now}
        conn.execute(sa.insert(budget_events).values(**place, percent=mark, **figures))
        yield BudgetEvent(budget.scope, budget.value, use.period, mark, limit, use.charged, use.reserved, now)


# -- the figures -----------------------------------------------------------------------------------------

_NOT_HELD = (JobState.PLANNED.value, JobState.FAILED.value)


def use_of(conn: Connection, budget: Budget, now: datetime, period: str | None = None) -> BudgetUse:
    """How a budget stands, summed up from the rows.

    :param period: another month than the present one.
    """
    period = budget.period(now) if period is None else period
    parts = [part for table in (jobs, past_attempts) for part in _parts(table, budget, period)]
    rows = sa.union_all(*parts).subquery()
    charged, reserved = conn.execute(
        sa.select(sa.func.sum(rows.c.charged), sa.func.sum(rows.c.reserved))
    ).one()
    archived = sa.select(sa.func.sum(archived_use.c.credits)).where(_of(archived_use, budget))
    if period:
        archived = archived.where(archived_use.c.month == period)
    moved = conn.execute(archived).scalar()
    return BudgetUse(budget, period, float(charged or 0) + float(moved or 0), float(reserved or 0))


def _parts(table: sa.Table, budget: Budget, period: str) -> Iterator[Any]:
    c = table.c
    held = c.credits.is_(None) & c.state.not_in(_NOT_HELD)
    reserve = sa.func.coalesce(c.reserved, c.estimate_high, c.estimate_likely, 0.0)
    query = sa.select(
        sa.func.sum(sa.func.coalesce(c.credits, 0.0)).label("charged"),
        sa.func.sum(sa.case((held, reserve), else_=0.0)).label("reserved"),
    ).where(_of(table, budget))
    if not period:
        yield query.where(c.intended_at.is_not(None))
        return
    start, end = month_bounds(period)
    query = query.where(c.intended_at >= start, c.intended_at < end)
    # Two ranges of the index that covers this, rather than all of it.
    yield query.where(c.finished_at.is_(None))
    yield query.where(c.finished_at >= start)


def _of(table: sa.Table, budget: Budget) -> Any:
    if budget.scope == "total":
        return sa.true()
    return table.c[COLUMNS[budget.scope]] == budget.value


def month_bounds(period: str) -> tuple[datetime, datetime]:
    """First moment of a month such as ``"2026-11"`` and of the next one, UTC."""
    start = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
    return start, start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
