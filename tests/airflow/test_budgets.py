"""Budgets and max_credits in Airflow: refused before anything is sent, told to notifiers and asset events."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, Asset, BaseNotifier

from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.operators.aio import AioChatOperator, AioGenerateImageOperator, AioGenerateVideoOperator
from aio_provider.sandbox import Sandbox

from .conftest import Instance, StateStore, deferral_of, fire, wait_inline


@pytest.fixture
def book(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The connection's ledger."""
    import json
    import os

    path = tmp_path / "team.sqlite"
    conn = json.loads(os.environ["AIRFLOW_CONN_AIO_DEFAULT"])
    extra = conn.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    conn["extra"] = {**extra, "ledger_url": f"sqlite:///{path}", "team": "ads"}
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(conn))
    with Ledger.open(path) as ledger:
        yield ledger


def image(**arguments: Any) -> AioGenerateImageOperator:
    return AioGenerateImageOperator(task_id="it", prompt="a red fox", **arguments)


# -- max_credits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 4.5])
def test_max_credits_refuses_what_may_cost_more(aio_sandbox_env: Sandbox, most: float) -> None:
    operator = image(max_credits=most)
    with pytest.raises(
        AirflowFailException, match=r"may cost 5 credits \(published\), more than max_credits"
    ):
        operator.execute(Instance(store=StateStore()).context(operator))
    assert aio_sandbox_env.requests == {}


def test_max_credits_counts_the_high_end_of_a_range(aio_sandbox_env: Sandbox) -> None:
    operator = AioGenerateVideoOperator(
        task_id="it", prompt="a fox", request_params={"sound": False}, max_credits=1000
    )
    with pytest.raises(AirflowFailException, match=r"may cost 1,200 credits .*more than max_credits=1,000"):
        operator.execute(Instance(store=StateStore()).context(operator))


def test_max_credits_lets_through_what_fits_and_what_is_on_record(aio_sandbox_env: Sandbox) -> None:
    instance = Instance(store=StateStore())
    operator = image(max_credits=5)
    assert wait_inline(operator, instance.context(operator))["credits"] == 5
    operator = image(max_credits=0)  # its result is there: it costs nothing
    assert operator.execute(instance.context(operator))["reused"]


@pytest.mark.parametrize("most", [-1, float("nan"), "5", True])
def test_a_max_credits_that_cannot_be(most: Any) -> None:
    with pytest.raises(ValueError, match="max_credits must be a number of 0 or more"):
        image(max_credits=most)


def test_a_decorated_function_too(aio_sandbox_env: Sandbox, load_dag: Any) -> None:
    dag_file = load_dag(
        "from airflow.providers.common.compat.sdk import dag, task\n"
        "from datetime import datetime\n"
        "@dag(schedule=None, start_date=datetime(2026, 1, 1))\n"
        "def shop():\n"
        "    @task.aio_image(max_credits=4, team='ads')\n"
        "    def picture():\n"
        "        return 'a red fox'\n"
        "    picture()\n"
        "made = shop()\n"
    )
    operator = dag_file.made.get_task("picture")
    assert (operator.max_credits, operator.team) == (4, "ads")


# -- budgets ---------------------------------------------------------------------------------------------


def test_whose_credits_they_are(aio_sandbox_env: Sandbox, book: Ledger) -> None:
    for number, team in enumerate([None, "art"]):
        operator = AioGenerateImageOperator(task_id=f"t{number}", prompt="a red fox", team=team)
        deferral_of(operator, Instance().context(operator))
    labels = [entry.labels for entry in book.entries()]
    assert {(one["conn_id"], one["dag_id"], one["team"]) for one in labels} == {
        ("aio_default", "shop", "ads"),
        ("aio_default", "shop", "art"),
    }


@pytest.mark.parametrize(
    ("scope", "value"), [("connection", "aio_default"), ("dag", "shop"), ("team", "ads"), ("total", "")]
)
def test_a_spent_budget_fails_the_task_for_good(
    aio_sandbox_env: Sandbox, book: Ledger, scope: Any, value: str
) -> None:
    book.set_budget(scope, value, credits=4)
    operator, instance = image(), Instance()
    with pytest.raises(
        AirflowFailException, match=f"Budget {scope}.* of 4; this job may cost 5. Nothing was"
    ):
        operator.execute(instance.context(operator))
    assert aio_sandbox_env.submissions == []
    [entry] = book.entries()
    assert entry.state is JobState.PLANNED
    book.set_budget(scope, value, credits=5)  # raised, and the task cleared
    assert wait_inline(operator, instance.context(operator))["credits"] == 5


def test_a_retry_may_help_where_only_reservations_stand_in_the_way(
    aio_sandbox_env: Sandbox, book: Ledger
) -> None:
    book.set_budget("dag", "shop", credits=8)
    first, other = image(), AioGenerateImageOperator(task_id="other", prompt="a red fox")
    one, two = Instance(), Instance()
    deferral = deferral_of(first, one.context(first))
    with pytest.raises(AirflowException, match="0 credits charged and 5 reserved of 8") as caught:
        other.execute(two.context(other))
    assert not isinstance(caught.value, AirflowFailException)
    first.execute_complete(one.context(first), fire(deferral.trigger))
    with pytest.raises(AirflowFailException, match="5 credits charged and 0 reserved of 8"):
        other.execute(two.context(other))


def test_a_chat_too(aio_sandbox_env: Sandbox, book: Ledger) -> None:
    book.set_budget("total", credits=0)
    operator = AioChatOperator(task_id="it", messages="Hi")
    with pytest.raises(AirflowFailException, match="Budget total"):
        operator.execute(Instance().context(operator))
    assert aio_sandbox_env.requests == {}


def test_without_a_ledger_url_the_machine_s_own_budgets_hold(aio_sandbox_env: Sandbox) -> None:
    from aio_provider.hooks.aio import AioHook

    with AioHook().ledger() as ledger:
        ledger.set_budget("dag", "shop", credits=5)
    store, other = Instance(store=StateStore()), Instance(store=StateStore(), map_index=1)
    operator = image()
    wait_inline(operator, store.context(operator))
    with pytest.raises(AirflowFailException, match="Budget dag shop"):
        operator.execute(other.context(operator))
    assert len(aio_sandbox_env.submissions) == 1
    assert other.store is not None and other.store.values == {}
    with AioHook().ledger() as ledger:
        [budget] = ledger.budgets()
        assert (ledger.budget_use(budget).charged, ledger.budget_use(budget).reserved) == (5, 0)


# -- events ----------------------------------------------------------------------------------------------


class Notes(BaseNotifier):
    """A notifier as teams write them; what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def notify(self, context: Any) -> None:
        self.told.append(context["aio_budget_event"])


def test_notifiers_and_asset_events_are_told(aio_sandbox_env: Sandbox, book: Ledger) -> None:
    book.set_budget("team", "ads", credits=6)
    book.set_budget("team", "art", credits=1)
    notes, also = Notes(), []
    asset = Asset("x-aio://pictures/fox")
    operator = image(outlets=[asset], on_budget_event=[notes, lambda context: also.append(context["ti"])])
    instance, event = Instance(), SimpleNamespace(extra={})
    deferral = deferral_of(operator, {**instance.context(operator), "dag": None})
    [told] = notes.told
    assert {name: told[name] for name in ("scope", "value", "percent", "limit", "charged", "reserved")} == {
        "scope": "team",
        "value": "ads",
        "percent": 80,
        "limit": 6,
        "charged": 0,
        "reserved": 5,
    }
    assert len(also) == 1
    context = {**instance.context(operator), "outlet_events": {asset: event}}
    operator.execute_complete(context, fire(deferral.trigger))
    assert event.extra["budget_events"] == [told]
    assert event.extra["credits"] == 5
