"""What the engines' tests share: a sandbox, one ledger and one limit for all workers, and rows to enrich."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox import Sandbox
from tests import postgres_server

PRODUCTS = Path(__file__).parents[2] / "dags_examples" / "data" / "products.parquet"


@dataclass(frozen=True)
class Shared:
    """One sandbox, and a ledger and a limit that every worker of an engine uses."""

    sandbox: Sandbox
    url: str

    def require_paid_once(self, tasks: int) -> None:
        """Every task was submitted once, and the ledger's credits are those that the sandbox charged."""
        assert len(self.sandbox.submissions) == tasks
        with Ledger.open(self.url) as ledger:
            entries = list(ledger.entries())
        assert [entry.state for entry in entries] == [JobState.SUCCEEDED] * tasks
        assert {entry.task_id for entry in entries} == {sent.task_id for sent in self.sandbox.submissions}
        assert sum(entry.credits or 0 for entry in entries) == self.sandbox.charged


@pytest.fixture
def shared(aio_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """A ledger and a limit in PostgreSQL, as between machines."""
    with postgres_server.schema() as url:
        environment = aio_sandbox.environment(ledger=url)
        environment |= {"AIO_REQUESTS_PER_MINUTE": "6000", "AIO_LIMITER_URL": url}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield Shared(aio_sandbox, url)


@pytest.fixture
def rows() -> pd.DataFrame:
    """40 products."""
    return pd.DataFrame(
        {"sku": [f"S{n:02}" for n in range(40)], "caption": [f"a red chair, number {n}" for n in range(40)]}
    )


def require_enriched(out: pd.DataFrame) -> None:
    """What an example wrote: every product, once, with its picture."""
    assert sorted(out["sku"]) == sorted(pd.read_parquet(PRODUCTS)["sku"])
    assert set(out["aio_status"]) == {"succeeded"}
    assert all(out["aio_urls"].map(len) == 1)
