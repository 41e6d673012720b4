"""Memory does not grow with rows. A million of them, through the engine, is in ``benchmarks/scale.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scale import table

JOBS = """
import resource, sys
from aio_provider.frames.batch import Batch
batch = Batch(sys.argv[1], "image", prompt="caption", output=sys.argv[2], base_url="http://127.0.0.1:9/v1")
keys = sum(1 for job in batch.jobs())
print(keys, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, rows: int) -> int:
    """KiB that a process takes to make the jobs of so many rows."""
    source = folder / f"{rows}.parquet"
    table(source, rows)
    command = [sys.executable, "-c", JOBS, str(source), str(folder / f"out-{rows}")]
    count, most = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert int(count) == rows
    return int(most)


def test_five_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    assert peak(tmp_path, 100_000) < 1.1 * peak(tmp_path, 20_000)
