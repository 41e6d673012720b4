"""Latencies on record: what the ledger says, how cheaply, and that a run begins with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aio_provider.api.client import AsyncAioClient
from aio_provider.jobs.job import jobs_for
from aio_provider.jobs.ledger import Ledger
from aio_provider.jobs.ledger.reading import durations
from aio_provider.jobs.limiter import rate_budget
from aio_provider.jobs.polling import PollPlan
from aio_provider.jobs.runner import Runner
from aio_provider.sandbox import Sandbox
from tests.jobs.ledger_helpers import request


def run(sandbox: Sandbox, ledger: Ledger, plan: PollPlan, *prompts: str) -> None:
    async def main() -> None:
        async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
            runner = Runner(client, ledger, rate_budget(0), plan=plan)
            async for _ in runner.run(jobs_for(map(request, prompts), scope=sandbox.base_url)):
                pass

    asyncio.run(main())


def test_a_run_begins_with_what_earlier_ones_have_seen(tmp_path: Path, aio_sandbox: Sandbox) -> None:
    primed: list[list[float]] = []

    class Plan(PollPlan):
        def prime(self, kind: str, model: str | None, durations: Any) -> None:
            primed.append(list(durations))
            super().prime(kind, model, primed[-1])

    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        run(aio_sandbox, ledger, Plan(), "a fox", "a hare", "a crow")
        run(aio_sandbox, ledger, Plan(), "an owl", "a bat")
        assert [len(found) for found in primed] == [0, 3]
        assert all(0 <= seconds < 60 for seconds in primed[1])
        assert len(durations(ledger.store, request(), aio_sandbox.base_url, limit=4)) == 4
        assert durations(ledger.store, request(), "https://another.example/api/v1") == []


def test_it_is_read_from_an_index(tmp_path: Path) -> None:
    """However many rows there are: the last few of one model, in their order."""
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        asked: list[tuple[str, Any]] = []
        sa.event.listen(ledger.store._engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        durations(ledger.store, request(), "https://service.example/api/v1")
        query, values = next((text, given) for text, given in asked if "accepted_at" in text)
        with ledger.store.read() as conn:
            steps = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()
    told = " ".join(str(step[-1]) for step in steps)
    assert "USING INDEX aio_jobs_price" in told and "TEMP B-TREE" not in told
