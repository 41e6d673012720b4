"""The steps of a job under way. Each verb is one function over a batch inside the caller's transaction.

A verb returns one verdict for each item (None, or the error for that item) rather than raising, so that one
bad item never undoes what is recorded for the others: an accepted id that is rolled back is money lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.api.errors import BudgetExceededError
from aio_provider.jobs.ledger import budgets, late
from aio_provider.jobs.ledger.errors import LedgerError, LedgerStateError
from aio_provider.jobs.ledger.model import ENDED, STEPS, Entry, Finished, JobState
from aio_provider.jobs.ledger.planning import chunks, has_lapsed
from aio_provider.jobs.ledger.planning import hold as hold_lapsed
from aio_provider.jobs.ledger.schema import PRESENT, entry_of, jobs

Verdict = LedgerError | None

_AT_KEY = sa.update(jobs).where(jobs.c.key == sa.bindparam("at_key"))


# -- intend ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A wish to submit a job. With ``fingerprint`` it only holds for that very request."""

    key: str
    owner: str
    fingerprint: str | None = None
    attempt: int | None = None


_INTEND = (
    sa.update(jobs)
    .where(jobs.c.key.in_(sa.bindparam("keys", expanding=True)))
    .values(
        state=JobState.INTENDED.value,
        owner=sa.bindparam("by"),
        lease_until=sa.bindparam("until"),
        intended_at=sa.bindparam("now"),
        updated_at=sa.bindparam("now"),
        error=None,
        error_type=None,
    )
)


@dataclass(frozen=True)
class Intents:
    """What became of claims: which won, the error of each that has one, and the budgets that filled up."""

    won: list[bool]
    verdicts: list[Verdict | BudgetExceededError]
    events: list[budgets.BudgetEvent]


def intend(conn: Connection, claims: Sequence[Claim], *, now: datetime, lease: timedelta) -> Intents:
    """Write down that these jobs are about to be submitted, as far as budgets let them."""
    rows = _rows(conn, [claim.key for claim in claims])
    verdicts: list[Verdict | BudgetExceededError] = []
    winners: dict[str, int] = {}
    for index, claim in enumerate(claims):
        row = rows.get(claim.key)
        verdicts.append(None if row is not None else _no_such(claim.key))
        if row is not None and claim.key not in winners and _may(claim, row):
            winners[claim.key] = index
    said = budgets.check(conn, list(winners), now) if winners else budgets.Verdict()
    for key, error in said.refused.items():
        verdicts[winners.pop(key)] = error
    taken: dict[str, list[str]] = {}
    for key, index in winners.items():
        taken.setdefault(claims[index].owner, []).append(key)
    for owner, keys in taken.items():
        for some in chunks(keys):
            conn.execute(_INTEND, {"keys": list(some), "by": owner, "until": now + lease, "now": now})
    if said.reserved:
        conn.execute(_RESERVE, [{"at_key": key, "amount": said.reserved[key]} for key in winners])
    won = set(winners.values())
    return Intents([index in won for index in range(len(claims))], verdicts, said.events)


_RESERVE = _AT_KEY.values(reserved=sa.bindparam("amount"))


def _may(claim: Claim, row: Any) -> bool:
    return (
        row.state == JobState.PLANNED
        and claim.fingerprint in (None, row.fingerprint)
        and claim.attempt in (None, row.attempt)
    )


# -- the ends of an intent -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """The service took the job and gave it this id."""

    key: str
    task_id: str
    owner: str | None = None


@dataclass(frozen=True)
class Released:
    """The service certainly did not take it (429, 402, no connection)."""

    key: str
    owner: str | None = None


@dataclass(frozen=True)
class Held:
    """Nobody knows whether the service took it."""

    key: str
    error: str
    error_type: str | None = None
    owner: str | None = None


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    result: Finished
    owner: str | None = None

    @property
    def key(self) -> str:
        """The job."""
        return self.result.key


def accept(conn: Connection, items: Sequence[Accepted], *, now: datetime) -> list[Verdict]:
    """``intended`` (or ``unknown``, answered late) → ``accepted``. The same id again changes nothing."""

    def step(item: Accepted, row: Any) -> dict[str, Any] | Verdict:
        if row.service_task_id == item.task_id:
            return None
        if _is_theirs(item.owner, row) and row.state in (JobState.INTENDED, JobState.UNKNOWN):
            return _values(
                JobState.ACCEPTED,
                now,
                service_task_id=item.task_id,
                accepted_at=now,
                lease_until=None,
                error=None,
                error_type=None,
            )
        return late.accept(conn, row, item.task_id, item.owner, now)

    return _each(conn, items, step)


def release(conn: Connection, items: Sequence[Released], *, now: datetime) -> list[Verdict]:
    """``intended`` (or ``unknown``) → ``planned``: it can be submitted again."""

    def step(item: Released, row: Any) -> dict[str, Any] | Verdict:
        if row.state == JobState.PLANNED:
            return None
        if not _is_theirs(item.owner, row):
            return late.release(conn, row, item.owner)
        # without an owner, `unknown` stays: only its own submitter (or a person) knows better
        if row.state == JobState.INTENDED or (row.state == JobState.UNKNOWN and item.owner):
            return _values(
                JobState.PLANNED,
                now,
                owner=None,
                lease_until=None,
                intended_at=None,
                reserved=None,
                error=None,
                error_type=None,
            )
        return _wrong(item.key, row.state, JobState.PLANNED)

    return _each(conn, items, step)


def hold(conn: Connection, items: Sequence[Held], *, now: datetime) -> list[Verdict]:
    """``intended`` → ``unknown``."""

    def step(item: Held, row: Any) -> dict[str, Any] | Verdict:
        if not _is_theirs(item.owner, row):
            return late.hold(conn, row, item.owner)
        if row.state in (JobState.INTENDED, JobState.UNKNOWN):
            return _values(
                JobState.UNKNOWN, now, error=_text(item.error), error_type=item.error_type, lease_until=None
            )
        return _wrong(item.key, row.state, JobState.UNKNOWN)

    return _each(conn, items, step)


def finish(conn: Connection, items: Sequence[Ended], *, now: datetime) -> list[Verdict]:
    """To ``succeeded``, ``failed`` or ``expired``. The same end again only adds what was missing."""

    def step(item: Ended, row: Any) -> dict[str, Any] | Verdict:
        result = item.result
        if result.state not in ENDED:
            return LedgerStateError(
                f"job {result.key}: {result.state.value} is not an end", keys=[result.key]
            )
        if row.service_task_id is not None:  # whoever polls a task may say how it ended
            present = result.task_id in (None, row.service_task_id)
        else:
            past = result.task_id is not None and late.knows(conn, item.key, result.task_id)
            present = not past and _is_theirs(item.owner, row)
        if not present:
            return late.finish(conn, row, result, item.owner, now)
        state = JobState(row.state)
        if result.state is not state and result.state not in STEPS[state]:
            return _wrong(result.key, row.state, result.state)
        return _values(
            result.state,
            now,
            service_task_id=row.service_task_id or result.task_id,
            urls=list(result.urls) or row.urls,
            text=_text(result.text) if result.text is not None else row.text,
            credits=result.credits if result.credits is not None else row.credits,
            error=_text(result.error),
            error_type=result.error_type,
            finished_at=row.finished_at or now,
            lease_until=None,
        )

    return _each(conn, items, step)


def renew(conn: Connection, owner: str, *, now: datetime, lease: timedelta) -> int:
    """Prolong the owner's intents; how many there are."""
    result = conn.execute(
        sa.update(jobs)
        .where(jobs.c.owner == owner, jobs.c.state == JobState.INTENDED.value)
        .values(lease_until=now + lease)
    )
    return int(result.rowcount)


def sweep(conn: Connection, *, now: datetime) -> list[Entry]:
    """Turn every lapsed intent to ``unknown``; the entries as they were."""
    query = (
        sa.select(*PRESENT)
        .where(jobs.c.state == JobState.INTENDED.value)
        .order_by(jobs.c.key)
        .with_for_update()
    )
    lapsed = [entry for entry in map(entry_of, conn.execute(query)) if has_lapsed(entry, now)]
    for some in chunks([entry.key for entry in lapsed]):
        hold_lapsed(conn, some, now)
    return lapsed


# -- shared ----------------------------------------------------------------------------------------------


def _each(
    conn: Connection, items: Sequence[Any], step: Callable[[Any, Any], dict[str, Any] | Verdict]
) -> list[Verdict]:
    """Run ``step`` over the items' locked rows and write its new values in one statement a batch."""
    verdicts: list[Verdict] = [None] * len(items)
    for wave in _waves(items):
        rows = _rows(conn, [items[index].key for index in wave])
        updates: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for index in wave:
            item = items[index]
            row = rows.get(item.key)
            outcome = step(item, row or late.Absent(item.key))
            if isinstance(outcome, dict):
                updates.setdefault(tuple(outcome), []).append({"at_key": item.key, **outcome})
            else:
                verdicts[index] = outcome
        for values in updates.values():
            conn.execute(_AT_KEY, values)
    return verdicts


def _waves(items: Sequence[Any]) -> list[list[int]]:
    """Indices in their order, no key twice in one wave: its second step must see its first."""
    waves: list[list[int]] = []
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        wave = seen.get(item.key, 0)
        seen[item.key] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(index)
    return waves


# What the steps look at, and no more: every verb of every job reads it.
_LOOKED_AT = sa.select(
    *(jobs.c.key, jobs.c.fingerprint, jobs.c.attempt, jobs.c.state, jobs.c.owner, jobs.c.service_task_id),
    *(jobs.c.urls, jobs.c.text, jobs.c.credits, jobs.c.finished_at),
)
_LOOK = (
    _LOOKED_AT.where(jobs.c.key.in_(sa.bindparam("keys", expanding=True)))
    .order_by(jobs.c.key)
    .with_for_update()
)


def _rows(conn: Connection, keys: Iterable[str]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for some in chunks(sorted(set(keys))):
        rows.update((row.key, row) for row in conn.execute(_LOOK, {"keys": list(some)}).all())
    return rows


def _values(state: JobState, now: datetime, **values: Any) -> dict[str, Any]:
    return {"state": state.value, "updated_at": now, **values}


def _is_theirs(owner: str | None, row: Any) -> bool:
    return not isinstance(row, late.Absent) and (owner is None or owner == row.owner)


def _no_such(key: str) -> LedgerStateError:
    return LedgerStateError(
        f"job {key} is not in the ledger (forgotten or pruned meanwhile?): plan it first", keys=[key]
    )


def _wrong(key: str, state: str, wanted: JobState) -> LedgerStateError:
    return LedgerStateError(f"job {key} is {state}: it cannot become {wanted.value}", keys=[key])


def _text(value: str | None) -> str | None:
    # PostgreSQL text holds no NUL, and a service's error text may hold anything.
    return None if value is None else value.replace("\x00", "")
