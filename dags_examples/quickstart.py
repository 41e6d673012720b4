"""The shortest DAG: one picture. Waits in the triggerer, not in a worker slot; a retry never pays again."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from aio_provider.operators.aio import AioGenerateImageOperator

with DAG("aio_quickstart", schedule=None, tags=["aio", "example"]):
    AioGenerateImageOperator(
        task_id="picture",
        prompt="A red fox in the snow, {{ ds_nodash | default('today') }}",
        model="flux-2",
        retries=2,
        retry_delay=timedelta(seconds=5),
    )
