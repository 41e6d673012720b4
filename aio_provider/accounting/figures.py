"""``aio.credits``: what was spent, in groups. The one place where figures are worked out.

Terminal, files, pages and operators all show what :func:`credits` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy.engine import Connection

from aio_provider._version import __version__
from aio_provider.accounting import sql
from aio_provider.accounting.asked import Asked
from aio_provider.accounting.book import archived as moved_out
from aio_provider.accounting.book import archived_rows, described, opened
from aio_provider.accounting.money import CreditPrice, credit_price
from aio_provider.jobs.ledger import Ledger

#: Every figure, in the order of the columns -> what it is. The pandas type follows from the unit.
FIGURES: Final[Mapping[str, str]] = {
    "credits": "charged by the service, whatever became of the task",
    "money": "credits times the price of a credit (only where a price is given)",
    "tasks": "attempts for which something was sent",
    "succeeded": "of these, with a result",
    "failed": "of these, failed at the service, refused, or expired",
    "in_flight": "of these, not ended yet",
    "unknown": "of these, held: may have been charged, nobody knows",
    "in_flight_credits": "what those in flight will cost, about: their likely estimates; not in `credits`",
    "at_stake": "credits that held ones, and ended ones whose charge is not known, may have cost at most",
    "wasted": "credits charged for failed and expired tasks and for attempts that a newer one replaced",
    "no_charge": "succeeded tasks for which the service named no credits: not in `credits`",
    "estimated": "credits that succeeded tasks were expected to cost, where both figures are known",
    "estimate_error": "what these cost beyond that, as a fraction of it: 0.1 is 10 % more than expected",
    "latency_median": "seconds from the submission to the recorded result, of succeeded tasks",
    "latency_p95": "seconds that 95 of 100 of these stay within",
}
COUNTS: Final = ("tasks", "succeeded", "failed", "in_flight", "unknown", "no_charge")


def credits(
    ledger: Ledger | str | Path | None = None,
    by: str | Iterable[str] = ("model",),
    since: object = None,
    until: object = None,
    *,
    price: float | str | CreditPrice | None = None,
    archived: bool = True,
    **filters: str | Iterable[str] | None,
) -> pd.DataFrame:
    """What was spent, by any of day, month, dag, run, task, user, notebook, model, kind, label, team,
    connection and service, and by any other label of the jobs: ``"label:campaign"``.

    >>> aio.credits(by=("month", "team"), since="2026-01", price="0.01 USD")

    One row a group, the dearest first, or in order of time where ``by`` has a day or month. The columns are
    the groups (text, ``pd.NA`` for none) and :data:`FIGURES`: counts are ``int64``, all else ``float64``.
    Everything that was ever submitted counts, attempts that were replaced or forgotten too, at the UTC time
    of its submission.

    ``attrs["aio"]`` says which book was read (``book``: one machine's file, or a database), the period, the
    filters, ``totals`` of every figure over all groups, and what is in archives.

    :param ledger: an open ledger, a path or a URL; None: ``$AIO_LEDGER``, else the user's own file.
    :param by: names of groups, in their order; ``()`` for one row of totals.
    :param since: the first moment that counts: a datetime, a date, or text such as ``"2026-11"``; UTC where
        it names no zone.
    :param until: the first moment that no longer counts.
    :param price: of one credit: 0.01 (US dollars), ``"0.008 EUR"``, ``"published"``; None:
        ``$AIO_CREDIT_PRICE``, else no money is shown.
    :param archived: count rows that ``aio ledger prune`` has moved to Parquet files, too.
    :param filters: any name of a group: ``dag="shop"``, ``model=["flux-2", "kling-3"]``; ``""``: without one.
        Another label's name has a colon: ``**{"label:campaign": "xmas"}``.
    :raises ConfigurationError: an unknown name, a period that ends before it begins, no ledger there.
    :raises LedgerUnavailableError: the ledger, or an archive of it, cannot be read.
    :raises LedgerVersionError: a newer version of this package has written the ledger.
    """
    asked = Asked.of(by, since, until, filters)
    cost = credit_price(price)
    with opened(ledger) as book, sql.snapshot(book.store) as conn:
        moved = moved_out(conn, include=archived)
        with archived_rows(conn, moved) as table:
            frame = grouped(conn, asked, cost, table)
        frame.attrs["aio"] |= {"book": described(book), "archived": moved.plain()}
    return frame


def grouped(conn: Connection, asked: Asked, price: CreditPrice | None, archived: Any = None) -> pd.DataFrame:
    """The figures of one question, inside the caller's :func:`~.sql.snapshot`."""
    groups: dict[tuple[Any, ...], _Group] = {}
    everything = _Group()
    for some in sql.sums(conn, asked, archived):
        groups.setdefault(some.group, _Group()).add(some)
        everything.add(some, timed=False)
    if not asked.by:  # totals alone are one row, of zeros where nothing was spent
        groups.setdefault((), _Group())
    if conn.dialect.name == "postgresql":
        times = sql.percentiles_of(conn, asked, archived)
        pairs = [times.get(name, (None, None)) for name in groups] if asked.by else [times[None]]
        pairs.append(times.get(None, (None, None)))
    else:
        pairs = sql.percentiles([b"".join(group.latencies) for group in groups.values()])
    frame = _frame(asked, list(groups), list(groups.values()), pairs[:-1], price)
    [totals] = _frame(Asked(), [()], [everything], pairs[-1:], price).to_dict("records")
    frame.attrs["aio"] = {
        "version": __version__,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": list(asked.by),
        "since": asked.since.isoformat() if asked.since else None,
        "until": asked.until.isoformat() if asked.until else None,
        "filters": {name: list(values) for name, values in asked.filters.items()},
        "what": asked.described(),
        "price": {"credit": price.amount, "currency": price.currency} if price else None,
        "totals": {name: None if pd.isna(value) else value for name, value in totals.items()},
    }
    return frame


class _Group:
    def __init__(self) -> None:
        self.sums = dict.fromkeys(sql.SUMS, 0.0)
        self.latencies: list[bytes] = []

    def add(self, some: sql.Sums, *, timed: bool = True) -> None:
        for name, value in some.figures.items():
            self.sums[name] += value
        if timed:
            self.latencies.append(some.latencies)


def _frame(
    asked: Asked,
    names: Sequence[tuple[Any, ...]],
    groups: Sequence[_Group],
    times: Sequence[tuple[float | None, float | None]],
    price: CreditPrice | None,
) -> pd.DataFrame:
    columns: dict[str, Any] = {
        name: pd.array([group[place] for group in names], dtype=pd.StringDtype("pyarrow"))
        for place, name in enumerate(asked.by)
    }
    for name in sql.SUMS:
        columns[name] = np.array([group.sums[name] for group in groups], "i8" if name in COUNTS else "f8")
    for place, name in enumerate(("latency_median", "latency_p95")):
        columns[name] = np.array([pair[place] for pair in times], "f8")  # None is NaN
    frame = pd.DataFrame(columns)
    frame["estimate_error"] = (frame["charged_of_estimated"] / frame["estimated"] - 1).where(
        frame["estimated"] > 0
    )
    if price is not None:
        frame["money"] = frame["credits"] * price.amount
    order = [name for name in asked.by if name in ("day", "month")]
    rest = [name for name in asked.by if name not in order]
    frame = frame.sort_values(
        [*order, "credits", "tasks", *rest],
        ascending=[*(True for _ in order), False, False, *(True for _ in rest)],
        kind="stable",
        ignore_index=True,
    )
    return frame[[*asked.by, *(name for name in FIGURES if name in frame)]]
