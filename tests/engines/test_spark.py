"""``mapInPandas`` on a real Spark cluster: two executors, one of which is killed, and speculative tasks."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames.schema import column_names
from examples import on_spark
from tests.engines.conftest import PRODUCTS, Shared, require_enriched

pyspark = pytest.importorskip("pyspark", reason="pip install 'aio-provider[spark]'")
pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("spark")]


@pytest.fixture
def spark(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A master and two workers with an executor each."""
    from pyspark.sql import SparkSession

    if shutil.which("java") is None:
        if os.environ.get("AIO_TEST_REQUIRE_SERVICES") == "1":
            pytest.fail("no java")
        pytest.skip("Spark needs a Java runtime, and there is no java")
    monkeypatch.setenv("SPARK_HOME", str(Path(pyspark.__file__).parent))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_WORKER_DIR", str(tmp_path))
    builder = SparkSession.builder.master("local-cluster[2,1,1024]").appName("aio_provider tests")
    settings = {
        "spark.ui.enabled": "false",
        "spark.executor.memory": "512m",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "4",
        "spark.local.dir": str(tmp_path),
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.minTaskRuntime": "1s",
    }
    # the JVM lives on from test to test, with the environment that it was started in
    workers = {name: value for name, value in os.environ.items() if name.startswith("AIO_")}
    settings |= {f"spark.executorEnv.{name}": value for name, value in workers.items()}
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


class Troubled:
    """The batch function on a cluster where things go wrong after the work was done and paid for.

    The first try of partition 0 takes its executor down; that of partition 1 hangs until its copy is through.
    """

    def __init__(self, function: aio.BatchFunction, seen: Path) -> None:
        self.function = function
        self.seen = seen

    def batches(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import psutil
        from pyspark import TaskContext

        context = TaskContext.get()
        done = list(self.function.batches(frames))
        mark = self.seen / f"partition-{context.partitionId()}"
        first = not mark.exists()
        mark.touch()
        if first and context.partitionId() == 0:
            executor = next(one for one in psutil.Process().parents() if "java" in one.name())
            executor.kill()
        elif first and context.partitionId() == 1:
            (self.seen / "hung").touch()
            time.sleep(60)  # until Spark ends this one, since the copy was faster
        yield from done


def test_a_killed_executor_and_a_speculative_task_pay_nothing_twice(
    spark: Any, shared: Shared, rows: pd.DataFrame, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    picture = aio.BatchFunction("image", model="flux-2", prompt="caption", key="sku")
    table = spark.createDataFrame(rows).repartition(4, "sku")
    schema = picture.spark_schema(table.schema)
    out = table.mapInPandas(Troubled(picture, seen).batches, schema).toPandas()
    assert (seen / "hung").exists()
    assert len(list(seen.glob("partition-*"))) == table.rdd.getNumPartitions()
    assert sorted(out["sku"]) == list(rows["sku"])
    assert list(out.columns) == ["sku", "caption", *column_names()]
    assert set(out["aio_status"]) == {"succeeded"}
    shared.require_paid_once(len(rows))


def test_the_types_are_those_of_the_schema(spark: Any, shared: Shared, rows: pd.DataFrame) -> None:
    picture = aio.BatchFunction("image", model="flux-2", prompt="caption", key="sku")
    table = spark.createDataFrame(rows.head(3))
    made = table.mapInPandas(picture.batches, picture.spark_schema(table.schema))
    kinds = {field.name: field.dataType.simpleString() for field in made.schema.fields}
    assert kinds["aio_urls"] == "array<string>"
    assert kinds["aio_credits"] == "double"
    assert kinds["aio_finished_at"] == "timestamp"
    row = made.orderBy("sku").first()
    assert row["aio_urls"] == [row["aio_url"]]
    assert row["aio_finished_at"] >= row["aio_submitted_at"]
    assert os.environ["AIO_API_KEY"] not in str(row)


def test_the_example(spark: Any, shared: Shared, tmp_path: Path) -> None:
    on_spark.enrich(spark, str(PRODUCTS), str(tmp_path / "pictures"))
    on_spark.enrich(spark, str(PRODUCTS), str(tmp_path / "pictures"))  # again: free
    require_enriched(pd.read_parquet(tmp_path / "pictures"))
    shared.require_paid_once(24)
