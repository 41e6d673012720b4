"""The benchmark of waves runs: it speaks with the operator and the trigger as Airflow does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_waves() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/waves.py", "--rows", "3", "--per-minute", "6000"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 at 6000 a minute, 3 succeeded" in done.stdout
    assert "credits             15, charged by the sandbox 15" in done.stdout
