"""The sensor that waits for a task submitted elsewhere. It only ever sends GETs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from aio_provider.api.errors import AioError
from aio_provider.hooks.aio import AioHook, open_client
from aio_provider.hooks.results import result_of
from aio_provider.links.aio import AioTaskLink, no_links_yet
from aio_provider.triggers.aio import AioTaskTrigger
from aio_provider.triggers.events import DONE, EXPIRED, FATAL, PASSING, TIMEOUT, event_of_error

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class AioTaskSensor(BaseSensorOperator):
    """
    Wait for a task of the service, by its id, whoever submitted it.

    Returns (XCom) the result of the operators: ``{"task_id", "status", "urls", "credits", "model", ...}``.

    Raises ``AirflowFailException`` when the task failed or the service does not know it: a retry would only
    ask for the same one. ``soft_fail`` and the other sensor arguments work as everywhere.

    :param aio_task_id: the service's id (templated). (``task_id`` is Airflow's name for its own task.)
    :param kind: kind of generation; with ``model`` it tells how long to expect, and saves requests.
    :param model: model (templated).
    :param aio_conn_id: connection id.
    :param deferrable: wait in the triggerer (default). Otherwise on the worker, with the same engine; or in
        ``mode="reschedule"`` with one request each ``poke_interval``.
    """

    template_fields: Sequence[str] = ("aio_task_id", "model", "aio_conn_id")
    operator_extra_links = (AioTaskLink(),)
    ui_color = "#e6f4f1"

    def __init__(
        self,
        *,
        aio_task_id: str,
        kind: str = "custom",
        model: str | None = None,
        aio_conn_id: str = AioHook.default_conn_name,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.aio_task_id = aio_task_id
        self.kind = kind
        self.model = model
        self.aio_conn_id = aio_conn_id
        self.deferrable = deferrable

    @cached_property
    def hook(self) -> AioHook:
        """The hook of ``aio_conn_id``."""
        return AioHook(self.aio_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait, by deferring where that is asked for."""
        no_links_yet(self)
        AioTaskLink.persist(context, f"{self.hook.settings.base_url}/tasks/{self.aio_task_id}")
        if not self.deferrable and self.mode == "reschedule":
            return super().execute(context)
        now = time.time()
        trigger = AioTaskTrigger(
            aio_task_id=self.aio_task_id,
            aio_conn_id=self.aio_conn_id,
            kind=self.kind,
            model=self.model,
            submitted_at=now,
            deadline=now + self.timeout,
        )
        if self.deferrable:
            self.defer(trigger=trigger, method_name="execute_complete", timeout=self.execution_timeout)
        return self.execute_complete(context, asyncio.run(trigger.payload(self.hook)))

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask once."""
        try:
            # One request a poke: what passes is asked for by the next one.
            with open_client(self.hook.settings, retry=None) as client:
                task = client.get_task(self.aio_task_id)
        except AioError as error:
            event = event_of_error(error)
            if event["status"] == PASSING:
                self.log.warning("Task %s: %s", self.aio_task_id, error)
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(is_done=True, xcom_value=self.execute_complete(context, event))
        if not task.done:
            return PokeReturnValue(is_done=False)
        event = {"status": DONE, "task": task.to_dict()}
        return PokeReturnValue(is_done=True, xcom_value=self.execute_complete(context, event))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Resume after the trigger."""
        status = event["status"]
        if status == DONE:
            result = result_of(event["task"], kind=self.kind, model=self.model, submitted_at=None)
            if result["status"] != "succeeded":
                raise AirflowFailException(
                    f"Task {self.aio_task_id} failed at the service: {result['error']}"
                )
            AioTaskLink.persist(context, next(iter(result["urls"]), ""))
            return result
        message = f"Task {self.aio_task_id}: {event['error']}"
        if status == TIMEOUT:
            raise AirflowSensorTimeout(message)
        if status in (FATAL, EXPIRED):
            raise AirflowFailException(message)
        raise AirflowException(message)
