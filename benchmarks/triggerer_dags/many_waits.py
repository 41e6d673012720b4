"""The DAG of ``benchmarks/triggerer.py``: mapped tasks that each wait for one batch."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, dag, task

from aio_provider.jobs.flights import Flight
from aio_provider.operators.batch_run import State, groups_of
from aio_provider.triggers.aio import AioBatchTrigger


class WaitForBatch(BaseOperator):
    """Defers to one batch trigger, and to another with what is left, until it has fired ``chunks`` times.

    Each trigger carries what the batch operator's do: the state, with a line for each task in flight.
    """

    def __init__(self, *, batch: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def execute(self, context: Any) -> None:
        tasks = json.loads(Path(self.batch["ids"]).read_text())[self.batch["first"] : self.batch["last"]]
        kind, model, until = self.batch["kind"], self.batch["model"], time.time() + 86_400
        state = State(waves=1)
        for number, (task_id, at) in enumerate(tasks):
            key = hashlib.sha256(f"{task_id} {number}".encode()).hexdigest()
            state.flights[task_id] = (Flight(key, task_id, kind, model, at), until)
        self._wait(state)

    def go_on(self, context: Any, event: dict[str, Any]) -> None:
        assert event["status"] in ("chunk", "done"), event["status"]
        state = State.from_text(event["carry"])
        for outcome in event["outcomes"]:
            del state.flights[outcome["task_id"]]
        state.waves += 1
        if state.flights and state.waves <= self.batch["chunks"]:
            self._wait(state)

    def _wait(self, state: State) -> None:
        trigger = AioBatchTrigger(
            aio_conn_id=self.batch["aio_conn_id"],
            groups=groups_of(flight for flight, _ in state.flights.values()),
            deadline=time.time() + 86_400,
            carry=state.to_text(),
        )
        self.defer(trigger=trigger, method_name="go_on")


@dag(schedule=None)
def many_waits():
    """As many batches as the run's ``conf`` names."""

    @task
    def batches(dag_run: Any = None) -> list[dict[str, Any]]:
        return list(dag_run.conf["batches"])

    WaitForBatch.partial(task_id="wait").expand(batch=batches())


many_waits()
