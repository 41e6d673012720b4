"""Two processes with the same 500 jobs, on both databases: one submission each, and both get all results."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from aio_provider.jobs.ledger import AsyncLedger, JobState, Ledger
from tests.jobs.ledger_helpers import job, succeeded

JOBS = 500


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that several processes can open."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


async def _work(
    target: str, name: str, submitted: Path, start: int, at_the_line: Callable[[], None]
) -> dict[str, list[str]]:
    """One process's run: submit what it wins, poll (here: finish) whatever is accepted, until all is done."""
    results: dict[str, list[str]] = {}
    limit = asyncio.Semaphore(32)
    with Ledger.open(target) as ledger, submitted.open("a", buffering=1) as log:
        async with AsyncLedger(ledger) as book:
            await book.get(["job-000"])
            at_the_line()

            async def one(index: int) -> None:
                key = f"job-{index:03}"
                while True:
                    async with limit:
                        [entry] = await book.plan([job(key, f"prompt {index}")])
                        if entry.state is JobState.SUCCEEDED:
                            results[key] = list(entry.urls)
                            return
                        if entry.state is JobState.PLANNED and await book.intend(entry):
                            log.write(f"{key} {name}\n")
                            await asyncio.sleep(0.01)  # a POST takes its time; the other gets its chance
                            await book.accept(key, f"task-of-{name}-{index}")
                        elif entry.state is JobState.ACCEPTED:
                            await book.finish(succeeded(key, entry.task_id))
                    await asyncio.sleep(0)

            # Each begins elsewhere, so that they meet in the middle as well as at the ends.
            await asyncio.gather(*(one((start + index) % JOBS) for index in range(JOBS)))
    return results


def test_two_processes_with_the_same_jobs(shared: str, tmp_path: Path) -> None:
    _race(shared, tmp_path, processes=2)


def test_five_processes_with_the_same_jobs(shared: str, tmp_path: Path) -> None:
    _race(shared, tmp_path, processes=5)


def _race(target: str, folder: Path, *, processes: int) -> None:
    submitted = folder / "submitted"
    with Ledger.open(target):
        pass
    children = []
    waiting, go = os.pipe()
    there, ready = os.pipe()
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                os.close(go)

                def at_the_line() -> None:
                    os.write(ready, b".")
                    os.read(waiting, 1)  # until all are there

                results = asyncio.run(_work(target, f"p{number}", submitted, number * 17, at_the_line))
                (folder / f"results-{number}").write_text(json.dumps(results))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    os.close(ready)
    for _ in children:
        assert os.read(there, 1), "one has ended before the race"
    for end in (waiting, go, there):
        os.close(end)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * processes
    lines = [line.split() for line in submitted.read_text().splitlines()]
    assert Counter(key for key, _ in lines) == Counter({f"job-{index:03}": 1 for index in range(JOBS)})
    assert len({name for _, name in lines}) > 1, "they did race"
    results = [json.loads((folder / f"results-{number}").read_text()) for number in range(processes)]
    assert all(result == results[0] and len(result) == JOBS for result in results)
    with Ledger.open(target) as ledger:
        assert ledger.counts() == {JobState.SUCCEEDED: (JOBS, JOBS * 5.0)}
        assert ledger.counts(past=True) == {}
