"""DAGs of the end-to-end tests, run by real Airflow processes."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from aio_provider.operators.aio import (
    AioGenerateImageOperator,
    AioGenerateMusicOperator,
    AioGenerateSpeechOperator,
)

# A sandbox whose clock the test moves: what is submitted there runs until the test says so.
STILL = "aio_still"


@dag(schedule=None)
def many():
    """More waiting tasks than there are worker slots."""
    AioGenerateImageOperator.partial(task_id="picture", aio_conn_id=STILL).expand(
        prompt=[f"A still life with {n} pears" for n in range(3, 15)]
    )


@dag(schedule=None)
def plain():
    """A task that needs a worker slot and nothing else."""

    @task
    def answer() -> int:
        return 42

    answer()


@dag(schedule=None)
def deferred():
    """One task that waits in the triggerer."""
    AioGenerateImageOperator(
        task_id="picture",
        prompt="Waves against a pier",
        aio_conn_id=STILL,
        retries=2,
        retry_delay=timedelta(seconds=1),
    )


class KilledOperator(AioGenerateImageOperator):
    """Its process is gone, by SIGKILL, at one point of the first try.

    :param point: ``answered``: the service's answer has come, and nobody has written it down;
        ``recorded``: the id is on record, and the task has not been deferred yet.
    """

    def __init__(self, *, point: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.point = point

    def execute(self, context: Any) -> Any:
        self._first_try = context["ti"].try_number == 1
        return super().execute(context)

    def _answer_of(self, record: Any, request: Any, sending: Any) -> Any:
        answer = super()._answer_of(record, request, sending)
        self._die_at("answered")
        return answer

    def _trigger(self, *arguments: Any) -> Any:
        self._die_at("recorded")
        return super()._trigger(*arguments)

    def _die_at(self, point: str) -> None:
        if self._first_try and point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


def recovery(record: str):
    """Every way in which a paid task can be cut short, in one run.

    :param record: ``store``: Airflow's task state store; ``ledger``: the connection has a ``ledger_url``.
    """

    @dag(dag_id=f"recovery_{record}", schedule=None)
    def tasks():
        def common(task_id: str, conn: str = "rough") -> dict[str, Any]:
            return {
                "task_id": task_id,
                "aio_conn_id": f"aio_{conn}_{record}",
                "retries": 2,
                "retry_delay": timedelta(seconds=1),
            }

        AioGenerateMusicOperator(prompt=f"in_air {record}", **common("in_air"))
        AioGenerateSpeechOperator(dialogue=f"not_taken {record}", **common("not_taken"))
        for point in ("answered", "recorded"):
            KilledOperator(point=point, prompt=f"{point} {record}", **common(point))
        for name in ("waiting", "cleared", "marked_failed"):
            AioGenerateImageOperator(prompt=f"{name} {record}", **common(name))
        AioGenerateImageOperator(
            prompt=f"on_worker {record}", deferrable=False, **common("on_worker", "worker")
        )

    tasks()


many()
plain()
deferred()
for record in ("store", "ledger"):
    recovery(record)
