"""Any attempts, any crashes, any answers: a task instance never has two jobs that could both be paid for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import given, settings
from hypothesis import strategies as st

from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import Ledger
from aio_provider.operators.ledger_record import LedgerRecord
from aio_provider.operators.record import JobIdentity, Record, TaskStateRecord

from .conftest import StateStore

REQUEST = GenerationRequest.image("a red fox")
SERVICE = "http://127.0.0.1:1/api/v1"
IDENTITY = JobIdentity(
    key="ab" * 32,
    fingerprint=REQUEST.fingerprint,
    service=SERVICE,
    kind="image",
    model="flux-2",
    dag_id="shop",
    run_id="run",
    task_id="picture",
    map_index=-1,
)

#: where the worker dies (or nowhere), and what the service makes of the request and of its task
DIES = st.sampled_from([None, None, "found", "intended", "answered", "accepted", "polled"])
ANSWERS = st.sampled_from(["taken", "taken", "refused", "lost after it was taken", "lost before"])
ENDS = st.sampled_from(["succeeded", "succeeded", "failed", "running"])


class Died(BaseException):
    """The worker is gone."""


@dataclass
class Service:
    """What it took, and how each task stands."""

    tasks: dict[str, str] = field(default_factory=dict)

    def take(self, end: str) -> str:
        task_id = f"n{len(self.tasks)}"
        self.tasks[task_id] = end
        return task_id

    def go_on(self) -> None:
        """Time passes."""
        self.tasks = {
            task_id: "succeeded" if end == "running" else end for task_id, end in self.tasks.items()
        }

    @property
    def standing(self) -> list[str]:
        """Tasks that are, or will be, paid for."""
        return [task_id for task_id, end in self.tasks.items() if end != "failed"]


@dataclass
class Places:
    """A place that keeps the record, and a new record in it for each attempt."""

    kind: str
    store: StateStore = field(default_factory=StateStore)
    ledger: Ledger | None = None

    def record(self) -> Record:
        if self.ledger is None:
            return TaskStateRecord(self.store, IDENTITY)
        return LedgerRecord(self.ledger, IDENTITY, Job(IDENTITY.key, REQUEST), sleep=lambda _: None)


@pytest.fixture(params=["task state store", "ledger"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("aio_provider.jobs.ledger.planning.is_gone", lambda owner: True)
    yield request.param


def attempt(record: Record, service: Service, dies: str | None, answer: str, end: str) -> str:
    """One attempt, step by step as the operator takes them. What it tells Airflow."""

    def reach(step: str) -> None:
        if dies == step:
            raise Died

    started = record.find()
    reach("found")
    if started is not None and started.result is not None:
        return "success"
    if started is None:
        record.intend()
        reach("intended")
        if answer == "refused":
            record.release()
            return "retry"
        task_id = service.take(end) if answer != "lost before" else ""
        reach("answered")
        if answer.startswith("lost"):
            raise record.hold("its answer was lost")
        record.accept(task_id, 1.0)
        reach("accepted")
    else:
        assert started.task_id in service.tasks
        task_id = started.task_id
    how = service.tasks[task_id]
    reach("polled")
    if how == "running":
        return "timeout"
    record.finish(
        how, {"task_id": task_id, "status": how, "urls": [], "credits": 5 if how == "succeeded" else 0}
    )
    return "success" if how == "succeeded" else "retry"


@settings(max_examples=300, deadline=None)
@given(attempts=st.lists(st.tuples(DIES, ANSWERS, ENDS), min_size=1, max_size=8))
def check(kind: str, attempts: list[Any]) -> None:
    service, places = Service(), Places(kind)
    if kind == "ledger":
        places.ledger = Ledger.open(":memory:")
    held = False
    try:
        for dies, answer, end in attempts:
            try:
                told = attempt(places.record(), service, dies, answer, end)
                assert told != "success" or service.standing, "a result that nobody made"
            except Died:
                pass
            except AirflowFailException:
                held = True  # until a person has looked at it
                with pytest.raises(AirflowFailException):
                    attempt(places.record(), service, None, "taken", "succeeded")
                break
            service.go_on()
        assert len(service.standing) <= 1, f"paid twice: {service.tasks}"
        if not held and service.standing:
            # Nothing is lost either: a quiet attempt finds it, or holds because the id never came back.
            with contextlib.suppress(AirflowFailException):
                assert attempt(places.record(), service, None, "taken", "succeeded") == "success"
            assert len(service.standing) == 1
    finally:
        if places.ledger is not None:
            places.ledger.close()


def test_never_two(kind: str) -> None:
    check(kind)
