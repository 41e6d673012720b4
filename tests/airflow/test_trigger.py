"""The trigger: what is stored of it, what it says for each end, and that it never does more than look."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from aio_provider.hooks.aio import AioHook
from aio_provider.jobs import shared_poller
from aio_provider.jobs.poller import Poller
from aio_provider.sandbox import Sandbox
from aio_provider.triggers.aio import AioTaskTrigger

from .conftest import fire

ARGUMENTS: dict[str, Any] = {
    "aio_task_id": "n41_flux2",
    "aio_conn_id": "aio_default",
    "kind": "image",
    "model": "flux-2",
    "submitted_at": 1795340000.5,
    "deadline": 1795340900.5,
    "job_key": "ab" * 32,
}


def test_what_is_stored() -> None:
    trigger = AioTaskTrigger(**ARGUMENTS)
    assert trigger.serialize() == ("aio_provider.triggers.aio.AioTaskTrigger", ARGUMENTS)
    assert "n41_flux2" in repr(trigger)


def submitted(sandbox: Sandbox, **changes: Any) -> AioTaskTrigger:
    """A trigger for a task that the sandbox has just taken."""
    from aio_provider.api.requests import GenerationRequest

    with AioHook().get_conn() as client:
        task = client.submit(GenerationRequest.image("a red fox"))
    now = time.time()
    return AioTaskTrigger(
        **{**ARGUMENTS, "aio_task_id": task.id, "submitted_at": now, "deadline": now + 30, **changes}
    )


@pytest.mark.parametrize(
    ("fault", "status"), [(None, "succeeded"), ("failed@1", "failed")], ids=["succeeded", "failed"]
)
def test_a_task_that_ends(aio_sandbox_env: Sandbox, fault: str | None, status: str) -> None:
    if fault:
        aio_sandbox_env.add_fault(fault)
    trigger = submitted(aio_sandbox_env)
    event = fire(trigger)
    task = event.pop("task")
    assert event == {
        **{name: value for name, value in trigger.serialize()[1].items() if name != "deadline"},
        "status": "done",
    }
    assert (task["task_id"], task["status"]) == (trigger.aio_task_id, status)
    assert aio_sandbox_env.requests["submit"] == 1, "GETs only"


def test_a_task_that_does_not_end_in_time(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends@1")
    event = fire(submitted(aio_sandbox_env, deadline=time.time() + 0.5))
    assert (event["status"], event["error_type"]) == ("timeout", "TaskTimeoutError")


def test_a_deadline_that_passed_while_nobody_looked_gets_one_look(aio_sandbox_env: Sandbox) -> None:
    trigger = submitted(aio_sandbox_env)
    trigger.deadline = trigger.submitted_at - 3600
    trigger.submitted_at -= 7200
    aio_sandbox_env.add_fault("never-ends@1")
    stuck = submitted(aio_sandbox_env, deadline=trigger.deadline)
    assert fire(stuck)["status"] == "timeout"
    time.sleep(0.2)  # the picture of the first one takes some hundredths of a second
    assert fire(trigger)["status"] == "done"


def test_a_refused_key_is_fatal(aio_sandbox_env: Sandbox) -> None:
    trigger = submitted(aio_sandbox_env)
    aio_sandbox_env.add_fault("401:on=poll")
    event = fire(trigger)
    assert (event["status"], event["error_type"]) == ("fatal", "AuthenticationError")
    assert aio_sandbox_env.api_key not in json.dumps(event)


def test_an_unusable_connection_is_fatal(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = submitted(aio_sandbox_env)
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", "aio://apiin.one")
    event = fire(trigger)
    assert (event["status"], event["error_type"]) == ("fatal", "ConfigurationError")


@pytest.mark.parametrize(
    "fault", ["500@1:on=poll", "502-html@1:on=poll", "truncated-json@1:on=poll", "404-first-poll"]
)
def test_what_passes_is_waited_out(aio_sandbox_env: Sandbox, fault: str) -> None:
    trigger = submitted(aio_sandbox_env)
    aio_sandbox_env.add_fault(fault)
    assert fire(trigger)["task"]["status"] == "succeeded"
    assert aio_sandbox_env.requests["poll"] >= 2


def test_a_task_the_service_lost(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aio_provider.hooks.aio.NOT_FOUND_GRACE", 0.2)
    aio_sandbox_env.add_fault("lost@1")
    event = fire(submitted(aio_sandbox_env))
    assert (event["status"], event["error_type"]) == ("expired", "NotFoundError")


def test_our_own_mistakes_are_raised(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AioHook, "watch", broken)
    with pytest.raises(ZeroDivisionError):
        fire(submitted(aio_sandbox_env))


async def test_on_kill_cancels_nothing_and_says_so(
    aio_sandbox_env: Sandbox, caplog: Any, capsys: Any
) -> None:
    trigger = AioTaskTrigger(**ARGUMENTS)
    await trigger.on_kill()
    said = caplog.text + capsys.readouterr().out
    assert "n41_flux2 goes on at the service" in said and "pays nothing" in said
    assert aio_sandbox_env.requests.get("requests", 0) == 0


async def test_a_thousand_triggers_are_one_poller(
    aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    original = Poller.__init__

    def count(self: Any, *arguments: Any, **keywords: Any) -> None:
        made.append(self)
        original(self, *arguments, **keywords)

    monkeypatch.setattr(Poller, "__init__", count)
    one = submitted(aio_sandbox_env)
    two = submitted(aio_sandbox_env)
    triggers = [AioTaskTrigger(**(one, two)[n % 2].serialize()[1]) for n in range(1000)]
    events = await asyncio.gather(*(anext(trigger.run()) for trigger in triggers))
    assert {event.payload["aio_task_id"] for event in events} == {one.aio_task_id, two.aio_task_id}
    assert len(made) == 1
    assert not shared_poller._shared.get(asyncio.get_running_loop()), "the last one closed it"


async def test_a_cancelled_trigger_leaves_the_others_alone(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends@1")
    stuck, fine = submitted(aio_sandbox_env), submitted(aio_sandbox_env)
    waiting = asyncio.create_task(anext(stuck.run()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    other = asyncio.create_task(anext(fine.run()))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    waiting.cancel()
    assert (await other).payload["status"] == "done"
    with pytest.raises(asyncio.CancelledError):
        await waiting
