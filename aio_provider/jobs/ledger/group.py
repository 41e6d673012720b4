"""The ledger for an event loop: one thread writes, and commits together whatever is waiting.

A commit that reaches the disk takes milliseconds, so a commit a verb would cap a run at some hundred jobs a
second. While one commit is under way the next verbs gather, and they all go into the next transaction.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from aio_provider.jobs.ledger import reading, verbs
from aio_provider.jobs.ledger.book import Ledger, claim, held_item, unrecorded
from aio_provider.jobs.ledger.errors import JobConflictError, LedgerError, LedgerUnavailableError
from aio_provider.jobs.ledger.model import Entry, Finished
from aio_provider.jobs.ledger.owners import new_owner
from aio_provider.jobs.ledger.planning import OnUnknown, Policy, plan

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger.budgets import BudgetEvent

log = logging.getLogger(__name__)

#: Verbs in one transaction at most, so that no caller waits long behind others.
_MOST = 1000
# What has been paid for is written first.
_ORDER = ("accept", "finish", "hold", "release", "intend")
_READ = ("get", "durations")


@dataclass(eq=False, slots=True)
class _Call:
    verb: str
    item: Any
    future: asyncio.Future[Any] | None = None  # None: nobody waits
    answer: Any = None
    error: BaseException | None = None

    @property
    def was_cancelled(self) -> bool:
        """Whether the caller has gone away."""
        return self.future is not None and self.future.cancelled()

    @property
    def claimed(self) -> bool:
        """Whether this took a job that someone must now submit or give back."""
        return self.verb == "intend" and self.error is None and bool(self.answer)


class AsyncLedger:
    """The verbs of a :class:`~.book.Ledger`, awaited for one job at a time and committed in groups.

    Each ``await`` returns once its own change is committed, and raises its own error. Intents won here are
    renewed for as long as they are open. A cancelled ``intend`` gives its job back; every other verb, once
    called, is carried out even when its caller is cancelled.

    :param ledger: the ledger; closing this leaves it open.
    :param owner: this run's name, :func:`~.owners.new_owner` by default.
    """

    def __init__(self, ledger: Ledger, *, owner: str | None = None) -> None:
        self.ledger = ledger
        self.owner = owner or new_owner()
        self._calls: deque[_Call] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._events: list[BudgetEvent] = []
        self._open: set[str] = set()
        self._renew_at = 0.0

    async def __aenter__(self) -> AsyncLedger:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Commit what is waiting and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._calls:  # claims whose callers were cancelled at the very end
            await asyncio.to_thread(self._carry_out, list(self._calls))
            self._calls.clear()

    # -- verbs ------------------------------------------------------------------------------------------

    async def plan(
        self,
        jobs: Iterable[Job],
        *,
        retry_failed: bool = False,
        on_unknown: OnUnknown = "hold",
        scope: str = "",
    ) -> list[Entry]:
        """See :meth:`.Ledger.plan`."""
        policy = Policy(self.owner, retry_failed, on_unknown, scope, self.ledger.store_requests)
        entries: list[Entry] = await self._call("plan", (policy, list(jobs)))
        return entries

    async def get(self, keys: Iterable[str]) -> dict[str, Entry]:
        """See :meth:`.Ledger.get`."""
        found: dict[str, Entry] = await self._call("get", list(keys))
        return found

    async def durations(self, request: GenerationRequest, scope: str) -> list[float]:
        """See :func:`.reading.durations`."""
        found: list[float] = await self._call("durations", (request, scope))
        return found

    async def intend(self, key: str | Entry) -> bool:
        """Whether this job is ours to submit now; if so, that is on record. See :meth:`.Ledger.intend`.

        :raises BudgetExceededError: a budget has no room for it; it stays ``planned``.
        """
        future = self._put("intend", claim(key, self.owner))
        try:
            won: bool = await future
        except asyncio.CancelledError:
            # Cancelled just as the answer came: nobody will submit it.
            if not future.cancelled() and future.exception() is None and future.result():
                self._give_back([key.key if isinstance(key, Entry) else key])
            raise
        return won

    async def accept(self, key: str, task_id: str) -> None:
        """See :meth:`.Ledger.accept`."""
        await self._surely("accept", verbs.Accepted(key, task_id, self.owner))

    async def release(self, key: str) -> None:
        """See :meth:`.Ledger.release`."""
        await self._surely("release", verbs.Released(key, self.owner))

    async def hold(self, key: str, error: str | BaseException) -> None:
        """See :meth:`.Ledger.hold`."""
        await self._surely("hold", held_item(key, error, self.owner))

    async def finish(self, result: Finished) -> None:
        """See :meth:`.Ledger.finish`."""
        await self._surely("finish", verbs.Ended(result, self.owner))

    # -- the event loop's side --------------------------------------------------------------------------

    def _put(self, verb: str, item: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._closed:
                raise LedgerError("this AsyncLedger is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="aio-ledger", daemon=True)
                self._thread.start()
            self._calls.append(_Call(verb, item, future))
            self._wake.notify()
        return future

    async def _call(self, verb: str, item: Any) -> Any:
        return await self._put(verb, item)

    async def _surely(self, verb: str, item: Any) -> Any:
        return await asyncio.shield(self._put(verb, item))

    # -- the writer's side ------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._calls or self._closed, timeout=self._pause())
                batch = [self._calls.popleft() for _ in range(min(len(self._calls), _MOST))]
                if not batch and self._closed:
                    return
            self._carry_out(batch)
            self._keep_leases()

    def _pause(self) -> float | None:
        return max(0.0, self._renew_at - time.monotonic()) if self._open else None

    def _keep_leases(self) -> None:
        # By the monotonic clock: a machine clock that is set back must not delay a renewal.
        if not self._open or time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + self.ledger.lease.total_seconds() / 3
        try:
            self.ledger.renew(self.owner)
        except Exception as error:  # noqa: BLE001 - whoever waits must not be left waiting for this thread
            log.warning("leases not renewed: %s", error)  # the verb that follows the POST raises it

    def _carry_out(self, batch: Sequence[_Call]) -> None:
        batch = [call for call in batch if not (call.verb == "intend" and call.was_cancelled)]
        plans = [call for call in batch if call.verb == "plan"]
        steps = [call for call in batch if call.verb in _ORDER]
        self._guard(steps, self._steps)
        for policy in dict.fromkeys(call.item[0] for call in plans):
            self._guard([call for call in plans if call.item[0] == policy], self._plans)
        for call in batch:
            if call.verb in _READ:
                self._guard([call], self._read)
        self._track(steps)
        self._deliver(batch)

    def _guard(self, calls: Sequence[_Call], work: Any) -> None:
        """Do ``work`` for all these calls at once; where one of them spoils it for all, one at a time."""
        if not calls:
            return
        try:
            work(calls)
        except Exception as error:  # noqa: BLE001 - it is raised in the callers
            if len(calls) > 1 and not isinstance(error, LedgerUnavailableError):
                for call in calls:
                    self._guard([call], work)
                return
            paid = [call.item for call in calls if call.verb == "accept"]
            for item in paid:  # a run raises one error; the log has every id
                log.error("job %s was accepted as task %s, which is not on record", item.key, item.task_id)
            for call in calls:
                call.error = _own(error, call, paid)

    def _steps(self, calls: Sequence[_Call]) -> None:
        groups = [(verb, [call for call in calls if call.verb == verb]) for verb in _ORDER]
        intents = groups[-1][1]
        if intents:
            try:
                self.ledger.store.require_room()
            except LedgerUnavailableError as error:
                for call in intents:
                    call.error = _own(error, call)
                groups.pop()
        try:
            self._commit(groups)
        except LedgerUnavailableError as error:
            # Claims fail at once: nothing has been spent. The rest has been, and is tried for longer.
            for call in intents:
                call.error = _own(error, call)
            self._commit([group for group in groups if group[0] != "intend"], patient=True)

    def _commit(self, groups: Sequence[tuple[str, list[_Call]]], *, patient: bool = False) -> None:
        self._events = []
        if any(members for _, members in groups):
            self.ledger.store.attempt(lambda conn: self._transact(conn, groups), patient=patient)
        self.ledger.tell(self._events)

    def _transact(self, conn: Connection, groups: Sequence[tuple[str, list[_Call]]]) -> None:
        now: datetime = self.ledger.store.now(conn)
        for verb, calls in groups:
            if not calls:
                continue
            items = [call.item for call in calls]
            if verb == "intend":
                done = verbs.intend(conn, items, now=now, lease=self.ledger.lease)
                verdicts, self._events = done.verdicts, done.events
                for call, wins in zip(calls, done.won, strict=True):
                    call.answer = wins
            else:
                verdicts = getattr(verbs, verb)(conn, items, now=now)
            for call, verdict in zip(calls, verdicts, strict=True):
                call.error = verdict

    def _plans(self, calls: Sequence[_Call]) -> None:
        policy: Policy = calls[0].item[0]
        wanted = [job for call in calls for job in call.item[1]]
        entries = iter(plan(self.ledger.store, wanted, policy))
        for call in calls:
            call.answer = [next(entries) for _ in call.item[1]]

    def _read(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            if call.verb == "durations":
                call.answer = reading.durations(self.ledger.store, *call.item)
            else:
                call.answer = getattr(self.ledger, call.verb)(call.item)

    def _track(self, steps: Sequence[_Call]) -> None:
        """Remember which intents are open, for their leases."""
        before = bool(self._open)
        for call in steps:
            if call.verb != "intend":
                self._open.discard(call.item.key)
            elif call.claimed:
                self._open.add(call.item.key)
        if self._open and not before:
            self._renew_at = time.monotonic() + self.ledger.lease.total_seconds() / 3

    def _deliver(self, batch: Sequence[_Call]) -> None:
        waiting = [(call.future.get_loop(), call) for call in batch if call.future is not None]
        for loop in dict.fromkeys(loop for loop, _ in waiting):
            mine = [call for its, call in waiting if its is loop]
            try:
                loop.call_soon_threadsafe(self._hand_over, mine)
            except RuntimeError:  # the loop is closed: nobody waits, and nobody will POST
                self._give_back([call.item.key for call in mine if call.claimed])

    def _hand_over(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            if call.future is None or call.was_cancelled:
                continue
            if call.error is not None:
                call.future.set_exception(call.error)
            else:
                call.future.set_result(call.answer)
        self._give_back([call.item.key for call in calls if call.claimed and call.was_cancelled])

    def _give_back(self, keys: Sequence[str]) -> None:
        """Release intents whose caller went away before it could submit: nothing was sent."""
        if not keys:
            return
        with self._wake:
            for key in keys:
                self._calls.append(_Call("release", verbs.Released(key, self.owner)))
            self._wake.notify()


def _own(error: Exception, call: _Call, paid: Sequence[verbs.Accepted] = ()) -> Exception:
    """The error for one caller: its own object, so that tracebacks do not pile up on a shared one.

    :param paid: accepted jobs whose ids could not be written; a caller with one of them is told all.
    """
    if not isinstance(error, LedgerError) or isinstance(error, JobConflictError):
        return error
    own: LedgerError
    if isinstance(error, LedgerUnavailableError) and call.verb == "accept":
        own = unrecorded(error, paid)
    else:
        own = type(error)(str(error), keys=[call.item.key] if call.verb in _ORDER else ())
    own.__cause__ = error
    return own
