"""The sandbox as a process: spawned, killed, orphaned, and as ``aio sandbox`` in a terminal."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest
from click.testing import CliRunner
from rich.console import Console

from aio_provider.cli import COMMANDS, main
from aio_provider.cli_sandbox import fresh_ledger, watch
from aio_provider.sandbox import Sandbox

Connect = Callable[..., httpx.Client]

AIO = (sys.executable, "-m", "aio_provider.cli")
IMAGE = {"model": "flux-2", "prompt": "garden"}


def test_a_spawned_sandbox_is_asked_and_steered_like_one_in_a_thread(connect: Connect) -> None:
    with Sandbox.spawn(time_scale=0, credits=20, faults=["500@2"], extra_api_keys=["second"]) as sandbox:
        client = connect(sandbox, "second")
        codes = [client.post("/images/generations", json=IMAGE).status_code for _ in range(3)]
        (first, _) = sandbox.submissions

        assert codes == [200, 500, 200]
        assert (first.body, first.status, first.credits) == (IMAGE, "SUCCESS", 5)
        assert (sandbox.charged, sandbox.credits) == (10, 10)
        assert sandbox.requests["accepted"] == 2
        assert sandbox.faults[0]["hits"] == 1
        sandbox.credits = 4
        assert client.post("/images/generations", json=IMAGE).status_code == 402
        sandbox.clear_faults()
        sandbox.add_fault("429")
        assert client.get("/tasks/none").status_code == 429
        sandbox.reset()
        assert (sandbox.submissions, sandbox.credits) == ([], 20)
        with pytest.raises(ValueError, match="'teapot' is unknown"):
            sandbox.add_fault("teapot")
        with pytest.raises(ValueError, match="credits"):
            sandbox.credits = -1
        assert sandbox.environment()["AIO_BASE_URL"] == sandbox.base_url
        assert sandbox.base_url.endswith(f":{sandbox.port}/api/v1")
    assert not sandbox.running


def test_a_killed_sandbox_leaves_its_record(connect: Connect, tmp_path: Path) -> None:
    with Sandbox.spawn(record=tmp_path / "record.jsonl") as sandbox:
        task_id = connect(sandbox).post("/images/generations", json=IMAGE).json()["data"]["task_id"]
        sandbox.kill()

        assert not sandbox.running
        assert [s.task_id for s in sandbox.submissions] == [task_id]


def test_ctrl_c_is_left_to_the_one_who_started_it(connect: Connect) -> None:
    with Sandbox.spawn() as sandbox:
        os.kill(sandbox.pid, signal.SIGINT)

        assert connect(sandbox).get("/tasks/none").status_code == 404
        assert sandbox.running


def test_bad_settings_are_refused_before_a_process_starts() -> None:
    with pytest.raises(ValueError, match="clock"):
        Sandbox.spawn(clock=None)
    with pytest.raises(ValueError, match="credits"):
        Sandbox.spawn(credits=-1)


def test_a_process_that_cannot_listen_says_so() -> None:
    with Sandbox() as sandbox, pytest.raises(RuntimeError, match="ended at once"):
        Sandbox.spawn(port=sandbox.port)


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "import time\n"
        "from aio_provider.sandbox import Sandbox\n"
        "print(Sandbox.spawn().pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(120)  # raises when it is still there


# The command.


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict]]]:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> tuple[subprocess.Popen[str], dict]:
        ready = tmp_path / "ready.json"
        process = subprocess.Popen(
            [*AIO, "sandbox", "--port", "0", "--ready-file", str(ready), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return process, json.loads(ready.read_text())

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(
    command: Callable[..., tuple[subprocess.Popen[str], dict]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: signal.Signals,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    record = tmp_path / "record.jsonl"
    process, ready = command(
        "--time-scale",
        "0",
        "--key",
        "aio_mine",
        "--fault",
        "500@1",
        "--record",
        str(record),
        "--credits",
        "12",
    )
    headers = {"Authorization": "Bearer aio_mine"}
    with httpx.Client(base_url=ready["base_url"], headers=headers, trust_env=False) as client:
        codes = [client.post("/images/generations", json=IMAGE).status_code for _ in range(4)]
        control = f"http://127.0.0.1:{ready['port']}/sandbox"
        state = client.get(f"{control}/state").json()

    process.send_signal(name)
    output, errors = process.communicate(timeout=120)

    assert codes == [500, 200, 200, 402]
    assert state["credits"] == 2
    assert process.returncode == 0
    assert errors == ""
    assert f"export AIO_BASE_URL={ready['base_url']}" in output
    assert "export AIO_API_KEY=aio_mine" in output
    assert "export AIRFLOW_CONN_AIO_DEFAULT='{" in output
    assert "export AIRFLOW_CONN_AIO_DEFAULT='aio://:aio_mine@" in output
    exported = [shlex.split(line)[1].partition("=") for line in output.splitlines() if "export " in line]
    (ledger,) = (value for name, _, value in exported if name == "AIO_LEDGER")
    assert Path(ledger).name == f"sandbox-{ready['port']}.sqlite" and Path(ledger).parent.is_dir()
    as_json, as_uri = (value for name, _, value in exported if name == "AIRFLOW_CONN_AIO_DEFAULT")
    extra = json.loads(as_json)["extra"]
    assert extra == {"requests_per_minute": 60, "latency_scale": 0.001, "ledger_url": ledger}
    assert json.loads(parse_qs(urlsplit(as_uri).query)["__extra__"][0]) == extra
    shown = [line for line in output.splitlines() if line.startswith("image ")]
    assert len(shown) == 2
    assert all("flux-2" in line and "5 credits" in line and "_flux2" in line for line in shown)
    assert "Stopped. 2 submissions, 10 credits charged, 4 requests." in output
    assert len(record.read_text().splitlines()) == 2
    assert ready["pid"] == process.pid


def test_a_new_sandbox_starts_with_a_new_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path)
    of_the_last_one = tmp_path / "sandbox-8765.sqlite"
    of_another, own = tmp_path / "sandbox-9000.sqlite", tmp_path / "ledger.sqlite"
    for path in (of_the_last_one, tmp_path / "sandbox-8765.sqlite-wal", of_another, own):
        path.write_text("a ledger")

    assert fresh_ledger(8765) == of_the_last_one

    assert sorted(tmp_path.iterdir()) == [own, of_another]


def test_a_burst_of_submissions_is_summed_up(connect: Connect) -> None:
    stop = threading.Event()
    stop.set()
    output = io.StringIO()
    with Sandbox(requests_per_minute=0) as sandbox:
        client = connect(sandbox)
        for _ in range(25):
            client.post("/images/tools/upscale", json={"image": "https://example.com/[b].png"})

        watch(Console(file=output, width=200), sandbox, stop)

    lines = output.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0].split() == [
        "upscale_image",
        "/images/tools/upscale",
        "1",
        "credits",
        lines[0].split()[-1],
    ]
    assert lines[-1] == "… and 5 more"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault", "teapot"], "'teapot' is unknown; there are 401"),
        (["--host", "0.0.0.0"], "loopback only"),
        (["--credits", "-1"], "credits: must be 0 or more"),
        (["--shapes", "odd"], "'documented', 'varied'"),
    ],
)
def test_the_command_refuses_bad_options(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["sandbox", *arguments])

    assert result.exit_code == 2
    assert said in result.output


def test_the_command_says_that_a_port_is_taken() -> None:
    with Sandbox() as sandbox:
        result = CliRunner().invoke(main, ["sandbox", "--port", str(sandbox.port)])

    assert result.exit_code == 1
    assert "--port 0 picks a free one" in result.output


def test_help_and_version_load_no_subcommand() -> None:
    code = (
        "import sys\n"
        "from aio_provider.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'starlette', 'rich', 'sqlalchemy', 'pandas', 'httpx', 'airflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, option], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert all(name in CliRunner().invoke(main, ["--help"]).output for name in COMMANDS)


def test_every_registered_command_can_be_loaded() -> None:
    for name in COMMANDS:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("absent", "arguments", "said"),
    [
        ("click", [], "pip install 'aio-provider[cli]'"),
        ("starlette", ["sandbox"], "pip install 'aio-provider[sandbox]'"),
        ("rich", ["sandbox"], "pip install 'aio-provider[sandbox]'"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(absent: str, arguments: list[str], said: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{absent!r}] = None\n"  # an import of it now raises ModuleNotFoundError
        "from aio_provider.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
