"""Reading the book page by page, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from aio_provider.api.prices import price_key
from aio_provider.jobs.job import service_scope
from aio_provider.jobs.ledger.model import ENDED, Ending, Entry, JobState
from aio_provider.jobs.ledger.planning import chunks
from aio_provider.jobs.ledger.schema import ENDING, LABEL_COLUMNS, PAST, PRESENT, ending_of, entry_of, jobs
from aio_provider.jobs.ledger.store import Store

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest

_PAGE = 1000


@dataclass(frozen=True)
class Wanted:
    """Which rows; None means any."""

    states: frozenset[JobState] | None = None
    kind: str | None = None
    model: str | None = None
    labels: Mapping[str, str] | None = None

    @classmethod
    def of(cls, state: JobState | Iterable[JobState] | None, **others: Any) -> Wanted:
        """From one state or several.

        :raises ValueError: for a label that has no column.
        """
        states = None if state is None else frozenset([state] if isinstance(state, JobState) else state)
        for name in others.get("labels") or ():
            if name not in LABEL_COLUMNS:
                raise ValueError(f"label {name!r}: can only select by {', '.join(LABEL_COLUMNS)}")
        return cls(states, **others)


def pages(store: Store, table: sa.Table, wanted: Wanted, limit: int | None = None) -> Iterator[list[Entry]]:
    """Pages of entries in the order of the table's primary key; each page is a transaction of its own."""
    identity = table.primary_key.columns.values()[0]
    columns = PRESENT if table is jobs else PAST
    query = _filter(sa.select(*columns), table, wanted).order_by(identity)
    left = limit
    last: Any = None
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        page = query.limit(size) if last is None else query.where(identity > last).limit(size)
        with store.read() as conn:
            rows = conn.execute(page).all()
        if rows:
            yield [entry_of(row) for row in rows]
            last = getattr(rows[-1], identity.name)
            left = None if left is None else left - len(rows)
        if len(rows) < size:
            return


def counts(store: Store, table: sa.Table, wanted: Wanted) -> dict[JobState, tuple[int, float]]:
    """How many rows there are in each state, and what they have cost."""
    totals = sa.select(table.c.state, sa.func.count(), sa.func.coalesce(sa.func.sum(table.c.credits), 0.0))
    with store.read() as conn:
        rows = conn.execute(_filter(totals, table, wanted).group_by(table.c.state)).all()
    return {JobState(state): (int(count), float(credits)) for state, count, credits in rows}


def counts_by_service(
    store: Store, table: sa.Table, wanted: Wanted
) -> dict[str, dict[JobState, tuple[int, float]]]:
    """The same for each service: base URL → state → (rows, credits)."""
    columns = (table.c.scope, table.c.state)
    credits = sa.func.coalesce(sa.func.sum(table.c.credits), 0.0)
    query = _filter(sa.select(*columns, sa.func.count(), credits), table, wanted)
    found: dict[str, dict[JobState, tuple[int, float]]] = {}
    with store.read() as conn:
        for scope, state, count, total in conn.execute(query.group_by(*columns)):
            found.setdefault(scope, {})[JobState(state)] = (int(count), float(total))
    return found


def durations(store: Store, request: GenerationRequest, scope: str, limit: int = 20) -> list[float]:
    """Seconds from acceptance until success was found, of the last jobs with this model and such settings.

    Settings as far as they decide the price: they also decide how long it takes, and the index of prices
    finds the rows, however many there are.

    :param scope: base URL of the service.
    """
    query = (
        sa.select(jobs.c.accepted_at, jobs.c.finished_at)
        .where(
            jobs.c.scope == service_scope(scope),
            jobs.c.kind == request.kind,
            jobs.c.model.is_(None) if request.model is None else jobs.c.model == request.model,
            jobs.c.price_key == price_key(request),
            # Written out, not bound: only then may SQLite use the index over these rows alone.
            sa.text("state = 'succeeded' AND credits IS NOT NULL"),
        )
        .order_by(jobs.c.finished_at.desc())
        .limit(limit)
    )
    with store.read() as conn:
        rows = conn.execute(query).all()
    return [(done - begun).total_seconds() for begun, done in rows if begun is not None and done is not None]


_ENDINGS = sa.select(*ENDING).where(jobs.c.key.in_(sa.bindparam("keys", expanding=True)))


def endings(store: Store, keys: Iterable[str]) -> dict[str, Ending]:
    """How those of these jobs ended that have."""
    found: dict[str, Ending] = {}
    with store.read() as conn:
        for some in chunks(list(dict.fromkeys(keys))):
            rows = conn.execute(_ENDINGS, {"keys": list(some)}).all()
            found.update((row[0], ending_of(row)) for row in rows if row[2] in ENDED)
    return found


def _filter(query: Any, table: sa.Table, wanted: Wanted) -> Any:
    if wanted.states is not None:
        query = query.where(table.c.state.in_(sorted(state.value for state in wanted.states)))
    if wanted.kind is not None:
        query = query.where(table.c.kind == wanted.kind)
    if wanted.model is not None:
        query = query.where(table.c.model == wanted.model)
    for name, value in (wanted.labels or {}).items():
        query = query.where(table.c[LABEL_COLUMNS[name]] == value)
    return query
