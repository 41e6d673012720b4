"""``make demo`` leaves nothing behind when it is interrupted. (CI runs it to its end.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


def test_what_it_started_is_stopped_when_it_is_interrupted(tmp_path: Path) -> None:
    output = tmp_path / "output"
    record = output / "running.json"
    with subprocess.Popen(
        [sys.executable, DEMO, "--output", output], stdout=subprocess.PIPE, text=True
    ) as demo:
        deadline = time.monotonic() + 60
        sessions: list[int] = []
        # The sandbox and two of Airflow's components: in the middle of starting up.
        while len(sessions) < 3:
            assert demo.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
            if record.exists():
                sessions = [pid for pid, _ in json.loads(record.read_text() or "[]")]
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)  # an impatient user
        printed, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Interrupted" in printed
    assert [pid for pid in psutil.pids() if _session(pid) in sessions] == []
    assert not record.exists()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
