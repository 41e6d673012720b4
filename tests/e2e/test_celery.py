"""CeleryExecutor on several machines' worth of processes, one worker and one triggerer of which are lost."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from airflow_stack import CELERY_COMPONENTS, AirflowStack

from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox import Sandbox
from tests import postgres_server, redis_server

HERE = Path(__file__).parent
SHARDS, ROWS = 6, 50


@dataclass
class Cluster:
    """Airflow with two workers and two triggerers, the sandbox, and what all of them share."""

    airflow: AirflowStack
    sandbox: Sandbox
    ledger: str
    shards: Path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """PostgreSQL for metadata and ledger, Redis for the broker and for the key's limit."""
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in range(SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        rows = pd.DataFrame({"sku": [f"S{n:03}" for n in numbers]})
        rows["caption"] = "a chair, number " + rows["sku"]
        rows.to_parquet(shards / f"in-{shard}.parquet")
    queue = f"aio-{secrets.token_hex(4)}"
    with (
        redis_server.url() as redis,
        postgres_server.database() as metadata,
        postgres_server.database() as ledger,
        Sandbox(time_scale=0.1, requests_per_minute=1200) as sandbox,
    ):
        connection = json.loads(sandbox.environment()["AIRFLOW_CONN_AIO_DEFAULT"])
        connection["extra"] |= {"ledger_url": ledger, "limiter_url": redis, "requests_per_minute": 1200}
        env = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": redis,
            "AIRFLOW__CELERY__RESULT_BACKEND": "db+" + metadata,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "3",
            "AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False",
            "AIRFLOW__OPERATORS__DEFAULT_QUEUE": queue,
            # a worker that was lost is noticed, and its tasks are tried again, after this long
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW_CONN_AIO_DEFAULT": json.dumps(connection),
            "AIO_E2E_SHARDS": str(shards),
            "XDG_DATA_HOME": str(tmp_path / "data"),
        }
        home = tmp_path / "airflow"
        stack = AirflowStack(
            home, [HERE / "celery_dags"], env=env, components=CELERY_COMPONENTS, database=metadata
        )
        with stack as airflow:
            yield Cluster(airflow, sandbox, ledger, shards)


def test_a_lost_worker_and_a_lost_triggerer_cost_nothing(cluster: Cluster) -> None:
    airflow, sandbox = cluster.airflow, cluster.sandbox
    run = airflow.trigger("shards")
    killed: list[str] = []
    for _state, _tasks in airflow.watch("shards", run):
        sent = len(sandbox.submissions)
        if not killed and sent >= 40:
            airflow.kill_component("celery-worker-1")
            killed.append("celery-worker-1")
        elif len(killed) == 1 and sent >= 120:
            airflow.kill_component("triggerer")
            killed.append("triggerer")
    assert airflow.run_state("shards", run) == "success", airflow.task_log("shards", run, "pictures")[-3000:]
    assert killed == ["celery-worker-1", "triggerer"]
    inputs = [pd.read_parquet(cluster.shards / f"in-{n}.parquet") for n in range(SHARDS)]
    outputs = [pd.read_parquet(cluster.shards / f"out-{n}.parquet") for n in range(SHARDS)]
    for given, made in zip(inputs, outputs, strict=True):
        assert list(made["sku"]) == list(given["sku"])  # every row, in its place
    made = pd.concat(outputs)
    statuses = Counter(made["aio_status"])
    with Ledger.open(cluster.ledger) as ledger:
        entries = list(ledger.entries())
    # Only what was in the air when the worker was lost may be held; nothing was sent twice.
    held = [entry for entry in entries if entry.state is JobState.UNKNOWN]
    assert statuses == Counter(succeeded=SHARDS * ROWS - len(held), unknown=len(held)) - Counter(unknown=0)
    bodies = Counter(sent.fingerprint for sent in sandbox.submissions)
    assert max(bodies.values()) == 1
    on_record = {entry.task_id for entry in entries if entry.task_id}
    not_on_record = [sent for sent in sandbox.submissions if sent.task_id not in on_record]
    assert len(not_on_record) <= len(held) <= 3 * 32  # three tasks a worker, so many submissions each at once
    assert made["aio_credits"].sum() == sandbox.charged - sum(sent.credits for sent in not_on_record)
    for worker in ("celery-worker-1", "celery-worker-2"):  # each had its share before one was lost
        assert "execute_workload" in airflow.component_log(worker).read_text().split("ready.")[1]
