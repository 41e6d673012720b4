"""Processes are killed while paid tasks run: they are found again, and never paid for twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner

from aio_provider.cli import main
from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox import Submission
from tests.e2e.conftest import Services

#: what ends without an answer on record, and has to be settled by hand
HELD = ("in_air", "answered", "not_taken")
#: what is in the triggerer's hands while it, and the scheduler, are killed
DEFERRED = ("recorded", "waiting", "cleared", "marked_failed")


def test_many_tasks_wait_without_a_worker_slot(services: Services) -> None:
    before = len(services.still.submissions)

    def submitted() -> list[str]:
        return [submission.task_id for submission in services.still.submissions[before:]]

    run_id = services.airflow.trigger("many")
    # Twelve wait at once, though only four could hold a slot …
    services.wait_for_states("many", run_id, "picture", "deferred", count=12)
    assert len(submitted()) == 12
    # … and while they wait, another task gets one.
    other = services.airflow.trigger("plain")
    assert services.airflow.wait_for_run("plain", other) == "success"
    services.wait_for_states("many", run_id, "picture", "deferred", count=12)
    services.clock.advance(3600)
    assert services.airflow.wait_for_run("many", run_id) == "success"
    results = [services.airflow.xcom("many", run_id, "picture", map_index=n) for n in range(12)]
    assert sorted(r["task_id"] for r in results) == sorted(submitted())
    assert all(r["urls"] and r["credits"] > 0 for r in results)


@dataclass
class Rescue:
    """One run of ``recovery_<record>``: each of its tasks was cut short in a way of its own."""

    services: Services
    record: str
    run_id: str
    tries_when_held: dict[str, int] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def dag_id(self) -> str:
        return f"recovery_{self.record}"

    def instance(self, task_id: str) -> dict[str, Any]:
        (found,) = self.services.task_instances(self.dag_id, self.run_id, task_id)
        return found

    def states(self) -> dict[str, str]:
        found = self.services.airflow.task_instances(self.dag_id, self.run_id)
        return {instance["task_id"]: instance["state"] for instance in found}

    def submissions(self, task_id: str) -> list[Submission]:
        """What the service accepted for a task, by the words of its prompt."""
        every = [*self.services.rough.submissions, *self.services.worker.submissions]
        return [one for one in every if f"{task_id} {self.record}" in json.dumps(dict(one.body))]

    def kill_worker(self, task_id: str) -> None:
        os.kill(self.instance(task_id)["pid"], signal.SIGKILL)

    def mark_failed(self, task_id: str) -> None:
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task_id}"
        self.services.airflow.request("PATCH", path, json={"new_state": "failed"})

    def clear(self, *task_ids: str) -> None:
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": task_ids, "reset_dag_runs": True}
        path = f"/dags/{self.dag_id}/clearTaskInstances"
        self.services.airflow.request("POST", path, json={**body, "only_failed": False})

    def settle(self, task_id: str) -> None:
        """As the task's own message says, word for word."""
        was_taken = self.submissions(task_id)
        message = self.messages[task_id]
        way = re.search(rf"It was {'' if was_taken else 'not '}created: (.+)", message)
        assert way is not None, message
        line = way[1].replace("THE_TASK_ID", was_taken[0].task_id if was_taken else "")
        if self.record == "ledger":
            program, *arguments = shlex.split(line)
            assert program == "aio"
            if was_taken:  # the test has no key in its environment to ask the service with
                arguments.append("--no-check")
            done = CliRunner().invoke(main, arguments, env={"AIO_LEDGER": str(self.services.ledger)})
            assert done.exit_code == 0, done.output
            return
        call = re.match(r"curl -X (\w+) '[^']+/api/v2(/[^']+)'", line)
        body = re.search(r"-d '([^']+)'", line)
        assert call is not None
        self.services.airflow.request(call[1], call[2], json=json.loads(body[1]) if body else None)


@pytest.fixture(scope="module")
def rescues(services: Services) -> dict[str, Rescue]:
    """Both runs, from their start through every kill to their end, side by side."""
    runs = [
        Rescue(services, record, services.airflow.trigger(f"recovery_{record}"))
        for record in ("store", "ledger")
    ]

    # Killed while the POST is in the air: the service has it, and its answer comes in a minute.
    for run in runs:
        services.wait_until(f"{run.record}: the POST", lambda r=run: r.submissions("in_air"))
        run.kill_worker("in_air")
    # Killed while they poll on the worker.
    for run in runs:
        services.wait_until(f"{run.record}: on the worker", lambda r=run: r.submissions("on_worker"))
    polls = services.worker.requests.get("poll", 0)
    services.wait_until("polls", lambda: services.worker.requests.get("poll", 0) >= polls + 3)
    for run in runs:
        run.kill_worker("on_worker")
    for run in runs:
        services.wait_until("a new try", lambda r=run: r.instance("on_worker")["try_number"] == 2)
    services.worker_clock.advance(3600)
    expected = dict.fromkeys(HELD, "failed") | dict.fromkeys(DEFERRED, "deferred") | {"on_worker": "success"}
    for run in runs:
        services.wait_until(f"{run.record}: {expected}", lambda r=run: r.states() == expected)

    # What is held is settled by hand; what waits is marked failed, and cleared.
    for run in runs:
        for task_id in HELD:
            run.tries_when_held[task_id] = run.instance(task_id)["try_number"]
            run.messages[task_id] = _messages(services.airflow.task_log(run.dag_id, run.run_id, task_id))
            run.settle(task_id)
        run.mark_failed("marked_failed")
        run.clear(*HELD, "cleared", "marked_failed")
    expected |= dict.fromkeys(HELD, "deferred")
    for run in runs:
        services.wait_until(f"{run.record}: {expected}", lambda r=run: r.states() == expected)

    # The triggerer and the scheduler are gone at once, and come back.
    for component in ("triggerer", "scheduler"):
        services.airflow.kill_component(component)
    polls = services.rough.requests["poll"]
    for component in ("triggerer", "scheduler"):
        services.airflow.start_component(component)
    services.wait_until("polls by the new one", lambda: services.rough.requests["poll"] >= polls + 14)
    for run in runs:
        assert run.states() == expected

    services.rough_clock.advance(3600)
    for run in runs:
        assert services.airflow.wait_for_run(run.dag_id, run.run_id) == "success"
    return {run.record: run for run in runs}


def _messages(log: str) -> str:
    """The text of a task's log lines, which are JSON."""
    lines = []
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        lines.append(str(entry.get("event", line)))
        lines += [str(error.get("exc_value")) for error in entry.get("error_detail") or ()]
    return "\n".join(lines)


both = pytest.mark.parametrize("record", ["store", "ledger"])
each = pytest.mark.parametrize("task_id", [*HELD, *DEFERRED, "on_worker"])


@both
@each
def test_nothing_is_paid_twice_and_the_result_is_picked_up(
    rescues: dict[str, Rescue], record: str, task_id: str
) -> None:
    run = rescues[record]
    (paid,) = run.submissions(task_id)
    result = run.services.airflow.xcom(run.dag_id, run.run_id, task_id)
    assert (result["task_id"], result["credits"]) == (paid.task_id, paid.credits)
    assert result["status"] == "succeeded" and result["urls"]


@both
@pytest.mark.parametrize("task_id", HELD)
def test_what_nobody_can_know_is_held_without_a_retry_and_names_the_job_and_two_ways_on(
    rescues: dict[str, Rescue], record: str, task_id: str
) -> None:
    run = rescues[record]
    message = run.messages[task_id]
    assert f"The submission of recovery_{record}.{task_id} of run {run.run_id}" in message
    assert "It was created: " in message and "It was not created: " in message
    # A lost answer is known at once; who was killed is found by the next try, and there is none after it.
    assert run.tries_when_held[task_id] == (1 if task_id == "not_taken" else 2)


@both
@pytest.mark.parametrize(("task_id", "tries"), [("waiting", 1), ("recorded", 2), ("on_worker", 2)])
def test_a_kill_costs_a_try_only_where_a_worker_was_killed(
    rescues: dict[str, Rescue], record: str, task_id: str, tries: int
) -> None:
    assert rescues[record].instance(task_id)["try_number"] == tries


def test_the_ledger_has_what_was_charged(rescues: dict[str, Rescue]) -> None:
    run = rescues["ledger"]
    with Ledger.open(run.services.ledger) as ledger:
        counts = ledger.counts(labels={"dag_id": run.dag_id})
    tasks = (*HELD, *DEFERRED, "on_worker")
    charged = sum(one.credits for task_id in tasks for one in run.submissions(task_id))
    assert counts == {JobState.SUCCEEDED: (len(tasks), charged)}
