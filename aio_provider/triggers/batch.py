"""The trigger that waits for many tasks of the service at once, and wakes the worker a chunk at a time."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from aio_provider.api.errors import AioError
from aio_provider.hooks.aio import AioHook
from aio_provider.triggers.events import DONE, EXPIRED, TIMEOUT, event_of_error

if TYPE_CHECKING:
    from aio_provider.api.tasks import Task
    from aio_provider.jobs.poller import Poller

#: further words for an event's ``status``: a chunk is full; it is time for the next wave of submissions
CHUNK, WAKE = "chunk", "wake"

#: tasks followed at once by one trigger. The budget allows about one poll a second, so more would only take
#: room; the oldest come first, since they end first.
_FOLLOWED = 200
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
    :param groups: ``[{"kind": "image", "model": "flux-2", "tasks": [[id, submitted_at], ...]}, ...]``; times
        are seconds since 1970.
    :param deadline: when to give up, in seconds since 1970.
    :param chunk: the most outcomes in one event.
    :param wake_at: when to fire although tasks are still running, in seconds since 1970: say, once the rate
        budget has room for more submissions. ``None``: never.
    """

    def __init__(
        self,
        *,
        aio_conn_id: str,
        groups: Sequence[Mapping[str, Any]],
        deadline: float,
        chunk: int = 500,
        wake_at: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.aio_conn_id = aio_conn_id
        self.groups = groups
        self.deadline = deadline
        self.chunk = chunk
        self.wake_at = wake_at

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
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: ``{"status", "outcomes", "pending"}``, and ``error`` where there is one.

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
        return {**error, "status": status, "outcomes": outcomes, "pending": self._count() - len(outcomes)}

    async def on_kill(self) -> None:
        """Cancel nothing: the service has no such call."""
        self.log.warning(
            "%d tasks go on at the service: it has no call to cancel them. They are paid for; clearing this "
            "Airflow task picks their results up and pays nothing.",
            self._count(),
        )

    def _count(self) -> int:
        return sum(len(group["tasks"]) for group in self.groups)


class _Batch:
    """One wait: who is followed, who is still to come."""

    def __init__(self, trigger: AioBatchTrigger, poller: Poller) -> None:
        self._trigger = trigger
        self._poller = poller
        everyone = [
            (submitted_at, aio_task_id, group["kind"], group["model"])
            for group in trigger.groups
            for aio_task_id, submitted_at in group["tasks"]
        ]
        self._to_come = deque(sorted(everyone, key=lambda one: one[0]))
        self._followed: dict[asyncio.Task[Task], str] = {}

    async def collect(self, outcomes: list[dict[str, Any]]) -> str:
        """Gather outcomes until it is time to fire; why it is.

        :raises AioError: what concerns every task, such as a refused key.
        """
        trigger, size = self._trigger, 0
        fire_at = min(trigger.deadline, trigger.wake_at or trigger.deadline)
        if trigger.deadline <= time.time():  # it passed while nobody looked: the triggerer was down
            fire_at = time.time() + _LATE_LOOK
        try:
            while True:
                await self._follow_more()
                if not self._followed:
                    return DONE
                left = max(fire_at - time.time(), 0.0)
                ended, _ = await asyncio.wait(
                    self._followed, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                for one in ended:
                    outcomes.append(_outcome(self._followed.pop(one), one))
                    size += len(json.dumps(outcomes[-1]))
                if not self._followed and not self._to_come:
                    return DONE
                if len(outcomes) >= trigger.chunk or size >= _EVENT_BYTES:
                    return CHUNK
                if not ended:
                    return WAKE if time.time() < trigger.deadline else TIMEOUT
        finally:
            for one in self._followed:
                one.cancel()
            await asyncio.gather(*self._followed, return_exceptions=True)

    async def _follow_more(self) -> None:
        while self._to_come and len(self._followed) < _FOLLOWED:
            submitted_at, aio_task_id, kind, model = self._to_come.popleft()
            watch = self._poller.watch(aio_task_id, kind=kind, model=model, submitted_at=submitted_at)
            self._followed[asyncio.create_task(watch)] = aio_task_id
            if len(self._followed) % 20 == 0:
                await asyncio.sleep(0)  # others run in this event loop too


def _outcome(aio_task_id: str, ended: asyncio.Task[Task]) -> dict[str, Any]:
    try:
        return ended.result().to_dict()
    except AioError as error:
        status = event_of_error(error)["status"]
        if status != EXPIRED:  # it concerns every task
            raise
        return {
            "task_id": aio_task_id,
            "status": status,
            "urls": [],
            "credits": None,
            "model": None,
            "error": str(error),
            "created_at": None,
        }
