"""How long a report over a large ledger takes, and what sets the limit.

``python benchmarks/credits.py [--rows 1000000] [--ledger PATH|URL]`` fills a ledger with ended jobs by
bulk insert (40 DAGs, 6 models, 90 days) and prints, for several groupings, the time of ``aio.credits`` (the
fastest of three) and its peak memory beyond the start. The aim: by DAG, model and day over 1,000,000 rows on
SQLite in less than 2 s. The limit it stands against: one scan of the same index that only counts.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aio_provider import accounting
from aio_provider.jobs.ledger import Ledger
from aio_provider.jobs.ledger.schema import jobs

#: model -> kind, credits, median latency in seconds
MODELS = {
    "flux-2": ("image", 5.0, 8.0),
    "seedream/4.5-text-to-image": ("image", 7.0, 11.0),
    "imagen4-fast": ("image", 4.0, 6.0),
    "kling-3": ("video", 300.0, 95.0),
    "suno-v5": ("music", 12.0, 55.0),
    "elevenlabs-v3": ("speech", 28.0, 5.0),
}


def rows(count: int, *, dags: int = 40, days: int = 90, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Jobs that have ended, as the ledger's columns."""
    chance = random.Random(seed)
    start = datetime(2026, 6, 1, tzinfo=UTC)
    names = list(MODELS)
    for place in range(count):
        dag = chance.randrange(dags)
        model = names[(dag + chance.randrange(2)) % len(names)]
        kind, price, median = MODELS[model]
        sent = start + timedelta(seconds=chance.random() * days * 86400)
        ended = sent + timedelta(seconds=chance.lognormvariate(0, 0.5) * median)
        succeeded = chance.random() < 0.97
        yield {
            "key": f"aio1:{place:040x}",
            "fingerprint": f"{place:064x}",
            "state": "succeeded" if succeeded else "failed",
            "attempt": 1,
            "scope": "https://apiin.one/api/v1",
            "kind": kind,
            "endpoint": f"/{kind}/generations",
            "model": model,
            "dag_id": f"dag_{dag:02d}",
            "run_id": f"scheduled__{sent:%Y-%m-%d}",
            "task_id": "generate",
            "map_index": place % 100,
            "team": f"team_{dag % 5}",
            "conn_id": "aio_default",
            "estimate_low": price,
            "estimate_likely": price,
            "estimate_high": price,
            "estimate_source": "published",
            "credits": price if succeeded else 0.0,
            "service_task_id": f"n41{place}_{kind}",
            "urls": [f"https://cdn.example.com/results/{place}.png"],
            "planned_at": sent,
            "intended_at": sent,
            "accepted_at": sent,
            "finished_at": ended,
            "updated_at": ended,
        }


def fill(ledger: Ledger, some: Iterator[dict[str, Any]]) -> None:
    """Insert rows, ten thousand a transaction."""
    while page := list(islice(some, 10_000)):
        with ledger.store.write() as conn:
            conn.execute(sa.insert(jobs), page)


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ledger", help="an empty one, or one that was filled before; default: a new file")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(options.ledger or Path(folder) / "ledger.sqlite") as ledger,
    ):
        there = sum(count for count, _ in ledger.counts().values())
        if not there:
            started = time.perf_counter()
            fill(ledger, rows(options.rows))
            print(f"{options.rows:,} rows filled in {time.perf_counter() - started:.0f} s ({ledger.url})")
        accounting.credits(ledger, (), since="2100")  # loads what a report needs
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for by in (("dag", "model", "day"), ("month", "team"), ("model",), ("run",), ()):
            times, work = [], []
            for _ in range(3):
                started, cpu = time.perf_counter(), time.process_time()
                frame = accounting.credits(ledger, by)
                times.append(time.perf_counter() - started)
                work.append(time.process_time() - cpu)
            groups = f"by {', '.join(by) or 'nothing':<18} {len(frame):>8,} groups"
            print(f"{groups} {min(times):>7.2f} s, {min(work):.2f} s of CPU")
        if not ledger.is_shared:
            with ledger.store.read() as conn:
                started = time.perf_counter()
                scan = "SELECT count(*), sum(credits) FROM aio_jobs INDEXED BY aio_jobs_report"
                conn.execute(sa.text(f"{scan} WHERE finished_at IS NOT NULL")).all()
                print(f"limit: one scan of the index {time.perf_counter() - started:>16.2f} s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"memory: {(peak - before) / 1024:.0f} MiB more than before the reports")


if __name__ == "__main__":
    main()
