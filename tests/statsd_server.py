"""A StatsD listener on loopback: what a process sends to it, as text."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from typing import NamedTuple


class Metric(NamedTuple):
    """One line of StatsD, with tags in the form of InfluxDB."""

    name: str
    tags: dict[str, str]
    value: float
    kind: str


class StatsdServer:
    """Keeps the metrics of this package; Airflow's own are passed over. Use as a context manager."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @property
    def settings(self) -> dict[str, str]:
        """Environment of an Airflow that sends its metrics here, with tags."""
        settings = {"STATSD_ON": "True", "STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(self.port)}
        settings |= {"STATSD_INFLUXDB_ENABLED": "True"}
        return {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}

    def metrics(self, since: int = 0) -> list[Metric]:
        """Everything that was received, but for the first ``since`` lines."""
        found = []
        for line in list(self.lines)[since:]:
            match = re.fullmatch(r"airflow\.(aio\.[^,:]+)((?:,[^,=:]+=[^,:]*)*):([-0-9.e]+)\|(\w+)", line)
            assert match is not None, line
            tags = dict(tag.split("=", 1) for tag in match[2].split(",")[1:])
            found.append(Metric(match[1], tags, float(match[3]), match[4]))
        return found

    def sums(self, since: int = 0, *, tag: str = "kind") -> dict[tuple[str, str | None], float]:
        """Counters, added up by name and one tag."""
        sums: Counter[tuple[str, str | None]] = Counter()
        for metric in self.metrics(since):
            if metric.kind == "c":
                sums[metric.name, metric.tags.get(tag)] += metric.value
        return dict(sums)

    def part(self, since: int) -> StatsdServer:
        """What was received since then, to be read on its own."""
        part = object.__new__(StatsdServer)
        part.lines = self.lines[since:]
        return part

    def settle(self) -> None:
        """Wait until what was sent from this machine has been read."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"airflow.aio.settled:1|c", ("127.0.0.1", self.port))
        until = time.monotonic() + 120.0
        while "airflow.aio.settled:1|c" not in self.lines and time.monotonic() < until:
            time.sleep(0.005)
        self.lines.remove("airflow.aio.settled:1|c")

    def _listen(self) -> None:
        while (data := self._socket.recv(65_536)) != b"stop":
            self.lines += [line for line in data.decode().splitlines() if line.startswith("airflow.aio.")]

    def __enter__(self) -> StatsdServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"stop", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()
