"""What the book knows of prices: past charges for the same settings, and how far estimates were off.

Published prices come first (:mod:`aio_provider.api.prices`); what the service has charged lately narrows a
range, stands in for a price that is not published, and corrects one that is no longer true.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.api.amounts import in_digits
from aio_provider.api.prices import CreditRange, price, price_key
from aio_provider.jobs.job import service_scope
from aio_provider.jobs.ledger.schema import jobs, past_attempts

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest

#: the newest charges that are looked at for one model and its settings
PAST = 500
#: charges that it takes to narrow a published range, or to disbelieve a published price
ENOUGH = 5
#: an estimate that is off by more is reported: prices change
DRIFT = 0.1
#: seconds for which charges that were looked up are taken as they were
_FRESH = 60.0
# Written out, not bound: only then may SQLite use the index over these rows alone.
_CHARGED = sa.text("state = 'succeeded' AND credits IS NOT NULL")


#: in place of settings: places in ranges are wanted, not charges
_PLACES = "places"


class Expectations:
    """What requests are expected to cost, from published prices and past charges; one a ledger.

    Charges are looked up once a minute for each kind, model and settings.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._past: dict[tuple[str | None, ...], tuple[float, Sequence[float]]] = {}

    def of(self, conn: Connection, request: GenerationRequest, scope: str = "") -> CreditRange:
        """The estimate for one request.

        :param scope: base URL of the service; charges of another one (a sandbox) do not count. Empty: any.
        """
        published = price(request)
        if request.kind == "speech" and published.high is not None:
            # by its characters: not what another text has cost tells, but where in its range that was
            return within(published, self._look(conn, request.kind, request.model, _PLACES, scope))
        key = price_key(request)
        same = self._look(conn, request.kind, request.model, key, scope)
        if same:
            return expect(published, same)
        if published.high is not None or request.kind == "chat":  # by its length: another's tells nothing
            return published
        others = self._look(conn, request.kind, request.model, None, scope)
        return expect(published, others, other_settings=True) if others else published

    def _look(
        self, conn: Connection, kind: str, model: str | None, key: str | None, scope: str
    ) -> Sequence[float]:
        place = (kind, model, key, scope)
        now = self._clock()
        until, found = self._past.get(place, (0.0, ()))
        if until < now:
            if key is _PLACES:
                found = places(conn, kind, model, scope)
            else:
                found = past(conn, kind, model, key, scope)
            self._past[place] = (now + _FRESH, found)
        return found


def expect(published: CreditRange, seen: Sequence[float], *, other_settings: bool = False) -> CreditRange:
    """A published price in the light of charges, the newest first.

    :param other_settings: the charges are the model's, but for other settings.
    """
    if published.high is not None:
        recent = seen[:ENOUGH]
        outside = all(not published.low <= charge <= published.high for charge in recent)
        if len(recent) == ENOUGH and outside:
            note = f"published {_span(published)}; the last {ENOUGH} charges were {_span_of(recent)}"
            return CreditRange(min(recent), float(median(recent)), max(recent), "learned", note)
        if published.low == published.high:  # most are fixed, and every new job comes by here
            return published
    low, likely, high = min(seen), float(median(seen)), max(seen)
    count = f"{len(seen)} past charge{'s' if len(seen) > 1 else ''}"
    if published.high is None:
        ground = f"{count} with other settings" if other_settings else count
        if published.likely is not None:  # a base is published, no bound
            low, high = min(low, published.low), max(high, published.likely)
        note = f"{ground}: {in_digits(low)} to {in_digits(high)}"
        return CreditRange(low, likely, high, "learned", note)
    if len(seen) >= ENOUGH:
        return CreditRange(
            low, likely, high, "learned", f"{count}: {_span_of(seen)}; published {_span(published)}"
        )
    likely = min(max(likely, published.low), published.high)
    return CreditRange(
        published.low, likely, published.high, "learned", f"likely: median of {count}; {published.note}"
    )


def within(published: CreditRange, seen: Sequence[float]) -> CreditRange:
    """A published range with its likely figure where past charges were in theirs.

    :param seen: 0: at the low end; 1: at the high end.
    """
    if not seen or published.high is None or published.low == published.high:
        return published
    likely = published.low + median(seen) * (published.high - published.low)
    note = f"likely: by {len(seen)} past charge{'s' if len(seen) > 1 else ''}; {published.note}"
    return CreditRange(published.low, round(likely, 2), published.high, "learned", note)


def _span(price: CreditRange) -> str:
    return _span_of([price.low, price.low if price.high is None else price.high])


def _span_of(charges: Sequence[float]) -> str:
    low, high = min(charges), max(charges)
    return in_digits(low) if low == high else f"{in_digits(low)} to {in_digits(high)}"


def past(
    conn: Connection, kind: str, model: str | None, price_key: str | None, scope: str = ""
) -> Sequence[float]:
    """What jobs with these settings have cost, the newest first; ``None``: some, with any settings."""
    query = sa.select(jobs.c.credits).where(*_these(kind, model, scope), _CHARGED).limit(PAST)
    if price_key is not None:
        query = query.where(jobs.c.price_key == price_key).order_by(jobs.c.finished_at.desc())
    return [float(credits) for credits in conn.execute(query).scalars()]


def places(conn: Connection, kind: str, model: str | None, scope: str = "") -> Sequence[float]:
    """Where in their estimated ranges past charges were, from 0 (the low end) to 1 (the high end)."""
    low, high = jobs.c.estimate_low, jobs.c.estimate_high
    query = sa.select(jobs.c.credits, low, high).where(*_these(kind, model, scope), _CHARGED, high > low)
    rows = conn.execute(query.limit(PAST))
    return [min(max((float(paid) - least) / (top - least), 0.0), 1.0) for paid, least, top in rows]


def most(conn: Connection, kind: str, model: str | None, scope: str = "") -> float:
    """The most that a job of this model has cost; 0 when none is on record."""
    query = sa.select(sa.func.max(jobs.c.credits)).where(*_these(kind, model, scope), _CHARGED)
    return float(conn.execute(query).scalar() or 0.0)


def _these(kind: str, model: str | None, scope: str) -> list[Any]:
    same = jobs.c.model.is_(None) if model is None else jobs.c.model == model
    where = [jobs.c.kind == kind, same]
    if scope:
        where.append(jobs.c.scope == service_scope(scope))
    return where


# -- drift -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drift:
    """How the charges of a model compare with what was expected of them.

    :param scope: base URL of the service.
    :param jobs: that succeeded, with a likely estimate and a charge on record.
    :param estimated: their likely estimates, in credits.
    :param charged: what the service took.
    """

    scope: str
    kind: str
    model: str | None
    jobs: int
    estimated: float
    charged: float

    @property
    def drift(self) -> float:
        """0.25: charged a quarter more than estimated; -0.1: a tenth less."""
        if not self.estimated:
            return 0.0 if not self.charged else float("inf")
        return self.charged / self.estimated - 1.0

    @property
    def is_notable(self) -> bool:
        """Whether it is off by more than 10 percent, over 5 jobs or more."""
        return self.jobs >= ENOUGH and abs(self.drift) > DRIFT

    def __str__(self) -> str:
        more = "more" if self.drift > 0 else "less"
        return (
            f"{self.model or self.kind} was charged {abs(self.drift):.0%} {more} than estimated "
            f"({in_digits(self.charged)} instead of {in_digits(self.estimated)} credits, {self.jobs:,} jobs)"
        )


def drift(conn: Connection, since: datetime | None, scope: str = "") -> list[Drift]:
    """Each model's estimates against its charges, over all attempts that succeeded."""
    parts = []
    for table in (jobs, past_attempts):
        c = table.c
        query = sa.select(
            c.scope,
            c.kind,
            c.model,
            sa.func.count().label("jobs"),
            sa.func.sum(c.estimate_likely).label("estimated"),
            sa.func.sum(c.credits).label("charged"),
        ).where(_CHARGED, c.estimate_likely.is_not(None))
        if since is not None:  # the second condition opens the index that begins with this time
            query = query.where(c.finished_at >= since, c.intended_at.is_not(None))
        if scope:
            query = query.where(c.scope == service_scope(scope))
        parts.append(query.group_by(c.scope, c.kind, c.model))
    rows = sa.union_all(*parts).subquery()
    place = (rows.c.scope, rows.c.kind, rows.c.model)
    sums = (sa.func.sum(rows.c.jobs), sa.func.sum(rows.c.estimated), sa.func.sum(rows.c.charged))
    total = sa.select(*place, *sums).group_by(*place).order_by(*place)
    return [
        Drift(where, kind, model, int(count), float(estimated), float(charged))
        for where, kind, model, count, estimated, charged in conn.execute(total)
    ]
