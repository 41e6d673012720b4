"""DAGs of the end-to-end tests, run by real Airflow processes."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from aio_provider.operators.aio import AioGenerateImageOperator

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


@dag(schedule=None)
def on_worker():
    """One task that waits on the worker, where it can be killed."""
    AioGenerateImageOperator(
        task_id="picture",
        prompt="Wind in a field of barley",
        aio_conn_id=STILL,
        deferrable=False,
        retries=2,
        retry_delay=timedelta(seconds=1),
    )


many()
plain()
deferred()
on_worker()
