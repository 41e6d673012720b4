"""Submit in one task, wait in another: for jobs that were submitted elsewhere, say by a web shop."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import dag, task

from aio_provider.sensors.aio import AioTaskSensor


@dag(
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["aio", "example"],
    doc_md=__doc__,
)
def wait_for_task() -> None:
    """Somebody submits; a sensor waits."""

    @task(retries=0)  # it pays, and keeps no record: an operator would
    def submit_elsewhere() -> str:
        """Stands for whoever submitted the job and passed its id on."""
        from aio_provider.api.requests import GenerationRequest
        from aio_provider.hooks.aio import AioHook

        with AioHook().get_conn() as client:
            return client.submit(GenerationRequest.image("A paper boat on a calm lake", model="flux-2")).id

    AioTaskSensor(
        task_id="wait", aio_task_id=submit_elsewhere(), kind="image", model="flux-2", timeout=15 * 60
    )


wait_for_task()
