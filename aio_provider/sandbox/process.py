"""``Sandbox.spawn``: the same server in a process of its own, for tests that kill it, or themselves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from aio_provider.sandbox.environment import environment
from aio_provider.sandbox.faults import Fault
from aio_provider.sandbox.settings import SandboxSettings
from aio_provider.sandbox.tasks import Submission, read_record

#: Seconds the process may take to end on its own.
_PATIENCE = 10.0


class SandboxProcess:
    """A sandbox in another process, asked and steered over its control routes.

    It ends when :meth:`stop` is called or when the process that started it is gone. After :meth:`kill` its
    submissions are still readable if it was given a ``record`` file.

    :param settings: the fields of :class:`aio_provider.sandbox.SandboxSettings` by name, except ``clock``.
    :raises ValueError: for a setting that cannot be used.
    """

    def __init__(self, **settings: Any) -> None:
        if "clock" in settings:
            raise ValueError("clock: another process keeps its own time; use Sandbox(clock=...) instead")
        self.settings = SandboxSettings(**settings)
        self._process: subprocess.Popen[str] | None = None
        self._base_url: str | None = None
        # Plain http to loopback only, so no certificates to load and no proxy to ask.
        self._http = httpx.Client(timeout=60, trust_env=False, verify=False)

    def start(self) -> Self:
        """Start the process, and return once it answers requests."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(_plain(self.settings)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait(_PATIENCE)
            raise RuntimeError(
                f"the sandbox process ended at once, with status {status}; see its output above"
            )
        self._base_url = json.loads(line)["base_url"]
        return self

    def stop(self) -> None:
        """End the process in order."""
        if self._process is None:
            return
        self._http.close()
        assert self._process.stdin is not None and self._process.stdout is not None
        # The end of its input tells it to stop, which also happens when this process dies.
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def kill(self) -> None:
        """End the process at once (``SIGKILL``), as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        if self._process is None:
            raise RuntimeError("this sandbox has not been started")
        return self._process.pid

    @property
    def base_url(self) -> str:
        """What ``AIO_BASE_URL`` should be."""
        if self._base_url is None:
            raise RuntimeError("this sandbox has not been started")
        return self._base_url

    @property
    def origin(self) -> str:
        """``http://host:port``."""
        return self.base_url.removesuffix("/api/v1")

    @property
    def port(self) -> int:
        """The port it listens on."""
        port = httpx.URL(self.base_url).port
        assert port is not None
        return port

    @property
    def api_key(self) -> str:
        """What ``AIO_API_KEY`` should be."""
        return self.settings.api_key

    def environment(self, *, ledger: str | None = None) -> dict[str, str]:
        """Environment variables for clients of this sandbox, the Airflow connection included.

        :param ledger: path or SQLAlchemy URL of the ledger; by default none is named.
        """
        limit = self.settings.requests_per_minute
        return environment(
            self.base_url,
            self.api_key,
            requests_per_minute=limit,
            latency_scale=self.settings.time_scale,
            ledger=ledger,
        )

    @property
    def submissions(self) -> list[Submission]:
        """Everything that was accepted, in order; of a dead process, what its record file holds."""
        if not self.running and self.settings.record is not None:
            return list(read_record(self.settings.record))
        return [Submission(**entry) for entry in self._ask("GET", "submissions")["submissions"]]

    @property
    def charged(self) -> float:
        """Credits that the submissions cost by now; a failed task costs 0."""
        return float(self._ask("GET", "state")["charged"])

    @property
    def credits(self) -> float:
        """The balance; settable."""
        return float(self._ask("GET", "credits")["credits"])

    @credits.setter
    def credits(self, credits: float) -> None:
        self._ask("POST", "credits", {"credits": credits})

    @property
    def requests(self) -> dict[str, int]:
        """Counts of API requests; see :attr:`aio_provider.sandbox.Sandbox.requests`."""
        return dict(self._ask("GET", "state")["requests"])

    @property
    def faults(self) -> list[dict[str, object]]:
        """The faults that are set, with how many requests each matched and hit."""
        return list(self._ask("GET", "faults")["faults"])

    def add_fault(self, *faults: str | Fault) -> None:
        """Set more faults from now on; see :meth:`aio_provider.sandbox.Sandbox.add_fault`."""
        self._ask("POST", "faults", {"faults": [str(Fault.parse(fault)) for fault in faults]})

    def clear_faults(self) -> None:
        """Take all faults away, those of the settings too."""
        self._ask("DELETE", "faults")

    def reset(self) -> None:
        """Forget tasks, charges and requests; restore the balance and the settings' faults."""
        self._ask("POST", "reset")

    def _ask(self, method: str, route: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self._http.request(method, f"{self.origin}/sandbox/{route}", json=body)
        if answer.status_code == 400:
            raise ValueError(answer.json()["error"])
        answer.raise_for_status()
        return answer.json()


def _plain(settings: SandboxSettings) -> dict[str, Any]:
    """The settings as JSON values, for the process to read."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings) if item.name != "clock"}
    values["faults"] = [str(fault) for fault in settings.faults]
    values["extra_api_keys"] = list(settings.extra_api_keys)
    values["record"] = None if settings.record is None else str(Path(settings.record).resolve())
    return values


def _serve_until_input_ends() -> None:
    """The process's own work: settings from the first line of input, the address to its output."""
    from aio_provider.sandbox.server import Sandbox

    # Ctrl-C in a terminal reaches the whole group; the one who started this process decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Sandbox(**json.loads(sys.stdin.readline())) as sandbox:
        sys.stdout.write(json.dumps({"base_url": sandbox.base_url}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _serve_until_input_ends()
