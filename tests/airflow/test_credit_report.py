"""The report operator: its period, its file, what it hands over, and a connection without a ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, Asset

from aio_provider.jobs.ledger import Ledger
from aio_provider.operators.aio import AioCreditReportOperator
from tests.accounting.conftest import NOON, put, row

from .conftest import Instance

DAY = datetime(2026, 11, 22, tzinfo=UTC)
INTERVAL = {"data_interval_start": DAY, "data_interval_end": DAY + timedelta(days=1)}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.sqlite"
    conn = {"conn_type": "aio", "password": "aio_x", "extra": {"ledger_url": f"sqlite:///{path}"}}
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(conn))
    with Ledger.open(path) as book:
        put(book, row(dag_id="shop"), row("failed", 1.0, dag_id="shop"), row(sent=NOON - timedelta(days=1)))
    return path


def run(context: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    operator = AioCreditReportOperator(task_id="it", **arguments)
    found = operator.execute({**Instance().context(operator), **(context or {})})
    assert json.loads(json.dumps(found)) == found
    return found


def test_the_data_interval_is_the_period(ledger: Path) -> None:
    found = run(INTERVAL)
    assert found["totals"]["credits"] == 6.0 and found["totals"]["failed"] == 1
    assert found["since"] == "2026-11-22T00:00:00+00:00" and found["path"] is None
    assert str(ledger) in found["book"]


def test_a_run_without_an_interval_must_say_which(ledger: Path) -> None:
    for context in ({}, {"data_interval_start": DAY, "data_interval_end": DAY}):
        with pytest.raises(AirflowFailException, match="since and until"):
            run(context)
    assert run(since="2026-11-21", until="2026-11-22")["totals"]["tasks"] == 1
    assert run({"data_interval_start": DAY}, since="2026-11")["totals"]["tasks"] == 3


def test_it_writes_a_file_by_its_ending(ledger: Path, tmp_path: Path) -> None:
    for name in ("out.csv", "out.json", "out.parquet", "out.html"):
        found = run(since="2026", by="day,model", output_path=str(tmp_path / name), price="0.01 EUR")
        assert found["groups"] == 2 and (tmp_path / name).stat().st_size > 100
    assert pd.read_csv(tmp_path / "out.csv")["money"].sum() == pytest.approx(0.11)
    assert "0.11 EUR" in (tmp_path / "out.html").read_text()
    run(INTERVAL, output_path="memory://reports/out.csv")


def test_the_link_leads_to_the_file(ledger: Path, tmp_path: Path) -> None:
    (link,) = AioCreditReportOperator.operator_extra_links
    for arguments, leads_to in (
        ({"output_path": str(tmp_path / "a report.html")}, (tmp_path / "a report.html").as_uri()),
        ({"output_path": f"file://{tmp_path}/out.csv"}, f"file://{tmp_path}/out.csv"),
        ({"output_path": "memory://reports/out.csv"}, ""),  # no page shows it
        ({}, ""),
    ):
        operator, instance = AioCreditReportOperator(task_id="it", since="2026", **arguments), Instance()
        operator.execute(instance.context(operator))  # type: ignore[arg-type]
        assert instance.xcom.get("aio_output", "") == leads_to
        # what Airflow asks for when the task stops; None: it must not look for an XCom that is not there
        assert link.get_link(operator, ti_key=None) == leads_to  # type: ignore[arg-type]

    operator = AioCreditReportOperator(task_id="it", by="colour", since="2026")
    with pytest.raises(AirflowFailException):
        operator.execute(Instance().context(operator))  # type: ignore[arg-type]
    assert link.get_link(operator, ti_key=None) == ""  # type: ignore[arg-type]


def test_filters_and_bad_questions(ledger: Path, tmp_path: Path) -> None:
    assert run(since="2026-01", filters={"dag": "shop"})["totals"]["tasks"] == 2
    for bad in ({"by": "colour"}, {"since": "soon"}, {"output_path": "out.xlsx"}, {"filters": {"x": "y"}}):
        with pytest.raises(AirflowFailException, match=r"colour|soon|out\.xlsx|'x'"):
            run(**{"since": "2026-01", **bad})


def test_assets_are_told(ledger: Path) -> None:
    asset = Asset("s3://bucket/report")
    with DAG("reports", schedule=None):
        operator = AioCreditReportOperator(task_id="it", outlets=[asset])
    events: Any = {asset: SimpleNamespace(extra={})}
    operator.execute({**Instance().context(operator), **INTERVAL, "outlet_events": events})  # type: ignore[arg-type]
    assert events[asset].extra == {"rows": 1, "credits": 6.0, "failures": 1, "reused": 0}


def test_a_connection_without_a_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps({"conn_type": "aio", "password": "aio_x"}))
    with pytest.raises(AirflowFailException, match=r"'aio_default' has no ledger_url.*one machine's"):
        run(INTERVAL)


def test_templates() -> None:
    operator = AioCreditReportOperator(
        task_id="it",
        since="{{ data_interval_start }}",
        output_path="/reports/{{ ds }}.html",
        filters={"team": "{{ team }}"},
    )
    operator.render_template_fields({**INTERVAL, "ds": "2026-11-22", "team": "crm"})  # type: ignore[arg-type]
    assert operator.since == "2026-11-22 00:00:00+00:00"
    assert operator.output_path == "/reports/2026-11-22.html" and operator.filters == {"team": "crm"}
