"""A big ledger costs little: time and memory of finding 100,000 finished jobs again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aio_provider.jobs.ledger import Ledger
from aio_provider.jobs.ledger.schema import jobs
from tests.jobs.ledger_helpers import job, succeeded

ROWS = 100_000

# In an interpreter of its own, so that the memory measured is this and nothing else.
RESUME = r"""
import json, pathlib, re, sys, time
from aio_provider.jobs.ledger import Ledger, JobState
from tests.jobs.ledger_helpers import job
from tests.yardstick import slowness
target, rows = sys.argv[1], int(sys.argv[2])
jobs = [job(f"{index:064x}", "a lamp", {"run_id": "r", "map_index": str(index)}) for index in range(rows)]
before = slowness()
with Ledger.open(target) as ledger:
    started, cpu = time.perf_counter(), time.process_time()
    entries = ledger.plan(jobs, owner="second", scope="https://svc")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert len(entries) == rows and all(entry.state is JobState.SUCCEEDED for entry in entries)
# Not getrusage: its figure begins with the size of the process that this one was forked from.
mib = int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
slow = (before + slowness()) / 2
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "slowness": slow, "mib": mib}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")
@pytest.mark.timeout(300)
def test_100_000_finished_jobs_are_found_again(tmp_path: Path) -> None:
    target = str(tmp_path / "ledger.sqlite")
    _fill(target)
    measured = json.loads(_resume(target))
    print(measured)
    # Not by the wall's clock: other work on this machine must not count.
    assert measured["cpu_seconds"] < 10 * measured["slowness"]
    assert measured["mib"] < 400


def _fill(target: str) -> None:
    """One job taken all the way, and copies of its row."""
    with Ledger.open(target) as ledger:
        ledger.plan([job("0", labels={"run_id": "r", "map_index": "1"})], owner="first", scope="https://svc")
        ledger.intend(["0"], owner="first")
        ledger.accept([("0", "n41abcdefgh_flux2")], owner="first")
        ledger.finish([succeeded("0", "n41abcdefgh_flux2")])
        others = ", ".join(column.name for column in jobs.columns if column.name != "key")
        with ledger.store.write() as conn:
            conn.exec_driver_sql(
                f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS - 1}) "
                f"INSERT INTO aio_jobs (key, {others}) SELECT printf('%064x', i), {others} FROM aio_jobs, n"
            )


def _resume(target: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RESUME, target, str(ROWS)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
