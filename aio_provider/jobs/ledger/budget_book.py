"""The ledger's methods about money to come: budgets, their figures and events, and drifting estimates."""

from __future__ import annotations

import contextlib
import getpass
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import sqlalchemy as sa

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import budgets as rules
from aio_provider.jobs.ledger import charges
from aio_provider.jobs.ledger.budgets import Budget, BudgetEvent, BudgetUse, Scope
from aio_provider.jobs.ledger.charges import Drift, Expectations
from aio_provider.jobs.ledger.schema import budget_events, budgets, label_columns
from aio_provider.jobs.ledger.store import Store

if TYPE_CHECKING:
    from aio_provider.api.prices import CreditRange
    from aio_provider.api.requests import GenerationRequest

log = logging.getLogger(__name__)

#: requests estimated in one transaction
_SOME = 500
#: column -> field of an event, where they differ (LIMIT is a word of SQL)
_FIELD = {"credits_limit": "limit"}


class BudgetBook:
    """The part of a :class:`~.book.Ledger` that keeps its budgets."""

    def __init__(self, store: Store) -> None:
        self.store = store
        #: called with each event of a budget, once it is committed; by whichever thread writes the ledger
        self.on_budget_event: Callable[[BudgetEvent], object] | None = None

    def set_budget(
        self, scope: Scope, value: str = "", *, credits: float, month: str | None = "each"
    ) -> Budget:
        """Set or change what may be spent. Enforced from the next submission on, in every process.

        :param scope: ``total``, ``connection``, ``dag`` or ``team``.
        :param value: which connection, DAG or team; empty for ``total``.
        :param credits: the limit, 0 or more.
        :param month: ``"each"`` calendar month (UTC), one such as ``"2026-11"`` (which takes the place of
            ``"each"`` in that month), or ``None``: without end, over all that the ledger holds.
        :raises ConfigurationError: for a scope, value, month or limit that cannot be.
        """
        value = value.strip() if isinstance(value, str) else value  # as the labels of jobs
        budget = Budget(scope, value, month, credits)
        who = None
        with contextlib.suppress(OSError, KeyError, ImportError):  # a container without a name for its user
            who = getpass.getuser()
        with self.store.write() as conn:
            now = self.store.now(conn)
            changed = conn.execute(
                sa.update(budgets)
                .where(*_at(scope, value, month))
                .values(credits=float(credits), set_by=who, updated_at=now)
            )
            if not changed.rowcount:
                conn.execute(
                    sa.insert(budgets).values(
                        scope=scope,
                        value=value,
                        month=month or "",
                        credits=float(credits),
                        set_by=who,
                        created_at=now,
                        updated_at=now,
                    )
                )
        return budget

    def remove_budget(self, scope: Scope, value: str = "", *, month: str | None = "each") -> bool:
        """Take a budget away; its events stay on record.

        :returns: whether there was one.
        :raises ConfigurationError: for a scope, value or month that cannot be.
        """
        rules.check_place(scope, value, month)
        with self.store.write() as conn:
            return bool(conn.execute(sa.delete(budgets).where(*_at(scope, value, month))).rowcount)

    def budgets(self) -> list[Budget]:
        """All budgets, by scope and value."""
        with self.store.read() as conn:
            rows = conn.execute(
                sa.select(budgets.c.scope, budgets.c.value, budgets.c.month, budgets.c.credits).order_by(
                    budgets.c.scope, budgets.c.value, budgets.c.month
                )
            ).all()
        return [Budget(scope, value, month or None, credits) for scope, value, month, credits in rows]

    def budget_use(self, budget: Budget, *, month: str | None = None) -> BudgetUse:
        """What is charged and reserved under a budget, in credits.

        :param month: of a budget for each month, another than the present one, such as ``"2026-10"``.
        """
        if month is not None:
            if budget.month is None:
                raise ConfigurationError("month: a budget without end has no months.")
            rules.check_place(budget.scope, budget.value, month)
        with self.store.read() as conn:
            return rules.use_of(conn, budget, self.store.now(conn), month)

    def budgets_for(self, labels: Mapping[str, str]) -> list[BudgetUse]:
        """The budgets that hold now for a job with these labels, and how they stand."""
        columns = label_columns(labels)
        with self.store.read() as conn:
            now = self.store.now(conn)
            standing = [one for one in rules.in_force(conn, now) if one.covers(columns)]
            return [rules.use_of(conn, one, now) for one in standing]

    def budget_events(self, *, labels: Mapping[str, str] | None = None) -> list[BudgetEvent]:
        """When budgets reached 80 and 100 percent, the newest first.

        :param labels: only budgets that a job with these labels counts for, in their present period.
        """
        with self.store.read() as conn:
            now = self.store.now(conn)
            rows = conn.execute(sa.select(budget_events).order_by(budget_events.c.at.desc())).mappings()
            events = [
                BudgetEvent(**{_FIELD.get(name, name): value for name, value in row.items()}) for row in rows
            ]
        if labels is None:
            return events
        columns, present = label_columns(labels), ("", f"{now:%Y-%m}")
        return [
            event
            for event in events
            if event.period in present
            and (event.scope == "total" or columns[rules.COLUMNS[event.scope]] == event.value)
        ]

    def estimate_drift(self, *, since: datetime | timedelta | None = None, scope: str = "") -> list[Drift]:
        """Each model's estimates against what was charged, summed in the database.

        :param since: only what ended since then, or within this span; ``None``: all.
        :param scope: only jobs of the service with this base URL.
        """
        with self.store.read() as conn:
            if isinstance(since, timedelta):
                since = self.store.now(conn) - since
            return charges.drift(conn, since, scope)

    def drift_notes(self, since: datetime | timedelta, scope: str) -> list[str]:
        """One line for each model whose charges were off by more than 10 percent, over 5 jobs or more.

        :param since: only what ended since then, or within this span.
        :param scope: base URL of the service.
        """
        return [str(one) for one in self.estimate_drift(since=since, scope=scope) if one.is_notable]

    def expected(self, requests: Iterable[GenerationRequest], *, scope: str = "") -> Iterator[CreditRange]:
        """What requests are expected to cost, from published prices and past charges on record.

        :param requests: read lazily.
        :param scope: base URL of the service; charges of another one (a sandbox) do not count. Empty: any.
        """
        expectations = Expectations()  # its own, so that it knows the newest charges
        requests = iter(requests)
        while some := list(islice(requests, _SOME)):
            with self.store.read() as conn:
                ranges = [expectations.of(conn, request, scope) for request in some]
            yield from ranges

    def tell(self, events: Iterable[BudgetEvent]) -> None:
        """Log events that have been committed, and hand them to :attr:`on_budget_event`."""
        for event in events:
            log.warning(event.message)
            if self.on_budget_event is not None:
                try:
                    self.on_budget_event(event)
                except Exception:
                    # A notifier that fails must not cost what it is told about: jobs that are paid for.
                    log.exception("The callback for events of budgets failed")


def _at(scope: str, value: str, month: str | None) -> tuple[sa.sql.elements.ColumnElement[bool], ...]:
    return (budgets.c.scope == scope, budgets.c.value == value, budgets.c.month == (month or ""))
