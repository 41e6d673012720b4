"""The service's usage statement against the ledger: what both have, what one lacks, what differs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.accounting import sql
from aio_provider.accounting.asked import Asked, in_future, shown
from aio_provider.accounting.book import archived as moved_out
from aio_provider.accounting.book import archived_rows, described, opened
from aio_provider.accounting.sql import NEEDED
from aio_provider.accounting.statement import Line, Statement, read_statement
from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import JobState
from aio_provider.jobs.ledger.schema import jobs, past_attempts

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Ledger

#: what became of a task -> its meaning
OUTCOMES: Final = {
    "matched": "both have it, with the same credits",
    "different": "both have it, with different credits (or the ledger does not know them yet)",
    "missing_here": "the statement has it, the ledger does not",
    "missing_there": "the ledger was charged for it within the statement's period, the statement lacks it",
    "duplicate": "the statement has the very same line more than once (it counts once above)",
    "without_id": "the statement names no task, so that nothing can be compared",
}
_COLUMNS: Final = (
    *("outcome", "task_id", "line", "statement_credits", "ledger_credits", "difference", "time", "model"),
    *("state", "dag", "run", "job_key"),
)
_EQUAL: Final = 0.005  # credits; statements round to two decimals


@dataclass(frozen=True)
class Reconciliation:
    """How a statement and the ledger compare.

    :param rows: one for each task (and superfluous line): ``outcome`` (see :data:`OUTCOMES`), ``task_id``,
        ``line`` of the statement, credits on both sides, ``difference`` (statement less ledger), whose it is.
    :param said: how the statement was read and which book it was compared with.
    :param unmatchable: charged ledger rows of the period that have no task id (chat), and their credits.
    :param held: jobs of the period of which nobody knows whether the service took them, and the most that
        they may have cost: they have no task id either, so theirs are "missing here" if it did.
    """

    rows: pd.DataFrame
    said: str
    unmatchable: tuple[int, float] = (0, 0.0)
    held: tuple[int, float] = (0, 0.0)

    @property
    def agrees(self) -> bool:
        """Whether every task of the one is in the other, with the same credits."""
        return set(self.rows["outcome"]) <= {"matched"}

    @property
    def summary(self) -> pd.DataFrame:
        """For each outcome the number of rows and the credits on both sides."""
        groups = self.rows.groupby("outcome")[["statement_credits", "ledger_credits", "difference"]].sum()
        groups.insert(0, "rows", self.rows.groupby("outcome").size())
        return groups.reindex(list(OUTCOMES), fill_value=0).reset_index()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the rows cannot say, in sentences: chats, and held jobs."""
        notes = []
        count, credits = self.unmatchable
        if count:
            notes.append(
                f"{count:,} ledger {_rows(count)} ({in_credits(credits)}) without a task id: chats cannot be "
                "compared."
            )
        count, credits = self.held
        if count:
            notes.append(
                f"{count:,} {'job is' if count == 1 else 'jobs are'} held (up to {in_credits(credits)}): "
                'what the service took of them is "missing here". `aio ledger show` lists them, '
                "`aio ledger resolve KEY --task-id ID` settles one."
            )
        return tuple(notes)

    def __repr__(self) -> str:
        verdict = "agrees" if self.agrees else "differs"
        return f"<Reconciliation: {verdict}\n{self.summary.to_string(index=False)}>"


def reconcile(
    statement: str | Path,
    ledger: Ledger | str | Path | None = None,
    *,
    task_id_column: str | None = None,
    credits_column: str | None = None,
    time_column: str | None = None,
    model_column: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    timezone: str = "UTC",
    since: object = None,
    until: object = None,
) -> Reconciliation:
    """Compare the service's usage export with the ledger.

    Lines of one task are added up (a charge and its refund). The period is ``since`` to ``until``, else from
    the statement's first time to its last; without any time, all that the ledger holds. Ledger rows outside
    it are not "missing there", and a task that the statement has is looked up whatever its time.

    :param statement: a CSV file with a header.
    :param task_id_column: and the other ``*_column``: their names; guessed where not given (see ``said``).
    :param encoding: UTF-8 (with or without a mark) unless given: ``cp1254``, ``latin-1``, …
    :param delimiter: guessed from the header: comma, semicolon, tab or bar.
    :param decimal: ``"."`` or ``","``; guessed where the numbers leave no doubt.
    :param timezone: of times that name none.
    :raises ConfigurationError: the statement cannot be read as told, the period has not begun, or there is no
        ledger.
    """
    columns = {
        "task_id": task_id_column,
        "credits": credits_column,
        "time": time_column,
        "model": model_column,
    }
    read = read_statement(
        statement, columns=columns, encoding=encoding, delimiter=delimiter, decimal=decimal, timezone=timezone
    )
    asked = Asked.of((), since, until)
    if asked.since is not None and in_future(asked.since):
        raise ConfigurationError(
            f"since ({shown(asked.since)} UTC) is in the future: nothing to compare yet."
        )
    lines = [line for line in read.lines if line.time is None or _within(line.time, asked.since, asked.until)]
    begin, end = _period(lines, asked.since, asked.until)
    with opened(ledger) as book, sql.snapshot(book.store) as conn:
        moved = moved_out(conn, include=True)
        with archived_rows(conn, moved, columns=(*NEEDED, "key", "service_task_id")) as extra:
            rows, unmatchable, held = _compared(conn, lines, begin, end, extra)
        told = (
            _said(read, len(read.lines) - len(lines), begin, end),
            f"book: {book.url}, {described(book)['what']}",
        )
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    for name in ("statement_credits", "ledger_credits", "difference"):
        frame[name] = frame[name].astype("float64")
    for name in ("outcome", "task_id", "model", "state", "dag", "run", "job_key"):
        frame[name] = frame[name].astype(pd.StringDtype("pyarrow"))
    frame["line"] = frame["line"].astype("Int64")
    frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[us, UTC]")
    order = {name: place for place, name in enumerate(OUTCOMES)}
    frame = frame.sort_values(
        ["outcome", "line", "time"],
        key=lambda c: c.map(order) if c.name == "outcome" else c,
        ignore_index=True,
    )
    return Reconciliation(frame, ". ".join((*told, *filter(None, [moved.told()]))), unmatchable, held)


def _compared(
    conn: Connection, lines: list[Line], begin: datetime | None, end: datetime | None, extra: sa.Table | None
) -> tuple[list[dict[str, Any]], tuple[int, float], tuple[int, float]]:
    rows: list[dict[str, Any]] = []
    theirs: dict[str, list[Line]] = {}
    seen: set[tuple[str, ...]] = set()
    for line in lines:
        if line.whole in seen and line.task_id:
            rows.append(_row("duplicate", line.task_id, [line]))
            continue
        seen.add(line.whole)
        if line.task_id:
            theirs.setdefault(line.task_id, []).append(line)
        else:
            rows.append(_row("without_id", None, [line]))
    without_id, its_credits = 0, 0.0
    held, at_stake = 0, 0.0
    for table in (jobs, past_attempts, *([] if extra is None else [extra])):
        c = table.c
        when = sql.submitted_at(table).label("submitted_at")
        query = sa.select(
            *(c.service_task_id, c.credits, c.state, c.model, c.dag_id, c.run_id, c.key, when),
            sql.stake(table).label("stake"),
        ).where(sql.where(table, Asked(), conn))
        for ours in conn.execute(query.execution_options(stream_results=True)):
            found = theirs.pop(ours.service_task_id, None) if ours.service_task_id else None
            if found is not None:
                total = sum(line.credits for line in found)
                same = ours.credits is not None and abs(total - ours.credits) < _EQUAL
                same |= ours.credits is None and total == 0
                rows.append(_row("matched" if same else "different", ours.service_task_id, found, ours))
            elif ours.state == JobState.UNKNOWN and _within(ours.submitted_at, begin, end, closed=True):
                held, at_stake = held + 1, at_stake + (ours.stake or 0.0)
            elif ours.credits and _within(ours.submitted_at, begin, end, closed=True):
                if ours.service_task_id:
                    rows.append(_row("missing_there", ours.service_task_id, [], ours))
                else:
                    without_id, its_credits = without_id + 1, its_credits + ours.credits
    rows += [_row("missing_here", task_id, found) for task_id, found in theirs.items()]
    return rows, (without_id, its_credits), (held, at_stake)


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _row(outcome: str, task_id: str | None, lines: list[Line], ours: Any = None) -> dict[str, Any]:
    total = sum(line.credits for line in lines) if lines else None
    credits = None if ours is None else ours.credits
    first = lines[0] if lines else None
    return {
        "outcome": outcome,
        "task_id": task_id,
        "line": first.number if first else None,
        "statement_credits": total,
        "ledger_credits": credits,
        "difference": (total or 0.0) - (credits or 0.0),
        "time": (first.time if first else None) or (ours.submitted_at if ours is not None else None),
        "model": (ours.model if ours is not None else None) or (first.model if first else None),
        "state": None if ours is None else ours.state,
        "dag": None if ours is None else ours.dag_id,
        "run": None if ours is None else ours.run_id,
        "job_key": None if ours is None else ours.key,
    }


def _period(
    lines: list[Line], since: datetime | None, until: datetime | None
) -> tuple[datetime | None, datetime | None]:
    times = [line.time for line in lines if line.time is not None]
    return since or min(times, default=None), until or max(times, default=None)


def _within(
    when: datetime | None, begin: datetime | None, end: datetime | None, *, closed: bool = False
) -> bool:
    if when is None:
        return begin is None and end is None
    if begin is not None and when < begin:
        return False
    return end is None or when < end or (closed and when == end)


def _said(read: Statement, outside: int, begin: datetime | None, end: datetime | None) -> str:
    if begin is None and end is None:
        period = "no times, so all that the ledger holds is compared"
    else:
        start, stop = shown(begin) if begin else "the beginning", shown(end) if end else "now"
        period = f"compared from {start} to {stop} UTC"
    left = f"; {outside:,} lines outside it are left out" if outside else ""
    return f"statement: {read.said}; {period}{left}"
