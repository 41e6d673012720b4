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
from airflow_stack import PATIENCE

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


def test_what_it_started_is_stopped_when_it_is_interrupted(tmp_path: Path) -> None:
    output = tmp_path / "output"
    record = output / "airflow" / "running.json"
    with subprocess.Popen(
        [sys.executable, DEMO, "--output", output], stdout=subprocess.PIPE, text=True
    ) as demo:
        deadline = time.monotonic() + PATIENCE
        sessions: list[int] = []
        # The sandbox and two of Airflow's components: in the middle of starting up.
        while len(sessions) < 3:
            assert demo.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
            if record.exists():
                sessions = [pid for pid, _ in json.loads(record.read_text() or "[]")]
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)  # an impatient user
        printed, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130
    assert "Interrupted" in printed
    assert [pid for pid in psutil.pids() if _session(pid) in sessions] == []
    assert not record.exists()


def test_what_was_started_ends_with_a_process_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from airflow_stack import AirflowStack\n"
        "stack = AirflowStack(Path(sys.argv[1]), []); stack.home.mkdir()\n"
        "print(stack.spawn('sleeper', ['sleep', '600']), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, tmp_path / "home"]
    with subprocess.Popen(command, cwd=DEMO.parent, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        sleeper = psutil.Process(int(owner.stdout.readline()))
        assert sleeper.is_running()
        owner.kill()
    sleeper.wait(timeout=PATIENCE)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
