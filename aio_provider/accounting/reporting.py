"""Everything one page shows, from one look at the book: its figures agree with each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aio_provider.accounting import sql
from aio_provider.accounting.asked import Asked
from aio_provider.accounting.book import archived as moved_out
from aio_provider.accounting.book import archived_rows, described, opened
from aio_provider.accounting.figures import grouped
from aio_provider.accounting.money import CreditPrice, credit_price
from aio_provider.jobs.ledger.budgets import Budget, BudgetUse, use_of
from aio_provider.jobs.ledger.schema import budgets

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.engine import Connection

    from aio_provider.jobs.ledger import Ledger


@dataclass(frozen=True)
class Report:
    """The figures of a page.

    :param table: the groups that were asked for; its ``attrs["aio"]`` say which book, period and filters.
    :param by_day: by day and model. ``by_model``, ``by_dag``, ``by_team``: by these.
    :param budgets: all budgets of the ledger, as they stand now, whatever the period and the filters.
    """

    table: pd.DataFrame
    by_day: pd.DataFrame
    by_model: pd.DataFrame
    by_dag: pd.DataFrame
    by_team: pd.DataFrame
    budgets: tuple[BudgetUse, ...] = ()

    @property
    def note(self) -> Mapping[str, Any]:
        """What was asked, of which book, and the totals."""
        note: Mapping[str, Any] = self.table.attrs["aio"]
        return note


def report(
    ledger: Ledger | str | Path | None = None,
    *,
    by: str | Iterable[str] = (),
    since: object = None,
    until: object = None,
    price: float | str | CreditPrice | None = None,
    archived: bool = True,
    **filters: str | Iterable[str] | None,
) -> Report:
    """What a page shows; :func:`~.page.render` makes it HTML. Arguments and errors are those of
    :func:`~.figures.credits`.
    """
    cost = credit_price(price)
    asked = Asked.of(by, since, until, filters)
    with opened(ledger) as book, sql.snapshot(book.store) as conn:
        moved = moved_out(conn, include=archived)
        with archived_rows(conn, moved) as rows:
            frames = [
                grouped(conn, Asked(groups, asked.since, asked.until, asked.filters), cost, rows)
                for groups in (asked.by, ("day", "model"), ("model",), ("dag",), ("team",))
            ]
        frames[0].attrs["aio"] |= {"book": described(book), "archived": moved.plain()}
        table, by_day, by_model, by_dag, by_team = frames
        return Report(table, by_day, by_model, by_dag, by_team, _uses(conn, book))


def _uses(conn: Connection, book: Ledger) -> tuple[BudgetUse, ...]:
    now = book.store.now(conn)
    columns = (budgets.c.scope, budgets.c.value, budgets.c.month, budgets.c.credits)
    rows = conn.execute(budgets.select().with_only_columns(*columns).order_by(*columns[:3])).all()
    return tuple(
        use_of(conn, Budget(scope, value, month or None, limit), now) for scope, value, month, limit in rows
    )
