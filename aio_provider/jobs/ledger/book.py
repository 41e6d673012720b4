"""The ledger itself: its public verbs over a database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from aio_provider.api.errors import BudgetExceededError
from aio_provider.jobs.ledger import archive, planning, reading, upkeep, verbs
from aio_provider.jobs.ledger.archive import Pruned
from aio_provider.jobs.ledger.budget_book import BudgetBook
from aio_provider.jobs.ledger.errors import LedgerError, LedgerStateError, LedgerUnavailableError
from aio_provider.jobs.ledger.model import Ending, Entry, Finished, JobState
from aio_provider.jobs.ledger.planning import OnUnknown, Policy, chunks
from aio_provider.jobs.ledger.reading import Wanted
from aio_provider.jobs.ledger.schema import PRESENT, archives, entry_of, jobs, past_attempts
from aio_provider.jobs.ledger.store import BUSY_SECONDS, PATIENCE_SECONDS, Store

if TYPE_CHECKING:
    from aio_provider.jobs.job import Job

#: How long an intent is believed in without a sign of life from its owner, seconds. Longer than a request may
#: take (60 s by default); owners renew it three times over that time.
LEASE_SECONDS = 120.0


class Ledger(BudgetBook):
    """The record of every job: what was intended, accepted, paid. Thread-safe.

    ``plan`` jobs, ``intend`` those to submit (it commits before the POST), then ``accept``, ``release`` or
    ``hold`` them by what the service answered, and ``finish`` them with the result. Every verb takes a batch
    and commits it at once. Where an item is not allowed, the error names it, and the others are committed
    all the same.

    Errors of every method: :class:`~.errors.LedgerUnavailableError` when the database cannot be used.
    """

    def __init__(
        self, store: Store, *, lease_seconds: float = LEASE_SECONDS, store_requests: bool = False
    ) -> None:
        super().__init__(store)
        self.lease = timedelta(seconds=lease_seconds)
        self.store_requests = store_requests

    @classmethod
    def open(
        cls,
        target: str | Path | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        store_requests: bool = False,
        busy_seconds: float = BUSY_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], datetime] | None = None,
        readonly: bool = False,
    ) -> Ledger:
        """Open a ledger, creating it or bringing its tables up to date.

        :param target: a path, ``sqlite:///path``, ``postgresql://user:password@host/db``, ``":memory:"``,
            or None for ``$AIO_LEDGER``, else one file a user in the platform's data folder.
        :param lease_seconds: how long an intent stands without a sign of life from its owner.
        :param store_requests: keep whole requests (prompts!) in the ledger, not only a fingerprint.
        :param busy_seconds: how long to wait for a lock held by another process (SQLite).
        :param patience_seconds: how long to keep trying to write down what has been paid for.
        :param clock: stands in for the database's clock, in tests.
        :param readonly: to look at what is there: nothing is created or brought up to date.
        :raises ConfigurationError: when ``target`` makes no sense or the driver is missing.
        :raises LedgerUnavailableError: when the database cannot be opened or written.
        :raises LedgerVersionError: when a newer version of this package has written it; ``readonly``: an
            older one, too.
        """
        store = Store(
            target,
            clock=clock,
            busy_seconds=busy_seconds,
            patience_seconds=patience_seconds,
            readonly=readonly,
        )
        return cls(store, lease_seconds=lease_seconds, store_requests=store_requests)

    def close(self) -> None:
        """Close the database's connections."""
        self.store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ledger {self.url}>"

    @property
    def url(self) -> str:
        """Where the ledger is, without any password."""
        return self.store.url

    @property
    def is_shared(self) -> bool:
        """Whether it is on a database server, so that several machines share it."""
        return not self.store.is_sqlite

    # -- before the POST --------------------------------------------------------------------------------

    def plan(
        self,
        jobs: Iterable[Job],
        *,
        owner: str,
        retry_failed: bool = False,
        on_unknown: OnUnknown = "hold",
        scope: str = "",
    ) -> list[Entry]:
        """Put jobs into the book and say how each stands, in their order.

        New jobs are ``planned``. Jobs in the book stay as they are, except: ``failed`` ones under
        ``retry_failed``, ``unknown`` ones under ``on_unknown="resubmit"`` and ended ones whose request has
        changed are ``planned`` anew (the old attempt stays on record); an intent whose owner is gone becomes
        ``unknown``.

        :param owner: this run, see :func:`~.owners.new_owner`.
        :param scope: the service's base URL, for the book.
        :raises JobConflictError: when a key comes with a different request while its job is open; ``keys``
            names them all. Found before anything is written.
        """
        policy = Policy(owner, retry_failed, on_unknown, scope, self.store_requests)
        return planning.plan(self.store, jobs, policy)

    def intend(self, keys: Iterable[str | Entry], *, owner: str) -> set[str]:
        """Write down that these jobs are about to be submitted. Committed when this returns.

        :param keys: job keys, or the entries ``plan`` gave (then the claim holds for that very request only).
        :returns: the keys this owner won; the rest were taken by another, or are no longer ``planned``.
        :raises BudgetExceededError: a budget has no room for some; ``keys`` names them, and they stay
            ``planned``. The others are intended all the same; its ``won`` are the keys of this owner.
        :raises LedgerUnavailableError: also when the disk is nearly full: what is in the air needs the room.
        """
        claims = [claim(key, owner) for key in keys]
        self.store.require_room()
        done: verbs.Intents = self._run(
            lambda conn, now: verbs.intend(conn, claims, now=now, lease=self.lease)
        )
        self.tell(done.events)
        won = {item.key for item, wins in zip(claims, done.won, strict=True) if wins}
        refused = [verdict for verdict in done.verdicts if isinstance(verdict, BudgetExceededError)]
        raise_any([verdict for verdict in done.verdicts if isinstance(verdict, LedgerError)])
        if refused:
            refused[0].keys = tuple(key for error in refused for key in error.keys)
            refused[0].won = frozenset(won)
            raise refused[0]
        return won

    # -- after the POST ---------------------------------------------------------------------------------

    def accept(self, accepted: Iterable[tuple[str, str]], *, owner: str | None = None) -> None:
        """The service took these jobs: ``(key, task_id)`` pairs. Say this right after the answer.

        :param owner: who intended them; lets an answer that comes late find its own attempt.
        :raises LedgerStateError: when a job was not intended; the id is kept in the book all the same.
        :raises LedgerUnavailableError: with the ids that could not be written in its message.
        """
        items = [verbs.Accepted(key, task_id, owner) for key, task_id in accepted]
        try:
            raise_any(self._run(lambda conn, now: verbs.accept(conn, items, now=now), patient=True))
        except LedgerUnavailableError as error:
            raise unrecorded(error, items) from error

    def release(self, keys: Iterable[str], *, owner: str | None = None) -> None:
        """The service certainly did not take these (429, 402, never connected): ``planned`` again."""
        items = [verbs.Released(key, owner) for key in keys]
        raise_any(self._run(lambda conn, now: verbs.release(conn, items, now=now), patient=True))

    def hold(self, held: Iterable[tuple[str, str | BaseException]], *, owner: str | None = None) -> None:
        """Nobody knows whether these were taken: ``unknown``, with the error that left it open."""
        items = [held_item(key, error, owner) for key, error in held]
        raise_any(self._run(lambda conn, now: verbs.hold(conn, items, now=now), patient=True))

    def finish(self, results: Iterable[Finished], *, owner: str | None = None) -> None:
        """Record how jobs ended. Saying the same twice is no harm; ``owner`` as in :meth:`accept`."""
        items = [verbs.Ended(result, owner) for result in results]
        raise_any(self._run(lambda conn, now: verbs.finish(conn, items, now=now), patient=True))

    # -- leases -----------------------------------------------------------------------------------------

    def renew(self, owner: str) -> int:
        """Prolong all intents of this owner; returns how many there are."""
        return int(self._run(lambda conn, now: verbs.renew(conn, owner, now=now, lease=self.lease)))

    @contextmanager
    def renewing(self, owner: str) -> Iterator[None]:
        """Renew the owner's intents from a thread for as long as the block runs (a POST that may be slow)."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(self.lease.total_seconds() / 3):
                try:
                    self.renew(owner)
                except LedgerUnavailableError:
                    continue  # the verb that follows the POST reports it

        thread = threading.Thread(target=keep, name="aio-ledger-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def sweep(self) -> list[Entry]:
        """Turn all lapsed intents to ``unknown``; returns them as they were."""
        with self.store.read() as conn:
            some = conn.execute(
                sa.select(jobs.c.key).where(jobs.c.state == JobState.INTENDED.value).limit(1)
            ).first()
        if some is None:
            return []
        swept: list[Entry] = self._run(lambda conn, now: verbs.sweep(conn, now=now))
        return swept

    # -- by hand ----------------------------------------------------------------------------------------

    def settle(
        self, key: str, *, task_id: str | None = None, not_submitted: bool = False, force: bool = False
    ) -> Entry:
        """Say what became of a job that is held as ``unknown``, or expired with no result and no charge.

        :param task_id: the service took it, and this is its task: ``accepted``, to be polled. An expired job
            that never had a result can be given another: its id may have been mistyped.
        :param not_submitted: the service never took it: ``planned``, to be submitted by the next run.
        :param force: also for an intent whose owner may still be alive.
        :raises LedgerStateError: when the job is not held, or the task belongs to another job.
        :raises ValueError: unless exactly one of ``task_id`` and ``not_submitted`` is given.
        """
        if (task_id is None) == (not not_submitted):
            raise ValueError("settle: give either task_id or not_submitted=True")
        entry: Entry = self._run(lambda conn, now: upkeep.settle(conn, key, task_id, force=force, now=now))
        return entry

    def settle_not_submitted(self, held: Iterable[Entry]) -> set[str]:
        """Say of jobs that are held as ``unknown`` that the service never took them: ``planned`` again.

        :param held: as they were when somebody looked. What has changed since, because its answer came late
            or somebody else settled it, stays as it is.
        :returns: the keys of those that were settled.
        """
        entries = sorted(held, key=lambda entry: entry.key)

        def work(conn: sa.engine.Connection, now: datetime) -> set[str]:
            done = (upkeep.settle_not_submitted(conn, some, now=now) for some in chunks(entries))
            return set(chain.from_iterable(done))

        settled: set[str] = self._run(work)
        return settled

    def forget(self, keys: Iterable[str], *, force: bool = False) -> int:
        """Make these jobs unknown to the next run, so that it pays for them again. What they cost stays.

        :param force: also jobs that are open and may have been charged.
        :returns: how many were in the ledger.
        :raises LedgerStateError: when one of them is open; then none is forgotten.
        """
        wanted = sorted(set(keys))

        def work(conn: sa.engine.Connection, now: datetime) -> int:
            return sum(upkeep.forget(conn, some, force=force, now=now) for some in chunks(wanted))

        return int(self._run(work))

    def prune(self, *, older_than: timedelta, to: str | Path) -> Pruned:
        """Move jobs that ended longer ago than this from the database to Parquet files.

        A job that has left is no longer known: running it again pays for it again. Jobs that are open stay.
        The book lists the files and what their rows had cost (:meth:`archives`).

        :param to: a folder, made if need be.
        """
        with self.store.read() as conn:
            before = self.store.now(conn) - older_than
        return archive.prune(self.store, before=before, folder=Path(to))

    def archives(self) -> list[dict[str, Any]]:
        """The files that rows were moved to: ``path, rows, credits, oldest, newest, created_at``."""
        with self.store.read() as conn:
            query = sa.select(archives).order_by(archives.c.created_at)
            return [dict(row) for row in conn.execute(query).mappings()]

    # -- reading ----------------------------------------------------------------------------------------

    def get(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The entries of these keys; keys that are not in the ledger are left out."""
        found: dict[str, Entry] = {}
        with self.store.read() as conn:
            for some in chunks(list(dict.fromkeys(keys))):
                found.update(planning.select_entries(conn, some))
        return found

    def endings(self, keys: Iterable[str]) -> dict[str, Ending]:
        """How those of these jobs ended that have; much faster than :meth:`get`."""
        return reading.endings(self.store, keys)

    def find(self, prefix: str) -> list[Entry]:
        """The entries whose keys begin like this, two at most: enough to tell whether it is the only one."""
        query = sa.select(*PRESENT).where(jobs.c.key.startswith(prefix, autoescape=True)).limit(2)
        with self.store.read() as conn:
            exact = planning.select_entries(conn, [prefix])
            return list(exact.values()) or [entry_of(row) for row in conn.execute(query)]

    def entries(
        self,
        *,
        state: JobState | Iterable[JobState] | None = None,
        kind: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """The present entries, by key; memory does not grow with the ledger.

        :param state: one state or several.
        :param labels: only jobs with these labels (``dag_id``, ``run_id``, ``user``, …).
        :raises ValueError: for a label that cannot be selected by.
        """
        wanted = Wanted.of(state, kind=kind, model=model, labels=labels)
        return chain.from_iterable(reading.pages(self.store, jobs, wanted, limit))

    def past_entries(
        self,
        *,
        state: JobState | Iterable[JobState] | None = None,
        kind: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """Attempts that a newer one took the place of, and forgotten jobs: what they cost counts too."""
        wanted = Wanted.of(state, kind=kind, model=model, labels=labels)
        return chain.from_iterable(reading.pages(self.store, past_attempts, wanted, limit))

    def counts(
        self, *, past: bool = False, labels: Mapping[str, str] | None = None
    ) -> dict[JobState, tuple[int, float]]:
        """For each state the number of jobs and their credits.

        :param past: of the past attempts instead of the present jobs.
        """
        return reading.counts(self.store, past_attempts if past else jobs, Wanted.of(None, labels=labels))

    def _run(self, work: Callable[[sa.engine.Connection, datetime], Any], *, patient: bool = False) -> Any:
        return self.store.attempt(lambda conn: work(conn, self.store.now(conn)), patient=patient)


def claim(key: str | Entry, owner: str) -> verbs.Claim:
    """A claim for a key, or for the very attempt and request of an entry."""
    if isinstance(key, Entry):
        return verbs.Claim(key.key, owner, key.fingerprint, key.attempt)
    return verbs.Claim(key, owner)


def held_item(key: str, error: str | BaseException, owner: str | None) -> verbs.Held:
    """A held job with its reason as text and type."""
    if isinstance(error, BaseException):
        return verbs.Held(key, str(error), type(error).__name__, owner)
    return verbs.Held(key, error, None, owner)


def raise_any(verdicts: Sequence[verbs.Verdict]) -> None:
    """Raise the first error of a batch, naming all the jobs that had one."""
    errors = [verdict for verdict in verdicts if verdict is not None]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        keys = [key for error in errors for key in error.keys]
        raise LedgerStateError(f"{errors[0]} (and {len(errors) - 1} more)", keys=keys)


def unrecorded(error: LedgerUnavailableError, items: Sequence[verbs.Accepted]) -> LedgerUnavailableError:
    """An error that saves the ids that could not be written: they are paid for."""
    ids = ", ".join(f"{item.key}={item.task_id}" for item in items)
    return LedgerUnavailableError(
        f"{error}; accepted by the service but not on record "
        f"(settle with `aio ledger resolve KEY --task-id ID`): {ids}",
        keys=[item.key for item in items],
    )
