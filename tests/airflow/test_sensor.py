"""The sensor: waits for somebody else's task, in the triggerer, on the worker, or by rescheduling."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    PokeReturnValue,
)

from aio_provider.api.errors import ConfigurationError
from aio_provider.api.requests import GenerationRequest
from aio_provider.hooks.aio import AioHook
from aio_provider.sandbox import Sandbox
from aio_provider.sensors.aio import AioTaskSensor

from .conftest import Instance, deferral_of, wait_inline


@pytest.fixture
def task_id(aio_sandbox_env: Sandbox) -> str:
    """A task that somebody else has submitted."""
    return submit()


def submit() -> str:
    with AioHook().get_conn() as client:
        return client.submit(GenerationRequest.image("a red fox")).id


def sensor(task_id: str, **arguments: Any) -> AioTaskSensor:
    return AioTaskSensor(task_id="wait", aio_task_id=task_id, kind="image", model="flux-2", **arguments)


def test_deferred(aio_sandbox_env: Sandbox, task_id: str) -> None:
    instance = Instance()
    operator = sensor(task_id)
    result = wait_inline(operator, instance.context(operator))
    assert (result["task_id"], result["status"], result["credits"]) == (task_id, "succeeded", 5)
    assert instance.xcom["aio_link"] == result["urls"][0]
    assert aio_sandbox_env.requests["submit"] == 1, "GETs only"


def test_on_the_worker(task_id: str) -> None:
    operator = sensor(task_id, deferrable=False)
    assert operator.execute(Instance().context(operator))["status"] == "succeeded"


def test_poke_asks_once(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends@1")
    operator = sensor(submit(), deferrable=False, mode="reschedule")
    context: Any = Instance().context(operator)
    answer = operator.poke(context)
    assert not answer
    assert aio_sandbox_env.requests["poll"] == 1
    aio_sandbox_env.add_fault("500:on=poll")
    assert not operator.poke(context), "what passes is asked again"


def test_poke_hands_over_the_result(aio_sandbox_env: Sandbox, task_id: str) -> None:
    operator = sensor(task_id, deferrable=False, mode="reschedule")
    context: Any = Instance().context(operator)
    for _ in range(1000):
        answer = operator.poke(context)
        if answer:
            break
    assert isinstance(answer, PokeReturnValue)
    assert answer.xcom_value["status"] == "succeeded"


def test_a_failed_task_is_no_reason_to_ask_again(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("failed@1")
    operator = sensor(submit())
    with pytest.raises(AirflowFailException, match="failed"):
        wait_inline(operator, Instance().context(operator))


def test_timeout(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("never-ends@1")
    operator = sensor(submit(), timeout=0.3)
    with pytest.raises(AirflowSensorTimeout):
        wait_inline(operator, Instance().context(operator))


def test_an_unknown_task(task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = sensor("no_such_task", deferrable=False, mode="reschedule")
    context: Any = Instance().context(operator)
    with pytest.raises(AirflowFailException, match="404"):
        operator.poke(context)


def test_a_link_is_not_looked_for_where_there_is_none(
    aio_sandbox_env: Sandbox, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow asks for it when the task stops, and logs an error for an XCom that is not there."""
    operator, instance = sensor(task_id), Instance()
    deferral_of(operator, instance.context(operator))
    (link,) = operator.operator_extra_links
    assert link.get_link(operator, ti_key=None) == instance.xcom["aio_link"]  # type: ignore[arg-type]

    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", "aio://apiin.one")
    operator = sensor(task_id)
    with pytest.raises(ConfigurationError, match="has no key"):
        operator.execute(instance.context(operator))  # type: ignore[arg-type]
    assert link.get_link(operator, ti_key=None) == ""  # type: ignore[arg-type]


def test_soft_fail_skips(aio_sandbox_env: Sandbox) -> None:
    aio_sandbox_env.add_fault("failed@1")
    operator = sensor(submit(), soft_fail=True)
    deferred = deferral_of(operator, Instance().context(operator))
    from .conftest import fire

    with pytest.raises(AirflowSkipException):
        operator.resume_execution(
            deferred.method_name, {"event": fire(deferred.trigger)}, Instance().context(operator)
        )


def test_template_fields() -> None:
    with DAG("d", schedule=None):
        operator = sensor("{{ x }}")
    operator.render_template_fields({"x": "n41_flux2"})  # type: ignore[arg-type]
    assert operator.aio_task_id == "n41_flux2"
