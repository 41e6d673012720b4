"""Answers that come after their attempt was given up.

A process may be slow rather than dead: its lease lapses, its intent becomes ``unknown``, someone chooses to
submit again, and then its answer arrives after all. That attempt is in ``past_attempts`` by now; what it
brought is recorded there, so that its credits are in the book, and the present attempt is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.jobs.ledger.errors import LedgerStateError
from aio_provider.jobs.ledger.model import ENDED, STEPS, Finished, JobState
from aio_provider.jobs.ledger.schema import SHARED, jobs, past_attempts

_UNANSWERED = (JobState.UNKNOWN, JobState.INTENDED)


@dataclass(frozen=True)
class Absent:
    """Stands for the row of a job that has been forgotten since."""

    key: str
    state: str = "not in the ledger (forgotten or pruned meanwhile?)"
    service_task_id: str | None = None
    owner: str | None = None


def knows(conn: Connection, key: str, task_id: str) -> bool:
    """Whether this task belongs to a past attempt of the job."""
    return _find(conn, key, task_id=task_id) is not None


def accept(
    conn: Connection, row: Any, task_id: str, owner: str | None, now: datetime
) -> LedgerStateError | None:
    """Put a late id on its own attempt; one that belongs to none is kept too, as an error."""
    if _find(conn, row.key, task_id=task_id) is not None:
        return None
    past = _find(conn, row.key, owner=owner, states=_UNANSWERED) if owner else None
    if past is not None:
        _update(
            conn,
            past.id,
            state=JobState.ACCEPTED.value,
            service_task_id=task_id,
            accepted_at=now,
            updated_at=now,
        )
        return None
    if isinstance(row, Absent):
        return LedgerStateError(f"job {row.key} is {row.state}; its task is {task_id}", keys=[row.key])
    _keep_stray(conn, row.key, task_id, owner, now)
    return LedgerStateError(
        f"job {row.key} is {row.state} (task {row.service_task_id}), and was now given task {task_id} too: "
        "both are on record and both may cost credits",
        keys=[row.key],
    )


def release(conn: Connection, row: Any, owner: str | None) -> LedgerStateError | None:
    """A late "it was never sent": that attempt cost nothing and leaves the past."""
    past = _find(conn, row.key, owner=owner, states=_UNANSWERED)
    if past is None:
        return _not_theirs(row, owner)
    conn.execute(sa.delete(past_attempts).where(past_attempts.c.id == past.id))
    return None


def hold(conn: Connection, row: Any, owner: str | None) -> LedgerStateError | None:
    """A late "I do not know": that is what is on record already."""
    return None if _find(conn, row.key, owner=owner) is not None else _not_theirs(row, owner)


def finish(
    conn: Connection, row: Any, result: Finished, owner: str | None, now: datetime
) -> LedgerStateError | None:
    """A late end: credits and state go to the attempt that the task (or, for chat, the owner) belongs to."""
    past = (
        _find(conn, row.key, task_id=result.task_id)
        if result.task_id
        else _find(conn, row.key, owner=owner, states=(*_UNANSWERED, *ENDED))
    )
    if past is None:
        return LedgerStateError(
            f"job {row.key} is {row.state} (task {row.service_task_id}): it cannot become "
            f"{result.state.value}, and none of its past attempts has task {result.task_id}",
            keys=[row.key],
        )
    state = JobState(past.state)
    if result.state is not state and result.state not in STEPS[state]:
        return LedgerStateError(
            f"attempt {past.attempt} of job {row.key} is {state.value}: "
            f"it cannot become {result.state.value}",
            keys=[row.key],
        )
    _update(
        conn,
        past.id,
        state=result.state.value,
        urls=list(result.urls) or past.urls,
        text=result.text if result.text is not None else past.text,
        credits=result.credits if result.credits is not None else past.credits,
        error=result.error,
        error_type=result.error_type,
        finished_at=past.finished_at or now,
        updated_at=now,
    )
    return None


def _find(
    conn: Connection,
    key: str,
    *,
    task_id: str | None = None,
    owner: str | None = None,
    states: tuple[JobState, ...] | None = None,
) -> Any:
    if task_id is None and owner is None:  # nothing that says which attempt is meant
        return None
    query = sa.select(past_attempts).where(past_attempts.c.key == key)
    if task_id is not None:
        query = query.where(past_attempts.c.service_task_id == task_id)
    if owner is not None:
        query = query.where(past_attempts.c.owner == owner)
    if states is not None:
        query = query.where(past_attempts.c.state.in_([state.value for state in states]))
    return conn.execute(query.order_by(past_attempts.c.id.desc()).limit(1).with_for_update()).first()


def _update(conn: Connection, identity: int, **values: Any) -> None:
    conn.execute(sa.update(past_attempts).where(past_attempts.c.id == identity).values(**values))


def _keep_stray(conn: Connection, key: str, task_id: str, owner: str | None, now: datetime) -> None:
    """A second task of one attempt: it costs credits, so it gets a row, described like the job itself."""
    fresh: dict[str, Any] = {
        "state": sa.literal(JobState.ACCEPTED.value),
        "service_task_id": sa.literal(task_id),
        "owner": sa.literal(owner, sa.String()),
        # of a job that counts as never sent by now; its credits belong to some month
        "intended_at": sa.func.coalesce(jobs.c.intended_at, sa.literal(now, jobs.c.intended_at.type)),
        "accepted_at": sa.literal(now, jobs.c.accepted_at.type),
        "updated_at": sa.literal(now, jobs.c.updated_at.type),
        **dict.fromkeys(
            ("credits", "urls", "text", "error", "error_type", "finished_at", "lease_until"), sa.null()
        ),
    }
    conn.execute(
        sa.insert(past_attempts).from_select(
            [*SHARED, "superseded_at", "reason"],
            sa.select(
                *(fresh.get(name, jobs.c[name]) for name in SHARED),
                sa.literal(now, past_attempts.c.superseded_at.type),
                sa.literal("a second task for the same attempt", sa.Text()),
            ).where(jobs.c.key == key),
        )
    )


def _not_theirs(row: Any, owner: str | None) -> LedgerStateError:
    return LedgerStateError(f"job {row.key} is {row.state} and not held by {owner}", keys=[row.key])
