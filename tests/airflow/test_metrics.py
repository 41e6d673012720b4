"""What operators and triggers tell Airflow's metrics, as StatsD and OpenTelemetry servers see it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from aio_provider.api.errors import TaskFailedError
from aio_provider.operators.aio import (
    AioChatOperator,
    AioGenerateFromParquetOperator,
    AioGenerateImageOperator,
)
from aio_provider.sandbox import Sandbox
from tests.statsd_server import StatsdServer

from .conftest import Instance, fire, wait_inline

TWO_COPIES = importlib.util.find_spec("airflow.observability") is not None


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsdServer]:
    """Airflow's metrics go to this server, as its configuration says."""
    from airflow.providers.common.compat.sdk import Stats

    with StatsdServer() as server:
        for name, value in server.settings.items():
            monkeypatch.setenv(name, value)
        if TWO_COPIES:
            from airflow.sdk.observability.metrics.statsd_logger import get_statsd_logger
            from airflow.sdk.observability.stats import initialize

            initialize(factory=get_statsd_logger, export_legacy_names=False)
            yield server
            stats = sys.modules[Stats.incr.__module__]
            stats._factory = stats._backend = None  # type: ignore[attr-defined]
        else:
            from airflow.metrics.statsd_logger import get_statsd_logger as of_2_11

            monkeypatch.setattr(Stats, "instance", of_2_11(Stats))
            yield server


def image(**arguments: Any) -> AioGenerateImageOperator:
    return AioGenerateImageOperator(task_id="t", prompt="a red fox", model="flux-2", **arguments)


def test_a_generation(aio_sandbox_env: Sandbox, instance: Instance, statsd: StatsdServer) -> None:
    operator = image()
    wait_inline(operator, instance.context(operator))
    statsd.settle()
    assert statsd.sums() == {
        ("aio.submissions", "image"): 1,
        ("aio.completions", "image"): 1,
        ("aio.credits", "image"): aio_sandbox_env.charged,
    }
    assert aio_sandbox_env.charged > 0
    assert {m.tags.get("model") for m in statsd.metrics() if m.kind == "c"} == {"flux-2"}
    lags = [metric for metric in statsd.metrics() if metric.name == "aio.poll_lag"]
    assert len(lags) == aio_sandbox_env.requests["poll"]
    assert all(lag.kind == "ms" and 0 <= lag.value < 60_000 for lag in lags)
    assert not [line for line in statsd.lines if aio_sandbox_env.api_key in line or "fox" in line]

    done = len(statsd.lines)
    operator.execute(
        instance.context(operator)
    )  # cleared: its result is on record, nothing is sent or counted
    statsd.settle()
    assert statsd.metrics(done) == []


@pytest.mark.aio_sandbox(faults=["failed@1", "429:on=submit:times=2", "429:on=poll:times=1"])
def test_a_failure_and_429s(aio_sandbox_env: Sandbox, instance: Instance, statsd: StatsdServer) -> None:
    operator = image(deferrable=False)
    with pytest.raises(TaskFailedError):
        operator.execute(instance.context(operator))
    statsd.settle()
    assert statsd.sums(tag="status") | statsd.sums(tag="request") == {
        ("aio.submissions", None): 1,
        ("aio.failures", None): 1,
        ("aio.failures", "failed"): 1,
        ("aio.rate_limited", None): 3,
        ("aio.rate_limited", "submit"): 2,
        ("aio.rate_limited", "poll"): 1,
    }


@pytest.mark.aio_sandbox(faults=["drop-after@1"])
def test_a_submission_that_is_held(
    aio_sandbox_env: Sandbox, instance: Instance, statsd: StatsdServer
) -> None:
    operator = image()
    with pytest.raises(AirflowFailException):
        operator.execute(instance.context(operator))
    statsd.settle()
    assert statsd.sums() == {("aio.unknown_holds", "image"): 1}


def test_a_chat(aio_sandbox_env: Sandbox, instance: Instance, statsd: StatsdServer) -> None:
    operator = AioChatOperator(task_id="t", messages="Say hello.")
    operator.execute(instance.context(operator))
    statsd.settle()
    assert statsd.sums() == {
        ("aio.submissions", "chat"): 1,
        ("aio.completions", "chat"): 1,
        ("aio.credits", "chat"): aio_sandbox_env.charged,
    }


@pytest.mark.aio_sandbox(faults=["failed@2", "drop-after@4"])
@pytest.mark.parametrize("kind", ["image", "chat"])
def test_a_batch(
    kind: str, aio_sandbox_env: Sandbox, instance: Instance, statsd: StatsdServer, tmp_path: Path
) -> None:
    source, target = str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")
    pd.DataFrame({"text": [f"A chair, number {n}" for n in range(6)]}).to_parquet(source)
    model = "flux-2" if kind == "image" else "gemini"
    operator = AioGenerateFromParquetOperator(
        task_id="t",
        input_path=source,
        output_path=target,
        kind=kind,
        model=model,
        fields={"prompt": "text"},
        max_failures=6,
    )
    context = instance.context(operator)
    event: Any = None
    while True:
        try:
            result = operator.execute_complete(context, event) if event else operator.execute(context)
            break
        except TaskDeferred as deferred:
            event = fire(deferred.trigger)
    statsd.settle()
    failed = 1 if kind == "image" else 0  # the fault is of tasks
    assert statsd.sums(tag="model") == {
        ("aio.submissions", model): 5,
        ("aio.completions", model): 5 - failed,
        **({("aio.failures", model): 1} if failed else {}),
        ("aio.unknown_holds", model): 1,
        ("aio.credits", model): pytest.approx(result["credits"]),
    }


_SEND = """
from aio_provider.hooks import metrics
{setup}
metrics.submitted("image", "flux-2")
metrics.ended("image", "flux-2", "succeeded", 5.5)
metrics.ended("image", None, "expired", None)
metrics.held("video", "kling-3")
metrics.refused("poll")
metrics.polled(1.5)
{teardown}
"""
#: which of Airflow's copies is set up: a worker's, the triggerer's, or the only one of older versions
_SETUPS = {
    "worker": (
        "from airflow.sdk.observability import stats\n"
        "from airflow.sdk.observability.metrics.stats_utils import get_stats_factory\n"
        "stats.initialize(factory=get_stats_factory(), export_legacy_names=True)\n"
    ),
    "triggerer": (
        "from airflow.observability import stats\n"
        "from airflow.observability.metrics.stats_utils import get_stats_factory\n"
        "stats.initialize(factory=get_stats_factory(), export_legacy_names=True)\n"
    ),
    "older": "",
}


def send(process: str, settings: dict[str, str], *, teardown: str = "") -> None:
    if (process == "older") == TWO_COPIES:
        pytest.skip("not how this Airflow sets up its metrics")
    code = _SEND.format(setup=_SETUPS[process], teardown=teardown)
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("process", ["worker", "triggerer", "older"])
def test_each_process_sends_them_where_airflow_does(process: str, airflow_db: None) -> None:
    with StatsdServer() as server:
        send(process, server.settings)
        server.settle()
        assert sorted(server.lines) == [
            "airflow.aio.completions,kind=image,model=flux-2:1|c",
            "airflow.aio.credits,kind=image,model=flux-2:5.5|c",
            "airflow.aio.failures,kind=image,status=expired:1|c",
            "airflow.aio.poll_lag:1500.000000|ms",
            "airflow.aio.rate_limited,request=poll:1|c",
            "airflow.aio.submissions,kind=image,model=flux-2:1|c",
            "airflow.aio.unknown_holds,kind=video,model=kling-3:1|c",
        ]


@pytest.mark.parametrize("process", ["worker", "triggerer", "older"])
def test_opentelemetry(process: str, airflow_db: None) -> None:
    pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.http", reason="apache-airflow[otel] is not installed"
    )
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        settings = {
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "AIRFLOW__METRICS__OTEL_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__OTEL_PORT": str(port),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "NO_PROXY": "127.0.0.1",
        }
        flush = "from opentelemetry import metrics as otel; otel.get_meter_provider().force_flush()"
        send(process, settings, teardown=flush)
        server.shutdown()
    found: dict[str, tuple[float, dict[str, str]]] = {}
    for body in bodies:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    counted = hasattr(point, "as_double")
                    value = (point.as_double or point.as_int) if counted else getattr(point, "sum", 0.0)
                    tags = {tag.key: tag.value.string_value for tag in point.attributes}
                    found[metric.name, tags.get("status", "")] = (value, tags)
    image = {"kind": "image", "model": "flux-2"}
    assert found["airflow.aio.submissions", ""] == (1, image)
    assert found["airflow.aio.completions", ""] == (1, image)
    assert found["airflow.aio.credits", ""] == (5.5, image)
    assert found["airflow.aio.failures", "expired"] == (1, {"kind": "image", "status": "expired"})
    assert found["airflow.aio.unknown_holds", ""] == (1, {"kind": "video", "model": "kling-3"})
    assert found["airflow.aio.rate_limited", ""] == (1, {"request": "poll"})
    if TWO_COPIES:  # Airflow 2.11 has a gauge for it
        assert found["airflow.aio.poll_lag", ""] == (1500.0, {})
    assert ("airflow.aio.poll_lag", "") in found


def test_broken_metrics_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from aio_provider.hooks import metrics

    def broken() -> Any:
        raise OSError("no such host")

    monkeypatch.setattr(metrics, "_stats", broken)
    metrics.submitted("image", None)
