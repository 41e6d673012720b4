"""A process that dies in the middle of a call: the next one pays for nothing twice and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import aio_provider as aio

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

ROWS = 30
SCRIPT = f"""
import sys, pandas as pd, aio_provider as aio
frame = pd.DataFrame({{"caption": [f"a red chair, view {{n}}" for n in range({ROWS})]}})
aio.generate(frame, "image", prompt="caption", output=sys.argv[1], requests_per_minute=600)
"""


@pytest.mark.aio_sandbox(time_scale=0.05)
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("accepted", [0, 1, 12])
def test_a_killed_script_run_again(
    aio_sandbox_env: Sandbox, tmp_path: Path, signal_number: signal.Signals, accepted: int
) -> None:
    sandbox, path = aio_sandbox_env, tmp_path / "out.parquet"
    script = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len(sandbox.submissions) < accepted and time.monotonic() < until:
        time.sleep(0.005)
    if accepted == 0:
        while sandbox.requests.get("requests", 0) == 0 and time.monotonic() < until:
            time.sleep(0.001)
    os.kill(script.pid, signal_number)
    _, said = script.communicate(timeout=120)
    assert script.returncode == -signal_number
    if signal_number == signal.SIGINT:
        assert "Stopped by Ctrl-C" in said
        assert len(pd.read_parquet(path)) == ROWS
    else:
        assert not path.exists()

    frame = pd.DataFrame({"caption": [f"a red chair, view {n}" for n in range(ROWS)]})
    out = aio.generate(frame, "image", prompt="caption", output=path, progress=False)
    unknown = int((out["aio_status"] == "unknown").sum())
    if signal_number == signal.SIGINT:  # what was in the air got its answer
        assert unknown == 0
    assert int((out["aio_status"] == "succeeded").sum()) == ROWS - unknown
    prompts = [sent.body["prompt"] for sent in sandbox.submissions]
    assert len(set(prompts)) == len(prompts)
    assert ROWS - unknown <= len(prompts) <= ROWS
    assert pd.read_parquet(path)["aio_task_id"].tolist() == out["aio_task_id"].tolist()
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".tmp")] == []
