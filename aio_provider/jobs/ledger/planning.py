"""Planning: which of these jobs are new, which are in the book already, which may be tried again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from aio_provider.api.prices import price_key
from aio_provider.jobs.job import service_scope
from aio_provider.jobs.ledger.errors import JobConflictError
from aio_provider.jobs.ledger.model import ENDED, Entry, JobState
from aio_provider.jobs.ledger.owners import is_gone
from aio_provider.jobs.ledger.schema import PRESENT, SHARED, entry_of, jobs, label_columns, past_attempts
from aio_provider.jobs.ledger.store import Store

if TYPE_CHECKING:
    from aio_provider.jobs.job import Job

OnUnknown = Literal["hold", "resubmit"]
T = TypeVar("T")

#: Keys in one statement: well under SQLite's limit of parameters, enough to make a round trip worth it.
CHUNK = 500

_KEYS: sa.sql.elements.BindParameter[Any] = sa.bindparam("keys", expanding=True)
BY_KEYS = sa.select(*PRESENT).where(jobs.c.key.in_(_KEYS))
LOCKED = BY_KEYS.order_by(jobs.c.key).with_for_update()

LAPSED_ERROR = "the process that was submitting it went away: it may or may not have been charged"
LAPSED_TYPE = "LeaseLapsed"


@dataclass(frozen=True)
class Policy:
    """What a run wants done with jobs that are in the book already."""

    owner: str
    retry_failed: bool = False
    on_unknown: OnUnknown = "hold"
    scope: str = ""
    store_requests: bool = False


class _Step(Enum):
    KEEP = auto()
    INSERT = auto()
    DESCRIBE = auto()  # planned, nothing sent: bring request and labels up to date
    HOLD = auto()  # a lapsed intent
    AGAIN = auto()  # a new attempt
    CONFLICT = auto()


def plan(store: Store, wanted: Iterable[Job], policy: Policy) -> list[Entry]:
    """Put jobs into the book and say how each stands. See :meth:`~.book.Ledger.plan`."""
    order = list(wanted)
    by_key = _unique(order)
    found: dict[str, Entry] = {}
    with store.read() as conn:
        now = store.now(conn)
        for keys in chunks(list(by_key)):
            found.update(select_entries(conn, keys))
    steps = {key: _decide(job, found.get(key), policy, now) for key, job in by_key.items()}
    _refuse(by_key, found, [key for key, step in steps.items() if step is _Step.CONFLICT])
    # Finished rows end here: a re-run takes no write lock at all.
    for keys in chunks(sorted(key for key, step in steps.items() if step is not _Step.KEEP)):
        some = {key: by_key[key] for key in keys}
        found.update(store.attempt(partial(_apply, store, some, policy)))
    return [found[job.key] for job in order]


def _apply(store: Store, wanted: Mapping[str, Job], policy: Policy, conn: Connection) -> dict[str, Entry]:
    """Decide again under lock, and write. What another process did meanwhile counts."""
    now = store.now(conn)
    keys = list(wanted)
    found = {row.key: entry_of(row) for row in conn.execute(LOCKED, {"keys": keys})}
    steps = {key: _decide(job, found.get(key), policy, now) for key, job in wanted.items()}
    _refuse(wanted, found, [key for key, step in steps.items() if step is _Step.CONFLICT])
    chosen = {step: [key for key in keys if steps[key] is step] for step in _Step}
    wanted = {**wanted, **_with_estimates(store, conn, wanted, chosen, policy.scope)}
    _insert(conn, [wanted[key] for key in chosen[_Step.INSERT]], policy, now)
    hold(conn, chosen[_Step.HOLD], now)
    _again(conn, [wanted[key] for key in chosen[_Step.AGAIN]], found, policy, now)
    if chosen[_Step.DESCRIBE]:
        conn.execute(
            _DESCRIBE,
            [
                {"at_key": key, **_described(wanted[key], policy, found[key]), "updated_at": now}
                for key in chosen[_Step.DESCRIBE]
            ],
        )
    after = select_entries(conn, keys)
    # Only another process that inserted the same key at the same moment can have left a difference.
    _refuse(wanted, after, [key for key in keys if after[key].fingerprint != wanted[key].request.fingerprint])
    return after


def _with_estimates(
    store: Store,
    conn: Connection,
    wanted: Mapping[str, Job],
    chosen: Mapping[_Step, Sequence[str]],
    scope: str,
) -> dict[str, Job]:
    """The jobs that are to be described, each with what it is expected to cost."""
    keys = [key for step in (_Step.INSERT, _Step.AGAIN, _Step.DESCRIBE) for key in chosen[step]]
    bare = [wanted[key] for key in keys if wanted[key].estimate is None]
    return {job.key: replace(job, estimate=store.expectations.of(conn, job.request, scope)) for job in bare}


def _decide(job: Job, entry: Entry | None, policy: Policy, now: datetime) -> _Step:
    if entry is None:
        return _Step.INSERT
    state = entry.state
    same = entry.fingerprint == job.request.fingerprint
    lapsed = state is JobState.INTENDED and has_lapsed(entry, now)
    if state is JobState.PLANNED:
        current = same and label_columns(entry.labels) == label_columns(job.labels)
        return _Step.KEEP if current else _Step.DESCRIBE
    if (state is JobState.UNKNOWN or lapsed) and policy.on_unknown == "resubmit":
        return _Step.AGAIN
    if not same:
        return _Step.AGAIN if state in ENDED else _Step.CONFLICT
    if lapsed:
        return _Step.HOLD
    if state is JobState.FAILED and policy.retry_failed:
        return _Step.AGAIN
    return _Step.KEEP


def has_lapsed(entry: Entry, now: datetime) -> bool:
    """Whether nobody looks after this intent any more."""
    return entry.lease_until is None or entry.lease_until < now or is_gone(entry.owner)


def _insert(conn: Connection, new: Sequence[Job], policy: Policy, now: datetime) -> None:
    if not new:
        return
    # A key that was forgotten has attempts in the past; its numbers go on from there.
    past = dict(
        conn.execute(
            sa.select(past_attempts.c.key, sa.func.max(past_attempts.c.attempt))
            .where(past_attempts.c.key.in_([job.key for job in new]))
            .group_by(past_attempts.c.key)
        ).all()
    )
    rows = [
        {
            "key": job.key,
            "state": JobState.PLANNED.value,
            "attempt": past.get(job.key, 0) + 1,
            "planned_at": now,
            "updated_at": now,
            **_described(job, policy),
        }
        for job in new
    ]
    # Most labels are not there: left out rather than bound as NULL, for speed.
    used = sorted({name for row in rows for name, value in row.items() if value is not None})
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(jobs).on_conflict_do_nothing()
    conn.execute(statement, [{name: row[name] for name in used} for row in rows])


_HOLD = (
    sa.update(jobs)
    .where(jobs.c.key.in_(_KEYS))
    .values(
        state=JobState.UNKNOWN.value,
        error=LAPSED_ERROR,
        error_type=LAPSED_TYPE,
        lease_until=None,
        updated_at=sa.bindparam("now"),
    )
)


def hold(conn: Connection, keys: Sequence[str], now: datetime) -> None:
    """Lapsed intents become ``unknown``."""
    if keys:
        conn.execute(_HOLD, {"keys": list(keys), "now": now})


def _again(
    conn: Connection, again: Sequence[Job], found: Mapping[str, Entry], policy: Policy, now: datetime
) -> None:
    if not again:
        return
    # A lapsed intent goes into the past as what it is: unknown.
    hold(conn, [job.key for job in again if found[job.key].state is JobState.INTENDED], now)
    archive(conn, [job.key for job in again], reason="submitted again", now=now)
    conn.execute(
        _RESTART,
        [
            {
                "at_key": job.key,
                **_described(job, policy, found[job.key]),
                "attempt": found[job.key].attempt + 1,
                "planned_at": now,
                "updated_at": now,
            }
            for job in again
        ],
    )


def archive(conn: Connection, keys: Sequence[str], *, reason: str, now: datetime) -> None:
    """Copy rows to ``past_attempts``: what they cost stays in the book."""
    columns = [jobs.c[name] for name in SHARED]
    conn.execute(
        sa.insert(past_attempts).from_select(
            [*SHARED, "superseded_at", "reason"],
            sa.select(
                *columns, sa.literal(now, past_attempts.c.superseded_at.type), sa.literal(reason, sa.Text())
            ).where(jobs.c.key.in_(list(keys))),
        )
    )


def _described(job: Job, policy: Policy, known: Entry | None = None) -> dict[str, Any]:
    request = job.request
    estimate = job.estimate
    # One spelling of the service: what it has charged is looked up by it.
    scope = service_scope(policy.scope) if policy.scope else known.scope if known else ""
    return {
        "fingerprint": request.fingerprint,
        "scope": scope,
        "kind": request.kind,
        "endpoint": request.endpoint,
        "model": request.model,
        "request": dict(request.body()) if policy.store_requests else None,
        "estimate_low": estimate.low if estimate else None,
        "estimate_likely": estimate.likely if estimate else None,
        "estimate_high": estimate.high if estimate else None,
        "estimate_source": estimate.source if estimate else None,
        "price_key": price_key(request),
        **label_columns(job.labels),
    }


# The columns that are set come with the parameters.
_DESCRIBE = sa.update(jobs).where(jobs.c.key == sa.bindparam("at_key"))
_RESTART = _DESCRIBE.values(
    state=JobState.PLANNED.value,
    **dict.fromkeys(
        (
            *("service_task_id", "urls", "text", "error", "error_type", "credits", "owner", "lease_until"),
            *("reserved", "intended_at", "accepted_at", "finished_at"),
        ),
        sa.null(),
    ),
)


def _unique(order: Sequence[Job]) -> dict[str, Job]:
    by_key: dict[str, Job] = {}
    for job in order:
        if by_key.setdefault(job.key, job).request.fingerprint != job.request.fingerprint:
            raise JobConflictError(
                f"job {job.key} comes twice in this call with different requests "
                f"({by_key[job.key].request.fingerprint[:12]} and {job.request.fingerprint[:12]}): "
                "give each its own key",
                keys=[job.key],
            )
    return by_key


def _refuse(wanted: Mapping[str, Job], found: Mapping[str, Entry], keys: Sequence[str]) -> None:
    if not keys:
        return
    entry, job = found[keys[0]], wanted[keys[0]]
    where = f"task {entry.task_id}" if entry.task_id else "no task id on record"
    more = f"; and {len(keys) - 1} more" if len(keys) > 1 else ""
    raise JobConflictError(
        f"job {job.key} is still open ({entry.state.value}, {where}) with request "
        f"{entry.fingerprint[:12]}, and now comes with a different request {job.request.fingerprint[:12]}: "
        f"let the old one end, or settle it (aio ledger resolve), or give the new one a key of its own{more}",
        keys=keys,
    )


def select_entries(conn: Connection, keys: Sequence[str]) -> dict[str, Entry]:
    """The entries of these keys (one chunk), those that exist."""
    rows = conn.execute(BY_KEYS, {"keys": list(keys)}).all()
    return {row[0]: entry_of(row) for row in rows}


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
