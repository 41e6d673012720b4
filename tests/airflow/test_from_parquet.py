"""A batch in waves: every row paid for once, whatever is killed, cleared or refused in between."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred

import aio_provider as aio
from aio_provider.api.errors import TaskTimeoutError
from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.operators import batch_run
from aio_provider.operators.aio import AioGenerateFromParquetOperator
from aio_provider.sandbox import Sandbox

from .conftest import Instance, StateStore, fire

Make = Callable[..., AioGenerateFromParquetOperator]


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    frame = pd.DataFrame({"sku": range(12), "caption": [f"A chair, number {n}" for n in range(12)]})
    frame.to_parquet(tmp_path / "in.parquet", index=False)
    return frame


@pytest.fixture
def make(rows: pd.DataFrame, tmp_path: Path) -> Make:
    def operator(**arguments: Any) -> AioGenerateFromParquetOperator:
        given: dict[str, Any] = {
            "task_id": "pictures",
            "input_path": str(tmp_path / "in.parquet"),
            "output_path": str(tmp_path / "out.parquet"),
            "kind": "image",
            "model": "flux-2",
            "fields": {"prompt": "caption"},
        }
        return AioGenerateFromParquetOperator(**{**given, **arguments})

    return operator


@pytest.fixture
def small_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tasks in flight at most: three waves for twelve rows."""
    monkeypatch.setattr(batch_run, "MOST_IN_FLIGHT", 5)


def attempt(operator: Any, context: dict[str, Any]) -> Any:
    """One attempt to its end, with each deferral stored and resumed as Airflow does."""
    deferred = start(operator, context)
    while isinstance(deferred, TaskDeferred):
        deferred = resume(operator, context, deferred)
    return deferred


def start(operator: Any, context: dict[str, Any]) -> Any:
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        return deferred


def resume(operator: Any, context: dict[str, Any], deferred: TaskDeferred) -> Any:
    try:
        return getattr(operator, deferred.method_name)(context, event=fire(deferred.trigger))
    except TaskDeferred as again:
        return again


def output(tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(tmp_path / "out.parquet")


def prompts(sandbox: Sandbox) -> Counter[str]:
    return Counter(submission.body["prompt"] for submission in sandbox.submissions)


def test_rows_with_nothing_to_send_are_in_the_last_line(
    make: Make,
    instance: Instance,
    aio_sandbox_env: Sandbox,
    rows: pd.DataFrame,
    tmp_path: Path,
    caplog: Any,
    capsys: Any,
) -> None:
    rows.loc[[3, 7], "caption"] = None
    rows.to_parquet(tmp_path / "in.parquet")
    operator = make()
    assert attempt(operator, instance.context(operator))["skipped"] == 2
    assert "10 of 12 done, 2 with nothing to send, 0 in flight" in caplog.text + capsys.readouterr().out


def test_every_row_once(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path, rows: pd.DataFrame
) -> None:
    operator = make()
    result = attempt(operator, instance.context(operator))
    assert result == {
        "output_path": str(tmp_path / "out.parquet"),
        "rows": 12,
        "succeeded": 12,
        **dict.fromkeys(("failed", "expired", "unknown", "pending", "not_submitted", "skipped"), 0),
        "credits": aio_sandbox_env.charged,
        "reused": 0,
        "saved_credits": 0.0,
        "total_credits": aio_sandbox_env.charged,
        "kind": "image",
        "model": "flux-2",
    }
    assert aio_sandbox_env.charged > 0
    out = output(tmp_path)
    assert out["sku"].tolist() == rows["sku"].tolist()
    assert out["aio_credits"].sum() == aio_sandbox_env.charged
    by_id = {s.task_id: s.body["prompt"] for s in aio_sandbox_env.submissions}
    assert [by_id[task_id] for task_id in out["aio_task_id"]] == rows["caption"].tolist()
    assert json.dumps(instance.xcom).count("aio_sandbox_key") == 0
    assert instance.xcom["aio_output"] == (tmp_path / "out.parquet").as_uri()
    assert instance.xcom["aio_link"] in {url for urls in out["aio_urls"] for url in urls}


@pytest.mark.usefixtures("small_waves")
def test_waves(make: Make, instance: Instance, aio_sandbox_env: Sandbox, caplog: Any, capsys: Any) -> None:
    operator = make()
    context = instance.context(operator)
    deferred = start(operator, context)
    assert len(aio_sandbox_env.submissions) == 5
    assert deferred.trigger.sparing, "polls leave room for the next wave"
    stored = json.dumps(deferred.trigger.serialize())
    assert "chair" not in stored and "aio_sandbox_key" not in stored
    sent = [5]
    while isinstance(deferred, TaskDeferred):
        deferred = resume(operator, context, deferred)
        sent.append(len(aio_sandbox_env.submissions))
    assert sent[-1] == 12 and len(set(sent)) >= 3
    assert deferred["succeeded"] == 12
    assert set(prompts(aio_sandbox_env).values()) == {1}
    logged = caplog.text + capsys.readouterr().out
    assert re.search(r"Wave 2: \d+ of 12 done, \d in flight, \d+ credits so far", logged)
    assert "Wave 3: 12 of 12 done, 0 in flight, 60 credits so far." in logged


def test_templates_constants_and_columns(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = make(
        fields={"prompt": "Number {sku}: {caption}, {{ ds }}", "seed": aio.col("sku")},
        request_params={"aspect_ratio": "16:9"},
    )
    operator.render_template_fields({"ds": "2026-11-22"})
    attempt(operator, instance.context(operator))
    bodies = [s.body for s in aio_sandbox_env.submissions]
    assert {body["prompt"] for body in bodies} == {
        f"Number {n}: A chair, number {n}, 2026-11-22" for n in range(12)
    }
    assert {body["aspect_ratio"] for body in bodies} == {"16:9"}
    assert {body["seed"] for body in bodies} == set(range(12))


def test_on_the_worker(make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make(deferrable=False)
    result = operator.execute(instance.context(operator))
    assert (result["succeeded"], result["credits"]) == (12, aio_sandbox_env.charged)


def test_chat(make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make(kind="chat", model=None)
    result = operator.execute(instance.context(operator))  # answered at once: there is nothing to wait for
    assert (result["succeeded"], result["credits"]) == (12, aio_sandbox_env.charged)
    assert output(tmp_path)["aio_text"].notna().all()


def test_max_credits_holds_where_no_price_has_a_bound(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    """The first chat goes alone: what it costs says how many more may go with the next wave."""
    rows = pd.DataFrame({"sku": range(20), "caption": [f"{n} " + "kettle " * 1800 for n in range(20)]})
    rows.to_parquet(tmp_path / "long.parquet")
    operator = make(kind="chat", model=None, input_path=str(tmp_path / "long.parquet"), max_credits=200)
    result = attempt(operator, instance.context(operator))
    assert result["credits"] == aio_sandbox_env.charged <= 200
    assert 4 <= result["succeeded"] == len(aio_sandbox_env.submissions) < 7


@pytest.mark.usefixtures("small_waves")
def test_a_retry_goes_on_where_it_was(make: Make, instance: Instance, aio_sandbox_env: Sandbox) -> None:
    operator = make()
    deferred = start(operator, instance.context(operator))
    resume(operator, instance.context(operator), deferred)  # the worker and its deferral are gone
    result = attempt(operator, instance.context(operator))
    assert result["succeeded"] == 12
    assert set(prompts(aio_sandbox_env).values()) == {1}
    assert result["credits"] + result["saved_credits"] == result["total_credits"] == aio_sandbox_env.charged
    assert len(aio_sandbox_env.submissions) == 12


def test_a_clear_says_that_it_was_charged_nothing(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, caplog: Any, capsys: Any
) -> None:
    from airflow.providers.common.compat.sdk import Asset

    asset, event = Asset("x-aio://test/pictures"), SimpleNamespace(extra={})
    operator = make(outlets=[asset])
    first = attempt(operator, instance.context(operator))
    link = instance.xcom["aio_link"]
    caplog.clear(), capsys.readouterr()
    context = instance.context(operator)
    assert "aio_link" not in instance.xcom
    again = attempt(operator, {**context, "outlet_events": {asset: event}})
    assert again == {**first, "credits": 0.0, "reused": 12, "saved_credits": 60.0}
    assert (first["total_credits"], event.extra["credits"], event.extra["reused"]) == (60.0, 0.0, 12)
    logged = caplog.text + capsys.readouterr().out
    assert "12 of 12 done, 12 reused, 0 in flight, 0 credits so far." in logged
    assert "12 succeeded; 0 credits, 12 results reused (60 credits saved)" in logged
    assert set(instance.xcom) >= {"aio_link", "aio_output"} and link
    assert len(aio_sandbox_env.submissions) == 12


@pytest.mark.usefixtures("small_waves")
def test_another_machine_goes_on_from_the_state_store(
    make: Make, aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ledger_url: each machine has a file of its own, and the store has what they lack of each other's."""
    connection = json.loads(aio_sandbox_env.environment()["AIRFLOW_CONN_AIO_DEFAULT"])
    assert "ledger_url" not in connection.get("extra", {})
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(connection))
    instance = Instance(store=StateStore())
    operator = make()

    def on_machine(name: str) -> None:
        monkeypatch.setenv("AIO_LEDGER", str(tmp_path / f"{name}.sqlite"))

    on_machine("a")
    deferred = start(operator, instance.context(operator))
    on_machine("b")
    deferred = resume(operator, instance.context(operator), deferred)
    on_machine("c")  # the deferral is lost, too
    result = attempt(operator, instance.context(operator))
    assert result["succeeded"] == 12
    assert set(prompts(aio_sandbox_env).values()) == {1}
    assert result["credits"] == aio_sandbox_env.charged
    assert output(tmp_path)["aio_credits"].sum() == aio_sandbox_env.charged
    stored = json.dumps(instance.store.values)
    assert "chair" not in stored and "aio_sandbox_key" not in stored


def test_an_intent_of_another_machine_is_held(
    make: Make, aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = aio_sandbox_env.environment()["AIRFLOW_CONN_AIO_DEFAULT"]
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", connection)
    store = StateStore()
    instance = Instance(store=store)
    operator = make()

    class Killed(BaseException):
        pass

    writes = store.set

    def killed_before_the_ids(key: str, value: Any, **more: Any) -> None:
        if any(item["s"] == "accepted" for item in value.values()):
            raise Killed
        writes(key, value, **more)

    monkeypatch.setattr(store, "set", killed_before_the_ids)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "a.sqlite"))
    with pytest.raises(Killed):
        operator.execute(instance.context(operator))
    assert len(aio_sandbox_env.submissions) == 12
    monkeypatch.setattr(store, "set", writes)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "b.sqlite"))
    with pytest.raises(AirflowFailException, match=r"(?s)None of 12 rows succeeded.*aio ledger resolve"):
        attempt(operator, instance.context(operator))
    assert len(aio_sandbox_env.submissions) == 12
    # On the machine that sent them, its file knows better.
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "a.sqlite"))
    result = attempt(operator, instance.context(operator))
    assert result["succeeded"] == 12 and len(aio_sandbox_env.submissions) == 12


@pytest.mark.aio_sandbox(credits=26)
def test_too_few_credits(make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make()
    with pytest.raises(
        AirflowException, match=r"\. \d+ of 12 rows were not submitted, which may cost.*A retry does the rest"
    ):
        attempt(operator, instance.context(operator))
    out = output(tmp_path)
    assert set(out["aio_status"]) == {"succeeded", "not_submitted"}, "what was in flight has been collected"
    paid = (out["aio_status"] == "succeeded").sum()
    aio_sandbox_env.credits = 1000
    result = attempt(operator, instance.context(operator))
    assert result["succeeded"] == 12 > paid
    assert max(prompts(aio_sandbox_env).values()) == 1
    assert result["total_credits"] == aio_sandbox_env.charged == result["credits"] + 5 * paid


def test_max_credits_holds_over_attempts(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    operator = make(max_credits=26)
    result = attempt(operator, instance.context(operator))
    assert result["credits"] == aio_sandbox_env.charged <= 26
    assert result["not_submitted"] == 12 - result["succeeded"] > 0
    again = attempt(operator, instance.context(operator))
    assert (again["credits"], again["total_credits"]) == (0.0, result["credits"])
    assert result["credits"] == aio_sandbox_env.charged


@pytest.mark.aio_sandbox(faults=["failed:times=6"])
def test_failures_are_rows(make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make()
    result = attempt(operator, instance.context(operator))
    assert (result["succeeded"], result["failed"]) == (6, 6)
    assert result["credits"] == aio_sandbox_env.charged
    retried = attempt(operator, instance.context(operator))
    assert (retried["succeeded"], retried["total_credits"]) == (12, aio_sandbox_env.charged)
    assert retried["credits"] == aio_sandbox_env.charged - result["credits"]
    assert len(aio_sandbox_env.submissions) == 18


@pytest.mark.usefixtures("small_waves")
@pytest.mark.aio_sandbox(faults=["failed"])
@pytest.mark.parametrize("most", [3, 0.25])
def test_too_many_failures(
    most: float, make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = make(max_failures=most)
    with pytest.raises(AirflowException, match="max_failures"):
        attempt(operator, instance.context(operator))
    assert len(aio_sandbox_env.submissions) < 12, "nothing more was paid for"
    assert set(output(tmp_path)["aio_status"]) == {"failed", "not_submitted"}


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_on_failure_fail(make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make(on_failure="fail")
    with pytest.raises(AirflowException, match="1 of 12 rows failed"):
        attempt(operator, instance.context(operator))
    assert output(tmp_path)["aio_status"].value_counts().to_dict() == {"succeeded": 11, "failed": 1}


@pytest.mark.aio_sandbox(time_scale=100)
def test_the_deadline(make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    operator = make(deadline=0.3)
    with pytest.raises(TaskTimeoutError, match=r"None of 12 rows.*pays nothing"):
        attempt(operator, instance.context(operator))
    assert set(output(tmp_path)["aio_status"]) == {"pending"}
    assert len(aio_sandbox_env.submissions) == 12


def test_a_refused_key(make: Make, instance: Instance, aio_sandbox_env: Sandbox, monkeypatch: Any) -> None:
    connection = json.loads(aio_sandbox_env.environment()["AIRFLOW_CONN_AIO_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(connection | {"password": "aio_wrong"}))
    operator = make()
    with pytest.raises(AirflowFailException, match="Nothing more was sent") as failed:
        operator.execute(instance.context(operator))
    assert "aio_wrong" not in str(failed.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": {"prompt": "captoin"}}, "captoin.*caption"),
        ({"fields": {"prompt": "A {chair}"}}, "chair"),
        ({"fields": {}}, "prompt"),
        ({"kind": "painting"}, "painting"),
        ({"key": "id"}, "id"),
    ],
)
def test_bad_input_costs_nothing(
    arguments: dict[str, Any], message: str, make: Make, instance: Instance, aio_sandbox_env: Sandbox
) -> None:
    operator = make(**arguments)
    with pytest.raises(AirflowFailException, match=rf"(?s)Nothing was sent.*{message}"):
        operator.execute(instance.context(operator))
    assert aio_sandbox_env.requests == {}


def test_a_csv_file_in_its_own_way(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes("caption;price\nein grüner Stuhl;5\neine blaue Lampe;7\n".encode("latin-1"))
    read = {"input_path": str(path), "encoding": "{{ params.written }}", "delimiter": "{{ params.mark }}"}
    params = {"written": "latin-1", "mark": ";"}
    for arguments, says in [
        ({"params": params | {"written": "utf-9"}}, "encoding='utf-9': no such encoding"),
        ({"params": params | {"mark": ";;"}}, "delimiter=';;': it must be one character"),
        ({"encoding": None}, r"not written in utf-8 \(byte 0xfc\).*encoding='cp1252'"),
        ({"delimiter": None}, "read the CSV file with delimiter=';'"),
        ({"input_path": str(tmp_path / "in.parquet")}, "for CSV files, and this is Parquet"),
    ]:
        operator = make(**{**read, "params": params, **arguments})
        operator.render_template_fields({"params": dict(operator.params)})
        with pytest.raises(AirflowFailException, match=rf"Nothing was sent.*{says}"):
            operator.execute(instance.context(operator))
    assert aio_sandbox_env.requests == {}
    operator = make(**read, params=params)
    operator.render_template_fields({"params": dict(operator.params)})
    assert attempt(operator, instance.context(operator))["succeeded"] == 2
    assert prompts(aio_sandbox_env) == Counter(["ein grüner Stuhl", "eine blaue Lampe"])
    assert output(tmp_path)["price"].tolist() == [5, 7]


def test_the_columns_of_a_csv_file_as_text(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("sku,price\n007,1.50\n7,NA\n")
    read = {"input_path": str(path), "fields": {"prompt": "{sku} for {price}"}, "dtype": "{{ params.dtype }}"}
    for dtype, says in [("int", "dtype='int': it must be 'str'"), ("", "dtype='': it must be 'str'")]:
        operator = make(**read, params={"dtype": dtype})
        operator.render_template_fields({"params": dict(operator.params)})
        with pytest.raises(AirflowFailException, match=rf"Nothing was sent.*{says}"):
            operator.execute(instance.context(operator))
    assert aio_sandbox_env.requests == {}
    for dtype in ("{{ params.dtype }}", str):  # the same call twice
        operator = make(**{**read, "dtype": dtype}, params={"dtype": "str"})
        operator.render_template_fields({"params": dict(operator.params)})
        assert attempt(operator, instance.context(operator))["succeeded"] == 2
    assert prompts(aio_sandbox_env) == Counter(["007 for 1.50", "7 for NA"])


def test_an_output_of_another_call(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    pd.DataFrame({"mine": [1]}).to_parquet(tmp_path / "out.parquet")
    operator = make()
    with pytest.raises(AirflowFailException, match=r"Nothing was sent.*out\.parquet"):
        operator.execute(instance.context(operator))
    operator = make(overwrite=True)
    assert attempt(operator, instance.context(operator))["succeeded"] == 12


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_failures": -1},
        {"max_failures": 1.5},
        {"max_credits": "many"},
        {"on_failure": "ignore"},
        {"reuse": "never"},
        {"deadline": 0},
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], make: Make) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make(**arguments)


def test_two_shards_of_one_folder(
    make: Make, aio_sandbox_env: Sandbox, tmp_path: Path, rows: pd.DataFrame
) -> None:
    folder = f"{tmp_path}/parts/"
    Path(folder).mkdir()
    results = []
    for index in range(2):
        operator = make(output_path=folder)
        results.append(attempt(operator, Instance(map_index=index, store=StateStore()).context(operator)))
    assert [result["output_path"] for result in results] == [f"{folder}in-0.parquet", f"{folder}in-1.parquet"]
    assert sum(result["credits"] for result in results) == aio_sandbox_env.charged
    assert len(pd.read_parquet(folder)) == 24


def test_what_assets_are_told(make: Make, instance: Instance, aio_sandbox_env: Sandbox) -> None:
    from airflow.providers.common.compat.sdk import Asset

    asset = Asset("x-aio://test/pictures")
    operator = make(outlets=[asset])

    class Event:
        extra: dict[str, Any]

    events = {asset: Event()}
    attempt(operator, {**instance.context(operator), "outlet_events": events})
    assert events[asset].extra == {
        "rows": 12,
        "succeeded": 12,
        "failed": 0,
        "failures": 0,
        "credits": aio_sandbox_env.charged,
        "reused": 0,
    }


def test_what_a_killed_task_says(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, caplog: Any, capsys: Any
) -> None:
    operator = make()
    operator.on_kill()
    deferred = start(operator, instance.context(operator))
    assert "at the service" not in caplog.text + capsys.readouterr().out, "nothing was in flight"
    operator.on_kill()
    assert "12 tasks go on" in caplog.text + capsys.readouterr().out
    resume(operator, instance.context(operator), deferred)
    caplog.clear(), capsys.readouterr()
    operator.on_kill()
    assert "at the service" not in caplog.text + capsys.readouterr().out, "all is done"


def test_the_ledger_knows_whose_they_are(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = make(team="toys")
    attempt(operator, instance.context(operator))
    with Ledger.open(tmp_path / "aio-ledger.sqlite") as ledger:
        entries = list(ledger.entries(state=JobState.SUCCEEDED))
    assert len(entries) == 12
    assert {entry.labels["team"] for entry in entries} == {"toys"}
    assert {(entry.labels["dag_id"], entry.labels["task_id"]) for entry in entries} == {("shop", "pictures")}


def test_a_dag_with_expressions_is_stored_and_loaded(load_dag: Callable[[str], Any]) -> None:
    """The scheduler stores the DAG; the same file gives the same text, however often it is parsed."""
    source = """
import aio_provider as aio
from airflow.providers.common.compat.sdk import dag
from aio_provider.operators.aio import AioGenerateFromParquetOperator

@dag(schedule=None)
def shards():
    given = dict(
        kind="image",
        fields={"prompt": aio.template("A {thing}"), "seed": aio.col("seed")},
        request_params={"aspect_ratio": "1:1"},
    )
    AioGenerateFromParquetOperator.partial(task_id="many", output_path="out/", **given).expand(
        input_path=["a.parquet", "b.parquet"]
    )
    AioGenerateFromParquetOperator(task_id="one", input_path="a.parquet", output_path="b.parquet", **given)

it = shards()
"""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialized
    except ImportError:  # Airflow 2
        from airflow.serialization.serialized_objects import SerializedDAG as Serialized
    stored = [json.dumps(Serialized.to_dict(load_dag(source).it), sort_keys=True) for _ in range(2)]
    first, second = (text.replace("dag_of_test_1", "dag_of_test_0") for text in stored)
    assert first == second
    loaded = Serialized.from_dict(json.loads(first))
    assert set(loaded.task_ids) == {"many", "one"}
    assert " at 0x" not in first


@pytest.mark.aio_sandbox(faults=["failed"])
def test_a_task_without_any_result_fails(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = make()
    with pytest.raises(
        AirflowException, match="None of 12 rows succeeded: 12 failed, the first with"
    ) as failed:
        attempt(operator, instance.context(operator))
    assert not isinstance(failed.value, AirflowFailException), "a retry submits them anew"
    assert set(output(tmp_path)["aio_status"]) == {"failed"}


def test_an_unknown_model_is_refused_once(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = make(model="flux-99-nope")
    with pytest.raises(AirflowFailException, match=r"None of 12 rows succeeded.*flux-99-nope"):
        attempt(operator, instance.context(operator))
    assert aio_sandbox_env.requests["submit"] == 1
    assert output(tmp_path)["aio_status"].value_counts().to_dict() == {"failed": 1, "not_submitted": 11}


def test_one_unknown_model_among_good_ones(
    make: Make,
    instance: Instance,
    aio_sandbox_env: Sandbox,
    tmp_path: Path,
    rows: pd.DataFrame,
    caplog: Any,
    capsys: Any,
) -> None:
    rows["model"] = ["flux-2", "flux-99-nope", "flux-2"] * 4
    rows.to_parquet(tmp_path / "in.parquet", index=False)
    operator = make(model=aio.col("model"))
    result = attempt(operator, instance.context(operator))
    assert (result["succeeded"], result["failed"], result["not_submitted"]) == (8, 1, 3)
    logged = caplog.text + capsys.readouterr().out
    assert "8 of 12" not in logged and "3 left out" in logged and "flux-99-nope" in logged


@pytest.mark.aio_sandbox(faults=["drop-after@2"])
def test_a_held_row_is_named(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    operator = make(key="sku")
    result = attempt(operator, instance.context(operator))
    assert (result["succeeded"], result["unknown"], result["reused"]) == (11, 1, 0)
    out = output(tmp_path)
    [held] = out[out["aio_status"] == "unknown"].to_dict("records")
    key = re.match(r"job ([0-9a-f]{12}): ", held["aio_error"])
    assert key is not None
    logged = caplog.text + capsys.readouterr().out
    assert f"row {held['sku']} (sku={held['sku']}): aio ledger resolve {key[1]} --task-id" in logged
    assert f"--task-id THE_TASK_ID --base-url {aio_sandbox_env.base_url} --ledger " in logged
    with Ledger.open(tmp_path / "aio-ledger.sqlite") as ledger:
        [entry] = ledger.find(key[1])
        assert entry.state is JobState.UNKNOWN
    assert "11 of 12 done, 1 held" in logged


def test_a_budget_that_charges_alone_fill_fails_for_good(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path / "aio-ledger.sqlite") as ledger:
        ledger.set_budget("dag", "shop", credits=31)
    operator = make()
    with pytest.raises(AirflowFailException, match="6 of 12 rows were not submitted") as failed:
        attempt(operator, instance.context(operator))
    assert "A retry" not in str(failed.value)
    assert len(aio_sandbox_env.submissions) == 6


def test_the_folder_of_the_output_is_made(
    make: Make, instance: Instance, aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = make(output_path=str(tmp_path / "new" / "folder" / "out.parquet"))
    assert attempt(operator, instance.context(operator))["succeeded"] == 12
    (tmp_path / "file").write_text("")
    operator = make(output_path=str(tmp_path / "file" / "out.parquet"))
    with pytest.raises(AirflowFailException, match=r"output_path=.*file/out\.parquet"):
        operator.execute(instance.context(operator))


@pytest.mark.usefixtures("aio_sandbox_env")
def test_a_missing_input_is_named(make: Make, instance: Instance, tmp_path: Path) -> None:
    operator = make(input_path=str(tmp_path / "later.parquet"))
    with pytest.raises(FileNotFoundError, match=r"input_path.*A retry.*later\.parquet"):
        operator.execute(instance.context(operator))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"fields": {"prompt": "produkt"}}, r"request_params=\{'prompt': 'produkt'\}"),
        ({"fields": {}}, r"fields=\{'prompt': 'caption'\}"),
        ({"input_path": "x.xlsx"}, "task before this one"),
    ],
)
def test_messages_speak_the_operators_words(
    arguments: dict[str, Any], says: str, make: Make, instance: Instance, aio_sandbox_env: Sandbox
) -> None:
    operator = make(**arguments)
    with pytest.raises(AirflowFailException, match=says) as failed:
        operator.execute(instance.context(operator))
    assert "aio.lit" not in str(failed.value) and "DataFrame" not in str(failed.value)


@pytest.mark.usefixtures("aio_sandbox_env")
def test_links_are_not_looked_for_where_there_are_none(make: Make, instance: Instance) -> None:
    """Airflow asks for them at each deferral, and logs an error for an XCom that is not there."""
    operator = make()
    deferred = start(operator, instance.context(operator))
    assert isinstance(deferred, TaskDeferred)
    links = {link.name: link for link in operator.operator_extra_links}
    assert [link.get_link(operator, ti_key=None) for link in links.values()] == ["", ""]
    resume(operator, {**instance.context(operator), "task": operator}, deferred)
    assert links["API in One result"].get_link(operator, ti_key=None) == instance.xcom["aio_link"]
    assert links["Output"].get_link(operator, ti_key=None) == instance.xcom["aio_output"]
