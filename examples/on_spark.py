"""Enrich a Parquet file on Apache Spark: a picture for each product, each paid for once.

    pip install 'aio-provider[spark,sandbox,postgres]'
    aio sandbox                           # in another terminal; it prints AIO_API_KEY and AIO_BASE_URL
    export AIO_LEDGER=postgresql://…      # one ledger and one limit for all workers
    export AIO_LIMITER_URL=$AIO_LEDGER
    python examples/on_spark.py dags_examples/data/products.parquet pictures

The workers need the same four variables: the cluster's own secrets are the place for the key, never Spark's
configuration, which its UI shows.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import aio_provider as aio

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def enrich(spark: SparkSession, source: str, output: str) -> None:
    """Read ``source``, make a picture for each row on the workers, write ``output`` (a folder of Parquet)."""
    products = spark.read.parquet(source).repartition(4, "sku")
    picture = aio.BatchFunction(
        "image",
        model="flux-2",
        prompt=aio.template("Product photo of {description}, on {surface}, soft daylight"),
        key="sku",  # which row is which, whatever partition it is in
    )
    enriched = products.mapInPandas(picture.batches, picture.spark_schema(products.schema))
    enriched.write.mode("overwrite").parquet(output)


if __name__ == "__main__":
    from pyspark.sql import SparkSession

    session = SparkSession.builder.appName("aio_provider").getOrCreate()
    enrich(session, *sys.argv[1:])
    session.read.parquet(sys.argv[2]).select("sku", "aio_status", "aio_credits", "aio_url").show(5)
