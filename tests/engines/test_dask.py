"""``map_partitions`` on a real Dask cluster: two worker processes, one of which is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames.schema import column_names
from tests.engines.conftest import PRODUCTS, Shared, require_enriched

pytest.importorskip("distributed", reason="pip install 'aio-provider[dask]'")
pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("dask")]


@pytest.fixture
def client(shared: Shared, tmp_path: Path) -> Iterator[Any]:
    """A scheduler and two workers, processes of their own."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",
            host="127.0.0.1",
            local_directory=str(tmp_path),
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


class Killed:
    """The batch function, whose worker dies once: after the batch was paid for, before Dask has it."""

    def __init__(self, function: aio.BatchFunction, mark: Path) -> None:
        self.function = function
        self.mark = mark

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        out = self.function(batch)
        if len(batch) and "S00" in set(batch["sku"]) and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return out


def test_a_killed_worker_pays_nothing_twice(
    client: Any, shared: Shared, rows: pd.DataFrame, tmp_path: Path
) -> None:
    import dask.dataframe as dd

    picture = aio.BatchFunction("image", model="flux-2", prompt="caption", key="sku")
    table = dd.from_pandas(rows, npartitions=4)
    made = table.map_partitions(Killed(picture, tmp_path / "killed"), meta=picture(table._meta))
    out = client.compute(made).result(timeout=120)
    assert (tmp_path / "killed").exists()
    assert list(out["sku"]) == list(rows["sku"])
    assert list(out.columns) == ["sku", "caption", *column_names()]
    made_here = picture(rows.head(0))[column_names()]
    assert out[column_names()].dtypes.to_dict() == made_here.dtypes.to_dict()
    assert set(out["aio_status"]) == {"succeeded"}
    shared.require_paid_once(len(rows))


def test_the_example(client: Any, shared: Shared, tmp_path: Path) -> None:
    from examples import on_dask

    for _ in range(2):  # again: free
        on_dask.enrich(str(PRODUCTS), str(tmp_path / "pictures"))
    out = pd.read_parquet(tmp_path / "pictures")
    require_enriched(out)
    assert list(out.columns) == [*pd.read_parquet(PRODUCTS).columns, *column_names()]
    shared.require_paid_once(24)
