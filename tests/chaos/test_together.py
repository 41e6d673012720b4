"""Two whole runs of the same table at the same time: one submission a row, and both get every result."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox.process import SandboxProcess
from tests import postgres_server
from tests.chaos import victim

ROWS = 500


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A ledger that both processes use."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.sqlite")
        return
    with postgres_server.schema() as url:
        yield url


@pytest.mark.timeout(300)
def test_two_processes_with_the_same_rows(shared: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"prompt": [f"lamp {index}" for index in range(ROWS)]})
    with SandboxProcess(time_scale=0.01, requests_per_minute=0, credits=1e9) as sandbox:
        environment = {**sandbox.environment(ledger=shared), "AIO_LIMITER_URL": "memory://"}
        children = []
        for name in ("one", "two"):
            child = os.fork()
            if child == 0:
                # The second comes from the other end, so that they meet in the middle.
                mine = rows if name == "one" else rows.iloc[::-1]
                victim.run(mine, "image", tmp_path / f"{name}.parquet", environment)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        sent = sandbox.submissions
        charged = sandbox.charged
    assert Counter(item.body["prompt"] for item in sent) == Counter(dict.fromkeys(rows["prompt"], 1))
    results = {}
    for name in ("one", "two"):
        table = pq.read_table(tmp_path / f"{name}.parquet", use_threads=False).to_pylist()
        assert {row["aio_status"] for row in table} == {"succeeded"}
        results[name] = {row["prompt"]: (row["aio_task_id"], row["aio_url"]) for row in table}
    assert results["one"] == results["two"]
    assert len(results["one"]) == ROWS
    with Ledger.open(shared) as ledger:
        assert ledger.counts() == {JobState.SUCCEEDED: (ROWS, charged)}
