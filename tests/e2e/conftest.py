"""One real Airflow, and its sandboxes, for all end-to-end tests."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from airflow_stack import PATIENCE, AirflowStack, StackError

from aio_provider.sandbox import ManualClock, Sandbox, Submission
from tests.e2e.people import ANALYST
from tests.statsd_server import StatsdServer

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("e2e"))  # one stack: one worker runs them all
            item.add_marker(pytest.mark.timeout(2 * PATIENCE))


class PatientClock(ManualClock):
    """A clock that stands still, at a service whose slow answers do take their time."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class ExampleRun:
    """A finished run of ``dags_examples/enrich_catalog.py``."""

    run_id: str
    state: str
    table: Path
    submissions: list[Submission]
    charged: float
    metrics: StatsdServer  # what was said during the run


@dataclass
class Services:
    """Airflow, and what it talks to."""

    airflow: AirflowStack
    fast: Sandbox
    still: Sandbox
    clock: ManualClock  # the still sandbox's
    rough: Sandbox  # drops and delays answers; for what is killed
    rough_clock: ManualClock
    worker: Sandbox  # for what waits on the worker
    worker_clock: ManualClock
    ledger: Path  # of the connections that have a ledger_url
    output: Path  # where DAGs are told to write
    statsd: StatsdServer  # what all of Airflow's processes say of our tasks
    keys: list[str] = field(default_factory=list)

    def task_instances(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        found = self.airflow.task_instances(dag_id, run_id)
        return [ti for ti in found if ti["task_id"] == task_id]

    def wait_until(self, what: str, check: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        deadline = time.monotonic() + timeout
        while not (found := check()):
            if time.monotonic() > deadline:
                raise StackError(f"waited {timeout:g} s in vain: {what}")
            time.sleep(0.2)
        return found

    def wait_for_states(self, dag_id: str, run_id: str, task_id: str, state: str, count: int = 1) -> None:
        def check() -> bool:
            states = [ti["state"] for ti in self.task_instances(dag_id, run_id, task_id)]
            return states == [state] * count

        self.wait_until(f"{count} × {dag_id}.{task_id} {state}", check)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    home = tmp_path_factory.mktemp("airflow")
    output = tmp_path_factory.mktemp("output")
    # Keys that occur nowhere else, so that a search for them means something.
    keys = [f"aio_e2e_{secrets.token_hex(16)}" for _ in range(2)]
    clock, worker_clock = (ManualClock(start=time.time()) for _ in range(2))
    rough_clock = PatientClock(start=time.time())
    ledger = tmp_path_factory.mktemp("ledger") / "team.sqlite"
    # One of each for either record: a song whose answer is long in coming, speech that is never taken.
    faults = ["slow:kind=music:on=submit:times=2:seconds=60", "drop-before:kind=speech:times=2"]
    with (
        StatsdServer() as statsd,
        Sandbox(api_key=keys[0], time_scale=0.02, requests_per_minute=0) as fast,
        Sandbox(api_key=keys[1], clock=clock, time_scale=1.0, requests_per_minute=0) as still,
        Sandbox(api_key=keys[1], clock=rough_clock, requests_per_minute=0, faults=faults) as rough,
        Sandbox(api_key=keys[1], clock=worker_clock, requests_per_minute=0) as worker,
    ):
        env = {
            "AIRFLOW_CONN_AIO_DEFAULT": fast.environment()["AIRFLOW_CONN_AIO_DEFAULT"],
            "AIRFLOW_CONN_AIO_STILL": _connection(still),
            **{
                f"AIRFLOW_CONN_AIO_{name}_{record}": _connection(sandbox, latency_scale=0.02, **extra)
                for name, sandbox in (("ROUGH", rough), ("WORKER", worker))
                for record, extra in (("STORE", {}), ("LEDGER", {"ledger_url": str(ledger)}))
            },
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            **statsd.settings,
            # Airflow's simple login, with a user who may read one DAG only.
            "AIRFLOW__CORE__AUTH_MANAGER": "tests.e2e.limited_auth.LimitedAuthManager",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"admin:admin,{ANALYST}:viewer",
            "PYTHONPATH": str(ROOT),
            # Trigger rows in plain text, so that a search for the key reads them.
            "AIRFLOW__CORE__FERNET_KEY": "",
            # Ledger files that nobody named belong to this run, not to whoever runs the tests.
            "XDG_DATA_HOME": str(home / "data"),
        }
        folders = [ROOT / "dags_examples", HERE / "dags"]
        with AirflowStack(home, folders, parallelism=4, env=env) as airflow:
            yield Services(
                airflow,
                fast,
                still,
                clock,
                rough,
                rough_clock,
                worker,
                worker_clock,
                ledger,
                output,
                statsd,
                keys,
            )


def _connection(sandbox: Sandbox, **extra: object) -> str:
    """Airflow's connection to a sandbox, in its JSON form."""
    connection = json.loads(sandbox.environment()["AIRFLOW_CONN_AIO_DEFAULT"])
    return json.dumps({**connection, "extra": {**connection["extra"], **extra}})


@pytest.fixture(scope="session")
def example(services: Services) -> ExampleRun:
    before, charged, told = len(services.fast.submissions), services.fast.charged, len(services.statsd.lines)
    conf = {"limit": 4, "output": str(services.output)}
    run_id = services.airflow.trigger("enrich_catalog", conf)
    state = services.airflow.wait_for_run("enrich_catalog", run_id)
    table = services.output / "enriched_catalog.parquet"
    services.statsd.settle()
    return ExampleRun(
        run_id,
        state,
        table,
        services.fast.submissions[before:],
        services.fast.charged - charged,
        services.statsd.part(told),
    )
