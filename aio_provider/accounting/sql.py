"""The figures, as the database works them out: one grouped query over everything the ledger has on record.

A row counts once anything was sent for it (any state but ``planned``), at the time it was submitted: that is
when the service charges, it never moves later, and budgets count months the same way. Attempts that a newer
one took the place of count too, and so do rows that were moved to archives: they cost credits as well.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.accounting.asked import DIMENSIONS, LABEL, Asked
from aio_provider.jobs.ledger import JobState
from aio_provider.jobs.ledger.schema import SHARED, jobs, past_attempts

#: What is added up over the rows of a group.
SUMS = (
    *("credits", "tasks", "succeeded", "failed", "in_flight", "unknown", "no_charge", "wasted", "at_stake"),
    *("in_flight_credits", "estimated", "charged_of_estimated"),
)
#: The columns that figures need of a row that comes from elsewhere than the two tables.
NEEDED = tuple(
    name
    for name in SHARED
    if name in {*DIMENSIONS.values(), "state", "credits", "reserved", "estimate_likely", "estimate_high"}
    or name in ("intended_at", "accepted_at", "finished_at", "other_labels")
)

_S = JobState


class Sums(NamedTuple):
    """Some rows of one group: what they add to :data:`SUMS`; on SQLite their latencies, four bytes each."""

    group: tuple[Any, ...]
    figures: Mapping[str, float]
    latencies: bytes


def archived_table(columns: Sequence[str] = NEEDED) -> sa.Table:
    """A table of this connection alone, for rows that come from archive files."""
    return sa.Table(
        "aio_archived_rows",
        sa.MetaData(),
        *(sa.Column(name, past_attempts.c[name].type) for name in columns),
        sa.Column("superseded", sa.Integer, nullable=False),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )


@contextmanager
def snapshot(store: Any) -> Iterator[Connection]:
    """A transaction in which every query sees the same book."""
    with store.read() as conn:
        if conn.dialect.name == "postgresql":
            conn.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        else:
            raw = conn.connection.dbapi_connection
            raw.create_aggregate("aio_latencies", 1, _Latencies)
        yield conn


def sums(conn: Connection, asked: Asked, archived: sa.Table | None = None) -> Iterator[Sums]:
    """The figures of each group, in parts to be added up: it comes once for each state of its rows, or more.

    On PostgreSQL the percentiles come by themselves: see :func:`percentiles_of`.
    """
    for table in _tables(archived):
        # One table at a time, ended rows apart: SQLite would copy and sort a million rows of a union.
        for ended in (True, False) if table is jobs else (None,):
            yield from _sums(conn, asked, table, ended)


def _sums(conn: Connection, asked: Asked, table: sa.Table, ended: bool | None) -> Iterator[Sums]:
    query = sa.select(*_columns(table, asked, conn))
    if ended is not None:
        column = table.c.finished_at
        query = query.where(column.is_not(None) if ended else column.is_(None))
    rows = query.subquery()
    names = [rows.c[f"by_{name}"] for name in asked.by]
    keys = [*names, rows.c.state]
    if table not in (jobs, past_attempts):  # a constant among them would have SQLite sort again
        keys.append(rows.c.superseded)
    latencies: Any = sa.null()
    if conn.dialect.name == "sqlite":
        latencies = sa.func.aio_latencies(rows.c.latency).filter(rows.c.is_timed)
    columns = [*names, rows.c.state, sa.func.max(rows.c.superseded), *_parts(rows.c), latencies]
    for row in conn.execute(sa.select(*columns).where(rows.c.counts).group_by(*keys)):
        group, (state, superseded, *parts, times) = row[: len(names)], row[len(names) :]
        yield Sums(tuple(group), _figures(state, superseded, parts), times or b"")


def percentiles_of(
    conn: Connection, asked: Asked, archived: sa.Table | None = None
) -> dict[tuple[Any, ...] | None, tuple[float | None, float | None]]:
    """Median and 95th percentile of each group's latencies, and under None of all rows, by PostgreSQL."""
    parts = [sa.select(*_columns(table, asked, conn)) for table in _tables(archived)]
    rows = sa.union_all(*parts).subquery()
    names = [rows.c[f"by_{name}"] for name in asked.by]
    is_all = sa.func.grouping(*names) if names else sa.literal_column("1")
    shares = (sa.func.percentile_cont(share).within_group(rows.c.latency) for share in (0.5, 0.95))
    query = sa.select(*names, is_all, *shares).where(rows.c.counts)
    if names:
        query = query.group_by(sa.func.grouping_sets(sa.tuple_(*names), sa.text("()")))
    return {
        (None if is_all else tuple(group)): (median, high)
        for *group, is_all, median, high in conn.execute(query)
    }


def _tables(archived: sa.Table | None) -> list[sa.Table]:
    return [jobs, past_attempts] if archived is None else [jobs, past_attempts, archived]


def where(table: sa.Table, asked: Asked, conn: Connection) -> Any:
    """Which rows of a table count."""
    when = submitted_at(table)
    conditions = [table.c.state != _S.PLANNED.value]
    if asked.since is not None:
        conditions.append(when >= asked.since)
    if asked.until is not None:
        conditions.append(when < asked.until)
    for name, values in asked.filters.items():
        column = dimension(table, name, conn)
        chosen = [value for value in values if value]
        matches = [column.in_(chosen)] if chosen else []
        if "" in values:
            matches.append(column.is_(None))
        conditions.append(sa.or_(*matches))
    return sa.and_(*conditions)


def submitted_at(table: sa.Table) -> Any:
    """When a row's attempt was submitted, which never changes afterwards."""
    return sa.func.coalesce(table.c.intended_at, table.c.accepted_at)


def dimension(table: sa.Table, name: str, conn: Connection) -> Any:
    """The value a row is grouped under: text, or NULL."""
    if name.startswith(LABEL):
        value = table.c.other_labels[name.removeprefix(LABEL)].as_string()
        return sa.cast(value, sa.Text)
    column = DIMENSIONS[name]
    if column is not None:
        return table.c[column]
    when, length = submitted_at(table), {"day": 10, "month": 7}[name]
    if conn.dialect.name == "postgresql":
        form = "YYYY-MM-DD"[:length]
        return sa.func.to_char(sa.func.timezone("UTC", when), sa.literal_column(f"'{form}'"))
    # Spelled as in the index that SQLite reads these from, or it would not know it again.
    return sa.func.substr(when, sa.literal_column("1"), sa.literal_column(str(length)), type_=sa.Text)


def stake(table: sa.Table) -> Any:
    """The most that a row may have cost while its charge is not known, as budgets reckon it, or NULL."""
    c = table.c
    return sa.func.coalesce(c.reserved, c.estimate_high, c.estimate_likely)


def _columns(table: sa.Table, asked: Asked, conn: Connection) -> list[Any]:
    c = table.c
    superseded: Any = sa.literal_column("1" if table is past_attempts else "0")
    if "superseded" in c:
        superseded = c.superseded
    start = sa.func.coalesce(c.accepted_at, c.intended_at)
    is_timed = sa.and_(c.state == _text(_S.SUCCEEDED), c.finished_at.is_not(None), start.is_not(None))
    on_postgresql = conn.dialect.name == "postgresql"
    if on_postgresql:
        latency: Any = sa.extract("epoch", c.finished_at - start)
    else:
        latency = (sa.func.julianday(c.finished_at) - sa.func.julianday(start)) * sa.literal_column("86400.0")
    return [
        *(dimension(table, name, conn).label(f"by_{name}") for name in asked.by),
        c.state.label("state"),
        superseded.label("superseded"),
        c.credits.label("credits"),
        # what was archived is closed: budgets no longer reserve anything for it
        (stake(table) if table in (jobs, past_attempts) else sa.cast(sa.null(), sa.Float)).label("stake"),
        c.estimate_likely.label("likely"),
        sa.case((is_timed, latency)).label("latency") if on_postgresql else latency.label("latency"),
        is_timed.label("is_timed"),
        where(table, asked, conn).label("counts"),
    ]


def _parts(c: Any) -> list[Any]:
    """What is added up for each group and state; :func:`_figures` makes figures of it."""
    known = sa.and_(c.credits.is_not(None), c.likely.is_not(None))
    return [
        sa.func.count(),
        sa.func.sum(c.credits),
        sa.func.count(c.credits),
        sa.func.sum(sa.case((c.credits.is_(None), c.stake))),
        sa.func.sum(sa.case((c.credits.is_(None), sa.func.coalesce(c.likely, c.stake)))),
        sa.func.sum(sa.case((known, c.likely))),
        sa.func.sum(sa.case((known, c.credits))),
    ]


def _figures(state: str, superseded: int, parts: Sequence[Any]) -> dict[str, float]:
    """The :data:`SUMS` of some rows of one state."""
    tasks, credits, charged, stake, expected, likely, of_likely = (part or 0 for part in parts)
    figures = {"credits": credits, "tasks": tasks}
    if state == _S.SUCCEEDED:
        figures |= {"succeeded": tasks, "no_charge": tasks - charged}
        figures |= {"estimated": likely, "charged_of_estimated": of_likely}
    elif state in (_S.FAILED, _S.EXPIRED):
        figures["failed"] = tasks
    elif state == _S.UNKNOWN:
        figures["unknown"] = tasks
    else:
        figures |= {"in_flight": tasks, "in_flight_credits": expected}
    if state in (_S.SUCCEEDED, _S.EXPIRED, _S.UNKNOWN):  # as budgets reserve, but for what is in flight
        figures["at_stake"] = stake
    if superseded or state in (_S.FAILED, _S.EXPIRED):
        figures["wasted"] = credits
    return figures


def _text(state: JobState) -> Any:
    return sa.literal_column(f"'{state.value}'")


class _Latencies:
    """SQLite's missing percentile: gathers a group's values, four bytes each."""

    def __init__(self) -> None:
        self.values = array("f")
        self.step = self.values.append

    def finalize(self) -> bytes | None:
        return self.values.tobytes() if self.values else None


def percentiles(groups: Sequence[bytes]) -> list[tuple[float | None, float | None]]:
    """Median and 95th percentile of each group's latencies, and last of all of them together.

    Where they fall between two, they lie between these.
    """
    import numpy as np

    # All groups at once: there may be a hundred thousand of them.
    sizes = np.array([len(values) // 4 for values in groups], dtype="i8")
    # The bits of floats from 0 up sort as the floats do: with the group before them, one sort of integers is
    # enough. (Below 0 is only what a clock that was set back has measured.)
    values = np.abs(np.maximum(np.frombuffer(b"".join(groups), dtype="f4"), 0))
    keys = np.repeat(np.arange(len(groups), dtype="u8") << np.uint64(32), sizes) | values.view("u4")
    keys.sort()
    values = keys.astype("u4").view("f4").astype("f8")
    starts = np.cumsum(sizes) - sizes
    some = sizes > 0
    found = np.full((len(groups), 2), None, dtype=object)
    for column, share in enumerate((0.5, 0.95)):
        place = (sizes[some] - 1) * share
        below = np.floor(place).astype("i8")
        low = values[starts[some] + below]
        high = values[starts[some] + np.minimum(below + 1, sizes[some] - 1)]
        found[some, column] = low + (high - low) * (place - below)
    whole = np.percentile(values, [50, 95]).tolist() if len(values) else (None, None)
    return [*((median, high) for median, high in found), tuple(whole)]
