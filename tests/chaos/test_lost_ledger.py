"""The ledger goes away in the middle of a run: it stops before it spends more, and no id is lost."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from aio_provider.api.client import AsyncAioClient
from aio_provider.jobs.job import Job, OutcomeStatus
from aio_provider.jobs.ledger import JobState, Ledger, LedgerUnavailableError
from aio_provider.jobs.pacing import UnlimitedBudget
from aio_provider.jobs.runner import Runner
from aio_provider.sandbox import Sandbox
from tests.jobs.ledger_helpers import job

JOBS = [job(f"k{index:02}", f"a lamp {index}") for index in range(40)]


class Thief:
    """Locks the ledger's file just before the n-th POST, and counts the intents that come after."""

    def __init__(self, path: Path, nth: int) -> None:
        self.path = path
        self.nth = nth
        self.intents = 0
        self.lock: sqlite3.Connection | None = None

    def __call__(self, step: str, job: Job) -> None:
        if step == "after_intent":
            self.intents += 1
            if self.intents == self.nth:
                self.lock = sqlite3.connect(self.path, isolation_level=None, timeout=5)
                self.lock.execute("BEGIN IMMEDIATE")

    def give_back(self) -> None:
        assert self.lock is not None
        self.lock.execute("ROLLBACK")
        self.lock.close()


async def _run(sandbox: Sandbox, ledger: Ledger, **options: object) -> Counter[OutcomeStatus]:
    async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
        runner = Runner(client, ledger, UnlimitedBudget(), concurrency=4, **options)  # type: ignore[arg-type]
        return Counter([outcome.status async for outcome in runner.run(JOBS)])


async def test_a_ledger_locked_in_the_middle_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.sqlite"
    thief = Thief(path, nth=10)
    with Sandbox(time_scale=0.001, requests_per_minute=0) as sandbox:
        with Ledger.open(path, busy_seconds=0.01, patience_seconds=0.05, lease_seconds=0.3) as ledger:
            with pytest.raises(LedgerUnavailableError, match="locked by another process") as caught:
                await _run(sandbox, ledger, observer=thief)
            assert thief.intents <= 10 + 3, "no more than those whose intent was committed with the tenth"
            assert len(sandbox.submissions) <= thief.intents
            thief.give_back()
        # What was accepted and could not be written down is named; the rest is on record.
        named = dict(re.findall(r"(k\d\d)=(\S+?)(?:,|$)", str(caught.value)))
        logged = dict(re.findall(r"job (k\d\d) was accepted as task (\S+),", caplog.text))
        await asyncio.sleep(0.4)  # the lease of what this very process was submitting runs out
        with Ledger.open(path) as ledger:
            ledger.sweep()
            recorded = {entry.task_id for entry in ledger.entries() if entry.task_id}
            held = {entry.key for entry in ledger.entries(state=JobState.UNKNOWN)}
            missing = {item.task_id for item in sandbox.submissions} - recorded
            assert missing, "the run was cut in the middle"
            assert set(logged.values()) == missing, "every id that is not on record is in the log"
            assert named.items() <= logged.items()
            assert set(logged) <= held
            for key in held:
                if key in logged:
                    ledger.settle(key, task_id=logged[key])
                else:
                    ledger.settle(key, not_submitted=True)
            assert await _run(sandbox, ledger) == Counter({OutcomeStatus.SUCCEEDED: len(JOBS)})
            assert len(sandbox.submissions) == len(JOBS), "each was paid for once"
            assert ledger.counts() == {JobState.SUCCEEDED: (len(JOBS), sandbox.charged)}
