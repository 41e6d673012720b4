"""What people do to the book by hand: settle a held job, forget a job so that it is paid for again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.jobs.ledger.errors import LedgerStateError
from aio_provider.jobs.ledger.model import ENDED, Entry, JobState
from aio_provider.jobs.ledger.planning import LOCKED, archive, has_lapsed, select_entries
from aio_provider.jobs.ledger.schema import entry_of, jobs, past_attempts


def settle(conn: Connection, key: str, task_id: str | None, *, force: bool, now: datetime) -> Entry:
    """Say what became of a held job: this task, or (None) never submitted. See :meth:`.Ledger.settle`."""
    entry = _one(conn, key)
    if entry.state is JobState.INTENDED and not (force or has_lapsed(entry, now)):
        raise LedgerStateError(
            f"job {key} is just being submitted by {entry.owner} (lease until "
            f"{entry.lease_until:%H:%M:%S} UTC): wait for it, or stop that process and use force",
            keys=[key],
        )
    # An id that was mistyped: the service did not know it, and nothing ever came of it.
    mistaken = entry.state is JobState.EXPIRED and not entry.urls and not entry.text and entry.credits is None
    if entry.state not in (JobState.UNKNOWN, JobState.INTENDED) and not (mistaken and task_id):
        raise LedgerStateError(f"job {key} is {entry.state.value}: there is nothing to settle", keys=[key])
    if task_id is None:
        values = _never_sent(now)
    else:
        values = _settled(now)
        _require_free(conn, key, task_id)
        # When it was accepted is not known; the intent is the closest there is.
        accepted = entry.intended_at or now
        values |= {"state": JobState.ACCEPTED.value, "service_task_id": task_id, "accepted_at": accepted}
    conn.execute(sa.update(jobs).where(jobs.c.key == key).values(**values))
    return select_entries(conn, [key])[key]


def settle_not_submitted(conn: Connection, held: Sequence[Entry], *, now: datetime) -> list[str]:
    """Say that these jobs were never submitted, where they still are as they were seen.

    See :meth:`.Ledger.settle_not_submitted`.
    """
    seen = {entry.key: (entry.attempt, entry.intended_at) for entry in held}
    present = [entry_of(row) for row in conn.execute(LOCKED, {"keys": list(seen)})]
    # Sent anew and held again, it is not what somebody looked at.
    still = [
        entry.key
        for entry in present
        if entry.state is JobState.UNKNOWN and (entry.attempt, entry.intended_at) == seen[entry.key]
    ]
    if still:
        conn.execute(sa.update(jobs).where(jobs.c.key.in_(still)).values(**_never_sent(now)))
    return still


def forget(conn: Connection, keys: Sequence[str], *, force: bool, now: datetime) -> int:
    """Take jobs out of the book of present jobs. See :meth:`.Ledger.forget`."""
    rows = [entry_of(row) for row in conn.execute(LOCKED, {"keys": list(keys)})]
    still_open = [entry for entry in rows if entry.state not in ENDED and entry.state is not JobState.PLANNED]
    if still_open and not force:
        first = still_open[0]
        more = f" (and {len(still_open) - 1} more)" if len(still_open) > 1 else ""
        raise LedgerStateError(
            f"job {first.key} is {first.state.value}{more}: it may have been charged. "
            "Settle it first, or use force to pay again knowingly",
            keys=[entry.key for entry in still_open],
        )
    # A job that was only planned has cost nothing and leaves no trace.
    archive(
        conn,
        [entry.key for entry in rows if entry.state is not JobState.PLANNED],
        reason="forgotten",
        now=now,
    )
    if rows:
        conn.execute(sa.delete(jobs).where(jobs.c.key.in_([entry.key for entry in rows])))
    return len(rows)


def _settled(now: datetime) -> dict[str, object]:
    return {**dict.fromkeys(("error", "error_type", "lease_until", "finished_at")), "updated_at": now}


def _never_sent(now: datetime) -> dict[str, object]:
    planned = {"state": JobState.PLANNED.value, "owner": None, "intended_at": None, "reserved": None}
    return _settled(now) | planned


def _one(conn: Connection, key: str) -> Entry:
    row = conn.execute(LOCKED, {"keys": [key]}).first()
    if row is None:
        raise LedgerStateError(f"job {key} is not in the ledger", keys=[key])
    return entry_of(row)


def _require_free(conn: Connection, key: str, task_id: str) -> None:
    for table in (jobs, past_attempts):
        taken = conn.execute(
            sa.select(table.c.key).where(table.c.service_task_id == task_id).limit(1)
        ).scalar()
        if taken is not None and (table is past_attempts or taken != key):
            raise LedgerStateError(f"task {task_id} belongs to job {taken} already", keys=[key, taken])
