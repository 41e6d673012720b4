"""Processes are killed while a paid task runs: it is found again, and never paid for twice."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.e2e.conftest import Services


def picture(services: Services, dag_id: str, run_id: str) -> dict[str, Any]:
    (instance,) = services.task_instances(dag_id, run_id, "picture")
    return instance


def submitted_since(services: Services, before: int) -> list[str]:
    return [submission.task_id for submission in services.still.submissions[before:]]


def finish(services: Services, dag_id: str, run_id: str) -> dict[str, Any]:
    """Let everything at the service be done, and return what the task handed over."""
    services.clock.advance(3600)
    assert services.airflow.wait_for_run(dag_id, run_id) == "success"
    result: dict[str, Any] = services.airflow.xcom(dag_id, run_id, "picture")
    return result


def test_many_tasks_wait_without_a_worker_slot(services: Services) -> None:
    before = len(services.still.submissions)
    run_id = services.airflow.trigger("many")
    # Twelve wait at once, though only two could hold a slot …
    services.wait_for_states("many", run_id, "picture", "deferred", count=12)
    assert len(submitted_since(services, before)) == 12
    # … and while they wait, another task gets one.
    other = services.airflow.trigger("plain")
    assert services.airflow.wait_for_run("plain", other) == "success"
    services.wait_for_states("many", run_id, "picture", "deferred", count=12)
    services.clock.advance(3600)
    assert services.airflow.wait_for_run("many", run_id) == "success"
    results = [services.airflow.xcom("many", run_id, "picture", map_index=n) for n in range(12)]
    assert sorted(r["task_id"] for r in results) == sorted(submitted_since(services, before))
    assert all(r["urls"] and r["credits"] > 0 for r in results)


def test_a_killed_triggerer_goes_on_with_the_same_task(services: Services) -> None:
    before = len(services.still.submissions)
    run_id = services.airflow.trigger("deferred")
    services.wait_for_states("deferred", run_id, "picture", "deferred")
    polls = services.still.requests.get("poll", 0)
    services.wait_until("the first poll", lambda: services.still.requests.get("poll", 0) > polls)

    services.airflow.kill_component("triggerer")
    polls = services.still.requests.get("poll", 0)
    services.airflow.start_component("triggerer")
    services.wait_until("a poll by the new triggerer", lambda: services.still.requests.get("poll", 0) > polls)
    assert picture(services, "deferred", run_id)["state"] == "deferred"

    result = finish(services, "deferred", run_id)
    assert [result["task_id"]] == submitted_since(services, before)
    assert picture(services, "deferred", run_id)["try_number"] == 1


def test_a_killed_worker_is_retried_with_the_same_task(services: Services) -> None:
    before = len(services.still.submissions)
    run_id = services.airflow.trigger("on_worker")
    services.wait_until("the submission", lambda: submitted_since(services, before))
    polls = services.still.requests.get("poll", 0)
    services.wait_until("the first poll", lambda: services.still.requests.get("poll", 0) > polls)

    os.kill(picture(services, "on_worker", run_id)["pid"], signal.SIGKILL)
    services.wait_until("the retry", lambda: picture(services, "on_worker", run_id)["try_number"] == 2)

    result = finish(services, "on_worker", run_id)
    assert [result["task_id"]] == submitted_since(services, before)
    assert picture(services, "on_worker", run_id)["try_number"] == 2


def test_a_cleared_task_picks_up_what_was_submitted(services: Services) -> None:
    before = len(services.still.submissions)
    run_id = services.airflow.trigger("deferred")
    services.wait_for_states("deferred", run_id, "picture", "deferred")
    path = f"/dags/deferred/dagRuns/{run_id}/taskInstances/picture"
    services.airflow.request("PATCH", path, json={"new_state": "failed"})
    services.wait_until("the run to fail", lambda: services.airflow.run_state("deferred", run_id) == "failed")

    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["picture"], "reset_dag_runs": True}
    services.airflow.request("POST", "/dags/deferred/clearTaskInstances", json=body | {"only_failed": False})
    services.wait_for_states("deferred", run_id, "picture", "deferred")
    assert len(submitted_since(services, before)) == 1

    result = finish(services, "deferred", run_id)
    assert [result["task_id"]] == submitted_since(services, before)
