"""What a task says so that a person can act: lines that run as they are, and one line about the result."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from aio_provider.hooks.aio import AioHook
from aio_provider.jobs.ledger import Ledger
from aio_provider.operators.aio import AioGenerateFromParquetOperator, AioGenerateImageOperator
from aio_provider.operators.settling import LedgerCommand
from aio_provider.sandbox import Sandbox

from .conftest import Instance, StateStore, deferral_of, fire, wait_inline


def connect(monkeypatch: pytest.MonkeyPatch, **extra: str) -> AioHook:
    connection = {"conn_type": "aio", "password": "aio_k", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_ART", json.dumps(connection))
    return AioHook("art")


@pytest.mark.parametrize(
    ("url", "line", "where"),
    [
        ("sqlite:////shared/a b.db", "resolve k --ledger 'sqlite:////shared/a b.db'", "connection 'art'"),
        ("postgresql://aio@db/aio", "resolve k --ledger postgresql://aio@db/aio", "connection 'art'"),
        ("postgresql://aio:hunter2@db/aio", "resolve k", "AIO_LEDGER set to the ledger_url of connection"),
        ("postgresql://db/aio?password=hunter2", "resolve k", "AIO_LEDGER set to the ledger_url of"),
        (None, "resolve k", "file of the machine"),
    ],
)
def test_which_ledger_a_line_names(
    url: str | None, line: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = LedgerCommand.of(connect(monkeypatch, **({"ledger_url": url} if url else {})))
    assert command.line("resolve k") == f"aio ledger {line}"
    assert where in command.where
    assert "hunter2" not in command.line("") + command.where


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("", ""),
        ("https://APIIN.one:443/api/v1/", ""),
        ("http://127.0.0.1:8933/api/v1", " --base-url http://127.0.0.1:8933/api/v1"),
    ],
)
def test_a_line_that_asks_the_service_names_another_one(
    host: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = connect(monkeypatch, ledger_url="/shared/aio.db")
    monkeypatch.setenv(
        "AIRFLOW_CONN_ART",
        json.dumps({"conn_type": "aio", "password": "aio_k", "host": host, "extra": {"ledger_url": "/l.db"}}),
    )
    command = LedgerCommand.of(hook)
    assert command.was_created("k") == f"aio ledger resolve k --task-id THE_TASK_ID{said} --ledger /l.db"
    assert command.was_not_created("k") == "aio ledger resolve k --not-submitted --ledger /l.db"


@pytest.mark.parametrize(
    ("ledger", "option", "where"),
    [
        ("led.sqlite", " --ledger {here}/led.sqlite", "the file of the machine"),
        ("postgresql://aio@db/aio", " --ledger postgresql://aio@db/aio", "that of AIO_LEDGER on the worker"),
        ("postgresql://aio:hunter2@db/aio", "", "with AIO_LEDGER set to the AIO_LEDGER of the worker"),
    ],
)
def test_a_line_names_the_ledger_that_the_worker_has_from_its_environment(
    ledger: str, option: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIO_LEDGER", ledger)
    command = LedgerCommand.of(connect(monkeypatch))
    assert command.option == option.format(here=tmp_path)
    assert where in command.where and "hunter2" not in command.where


@pytest.mark.aio_sandbox(faults=["drop-after@1"])
def test_both_lines_of_a_held_task_run_in_a_bare_shell(
    aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from aio_provider.cli import main

    operator, instance = AioGenerateImageOperator(task_id="it", prompt="a fox"), Instance()
    with pytest.raises(AirflowFailException, match="It was created: ") as failed:
        operator.execute(instance.context(operator))
    line = str(failed.value).split("It was created: ")[1].splitlines()[0]
    [task] = aio_sandbox_env.submissions
    monkeypatch.delenv("AIO_BASE_URL", raising=False)
    monkeypatch.delenv("AIO_LEDGER", raising=False)
    monkeypatch.setenv("AIO_API_KEY", aio_sandbox_env.api_key)
    _, *arguments = shlex.split(line.replace("THE_TASK_ID", task.task_id))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert wait_inline(operator, instance.context(operator))["status"] == "succeeded"


@pytest.mark.aio_sandbox(faults=["drop-after@1"])
def test_the_line_of_a_held_task_runs(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from aio_provider.cli import main

    operator, instance = AioGenerateImageOperator(task_id="it", prompt="a fox"), Instance()
    with pytest.raises(AirflowFailException, match="It was not created: ") as failed:
        operator.execute(instance.context(operator))
    line = str(failed.value).split("It was not created: ")[1].splitlines()[0]
    program, *arguments = shlex.split(line)
    assert program == "aio" and CliRunner().invoke(main, arguments).exit_code == 0
    assert wait_inline(operator, instance.context(operator))["status"] == "succeeded"


@pytest.mark.parametrize(
    ("section", "option", "value", "site"),
    [
        ("API", "BASE_URL", "https://flow.example/team", "https://flow.example/team/api/v2/"),
        ("CORE", "EXECUTION_API_SERVER_URL", "http://api:9090/execution/", "http://api:9090/api/v2/"),
        ("API", "PORT", "9999", "http://localhost:9999/api/v2/"),
    ],
)
@pytest.mark.aio_sandbox(faults=["drop-after@1"])
def test_the_address_of_the_state_store(
    section: str, option: str, value: str, site: str, aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, setting in aio_sandbox.environment().items():
        monkeypatch.setenv(name, setting)
    monkeypatch.delenv("AIRFLOW__API__BASE_URL", raising=False)
    monkeypatch.setenv(f"AIRFLOW__{section}__{option}", value)
    operator, instance = AioGenerateImageOperator(task_id="it", prompt="a fox"), Instance(store=StateStore())
    with pytest.raises(AirflowFailException) as failed:
        operator.execute(instance.context(operator))
    assert f"curl -X DELETE '{site}dags/" in str(failed.value)


def test_one_line_about_the_result(aio_sandbox_env: Sandbox, caplog: Any, capsys: Any) -> None:
    operator, instance = AioGenerateImageOperator(task_id="it", prompt="a fox"), Instance()
    event = fire(deferral_of(operator, instance.context(operator)).trigger)
    result = operator.execute_complete(instance.context(operator), event)
    logged = caplog.text + capsys.readouterr().out
    assert f"Task {result['task_id']}: succeeded, 5 credits, " in logged
    assert f" s, {result['urls'][0]}." in logged
    operator.execute(instance.context(operator))
    assert "5 credits (paid before), http" in caplog.text + capsys.readouterr().out


def test_no_rows_are_booked_on_the_user_of_a_worker(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    pd.DataFrame({"caption": ["a fox"]}).to_parquet(tmp_path / "in.parquet")
    paths = {"input_path": f"{tmp_path}/in.parquet", "output_path": f"{tmp_path}/out.parquet"}
    operator = AioGenerateFromParquetOperator(
        task_id="rows", kind="image", fields={"prompt": "caption"}, deferrable=False, **paths
    )
    operator.execute(Instance().context(operator))
    with Ledger.open(tmp_path / "aio-ledger.sqlite") as ledger:
        [entry] = ledger.entries()
    assert "user" not in entry.labels and entry.labels["dag_id"] == "shop"
