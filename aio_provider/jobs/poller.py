"""The one polling loop: task ids in, tasks out as they finish. Runner, triggers and sensor all use it.

It spends each request where its :class:`~aio_provider.jobs.polling.PollPlan` says, in turns of the key's
:class:`~aio_provider.jobs.pacing.RateBudget`, and only ever sends GETs. After polls that told nothing it
waits for as long as :class:`~aio_provider.jobs.backoff.Backoff` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, NamedTuple, Protocol

from aio_provider.api.errors import (
    AioError,
    AuthenticationError,
    InsufficientCreditsError,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TaskTimeoutError,
    TransportError,
)
from aio_provider.api.tasks import Task
from aio_provider.jobs.backoff import Backoff
from aio_provider.jobs.pacing import Priority, RateBudget, Turn
from aio_provider.jobs.polling import PollPlan

#: answers that say nothing about the task: ask again later
_PASSING = (TransportError, ServerError, RateLimitError, ProtocolError, InsufficientCreditsError)
#: polls under way at once, or a second's worth of the limit: more only slow down the connection pool
_CONCURRENCY = 16
#: seconds after which a poll that waits for its turn is thought over
_RETHINK = 2.0
#: tasks taken on before others have their turn of the event loop; many batches may begin at once
_SLICE = 50


class TaskSource(Protocol):
    """What the poller needs of a client."""

    async def get_task(self, task_id: str) -> Task: ...


class Accepted(NamedTuple):
    """A task to follow: its id, what it makes, and when it was accepted (seconds since the epoch)."""

    task_id: str
    kind: str
    model: str | None = None
    submitted_at: float | None = None


_Sink = Callable[[str, "Task | BaseException"], None]


class Poller:
    """Follows tasks until they are done.

    :param client: anything with an async ``get_task(task_id)``; its own retries should be off, so that each
        request is counted.
    :param budget: the key's budget.
    :param plan: what is known about latencies; a new one by default.
    :param user: in whose name turns are asked for (see :class:`RateBudget`); this poller by default.
    :param not_found_grace: seconds for which a 404 only means that the task is not visible yet, or not for
        the moment.
    :param clock: seconds, never going back.
    :param wall: seconds since the epoch, in which callers give times.
    :param observer: told of each poll that is sent (``"sent"``, and how many seconds after one was due), and
        of each 429 (``"refused"``), for metrics.
    """

    def __init__(
        self,
        client: TaskSource,
        budget: RateBudget,
        plan: PollPlan | None = None,
        *,
        user: object = None,
        not_found_grace: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        observer: Callable[[str, float], None] | None = None,
    ) -> None:
        self.client = client
        self.budget = budget
        self.plan = PollPlan() if plan is None else plan  # an empty plan is falsy
        self.plan.spacing = 60.0 / budget.per_minute if budget.per_minute else 0.0
        self._user = self if user is None else user
        self._most = max(_CONCURRENCY, int(budget.per_minute / 60))
        self._backoff = Backoff(not_found_grace)
        self._clock = clock
        self._wall = wall
        # Who is told of each task. A batch's tasks share one tuple: there may be a hundred thousand of them,
        # and each object that is kept makes the garbage collector's pauses longer, for the whole process.
        self._followed: dict[str, tuple[_Sink, ...]] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._polls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._sparing = 0
        self._tell = observer or (lambda step, late: None)

    def __len__(self) -> int:
        return len(self._followed)

    async def watch(
        self,
        task_id: str,
        *,
        kind: str,
        model: str | None = None,
        submitted_at: float | None = None,
        deadline: float | None = None,
    ) -> Task:
        """Wait until a task is done, succeeded or failed.

        Answers that are only passing (no connection, 5xx, 429, an unreadable body) are waited out.

        :param task_id: the service's id.
        :param kind: kind of generation, for what is known about its latency.
        :param model: the model.
        :param submitted_at: when it was accepted, seconds since the epoch; now by default.
        :param deadline: when to stop waiting, seconds since the epoch; never by default.
        :raises TaskTimeoutError: at the deadline; the task goes on at the service.
        :raises NotFoundError: the service has no such task, and went on saying so.
        :raises AuthenticationError: the key is refused; everyone who waits gets this.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Task] = loop.create_future()

        def sink(_: str, found: Task | BaseException) -> None:
            if result.done():
                return
            if isinstance(found, asyncio.CancelledError):
                result.cancel()
            elif isinstance(found, BaseException):
                result.set_exception(found)
            else:
                result.set_result(found)

        self._follow(Accepted(task_id, kind, model, submitted_at), (sink,))
        timer = None
        if deadline is not None:
            left = max(deadline - self._wall(), 0.0)
            timer = loop.call_later(left, lambda: sink(task_id, _timed_out(task_id)))
        try:
            return await result
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(task_id, sink)
            if result.done() and not result.cancelled():
                result.exception()  # seen: who left just now is no reason for a warning

    async def watch_many(
        self, tasks: Iterable[Accepted], *, deadline: float | None = None, sparing: bool = False
    ) -> AsyncGenerator[tuple[str, Task | AioError], None]:
        """Wait for many tasks; each comes as it is done, or with its own error.

        Costs well under a kilobyte a task, where a coroutine for each would take several.

        :param deadline: when to stop waiting, seconds since the epoch; those still running then come with a
            :class:`TaskTimeoutError`.
        :param sparing: poll as though submissions were waiting here: another process has some, and each poll
            takes a turn from it.
        :raises AuthenticationError: the key is refused.
        """
        found: asyncio.Queue[tuple[str, Task | BaseException]] = asyncio.Queue()

        def sink(task_id: str, result: Task | BaseException) -> None:
            found.put_nowait((task_id, result))

        sinks = (sink,)
        waiting: dict[str, None] = {}
        self._sparing += sparing
        try:
            for number, task in enumerate(tasks):
                if task.task_id not in waiting:
                    waiting[task.task_id] = None
                    self._follow(task, sinks)
                if number % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)  # others use this event loop too
            while waiting:
                try:
                    async with asyncio.timeout(self._left(deadline)):
                        task_id, result = await found.get()
                except TimeoutError:
                    break
                if isinstance(result, AuthenticationError) or not isinstance(result, Task | AioError):
                    raise result
                del waiting[task_id]
                yield task_id, result
            for task_id in list(waiting):
                self._leave(task_id, sink)
                del waiting[task_id]
                yield task_id, _timed_out(task_id)
        finally:
            self._sparing -= sparing
            for task_id in waiting:
                self._leave(task_id, sink)

    async def aclose(self) -> None:
        """Stop polling; whoever still waits gets a :class:`asyncio.CancelledError`."""
        tasks = [task for task in (self._loop_task, *self._polls) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._settle_all(asyncio.CancelledError())

    # -- who is followed

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(deadline - self._wall(), 0.0)

    def _follow(self, task: Accepted, sinks: tuple[_Sink, ...]) -> None:
        others = self._followed.get(task.task_id)
        if others is None:
            now = self._clock()
            age = 0.0 if task.submitted_at is None else max(self._wall() - task.submitted_at, 0.0)
            self._followed[task.task_id] = sinks
            self.plan.add(task.task_id, kind=task.kind, model=task.model, submitted_at=now - age, now=now)
            if self._loop_task is None or self._loop_task.done():
                self._loop_task = asyncio.create_task(self._poll_all())
            self._wake.set()
        else:
            self._followed[task.task_id] = others + sinks

    def _leave(self, task_id: str, sink: _Sink) -> None:
        sinks = self._followed.get(task_id)
        if sinks is None:
            return
        others = tuple(other for other in sinks if other is not sink)
        if others:
            self._followed[task_id] = others
            return
        del self._followed[task_id]
        self._backoff.forget(task_id)
        self.plan.discard(task_id)
        self._wake.set()

    def _settle(self, task_id: str, result: Task | BaseException) -> None:
        self._backoff.forget(task_id)
        for sink in self._followed.pop(task_id, ()):
            sink(task_id, result)

    def _settle_all(self, error: BaseException) -> None:
        """Tell everyone; who follows many tasks once, where the error ends all of that."""
        once = isinstance(error, AuthenticationError) or not isinstance(error, AioError)
        told: set[_Sink] = set()
        followed, self._followed = self._followed, {}
        self.plan.discard_all()
        for task_id, sinks in followed.items():
            self._backoff.forget(task_id)
            for sink in sinks:
                if not once or sink not in told:
                    told.add(sink)
                    sink(task_id, error)

    # -- the loop

    def _pressed(self) -> bool:
        return self._sparing > 0 or self.budget.submissions_waiting > 0

    async def _poll_all(self) -> None:
        """Ask after one task a turn, for as long as any is followed."""
        try:
            while self._followed:
                self._wake.clear()
                # While the service is down, one poll at a time finds out when it is back.
                if len(self._polls) >= (1 if self._backoff.failures else self._most):
                    await self._sleep(None)
                    continue
                if not self.plan.tidy():  # many have left at once, and others use this event loop too
                    await asyncio.sleep(0)
                    continue
                pressed = self._pressed()
                due = self.plan.next_due(self._clock(), pressed)
                if due is not None:
                    due = max(due, self._backoff.pause_until)
                if due is None or due > self._clock():
                    await self._sleep(due)
                    continue
                await self._take_turn(due)
        except Exception as error:  # noqa: BLE001 - it is raised in everyone who waits
            self._settle_all(error)

    async def _take_turn(self, due: float) -> None:
        """Get a turn, and use it for what is best when it comes.

        :param due: since when a poll has been worth its request.
        """
        if not self.budget.per_minute:  # its turn is now, unless a 429 shut the gate for all
            turn = self.budget.request(Priority.SURE_POLL, self._user)
            if not self._poll_soon(turn, await turn.__aenter__(), due):
                await asyncio.sleep(0)
            return
        priority = Priority.SURE_POLL if self.plan.sure(self._clock()) else Priority.SPARE_POLL
        turn = self.budget.request(priority, self._user)
        if priority is Priority.SPARE_POLL:
            # While it waits behind submissions, some task may become a sure one: ask again with more right.
            sure_at = self.plan.next_due(self._clock(), True) or float("inf")
            patience = min(max(sure_at - self._clock(), 0.05), _RETHINK)
        else:
            patience = _RETHINK
        try:
            async with asyncio.timeout(patience):
                held = await turn.__aenter__()
        except TimeoutError:
            return
        if not self._poll_soon(turn, held, due):
            await turn.__aexit__(None, None, None)
            await asyncio.sleep(0)

    def _poll_soon(self, turn: Any, held: Turn, due: float) -> bool:
        """Poll for what is best now, if there is anything."""
        task_id = self.plan.pick(self._clock(), self._pressed()) if self.plan.tidy() else None
        if task_id is None:
            held.withdraw()
            return False
        self._tell("sent", max(self._clock() - due, 0.0))
        poll = asyncio.create_task(self._poll(task_id, turn))
        self._polls.add(poll)
        poll.add_done_callback(self._polled)
        return True

    def _polled(self, poll: asyncio.Task[None]) -> None:
        self._polls.discard(poll)
        self._wake.set()
        if not poll.cancelled() and (error := poll.exception()) is not None:
            self._settle_all(error)

    async def _poll(self, task_id: str, turn: Any) -> None:
        sent_at = self._clock()
        try:
            task = await self.client.get_task(task_id)
        except _PASSING as error:
            self._passing(task_id, error)
        except NotFoundError as error:
            self._not_found(task_id, sent_at, error)
        except AuthenticationError as error:
            self._settle_all(error)
        except AioError as error:
            self.plan.discard(task_id)
            self._settle(task_id, error)
        else:
            self._backoff.reached()
            if task.done:
                self.plan.ended(task_id, self._clock())
                self._settle(task_id, task)
            else:
                self.plan.running(task_id, sent_at)
                self._backoff.forget(task_id)
        finally:
            await turn.__aexit__(None, None, None)

    def _passing(self, task_id: str, error: AioError) -> None:
        now = self._clock()
        if isinstance(error, RateLimitError):
            self._tell("refused", 0.0)
            self.budget.close_for(error.retry_after)
        elif isinstance(error, TransportError | ServerError):
            self._backoff.unreachable(error, now)
        if task_id in self._followed:
            self.plan.lost(task_id, self._backoff.failed(task_id, now))

    def _not_found(self, task_id: str, sent_at: float, error: NotFoundError) -> None:
        submitted_at = self.plan.submitted_at(task_id)
        if submitted_at is None:
            return
        self._backoff.reached()
        again_at = self._backoff.missing(task_id, submitted_at, sent_at, self._clock())
        if again_at is None:
            self.plan.discard(task_id)
            self._settle(task_id, error)
        else:
            self.plan.lost(task_id, again_at)

    async def _sleep(self, until: float | None) -> None:
        """Sleep until a time, or until a task comes, goes or is answered."""
        timeout = None if until is None else max(until - self._clock(), 0.0)
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return


def _timed_out(task_id: str) -> TaskTimeoutError:
    return TaskTimeoutError(
        f"Task {task_id} was still running at its deadline. It goes on at the service and can be picked up "
        "by its id.",
        task_id=task_id,
    )
