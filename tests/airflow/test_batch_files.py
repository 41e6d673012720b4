"""Where a batch reads and writes: with the credentials of the connections that its URLs name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath

from aio_provider.links.aio import AioOutputLink
from aio_provider.operators.aio import AioGenerateFromParquetOperator
from aio_provider.operators.batch_files import airflow_storage, output_of, plain_url
from aio_provider.sandbox import Sandbox

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2.11
    from airflow.io.store import attach  # type: ignore[no-redef]

from .conftest import Instance, StateStore
from .test_from_parquet import attempt


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of a real S3 server, which only Airflow's connection ``warehouse`` knows the way to."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    fs = s3fs.S3FileSystem(
        key="key", secret=secrets.token_hex(8), client_kwargs={"endpoint_url": f"http://{host}:{port}"}
    )
    fs.makedirs("shop", exist_ok=True)
    attach("s3", conn_id="warehouse", fs=fs)
    yield fs
    server.stop()


def test_an_object_store_by_its_connection(bucket: Any, aio_sandbox_env: Sandbox) -> None:
    with bucket.open("shop/in.parquet", "wb") as file:
        pd.DataFrame({"sku": [1, 2, 3], "caption": ["a cup", "a jug", "a bowl"]}).to_parquet(file)
    operator = AioGenerateFromParquetOperator(
        task_id="pictures",
        input_path=ObjectStoragePath("s3://warehouse@shop/in.parquet"),
        output_path="s3://warehouse@shop/out.parquet",
        kind="image",
        fields={"prompt": "caption"},
    )
    instance = Instance(store=StateStore())
    result = attempt(operator, instance.context(operator))
    assert (result["succeeded"], result["output_path"]) == (3, "s3://warehouse@shop/out.parquet")
    with bucket.open("shop/out.parquet", "rb") as file:
        assert pd.read_parquet(file)["aio_credits"].sum() == aio_sandbox_env.charged
    assert (
        instance.xcom["aio_output"] == "https://s3.console.aws.amazon.com/s3/object/shop?prefix=out.parquet"
    )
    import fsspec.config

    assert "s3" not in fsspec.config.conf, "the credentials were for this task"


def test_two_connections_of_one_kind(bucket: Any) -> None:
    paths = "s3://warehouse@shop/in.parquet", "s3://other@shop/out.parquet"
    with pytest.raises(AirflowFailException, match="'warehouse' and 'other'"), airflow_storage(*paths):
        pass


def test_a_connection_that_no_provider_knows() -> None:
    with pytest.raises(AirflowFailException, match="providers-amazon"), airflow_storage("odd://conn@x/y"):
        pass


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("s3://warehouse@shop/in.parquet", "s3://shop/in.parquet"),
        ("s3://shop/a@b.parquet", "s3://shop/a@b.parquet"),
        ("file:///data/in.parquet", "/data/in.parquet"),
        ("data/*.csv", "data/*.csv"),
        (Path("/data/in.parquet"), "/data/in.parquet"),
    ],
)
def test_plain_urls(path: str | os.PathLike[str], plain: str) -> None:
    assert plain_url(path) == plain


@pytest.mark.parametrize(
    ("output", "source", "index", "expected"),
    [
        ("out/", "in.parquet", -1, "out/"),
        ("out.parquet", "in.parquet", 3, "out.parquet"),
        ("s3://c@b/out/", "s3://c@b/day=1/part-0.parquet", 3, "s3://c@b/out/part-0-3.parquet"),
        ("out/", "in/*.parquet", 3, "out/_-3.parquet"),
    ],
)
def test_where_a_mapped_task_writes(output: str, source: str, index: int, expected: str) -> None:
    assert output_of(output, source, index) == expected


@pytest.mark.parametrize(
    ("output", "link"),
    [
        ("/data/out.parquet", "file:///data/out.parquet"),
        (
            "gs://shop/a b.parquet",
            "https://console.cloud.google.com/storage/browser/_details/shop/a%20b.parquet",
        ),
        ("https://files.example/out.parquet", "https://files.example/out.parquet"),
        ("javascript:alert(1)", None),
        ("abfs://box/out.parquet", None),
    ],
)
def test_the_link_to_the_output(output: str, link: str | None) -> None:
    instance = Instance()
    context: Any = instance.context(type("Task", (), {"task_id": "pictures"}))
    AioOutputLink.persist(context, output)
    assert instance.xcom.get("aio_output") == link
