"""How many jobs a second the ledger takes through their whole life, and what sets the limit.

``python benchmarks/ledger.py [--jobs 2000] [--concurrency 64] [--postgres URL]`` runs, side by side:

* the grouped ledger (:class:`AsyncLedger`) in memory, in a file and on PostgreSQL: plan, intend, accept and
  finish, one job at a time, ``concurrency`` jobs at once;
* the same verbs one job a transaction (what a ledger without grouping does), on a sample;
* the physical limit: empty commits a second on the same disk, each of them flushed (``synchronous=FULL``).

At the service's 60 requests a minute a run needs one job every two seconds. The figure matters where a re-run
finds a hundred thousand rows again, and for keys whose limit is raised.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path

from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import AsyncLedger, Finished, JobState, Ledger, new_owner


def jobs(count: int, name: str) -> list[Job]:
    """Jobs with requests whose fingerprints are known already: they are not what is measured."""
    made = []
    for index in range(count):
        request = GenerationRequest("image", "/images/generations", "flux-2", {"prompt": f"lamp {index}"})
        assert request.fingerprint
        made.append(Job(f"{name}-{index}", request, {"run_id": "bench", "map_index": str(index)}))
    return made


async def grouped(target: str, count: int, concurrency: int) -> float:
    """Jobs a second through the grouped ledger."""
    todo = iter(jobs(count, "grouped"))

    async def worker(book: AsyncLedger) -> None:
        for job in todo:
            [entry] = await book.plan([job])
            assert await book.intend(entry)
            await book.accept(job.key, f"n41{job.key}")
            await book.finish(
                Finished(
                    job.key,
                    JobState.SUCCEEDED,
                    urls=("https://x/a.png",),
                    credits=5.0,
                    task_id=f"n41{job.key}",
                )
            )

    with Ledger.open(target) as ledger:
        async with AsyncLedger(ledger) as book:
            started = time.perf_counter()
            await asyncio.gather(*(worker(book) for _ in range(concurrency)))
            seconds = time.perf_counter() - started
        assert ledger.counts(labels={"run_id": "bench"})[JobState.SUCCEEDED][0] == count
    return count / seconds


def alone(target: str, count: int) -> float:
    """Jobs a second, each verb of each job a transaction of its own."""
    owner = new_owner()
    with Ledger.open(target) as ledger:
        started = time.perf_counter()
        for job in jobs(count, "alone"):
            ledger.plan([job], owner=owner)
            ledger.intend([job.key], owner=owner)
            ledger.accept([(job.key, f"n41{job.key}")], owner=owner)
            ledger.finish([Finished(job.key, JobState.SUCCEEDED, credits=5.0, task_id=f"n41{job.key}")])
        return count / (time.perf_counter() - started)


def commits(folder: Path, seconds: float = 2.0) -> float:
    """Flushed commits a second of one small row: what the disk allows."""
    connection = sqlite3.connect(folder / "commits.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (x INTEGER)")
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("COMMIT")
        done += 1
    connection.close()
    return done / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many")
    parser.add_argument("--postgres", metavar="URL", help="an empty database")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limit = commits(folder)
        print(f"{'flushed commits of this disk':<44}{limit:>8.0f} /s")
        one_by_one = alone(str(folder / "alone.sqlite"), max(arguments.jobs // 10, 1))
        print(f"{'SQLite file, a transaction a verb':<44}{one_by_one:>8.0f} jobs/s")
        targets = {"SQLite file, grouped": folder, "in memory, grouped": None}
        for title, place in targets.items():
            best = max(
                asyncio.run(
                    grouped(
                        ":memory:" if place is None else str(place / f"grouped-{turn}.sqlite"),
                        arguments.jobs,
                        arguments.concurrency,
                    )
                )
                for turn in range(arguments.rounds)
            )
            ratio = f"  ({best / one_by_one:.1f} times a transaction a verb)" if place else ""
            print(f"{title:<44}{best:>8.0f} jobs/s{ratio}")
        if arguments.postgres:
            rate = asyncio.run(grouped(arguments.postgres, arguments.jobs, arguments.concurrency))
            print(f"{'PostgreSQL, grouped':<44}{rate:>8.0f} jobs/s")


if __name__ == "__main__":
    main()
