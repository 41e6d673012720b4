"""A real Airflow 3 on this machine: its four components as processes, on loopback only, gone without a trace.

Used by the demo and by the end-to-end tests. Each component (api-server, scheduler, dag-processor,
triggerer) is a session of its own, so that one can be killed and started again while the others run, and
so that everything it forked can be found and ended by the session's id: Airflow puts each running task
into a process group of its own, out of reach of a plain ``killpg``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")

#: the same with the CeleryExecutor; several of a kind are told apart by a number
CELERY_COMPONENTS = (*COMPONENTS, "triggerer-2", "celery-worker-1", "celery-worker-2")

# Without this option scheduler, triggerer and worker serve task logs on every interface of the machine.
# The UI does not need it here: it reads the log files, which are on the same disk.
_ARGUMENTS = {
    "scheduler": ["--skip-serve-logs"],
    "triggerer": ["--skip-serve-logs"],
    "celery worker": ["--skip-serve-logs", "--without-mingle", "--without-gossip"],
}

RECORD = "running.json"  # in the home: what is to be stopped

DONE_STATES = frozenset({"success", "failed"})

# How long a start, a run, one answer may take: ten times what they take on two free cores. Only what
# hangs waits this long; what is slow, because others use the machine, does come to its end.
PATIENCE = 900.0
ANSWER_TIMEOUT = 120.0


class StackError(RuntimeError):
    """Airflow did not do what was asked: a component died, a DAG did not import, a deadline passed.

    ``status`` is the HTTP status where its REST API answered with an error.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AirflowStack:
    """
    Airflow's components on one database; a context manager.

    :param home: AIRFLOW_HOME: database, logs and configuration. Created where missing.
    :param dag_folders: the folders whose DAG files are served.
    :param parallelism: how many task instances may hold a worker slot at once.
    :param env: more environment variables for every component (a connection, for example).
    :param components: which to start: :data:`COMPONENTS`, or :data:`CELERY_COMPONENTS` with an ``env`` that
        names the executor, its broker and a database that all of them reach.
    :param database: SQLAlchemy URL of the metadata database; by default a SQLite file in ``home``.

    ``home/running.json`` names what runs, for :func:`stop_recorded`. A guard process acts on it when this one
    is gone without having stopped the stack (killed, say); nothing outlives it but by :meth:`leave`.
    """

    def __init__(
        self,
        home: Path,
        dag_folders: Sequence[Path],
        *,
        parallelism: int = 4,
        env: Mapping[str, str] | None = None,
        components: Sequence[str] = COMPONENTS,
        database: str | None = None,
    ) -> None:
        self.home = Path(home).resolve()
        self.components = components
        self.database = database or f"sqlite:///{self.home / 'airflow.db'}"
        self.record = self.home / RECORD
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.user, self.password = "admin", secrets.token_urlsafe(9)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        #: of every component ever started, by its pid; a killed one may leave children
        self.sessions: list[int] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None
        self.env = self._environment(dag_folders, parallelism) | dict(env or {})

    def _environment(self, dag_folders: Sequence[Path], parallelism: int) -> dict[str, str]:
        passwords = self.home / "passwords.json"
        bundle = "airflow.dag_processing.bundles.local.LocalDagBundle"
        bundles = [
            {"name": f"dags-{n}", "classpath": bundle, "kwargs": {"path": str(Path(folder).resolve())}}
            for n, folder in enumerate(dag_folders)
        ]
        settings = {
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": str(parallelism),
            "CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.user}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__BASE_URL": self.url,
            "API__WORKERS": "1",
            # Separate processes, one secret: each would make up its own.
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "DATABASE__SQL_ALCHEMY_CONN": self.database,
            "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            # A triggerer that was killed is taken for dead, and its triggers handed on, after this long.
            "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
            "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
        # Loopback is reached directly, whatever proxy this machine uses for the rest.
        no_proxy = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        ours = {f"AIRFLOW__{name}": value for name, value in settings.items()}
        return {**inherited, **no_proxy, "AIRFLOW_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **ours}

    # -- start and stop --------------------------------------------------------------------------------

    def start(self, timeout: float = PATIENCE) -> AirflowStack:
        """
        Prepare the database, start all components and wait until each reports itself healthy.

        :raises StackError: a component ended, the deadline passed, or something listens beyond loopback.
            Whatever had been started is stopped first.
        """
        deadline = time.monotonic() + timeout
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            (self.home / "passwords.json").write_text(json.dumps({self.user: self.password}))
            self._migrate(timeout)
            for component in self.components:
                self.start_component(component)
            self._wait(self._healthy, deadline, "Airflow to become healthy", every=0.3)
            self.check_loopback_only()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process of every component: politely at first, then by SIGKILL. Idempotent."""
        if self._client is not None:
            self._client.close()
            self._client = None
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 6.0
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for session in self.sessions:
            kill_session(session)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        self.sessions.clear()
        self.record.unlink(missing_ok=True)
        self._dismiss_guard(b"")

    def leave(self) -> None:
        """Let everything run on when this process ends; :func:`stop_recorded` ends it."""
        self._dismiss_guard(b"leave")

    def _dismiss_guard(self, word: bytes) -> None:
        if self._guard is not None:
            self._guard.communicate(word)
            self._guard = None

    def start_component(self, component: str) -> int:
        """Start one of Airflow's components. Returns its pid."""
        kind = component.rstrip("-0123456789").replace("celery-", "celery ")
        name = ["--celery-hostname", f"{component}@%h"] if kind == "celery worker" else []
        return self.spawn(component, [*_airflow(), *kind.split(), *_ARGUMENTS.get(kind, []), *name])

    def spawn(self, component: str, command: Sequence[str]) -> int:
        """
        Start a process that lives and ends with this stack, in a session of its own. Returns its pid.

        Its output is appended to ``home/components/<component>.log``.
        """
        log = self.component_log(component)
        log.parent.mkdir(parents=True, exist_ok=True)
        if self._guard is None:
            command_line = [sys.executable, __file__, str(self.record)]
            self._guard = subprocess.Popen(command_line, stdin=subprocess.PIPE, start_new_session=True)
        with log.open("ab") as output, _undisturbed() as mask:
            process = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
            )
            self._processes[component] = process
            self.sessions.append(process.pid)
            self.record.write_text(json.dumps([[pid, _created(pid)] for pid in self.sessions]))
        return process.pid

    def kill_component(self, component: str) -> None:
        """SIGKILL a component and all its children at once, as a lost machine would."""
        process = self._processes.pop(component)
        kill_session(process.pid)
        process.wait()

    def component_log(self, component: str) -> Path:
        """Where a component's own output goes."""
        return self.home / "components" / f"{component}.log"

    def cli(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """
        Run ``airflow <arguments>`` in this stack's environment and return its standard output.

        :raises StackError: it exited non-zero; the message holds what it wrote.
        """
        done = subprocess.run(
            [*_airflow(), *arguments],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            command = " ".join(arguments)
            raise StackError(f"airflow {command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _migrate(self, timeout: float) -> None:
        if not (self.home / "airflow.db").exists():
            self.cli("db", "migrate", timeout=timeout)

    def __enter__(self) -> AirflowStack:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- what is running -------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every live process of this stack, forked tasks included."""
        return [process for session in self.sessions for process in _session_processes(session)]

    def listening(self) -> set[tuple[str, int]]:
        """The (address, port) pairs that this stack's processes listen on."""
        found: set[tuple[str, int]] = set()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {
                    (c.laddr.ip, c.laddr.port)
                    for c in process.net_connections("inet")
                    if c.status == psutil.CONN_LISTEN
                }
        return found

    def check_loopback_only(self) -> None:
        """:raises StackError: a process of this stack listens on an address other than loopback."""
        listening = self.listening()
        if ("127.0.0.1", self.port) not in listening:
            raise StackError(f"the api-server does not listen on 127.0.0.1:{self.port}, only {listening}")
        outside = {pair for pair in listening if not ipaddress.ip_address(pair[0]).is_loopback}
        if outside:
            raise StackError(f"Airflow listens beyond loopback: {sorted(outside)}")

    def _check_alive(self) -> None:
        for component, process in self._processes.items():
            code = process.poll()
            if code is not None:
                tail = "\n".join(self.component_log(component).read_text(errors="replace").splitlines()[-30:])
                raise StackError(f"{component} ended with {code}:\n{tail}")

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5.0, trust_env=False)
            parts = answer.json() if answer.status_code == 200 else {}
            names = ("metadatabase", "scheduler", "triggerer", "dag_processor")
            return all((parts.get(name) or {}).get("status") == "healthy" for name in names)
        return False

    def _wait(self, ready: Callable[[], Any], deadline: float, what: str, *, every: float = 0.5) -> Any:
        while True:
            self._check_alive()
            if found := ready():
                return found
            if time.monotonic() > deadline:
                raise StackError(f"waited in vain for {what}; logs are under {self.home}")
            time.sleep(every)

    # -- the REST API ----------------------------------------------------------------------------------

    def request(self, method: str, path: str, **options: Any) -> Any:
        """
        One call of Airflow's REST API, below ``/api/v2``, as the admin; the decoded JSON or None.

        :raises StackError: the answer was an error; its status and body are in the message.
        """
        if self._client is None:
            login = {"username": self.user, "password": self.password}
            answer = httpx.post(f"{self.url}/auth/token", json=login, timeout=ANSWER_TIMEOUT, trust_env=False)
            answer.raise_for_status()
            self._client = httpx.Client(
                base_url=f"{self.url}/api/v2",
                headers={"Authorization": f"Bearer {answer.json()['access_token']}"},
                timeout=ANSWER_TIMEOUT,
                trust_env=False,
            )
        answer = self._client.request(method, path, **options)
        if (
            method == "GET" and answer.is_server_error
        ):  # SQLite was locked by another component: ask once more
            time.sleep(1.0)
            answer = self._client.request(method, path, **options)
        if answer.is_error:
            raise StackError(f"{method} {path}: {answer.status_code} {answer.text[:500]}", answer.status_code)
        return answer.json() if answer.content else None

    def wait_for_dag(self, dag_id: str, timeout: float = PATIENCE) -> None:
        """
        Wait until a DAG is known to the scheduler.

        :raises StackError: a DAG file failed to import (the message holds the trace), or the deadline passed.
        """

        def known() -> bool:
            errors = self.request("GET", "/importErrors")["import_errors"]
            if errors:
                raise StackError("\n".join(f"{e['filename']}:\n{e['stack_trace']}" for e in errors))
            dags = self.request("GET", "/dags", params={"dag_id_pattern": dag_id})["dags"]
            return any(dag["dag_id"] == dag_id for dag in dags)

        self._wait(known, time.monotonic() + timeout, f"the DAG {dag_id!r}")

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG, waiting for the DAG to be known; returns the run's id."""
        self.wait_for_dag(dag_id)
        body = {"logical_date": None, "conf": dict(conf or {})}

        def started() -> str | None:
            try:
                return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])
            except StackError as error:
                if error.status == 404:  # listed a moment before its tasks are stored
                    return None
                raise

        return str(self._wait(started, time.monotonic() + PATIENCE, f"a run of {dag_id!r} to be accepted"))

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run: queued, running, success or failed."""
        return str(self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run, mapped ones included, as the REST API describes them."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.request(
                "GET",
                f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances",
                params={"limit": 100, "offset": len(found), "order_by": "id"},
            )
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def watch(
        self, dag_id: str, run_id: str, timeout: float = PATIENCE
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield (run state, task instances) about once a second; the last pair is the finished run's."""
        deadline = time.monotonic() + timeout
        while True:
            self._check_alive()
            state = self.run_state(dag_id, run_id)
            tasks = self.task_instances(dag_id, run_id)
            yield state, tasks
            if state in DONE_STATES:
                return
            if time.monotonic() > deadline:
                states = ", ".join(f"{ti['task_id']}: {ti['state']}" for ti in tasks)
                raise StackError(
                    f"the run {run_id} of {dag_id} was still {state} after {timeout:g} s ({states})"
                )
            time.sleep(1.0)

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = PATIENCE) -> str:
        """Wait for a run to end; returns "success" or "failed"."""
        return [state for state, _ in self.watch(dag_id, run_id, timeout)][-1]

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, key: str = "return_value"
    ) -> Any:
        """The value that a task instance pushed."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.request("GET", path, params={"map_index": map_index, "deserialize": False})["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """The text of all log files of a task (every try, every map index), read from the disk."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*.log*")))


def stop_recorded(record: Path) -> bool:
    """End what a stack's ``record`` file names, started by another process; False when nothing of it runs."""
    if not record.exists():
        return False
    # The start time tells our process from a later one that was given the same number.
    sessions = [pid for pid, created in json.loads(record.read_text()) if _created(pid) == created]
    for session in sessions:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGTERM)
    psutil.wait_procs([process for pid in sessions for process in _session_processes(pid)], timeout=6.0)
    for session in sessions:
        kill_session(session)
    record.unlink()
    return bool(sessions)


def _created(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _airflow() -> list[str]:
    # The module, not the script: a script's shebang breaks once a virtual environment has been moved.
    return [sys.executable, "-m", "airflow"]


@contextlib.contextmanager
def _undisturbed() -> Iterator[set[signal.Signals | int]]:
    """Keep Ctrl-C waiting: between a fork and its record it would leave a process that nobody ends.

    Gives the signal mask of before, for the child, which inherits the present one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _session_processes(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session:
                found.append(process)
    return found


def kill_session(session: int) -> None:
    """SIGKILL every process of a session."""
    # Twice at most in practice: a process may fork while its session is being listed.
    while processes := [p for p in _session_processes(session) if _running(p)]:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=5.0)


def _running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _stand_guard(record: Path) -> None:
    # The end of the input is the end of the process that started this one.
    if sys.stdin.read() != "leave":
        stop_recorded(record)


if __name__ == "__main__":
    _stand_guard(Path(sys.argv[1]))
