"""Enrich a Parquet file on Dask: a picture for each product, each paid for once.

    pip install 'aio-provider[dask,sandbox,postgres]'
    aio sandbox                           # in another terminal; it prints AIO_API_KEY and AIO_BASE_URL
    export AIO_LEDGER=postgresql://…      # one ledger and one limit for all workers
    export AIO_LIMITER_URL=$AIO_LEDGER
    python examples/on_dask.py dags_examples/data/products.parquet pictures

The workers of the cluster need the same four variables.
"""

from __future__ import annotations

import sys

import dask.dataframe as dd
import pyarrow.parquet as pq

import aio_provider as aio


def enrich(source: str, output: str) -> None:
    """Read ``source``, make a picture for each row on the workers, write ``output`` (a folder of Parquet)."""
    products = dd.read_parquet(source).repartition(npartitions=4)
    picture = aio.BatchFunction(
        "image",
        model="flux-2",
        prompt=aio.template("Product photo of {description}, on {surface}, soft daylight"),
        key="sku",  # which row is which, whatever partition it is in
    )
    enriched = products.map_partitions(picture, meta=picture(products._meta))
    schema = picture.arrow_schema(pq.read_schema(source))  # Dask cannot infer that of a column of lists
    enriched.to_parquet(output, schema=schema, write_index=False)


if __name__ == "__main__":
    from distributed import Client

    with Client():
        enrich(*sys.argv[1:])
    print(dd.read_parquet(sys.argv[2])[["sku", "aio_status", "aio_credits"]].head())
