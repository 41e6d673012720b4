"""One output, one task instance: two that would share one are refused before either has paid for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from aio_provider.operators import batch_run
from aio_provider.operators.aio import AioGenerateFromParquetOperator
from aio_provider.sandbox import Sandbox

from .conftest import Instance, StateStore
from .test_from_parquet import attempt, resume, start

CLAIMED = r"Nothing was sent.*output_path=.*holds the result of another call, which is under way"


@pytest.fixture(autouse=True)
def sources(tmp_path: Path) -> None:
    for name in "ab":
        frame = pd.DataFrame({"caption": [f"A chair of {name}, number {n}" for n in range(6)]})
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)


def make(tmp_path: Path, source: str = "a", **arguments: Any) -> AioGenerateFromParquetOperator:
    given: dict[str, Any] = {
        "task_id": "pictures",
        "input_path": str(tmp_path / f"{source}.parquet"),
        "output_path": str(tmp_path / "one.parquet"),
        "kind": "image",
        "fields": {"prompt": "caption"},
    }
    return AioGenerateFromParquetOperator(**{**given, **arguments})


def instance_of(index: int = -1) -> Instance:
    return Instance(map_index=index, store=StateStore())


def run_of(name: str) -> Instance:
    """The same task in another DAG run."""
    one = instance_of()
    context = one.context

    def renamed(task: Any) -> dict[str, Any]:
        made = context(task)
        made["ti"].run_id = name
        return made

    one.context = renamed  # type: ignore[method-assign]
    return one


def test_two_mapped_tasks_of_one_file(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "MOST_IN_FLIGHT", 2)
    first, second = make(tmp_path, "a"), make(tmp_path, "b")
    one, other = instance_of(0), instance_of(1)
    deferred = start(first, one.context(first))
    with pytest.raises(AirflowFailException, match=rf"{CLAIMED}.*a folder that ends with '/'"):
        start(second, other.context(second))
    waves = 1
    while isinstance(deferred, TaskDeferred):
        deferred = resume(first, one.context(first), deferred)
        waves += 1
        with pytest.raises(AirflowFailException, match=r"holds the result of another call.*a folder"):
            start(second, other.context(second))
    assert (waves > 2, deferred["succeeded"]) == (True, 6)
    assert {s.body["prompt"][:12] for s in aio_sandbox_env.submissions} == {"A chair of a"}
    assert len(aio_sandbox_env.submissions) == len(pd.read_parquet(tmp_path / "one.parquet")) == 6


def test_a_killed_attempt_does_not_stand_in_its_own_way(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    one = instance_of()
    operator = make(tmp_path)
    start(operator, one.context(operator))
    assert attempt(operator, one.context(operator))["succeeded"] == 6
    assert len(aio_sandbox_env.submissions) == 6


def test_nor_does_one_that_was_mended_before_it_was_cleared(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    one = instance_of()
    operator = make(tmp_path)
    start(operator, one.context(operator))
    mended = make(tmp_path, fields={"prompt": "A photo of {caption}"})
    assert attempt(mended, one.context(mended))["succeeded"] == 6


def test_a_task_that_sent_nothing_leaves_nothing(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = aio_sandbox_env.environment()["AIRFLOW_CONN_AIO_DEFAULT"]
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(json.loads(good) | {"password": "aio_wrong"}))
    operator = make(tmp_path)
    with pytest.raises(AirflowFailException, match="Nothing more was sent"):
        operator.execute(run_of("monday").context(operator))
    assert not (tmp_path / "one.parquet.parts").exists()
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", good)
    operator = make(tmp_path)
    assert attempt(operator, run_of("tuesday").context(operator))["succeeded"] == 6


def test_a_task_whose_key_was_refused_later_keeps_its_claim(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, one = make(tmp_path), run_of("monday")
    start(operator, one.context(operator))  # killed: its tasks go on, and are paid for
    good = aio_sandbox_env.environment()["AIRFLOW_CONN_AIO_DEFAULT"]
    bad = json.dumps(json.loads(good) | {"password": "aio_wrong"})
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", bad)
    more = pd.DataFrame({"caption": ["one", "two"]})
    operator = make(tmp_path)
    more.to_parquet(tmp_path / "a.parquet", index=False)  # rows that are not on record yet
    with pytest.raises(AirflowFailException, match="Nothing more was sent"):
        operator.execute(one.context(operator))
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", good)
    operator = make(tmp_path)
    with pytest.raises(AirflowFailException, match=CLAIMED):
        operator.execute(run_of("tuesday").context(operator))


def test_another_dag_run_is_told_what_overwriting_costs(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make(tmp_path)
    attempt(operator, run_of("monday").context(operator))
    operator = make(tmp_path)
    with pytest.raises(AirflowFailException) as refused:
        operator.execute(run_of("tuesday").context(operator))
    said = str(refused.value)
    assert "It differs in the DAG run or task that writes it (or reuse)." in said
    assert "Pass overwrite=True to replace it (its rows are sent and paid for again, unless reuse=" in said
    assert "run_id" not in said and "folder" not in said
    assert len(aio_sandbox_env.submissions) == 6


MAPPED = """
from airflow.providers.common.compat.sdk import dag
from aio_provider.operators.aio import AioGenerateFromParquetOperator

@dag(schedule=None)
def shards():
    AioGenerateFromParquetOperator.partial(
        task_id="many", output_path={output!r}, kind="image", fields={{"prompt": "caption"}}
    ).expand(input_path={inputs!r})

it = shards()
"""


@pytest.mark.parametrize(
    ("name", "refused"),
    [("one.parquet", True), ("parts", True), ("folder/", False), ("{{ ti.map_index }}.parquet", False)],
)
def test_one_file_for_all_mapped_tasks(
    name: str, refused: bool, aio_sandbox_env: Sandbox, tmp_path: Path, load_dag: Callable[[str], Any]
) -> None:
    inputs = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    mapped = load_dag(MAPPED.format(output=f"{tmp_path}/{name}", inputs=inputs)).it.get_task("many")
    results = []
    for index, source in enumerate(inputs):
        operator = mapped.unmap({"input_path": source})  # as a worker does, before it renders
        context = instance_of(index).context(operator)
        operator.render_template_fields({"ti": context["ti"]})
        if refused:
            with pytest.raises(AirflowFailException, match=r"one output for all mapped.*ends with '/'"):
                operator.execute(context)
        else:
            results.append(attempt(operator, context)["succeeded"])
    assert results == ([] if refused else [6, 6])
    assert bool(aio_sandbox_env.requests) is not refused


@pytest.mark.usefixtures("capsys")
def test_a_field_that_is_nearly_a_known_one(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    one, params = instance_of(), {"aspect_ratioo": "16:9"}
    operator = make(tmp_path, request_params=params)
    with pytest.raises(AirflowFailException, match=r"did you mean 'aspect_ratio'\? With as_written=True"):
        operator.execute(one.context(operator))
    assert aio_sandbox_env.requests == {} and not (tmp_path / "one.parquet.parts").exists()
    operator = make(tmp_path, request_params=params, as_written=True)
    assert attempt(operator, one.context(operator))["succeeded"] == 6
    assert {s.body["aspect_ratioo"] for s in aio_sandbox_env.submissions} == {"16:9"}
    operator = make(tmp_path, "b", request_params={"brand_new": 1}, overwrite=True)
    assert attempt(operator, one.context(operator))["succeeded"] == 6, "what is new may be right"
