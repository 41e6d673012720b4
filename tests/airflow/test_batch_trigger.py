"""Many tasks in one trigger: outcomes in chunks, in time for the next wave; one error stays its own."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from aio_provider.api.requests import GenerationRequest
from aio_provider.hooks.aio import AioHook
from aio_provider.jobs.flights import Flight
from aio_provider.operators.batch_run import State, groups_of
from aio_provider.sandbox import Sandbox
from aio_provider.triggers import batch
from aio_provider.triggers.aio import AioBatchTrigger, AioTaskTrigger

from .conftest import fire


def submitted(count: int, kind: str = "image") -> dict[str, Any]:
    """A group of tasks that the sandbox has just taken."""
    with AioHook().get_conn() as client:
        requests = [GenerationRequest.build(kind, prompt=f"fox number {n}") for n in range(count)]
        ids = [client.submit(request).id for request in requests]
    return group_of(ids, kind, requests[0].model)


def group_of(ids: list[str], kind: str = "image", model: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "model": model, "ids": ids, "submitted_at": [time.time()] * len(ids)}


def trigger(*groups: dict[str, Any], **arguments: Any) -> AioBatchTrigger:
    given = {"aio_conn_id": "aio_default", "deadline": time.time() + 30, **arguments}
    return AioBatchTrigger(groups=groups, **given)


def ids(*groups: dict[str, Any]) -> set[str]:
    return {task_id for group in groups for task_id in group["ids"]}


def test_what_is_stored() -> None:
    group = {"kind": "image", "model": "flux-2", "ids": ["n1"], "submitted_at": [1795340000.5]}
    stored = {
        "aio_conn_id": "aio_default",
        "groups": [group],
        "deadline": 1795340900.5,
        "chunk": 500,
        "wake_at": None,
        "sparing": False,
        "carry": None,
    }
    path, arguments = trigger(group, deadline=1795340900.5).serialize()
    assert (path, arguments) == ("aio_provider.triggers.aio.AioBatchTrigger", stored)
    assert json.loads(json.dumps(arguments)) == stored


def test_what_is_stored_is_few_objects_however_many_tasks() -> None:
    """A triggerer holds them all, and its garbage collector looks at each."""

    def objects(value: Any) -> int:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return isinstance(value, dict | list) + sum(map(objects, inside))

    def stored(count: int) -> dict[str, Any]:
        flights = [Flight(f"key{n}", f"n{n}", "image", "flux-2", 1.5) for n in range(count)]
        state = State(waves=2, flights={flight.task_id: (flight, 2.5) for flight in flights})
        assert State.from_text(state.to_text()) == state
        return trigger(*groups_of(flights), carry=state.to_text()).serialize()[1]

    assert objects(stored(1000)) == objects(stored(1))


def test_all_of_several_models(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("failed@2")
    images, speech = submitted(20), submitted(3, "speech")
    event = fire(trigger(images, speech))
    assert (event["status"], event["pending"]) == ("done", 0)
    assert {outcome["task_id"] for outcome in event["outcomes"]} == ids(images, speech)
    statuses = [outcome["status"] for outcome in event["outcomes"]]
    assert (statuses.count("succeeded"), statuses.count("failed")) == (22, 1)
    assert aio_sandbox_env.requests["submit"] == 23, "GETs only"


def test_nothing_to_wait_for(aio_sandbox_env: Sandbox) -> None:
    assert fire(trigger()) == {"status": "done", "outcomes": [], "pending": 0}


def test_nothing_to_wait_for_but_the_next_wave(aio_sandbox_env: Sandbox) -> None:
    wake_at = time.time() + 0.2
    event = fire(trigger(wake_at=wake_at, sparing=True))
    assert event == {"status": "wake", "outcomes": [], "pending": 0}
    assert time.time() >= wake_at


def test_all_have_ended_before_the_next_wave(aio_sandbox_env: Sandbox) -> None:
    wake_at = time.time() + 1.5
    event = fire(trigger(submitted(2), wake_at=wake_at, sparing=True))
    assert (event["status"], len(event["outcomes"]), event["pending"]) == ("wake", 2, 0)
    assert time.time() >= wake_at


def test_chunks(aio_sandbox_env: Sandbox) -> None:
    group = submitted(25)
    seen: set[str] = set()
    left = group
    statuses = []
    while left["ids"]:
        event = fire(trigger(left, chunk=10))
        statuses.append(event["status"])
        seen |= {outcome["task_id"] for outcome in event["outcomes"]}
        left = group_of([task_id for task_id in group["ids"] if task_id not in seen], model=group["model"])
        assert event["pending"] == len(left["ids"])
    assert seen == ids(group)
    assert set(statuses[:-1]) <= {"chunk"} and len(statuses) >= 2


def test_chunks_fit_a_database_row(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_EVENT_BYTES", 1000)
    event = fire(trigger(submitted(30)))
    assert event["status"] == "chunk" and event["pending"] > 0


def test_all_get_their_turn(aio_sandbox_env: Sandbox) -> None:
    group = submitted(12)
    event = fire(trigger({**group, "ids": group["ids"][::-1]}))
    assert event["status"] == "done"
    assert {outcome["task_id"] for outcome in event["outcomes"]} == ids(group)


def test_wakes_for_the_next_wave(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends@1")
    group = submitted(3)
    event = fire(trigger(group, wake_at=time.time() + 1.5))
    assert (event["status"], event["pending"]) == ("wake", 1)
    assert len(event["outcomes"]) == 2


def test_deadline(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends")
    event = fire(trigger(submitted(2), deadline=time.time() + 0.3))
    assert event == {"status": "timeout", "outcomes": [], "pending": 2}


def test_a_lost_task_is_one_outcome(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aio_provider.hooks.aio.NOT_FOUND_GRACE", 0.2)
    aio_sandbox_env.add_fault("lost@1")
    group = submitted(3)
    event = fire(trigger(group))
    assert event["status"] == "done"
    [lost] = [outcome for outcome in event["outcomes"] if outcome["status"] == "expired"]
    assert lost["task_id"] == group["ids"][0] and "404" in lost["error"]


def test_a_refused_key_ends_it_with_what_is_there(aio_sandbox_env: Sandbox) -> None:
    group = submitted(3)
    aio_sandbox_env.add_fault("401:on=poll")
    event = fire(trigger(group))
    assert (event["status"], event["error_type"], event["pending"]) == ("fatal", "AuthenticationError", 3)
    assert aio_sandbox_env.api_key not in json.dumps(event)


async def test_one_poller_for_batches_and_single_tasks(aio_sandbox_env: Sandbox) -> None:
    one, two = submitted(5), submitted(5)
    task_id, at = one["ids"][0], one["submitted_at"][0]
    single = AioTaskTrigger(
        aio_task_id=task_id,
        aio_conn_id="aio_default",
        kind="image",
        model="flux-2",
        submitted_at=at,
        deadline=time.time() + 30,
    )
    events = await asyncio.gather(*(anext(each.run()) for each in (trigger(one), trigger(two), single)))
    assert [event.payload["status"] for event in events] == ["done"] * 3
    assert not asyncio.all_tasks() - {asyncio.current_task()}, "nothing is left running"


async def test_a_cancelled_batch_leaves_nothing(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends")
    waiting = asyncio.create_task(anext(trigger(submitted(5)).run()))  # type: ignore[arg-type]
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_on_kill_says_how_many_go_on(caplog: Any, capsys: Any) -> None:
    await trigger(group_of(["a", "b"])).on_kill()
    assert "2 tasks go on at the service" in caplog.text + capsys.readouterr().out
