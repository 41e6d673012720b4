"""The trigger that waits for many tasks of the service at once, and wakes the worker a chunk at a time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from aio_provider.api.errors import AioError, TaskTimeoutError
from aio_provider.hooks.aio import AioHook
from aio_provider.triggers.events import DONE, EXPIRED, TIMEOUT, event_of_error

if TYPE_CHECKING:
    from aio_provider.api.tasks import Task
    from aio_provider.jobs.poller import Accepted, Poller

#: further words for an event's ``status``: a chunk is full; it is time for the next wave of submissions
CHUNK, WAKE = "chunk", "wake"

#: seconds for a look at tasks whose deadline passed unwatched
_LATE_LOOK = 60.0
#: bytes of outcomes in one event, which Airflow keeps in a database row
_EVENT_BYTES = 256_000


class AioBatchTrigger(BaseTrigger):
    """
    Wait for many tasks that were submitted already. Ids in, outcomes out.

    Fires when all have ended, when a chunk of outcomes is full, at ``wake_at``, or at the deadline. The
    worker takes the outcomes and defers again with what is left. Like all triggers here it sends GETs only,
    holds no key and no prompt, and shares the poller of its key.

    :param aio_conn_id: connection id.
    :param groups: ``[{"kind": "image", "model": "flux-2", "ids": [...], "submitted_at": [...]}, ...]``; times
        are seconds since 1970. Flat lists: of a list for each task, and of all that is in one, a triggerer
        would hold as many objects as there are tasks.
    :param deadline: when to give up, in seconds since 1970.
    :param chunk: the most outcomes in one event.
    :param wake_at: when to fire although tasks are still running, in seconds since 1970: say, once the rate
        budget has room for more submissions. ``None``: never.
    :param sparing: more submissions are to come, and share the limit: spend fewer requests on polls, and do
        not fire before ``wake_at`` because all have ended.
    :param carry: text that is handed back in the event, as ``carry``: ``dag.test()`` drops the ``kwargs`` of
        a deferral. Text, since nobody in the triggerer looks into it.
    """

    def __init__(
        self,
        *,
        aio_conn_id: str,
        groups: Sequence[Mapping[str, Any]],
        deadline: float,
        chunk: int = 500,
        wake_at: float | None = None,
        sparing: bool = False,
        carry: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.aio_conn_id = aio_conn_id
        self.groups = groups
        self.deadline = deadline
        self.chunk = chunk
        self.wake_at = wake_at
        self.sparing = sparing
        self.carry = carry

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as they are stored."""
        return (
            "aio_provider.triggers.aio.AioBatchTrigger",
            {
                "aio_conn_id": self.aio_conn_id,
                "groups": [dict(group) for group in self.groups],
                "deadline": self.deadline,
                "chunk": self.chunk,
                "wake_at": self.wake_at,
                "sparing": self.sparing,
                "carry": self.carry,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: ``{"status", "outcomes", "pending"}``, ``error`` and ``carry`` where there is one.

        ``status`` is ``done``, ``chunk``, ``wake``, ``timeout`` or ``fatal``. ``outcomes`` are tasks as
        :meth:`~aio_provider.api.tasks.Task.to_dict` gives them; the status of one that the service no longer
        knows is ``expired``. ``pending`` is how many were not done.
        """
        yield TriggerEvent(await self.payload(AioHook(self.aio_conn_id)))  # type: ignore[no-untyped-call]

    async def payload(self, hook: AioHook) -> dict[str, Any]:
        """Wait, and say how it went."""
        outcomes: list[dict[str, Any]] = []
        try:
            async with hook.poller() as poller:
                status = await _Batch(self, poller).collect(outcomes)
                error: dict[str, Any] = {}
        except AioError as failure:
            error = event_of_error(failure)
            status = error["status"]
        event = {**error, "status": status, "outcomes": outcomes, "pending": self._count() - len(outcomes)}
        return event if self.carry is None else {**event, "carry": self.carry}

    async def on_kill(self) -> None:
        """Cancel nothing: the service has no such call."""
        self.log.warning(
            "%d tasks go on at the service: it has no call to cancel them. They are paid for; clearing this "
            "Airflow task picks their results up and pays nothing.",
            self._count(),
        )

    def _count(self) -> int:
        return sum(len(group["ids"]) for group in self.groups)


class _Batch:
    """One wait for everyone who is still running."""

    def __init__(self, trigger: AioBatchTrigger, poller: Poller) -> None:
        self._trigger = trigger
        self._poller = poller

    def _tasks(self) -> Iterator[Accepted]:
        from aio_provider.jobs.poller import Accepted  # not at import: DAG files are parsed all the time

        for group in self._trigger.groups:
            for aio_task_id, submitted_at in zip(group["ids"], group["submitted_at"], strict=True):
                yield Accepted(aio_task_id, group["kind"], group["model"], submitted_at)

    async def collect(self, outcomes: list[dict[str, Any]]) -> str:
        """Gather outcomes until it is time to fire; why it is.

        :raises AioError: what concerns every task, such as a refused key.
        """
        trigger, size = self._trigger, 0
        fire_at = min(trigger.deadline, trigger.wake_at or trigger.deadline)
        if trigger.deadline <= time.time():  # it passed while nobody looked: the triggerer was down
            fire_at = time.time() + _LATE_LOOK
        left = len({aio_task_id for group in trigger.groups for aio_task_id in group["ids"]})
        watch = self._poller.watch_many(self._tasks(), deadline=fire_at, sparing=trigger.sparing)
        async with aclosing(watch) as found:
            async for aio_task_id, result in found:
                if isinstance(result, TaskTimeoutError):
                    return WAKE if time.time() < trigger.deadline else TIMEOUT
                outcomes.append(_outcome(aio_task_id, result))
                size += len(json.dumps(outcomes[-1]))
                left -= 1
                if left and (len(outcomes) >= trigger.chunk or size >= _EVENT_BYTES):
                    return CHUNK
        if not trigger.sparing or trigger.wake_at is None:
            return DONE
        await asyncio.sleep(max(fire_at - time.time(), 0.0))  # before that there is no room for the next wave
        return WAKE


def _outcome(aio_task_id: str, result: Task | AioError) -> dict[str, Any]:
    if not isinstance(result, AioError):
        return result.to_dict()
    status = event_of_error(result)["status"]
    if status != EXPIRED:  # it concerns every task
        raise result
    return {
        "task_id": aio_task_id,
        "status": status,
        "urls": [],
        "credits": None,
        "model": None,
        "error": str(result),
        "created_at": None,
    }
