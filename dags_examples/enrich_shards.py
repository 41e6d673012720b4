"""Pictures for a table in shards: one mapped task a shard, all on one key, one rate limit and one ledger.

The products are ``data/products.parquet``. Each shard goes in waves: its rows are submitted on a worker,
which takes seconds, and waited for in the triggerer. Against the sandbox it is free: ``aio sandbox`` prints
the connection. Parameters: ``rows``, ``shards`` and ``output`` (a folder).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import Asset, Param, dag, task

from aio_provider.operators.aio import AioGenerateFromParquetOperator

PRODUCTS = Path(__file__).parent / "data" / "products.parquet"
PICTURES = Asset("x-aio://examples/product_pictures")


@dag(
    schedule=None,
    params={
        "rows": Param(12, type="integer", minimum=1, description="How many products"),
        "shards": Param(3, type="integer", minimum=1, maximum=20, description="In how many tasks"),
        "output": Param(os.environ.get("AIO_EXAMPLE_OUTPUT", "aio-output"), type="string"),
    },
    # A retry picks up what an attempt has paid for: it costs nothing.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["aio", "example"],
    doc_md=__doc__,
)
def enrich_shards() -> None:
    """A table in, a folder of enriched shards out."""

    @task
    def shards(params: dict[str, Any] | None = None, run_id: str | None = None) -> list[str]:
        """Cut the table; a real pipeline has its partitions already."""
        import pandas as pd

        assert params is not None
        rows, count = params["rows"], params["shards"]
        folder = Path(params["output"]).absolute() / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        (Path(params["output"]).absolute() / "pictures").mkdir(exist_ok=True)
        table = pd.read_parquet(PRODUCTS).head(rows)
        paths = []
        for number in range(count):
            path = folder / f"products-{number}.parquet"
            table.iloc[len(table) * number // count : len(table) * (number + 1) // count].to_parquet(path)
            paths.append(str(path))
        return paths

    pictures = AioGenerateFromParquetOperator.partial(
        task_id="pictures",
        output_path="{{ params.output }}/pictures/",  # a file there for each shard
        kind="image",
        model="flux-2",
        fields={"prompt": "Product photo of {description}, on {surface}, soft daylight"},
        request_params={"aspect_ratio": "1:1"},
        max_failures=0.1,
        overwrite=True,
        map_index_template="{{ task.input_path }}",
    ).expand(input_path=shards())

    @task(outlets=[PICTURES])
    def total(results: list[dict[str, Any]], outlet_events: Any = None) -> dict[str, float]:
        """What all shards came to."""
        figures = {name: sum(result[name] for result in results) for name in ("rows", "succeeded", "credits")}
        outlet_events[PICTURES].extra = {**figures, "failed": figures["rows"] - figures["succeeded"]}
        return figures

    total(pictures.output)


enrich_shards()
