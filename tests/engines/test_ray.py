"""``map_batches`` on a real Ray cluster: several worker processes, one of which is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import aio_provider as aio
from aio_provider.frames.schema import arrow_schema, column_names
from tests.engines.conftest import PRODUCTS, Shared, require_enriched

ray = pytest.importorskip("ray", reason="pip install 'aio-provider[ray]'")
pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("ray")]


@pytest.fixture
def cluster(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray on this machine, with room for two workers at once."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # this module, on the workers
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=100_000_000,
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


class Killed:
    """The batch function, whose worker dies once: after the batch was paid for, before Ray has it."""

    def __init__(self, function: aio.BatchFunction, mark: Path) -> None:
        self.function = function
        self.mark = mark

    def __call__(self, batch: pa.Table) -> pa.Table:
        out = self.function(batch)
        if "S00" in batch.column("sku").to_pylist() and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return out


def test_a_killed_worker_pays_nothing_twice(
    cluster: Any, shared: Shared, rows: pd.DataFrame, tmp_path: Path
) -> None:
    picture = aio.BatchFunction("image", model="flux-2", prompt="caption", key="sku")
    function = Killed(picture, tmp_path / "killed")
    dataset = cluster.data.from_pandas(rows).repartition(4)
    made = dataset.map_batches(lambda batch: function(batch), batch_format="pyarrow", batch_size=10)
    out = pa.concat_tables(cluster.get(made.to_arrow_refs())).sort_by("sku")
    assert (tmp_path / "killed").exists()
    assert out.column("sku").to_pylist() == list(rows["sku"])
    assert out.column_names == ["sku", "caption", *column_names()]
    assert [out.schema.field(name).type for name in column_names()] == arrow_schema().types
    assert set(out.column("aio_status").to_pylist()) == {"succeeded"}
    shared.require_paid_once(len(rows))


def test_the_example(cluster: Any, shared: Shared, tmp_path: Path) -> None:
    from examples import on_ray

    for folder in ("pictures", "again"):  # again: free
        on_ray.enrich(str(PRODUCTS), str(tmp_path / folder))
        require_enriched(pd.read_parquet(tmp_path / folder))
    shared.require_paid_once(24)
