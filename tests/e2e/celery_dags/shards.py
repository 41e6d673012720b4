"""A catalogue in six files, enriched by six mapped tasks on whatever worker is free."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from aio_provider.operators.aio import AioGenerateFromParquetOperator

FOLDER = os.environ["AIO_E2E_SHARDS"]

with DAG("shards", schedule=None):
    AioGenerateFromParquetOperator.partial(
        task_id="pictures",
        kind="image",
        model="flux-2",
        fields={"prompt": "caption"},
        key="sku",
        retries=5,
        retry_delay=timedelta(seconds=1),
    ).expand_kwargs(
        [
            {"input_path": f"{FOLDER}/in-{n}.parquet", "output_path": f"{FOLDER}/out-{n}.parquet"}
            for n in range(6)
        ]
    )
