"""``@task.aio_*``: what the function returns is what is sent, and is never taken for a template."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSkipException

from aio_provider.decorators import aio as decorators
from aio_provider.get_provider_info import get_provider_info
from aio_provider.operators.aio import AioBaseOperator
from aio_provider.sandbox import Sandbox

from .conftest import Instance, wait_inline

NAMES = [decorator["name"] for decorator in get_provider_info()["task-decorators"]]


def operator_of(name: str, function: Callable[..., Any], **arguments: Any) -> Any:
    with DAG("d", schedule=None):
        return getattr(decorators, f"{name}_task")(function, task_id="it", **arguments)().operator


@pytest.mark.parametrize("name", NAMES)
def test_every_decorator_makes_its_operator(name: str) -> None:
    arguments = {"endpoint": "image"} if name == "aio_generate" else {}
    operator = operator_of(name, lambda: "x", **arguments)
    assert isinstance(operator, AioBaseOperator)
    assert operator.custom_operator_name == f"@task.{name}"
    assert not set(operator.request_fields) & set(operator.template_fields)
    assert {"op_args", "op_kwargs", "request_params", "aio_conn_id"} <= set(operator.template_fields)
    assert f"@task.{name}" in (getattr(decorators, f"{name}_task").__doc__ or "")


def test_a_text_is_the_prompt_and_stays_as_it_is(aio_sandbox_env: Sandbox) -> None:
    text = "a fox with {{ var.value.secret }} on its {% back"
    operator = operator_of("aio_image", lambda: text)
    context = Instance().context(operator)
    operator.render_template_fields(context)
    assert wait_inline(operator, context)["status"] == "succeeded"
    assert aio_sandbox_env.submissions[0].body["prompt"] == text


def test_a_dict_is_the_fields_of_the_request(aio_sandbox_env: Sandbox) -> None:
    def fields() -> dict[str, Any]:
        return {"prompt": "a red fox", "model": "imagen-4", "aspect_ratio": "16:9"}

    operator = operator_of("aio_image", fields, request_params={"negative_prompt": "snow"})
    wait_inline(operator, Instance().context(operator))
    body = aio_sandbox_env.submissions[0].body
    assert body == {
        "model": "imagen4",
        "prompt": "a red fox",
        "aspect_ratio": "16:9",
        "negative_prompt": "snow",
    }


def test_the_function_gets_context_and_arguments(aio_sandbox_env: Sandbox) -> None:
    def prompt(colour: str, run_id: str | None = None) -> str:
        return f"a {colour} fox of {run_id}"

    with DAG("d", schedule=None):
        operator = decorators.aio_image_task(prompt)("red").operator
    context = Instance().context(operator)
    wait_inline(operator, context)
    assert aio_sandbox_env.submissions[0].body["prompt"] == f"a red fox of {context['run_id']}"


def test_a_task_that_is_skipped_has_no_link() -> None:
    def skip() -> str:
        raise AirflowSkipException("no new products")

    operator = operator_of("aio_image", skip)
    with pytest.raises(AirflowSkipException):
        operator.execute(Instance().context(operator))
    (link,) = operator.operator_extra_links
    # Airflow asks when the task stops, and logs an error for an XCom that is not there
    assert link.get_link(operator, ti_key=None) == ""


@pytest.mark.parametrize("returned", [None, 5, ["a red fox"]])
def test_anything_else_is_refused(aio_sandbox_env: Sandbox, returned: Any) -> None:
    operator = operator_of("aio_image", lambda: returned)
    with pytest.raises(AirflowFailException, match="must return"):
        operator.execute(Instance().context(operator))
    assert aio_sandbox_env.requests.get("requests", 0) == 0


def test_in_a_dag(load_dag: Callable[[str], ModuleType], aio_sandbox_env: Sandbox) -> None:
    source = """
from airflow.providers.common.compat.sdk import dag, task

@dag(schedule=None)
def decorated():
    @task.aio_image(model="flux-2", retries=1)
    def picture(colour):
        return f"a {colour} fox"

    @task.aio_remove_background
    def cutout(made):
        return made["urls"][0]

    cutout.expand(made=picture.expand(colour=["red", "blue"]))

decorated_dag = decorated()
"""
    run = load_dag(source).decorated_dag.test()
    assert run.state == "success"
    kinds = sorted(submission.kind for submission in aio_sandbox_env.submissions)
    assert kinds == ["image", "image", "remove_background", "remove_background"]
