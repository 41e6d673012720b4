"""The trigger that waits for one task of the service. It sends GETs only, so a restart costs nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from aio_provider.api.errors import AioError
from aio_provider.hooks.aio import AioHook
from aio_provider.triggers.events import DONE, event_of_error, going_on


class AioTaskTrigger(BaseTrigger):
    """
    Wait for a task that was submitted already.

    The arguments are stored in Airflow's database: they hold ids and times, never the key or the prompt. All
    triggers of one key in a triggerer share one poller, hence one client, one rate budget and one polling
    plan.

    :param aio_task_id: the service's id. (``task_id`` is Airflow's name for its own task.)
    :param aio_conn_id: connection id.
    :param kind: kind of generation; with ``model`` it tells the poller how long to expect.
    :param model: model, where one was named.
    :param submitted_at: when the task was submitted, in seconds since 1970.
    :param deadline: when to give up, in seconds since 1970: on the wall clock, so that a restarted triggerer
        does not begin to count anew.
    :param job_key: the job's key in the ledger; handed back in the event.
    """

    def __init__(
        self,
        *,
        aio_task_id: str,
        aio_conn_id: str,
        kind: str,
        model: str | None,
        submitted_at: float,
        deadline: float,
        job_key: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.aio_task_id = aio_task_id
        self.aio_conn_id = aio_conn_id
        self.kind = kind
        self.model = model
        self.submitted_at = submitted_at
        self.deadline = deadline
        self.job_key = job_key

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as they are stored."""
        return (
            "aio_provider.triggers.aio.AioTaskTrigger",
            {
                "aio_task_id": self.aio_task_id,
                "aio_conn_id": self.aio_conn_id,
                "kind": self.kind,
                "model": self.model,
                "submitted_at": self.submitted_at,
                "deadline": self.deadline,
                "job_key": self.job_key,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event, see :meth:`payload`; errors of our own making are raised."""
        yield TriggerEvent(await self.payload(AioHook(self.aio_conn_id)))  # type: ignore[no-untyped-call]

    async def payload(self, hook: AioHook) -> dict[str, Any]:
        """Wait, and say how it ended, as plain JSON: ``status`` is one of this module's five words."""
        event = {name: value for name, value in self.serialize()[1].items() if name != "deadline"}
        try:
            task = await hook.watch(
                self.aio_task_id,
                kind=self.kind,
                model=self.model,
                submitted_at=self.submitted_at,
                deadline=self.deadline,
            )
        except AioError as error:
            return {**event, **event_of_error(error)}
        return {**event, "status": DONE, "task": task.to_dict()}

    async def on_kill(self) -> None:
        """Cancel nothing: the service has no such call, and a cleared task re-attaches (Airflow 3.3+)."""
        self.log.warning(going_on(self.aio_task_id))
