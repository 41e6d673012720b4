"""Enrich a Parquet file on Ray: a picture for each product, each paid for once.

    pip install 'aio-provider[ray,sandbox,postgres]'
    aio sandbox                           # in another terminal; it prints AIO_API_KEY and AIO_BASE_URL
    export AIO_LEDGER=postgresql://…      # one ledger and one limit for all workers
    export AIO_LIMITER_URL=$AIO_LEDGER
    python examples/on_ray.py dags_examples/data/products.parquet pictures

The nodes of the cluster need the same four variables.
"""

from __future__ import annotations

import sys

import ray

import aio_provider as aio


def enrich(source: str, output: str) -> None:
    """Read ``source``, make a picture for each row on the workers, write ``output`` (a folder of Parquet)."""
    products = ray.data.read_parquet(source)
    picture = aio.BatchFunction(
        "image",
        model="flux-2",
        prompt=aio.template("Product photo of {description}, on {surface}, soft daylight"),
        key="sku",  # which row is which, whatever block it is in
    )
    enriched = products.map_batches(picture, batch_format="pyarrow", batch_size=100)
    enriched.write_parquet(output)


if __name__ == "__main__":
    enrich(*sys.argv[1:])
    print(ray.data.read_parquet(sys.argv[2]).select_columns(["sku", "aio_status", "aio_credits"]).take(5))
