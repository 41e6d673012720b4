"""What the book knows of prices: past charges for the same settings, and how far estimates are off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.jobs.ledger.schema import jobs, past_attempts

#: the newest charges that are looked at for one model and its settings
PAST = 500
# Written out, not bound: only then may SQLite use the index over these rows alone.
_CHARGED = sa.text("state = 'succeeded' AND credits IS NOT NULL")


def past(conn: Connection, kind: str, model: str | None, price_key: str | None) -> Sequence[float]:
    """What jobs with these settings have cost, the newest first; ``None``: with any settings of the model."""
    query = sa.select(jobs.c.credits).where(jobs.c.kind == kind, _is(jobs.c.model, model), _CHARGED)
    if price_key is not None:
        query = query.where(jobs.c.price_key == price_key)
    rows = conn.execute(query.order_by(jobs.c.finished_at.desc()).limit(PAST))
    return [float(credits) for credits in rows.scalars()]


def most(conn: Connection, kind: str, model: str | None) -> float:
    """The most that a job of this model has cost; 0 when none is on record."""
    query = sa.select(sa.func.max(jobs.c.credits)).where(
        jobs.c.kind == kind, _is(jobs.c.model, model), _CHARGED
    )
    return float(conn.execute(query).scalar() or 0.0)


@dataclass(frozen=True, slots=True)
class Drift:
    """How the charges of a model compare with what was expected of them.

    :param jobs: that succeeded, with a likely estimate and a charge on record.
    :param estimated: their likely estimates, in credits; ``charged``: what the service took.
    """

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


def drift(conn: Connection, since: datetime | None) -> list[Drift]:
    """Each model's estimates against its charges, over all attempts that succeeded."""
    parts = []
    for table in (jobs, past_attempts):
        c = table.c
        query = sa.select(
            c.kind,
            c.model,
            sa.func.count().label("jobs"),
            sa.func.sum(c.estimate_likely).label("estimated"),
            sa.func.sum(c.credits).label("charged"),
        ).where(c.state == "succeeded", c.credits.is_not(None), c.estimate_likely.is_not(None))
        if since is not None:
            query = query.where(c.finished_at >= since)
        parts.append(query.group_by(c.kind, c.model))
    rows = sa.union_all(*parts).subquery()
    total = (
        sa.select(
            rows.c.kind,
            rows.c.model,
            sa.func.sum(rows.c.jobs),
            sa.func.sum(rows.c.estimated),
            sa.func.sum(rows.c.charged),
        )
        .group_by(rows.c.kind, rows.c.model)
        .order_by(rows.c.kind, rows.c.model)
    )
    return [
        Drift(kind, model, int(count), float(estimated), float(charged))
        for kind, model, count, estimated, charged in conn.execute(total)
    ]


def _is(column: Any, value: str | None) -> Any:
    return column.is_(None) if value is None else column == value
