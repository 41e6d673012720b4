"""One task instance pays once: whatever attempt died where, and wherever the record is kept."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred

from aio_provider.api.errors import TaskFailedError, TaskTimeoutError
from aio_provider.jobs.ledger import JobState, Ledger, LedgerUnavailableError
from aio_provider.operators.aio import AioChatOperator, AioGenerateImageOperator
from aio_provider.operators.record import STATE_KEY
from aio_provider.sandbox import Sandbox

from .conftest import Instance, StateStore, deferral_of, fire, wait_inline

PROMPT = "a red fox in the snow"


class Crash(BaseException):
    """Stands for a worker that dies: nothing of ours may catch it."""


@pytest.fixture(params=["task state store", "ledger", "file of this machine"])
def kept(
    request: pytest.FixtureRequest, aio_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A task instance for each place that can keep its record, with the sandbox behind ``aio_default``."""
    ledger = tmp_path / "ledger.sqlite"
    shared = str(ledger) if request.param == "ledger" else None
    for name, value in aio_sandbox.environment(ledger=shared).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIO_LEDGER", str(ledger))
    return Instance(store=StateStore() if request.param == "task state store" else None)


def image(**arguments: Any) -> AioGenerateImageOperator:
    return AioGenerateImageOperator(task_id="picture", **{"prompt": PROMPT, **arguments})


def crash_after(
    monkeypatch: pytest.MonkeyPatch, operator: Any, step: str, error: type[BaseException] = Crash
) -> None:
    """Let the worker die at a step of the record: after ``intend``, or before ``accept`` is written."""
    opened = operator._open_record

    def open_record(*arguments: Any) -> Any:
        record = opened(*arguments)
        original = getattr(record, step)

        def die(*values: Any) -> None:
            if step == "intend":
                original(*values)
            raise error("as told")

        monkeypatch.setattr(record, step, die)
        return record

    monkeypatch.setattr(operator, "_open_record", open_record)


def test_first_attempt_submits_once_and_returns_plain_json(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    result = wait_inline(operator, kept.context(operator))
    [paid] = aio_sandbox.submissions
    assert result == json.loads(json.dumps(result))
    assert (result["task_id"], result["status"], result["credits"]) == (
        paid.task_id,
        "succeeded",
        paid.credits,
    )
    assert (result["model"], result["kind"], result["reused"]) == ("flux-2", "image", False)
    assert len(result["urls"]) == 1
    assert result["submitted_at"] <= result["finished_at"]


def test_cleared_while_deferred_reattaches(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    first = deferral_of(operator, kept.context(operator))
    again = image()
    second = deferral_of(again, kept.context(again))
    assert second.trigger.aio_task_id == first.trigger.aio_task_id
    assert second.trigger.submitted_at == pytest.approx(first.trigger.submitted_at, abs=2)
    assert kept.xcom["aio_task_id"] == first.trigger.aio_task_id
    assert again.execute_complete(kept.context(again), fire(second.trigger))["status"] == "succeeded"
    assert len(aio_sandbox.submissions) == 1


def test_cleared_after_success_returns_the_result_and_pays_nothing(
    kept: Instance, aio_sandbox: Sandbox
) -> None:
    operator = image()
    result = wait_inline(operator, kept.context(operator))
    again = image()
    repeated = again.execute(kept.context(again))
    assert repeated["reused"] is True
    assert {k: repeated[k] for k in ("task_id", "urls", "credits")} == {
        k: result[k] for k in ("task_id", "urls", "credits")
    }
    assert len(aio_sandbox.submissions) == 1


def test_reuse_never_pays_again_for_a_finished_one_only(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image(reuse="never")
    deferral_of(operator, kept.context(operator))
    wait_inline(image(reuse="never"), kept.context(operator))
    assert len(aio_sandbox.submissions) == 1, "in flight: picked up"
    wait_inline(image(reuse="never"), kept.context(operator))
    assert len(aio_sandbox.submissions) == 2


def test_a_result_on_record_can_be_asked_for_again(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    wait_inline(operator, kept.context(operator))
    polls = aio_sandbox.requests["poll"]
    again = image(refresh_urls=True)
    assert again.execute(kept.context(again))["urls"]
    assert aio_sandbox.requests["poll"] == polls + 1

    aio_sandbox.reset()  # the service has forgotten everything
    with pytest.raises(AirflowFailException, match="no longer knows"):
        again.execute(kept.context(again))
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="paid for"):
            image().execute(kept.context(operator))
    assert aio_sandbox.submissions == []
    anew = image(reuse="never")
    assert wait_inline(anew, kept.context(anew))["status"] == "succeeded"


def test_worker_dies_after_the_answer_was_lost_to_it(
    kept: Instance, aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted by the service, id never written: the next attempt cannot know, so it holds, and says how to
    settle.
    """
    operator = image()
    crash_after(monkeypatch, operator, "accept")
    with pytest.raises(Crash):
        operator.execute(kept.context(operator))
    [paid] = aio_sandbox.submissions
    forget_process(monkeypatch)

    held = image()
    with pytest.raises(AirflowFailException, match="may have been charged") as error:
        held.execute(kept.context(held))
    assert "shop.picture of run manual__2026-11-22T09:00:00+00:00" in str(error.value)
    assert len(aio_sandbox.submissions) == 1

    settle(kept, str(error.value), task_id=paid.task_id)
    settled = image()
    assert wait_inline(settled, kept.context(settled))["task_id"] == paid.task_id
    assert len(aio_sandbox.submissions) == 1


@pytest.mark.parametrize("error", [LedgerUnavailableError, ConnectionError])
def test_a_record_that_fails_after_the_answer_is_not_taken_for_a_refusal(
    kept: Instance,
    aio_sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    caplog: Any,
    capsys: Any,
) -> None:
    operator = image()
    crash_after(monkeypatch, operator, "accept", error)
    with pytest.raises(error):
        operator.execute(kept.context(operator))
    said = caplog.text + capsys.readouterr().out
    assert aio_sandbox.submissions[0].task_id in said, "the log still has the id"
    forget_process(monkeypatch)
    held = image()
    with pytest.raises(AirflowFailException, match="may have been charged"):
        held.execute(kept.context(held))
    assert len(aio_sandbox.submissions) == 1


def test_worker_dies_before_anything_was_sent_and_a_person_says_so(
    kept: Instance, aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = image()
    crash_after(monkeypatch, operator, "intend")
    with pytest.raises(Crash):
        operator.execute(kept.context(operator))
    assert aio_sandbox.submissions == []
    forget_process(monkeypatch)

    held = image()
    with pytest.raises(AirflowFailException, match="may have been charged") as error:
        held.execute(kept.context(held))
    settle(kept, str(error.value), task_id=None)
    settled = image()
    assert wait_inline(settled, kept.context(settled))["status"] == "succeeded"
    assert len(aio_sandbox.submissions) == 1


def test_on_unknown_resubmit_submits_without_asking(
    kept: Instance, aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = image()
    crash_after(monkeypatch, operator, "accept")
    with pytest.raises(Crash):
        operator.execute(kept.context(operator))
    forget_process(monkeypatch)
    again = image(on_unknown="resubmit")
    assert wait_inline(again, kept.context(again))["status"] == "succeeded"
    assert len(aio_sandbox.submissions) == 2


@pytest.mark.aio_sandbox(faults=["drop-after@1"])
def test_lost_answer_holds_at_once_without_a_retry(kept: Instance, aio_sandbox: Sandbox) -> None:
    for _ in range(2):
        operator = image()
        with pytest.raises(AirflowFailException, match="may have been charged"):
            operator.execute(kept.context(operator))
    assert len(aio_sandbox.submissions) == 1
    assert aio_sandbox.requests["submit"] == 1


@pytest.mark.parametrize("fault", ["500@1", "502-html@1", "truncated-json@1", "200-error@1:on=submit"])
def test_answers_that_may_follow_a_charge_hold(kept: Instance, aio_sandbox: Sandbox, fault: str) -> None:
    aio_sandbox.add_fault(fault)
    operator = image()
    with pytest.raises(AirflowFailException, match="may have been charged"):
        operator.execute(kept.context(operator))
    assert aio_sandbox.requests["submit"] == 1


@pytest.mark.aio_sandbox(credits=3)
def test_out_of_credits_is_free_and_retried(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    with pytest.raises(AirflowException, match="nothing was charged") as error:
        operator.execute(kept.context(operator))
    assert not isinstance(error.value, AirflowFailException)
    aio_sandbox.credits = 100
    again = image()
    assert wait_inline(again, kept.context(again))["status"] == "succeeded"
    assert len(aio_sandbox.submissions) == 1


@pytest.mark.aio_sandbox(faults=["401@1"])
def test_refused_key_fails_without_a_retry_and_leaves_no_intent(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    with pytest.raises(AirflowFailException, match="nothing was charged"):
        operator.execute(kept.context(operator))
    again = image()
    assert wait_inline(again, kept.context(again))["status"] == "succeeded"


@pytest.mark.aio_sandbox(faults=["429@1"], retry_after="seconds")
def test_rate_limit_is_waited_out(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    assert wait_inline(operator, kept.context(operator))["status"] == "succeeded"
    assert aio_sandbox.requests["submit"] == 2
    assert len(aio_sandbox.submissions) == 1


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_failed_task_is_submitted_again_by_a_retry(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    with pytest.raises(TaskFailedError, match="A retry submits a new one"):
        wait_inline(operator, kept.context(operator))
    again = image()
    assert wait_inline(again, kept.context(again))["status"] == "succeeded"
    assert [s.status for s in aio_sandbox.submissions] == ["FAILED", "SUCCESS"]


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_failed_task_stays_failed_without_retry_failed(kept: Instance, aio_sandbox: Sandbox) -> None:
    for _ in range(2):
        operator = image(retry_failed=False)
        with pytest.raises(AirflowFailException, match="failed"):
            wait_inline(operator, kept.context(operator))
    assert len(aio_sandbox.submissions) == 1


@pytest.mark.aio_sandbox(faults=["never-ends@1"])
def test_timeout_keeps_the_id_for_the_retry(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image(deadline=0.3)
    with pytest.raises(TaskTimeoutError, match="pays nothing") as error:
        wait_inline(operator, kept.context(operator))
    again = image()
    deferred = deferral_of(again, kept.context(again))
    assert deferred.trigger.aio_task_id == error.value.task_id == aio_sandbox.submissions[0].task_id
    assert len(aio_sandbox.submissions) == 1


def test_changed_request_waits_for_the_open_one(kept: Instance, aio_sandbox: Sandbox) -> None:
    aio_sandbox.add_fault("never-ends@1")
    operator = image()
    open_task = deferral_of(operator, kept.context(operator)).trigger.aio_task_id
    changed = image(prompt="a blue fox in the snow")
    with pytest.raises(AirflowFailException, match=open_task):
        changed.execute(kept.context(changed))
    assert len(aio_sandbox.submissions) == 1


def test_changed_request_is_new_once_the_old_one_has_ended(kept: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    trigger = deferral_of(operator, kept.context(operator)).trigger
    fire(trigger)  # it ends; nobody has told the record
    changed = image(prompt="a blue fox in the snow")
    result = wait_inline(changed, kept.context(changed))
    assert result["task_id"] != trigger.aio_task_id
    assert [s.body["prompt"] for s in aio_sandbox.submissions] == [PROMPT, "a blue fox in the snow"]


def test_changed_request_while_the_open_one_is_unknown_to_the_service(
    kept: Instance, aio_sandbox: Sandbox
) -> None:
    aio_sandbox.add_fault("lost@1")
    operator = image()
    deferral_of(operator, kept.context(operator))
    changed = image(prompt="a blue fox in the snow")
    with pytest.raises(AirflowFailException, match="does not know that task"):
        changed.execute(kept.context(changed))


def test_mapped_instances_are_jobs_of_their_own(kept: Instance, aio_sandbox: Sandbox) -> None:
    results = []
    for index in range(2):
        mapped = Instance(map_index=index, store=StateStore() if kept.store else None)
        operator = image()
        results.append(wait_inline(operator, mapped.context(operator)))
    assert results[0]["task_id"] != results[1]["task_id"]


def test_chat_answer_is_kept(kept: Instance, aio_sandbox: Sandbox) -> None:
    def chat() -> AioChatOperator:
        return AioChatOperator(task_id="chat", messages="Name three colours.")

    operator = chat()
    answer = operator.execute(kept.context(operator))
    repeated = chat().execute(kept.context(operator))
    assert answer["text"] and repeated["text"] == answer["text"]
    assert (answer["reused"], repeated["reused"]) == (False, True)
    assert aio_sandbox.requests["chat"] == 1


def test_everything_is_booked_with_its_labels(kept: Instance, aio_sandbox: Sandbox, tmp_path: Path) -> None:
    operator = image()
    wait_inline(operator, kept.context(operator))
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        [entry] = ledger.entries()
    assert entry.state is JobState.SUCCEEDED
    assert (entry.credits, entry.task_id) == (aio_sandbox.charged, aio_sandbox.submissions[0].task_id)
    assert entry.labels["dag_id"] == "shop" and entry.labels["task_id"] == "picture"
    assert entry.scope == aio_sandbox.base_url
    assert PROMPT not in json.dumps(str(entry))


# -- what only one of them does ------------------------------------------------------------------------------


@pytest.fixture
def stored(aio_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    for name, value in aio_sandbox.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "ledger.sqlite"))
    return Instance(store=StateStore())


def test_state_never_expires_and_holds_no_prompt(stored: Instance, aio_sandbox: Sandbox) -> None:
    operator = image()
    deferral_of(operator, stored.context(operator))
    assert stored.store is not None
    assert stored.store.retention[STATE_KEY] is timedelta.max
    text = json.dumps(stored.store.values)
    assert PROMPT not in text and aio_sandbox.api_key not in text


def test_unreadable_state_is_not_taken_for_none(stored: Instance, aio_sandbox: Sandbox) -> None:
    assert stored.store is not None
    stored.store.set(STATE_KEY, {"state": "something else"})
    operator = image()
    with pytest.raises(AirflowFailException, match="cannot be read"):
        operator.execute(stored.context(operator))
    assert aio_sandbox.submissions == []


def test_a_store_that_fails_stops_before_spending(
    stored: Instance, aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("no supervisor")

    assert stored.store is not None
    monkeypatch.setattr(stored.store, "set", broken)
    operator = image()
    with pytest.raises(ConnectionError):
        operator.execute(stored.context(operator))
    assert aio_sandbox.submissions == []


def test_previous_attempts_stay_on_record(stored: Instance, aio_sandbox: Sandbox) -> None:
    aio_sandbox.add_fault("failed@1")
    operator = image()
    with pytest.raises(TaskFailedError):
        wait_inline(operator, stored.context(operator))
    deferral_of(operator, stored.context(operator))
    assert stored.store is not None
    [before] = stored.store.values[STATE_KEY]["previous"]
    assert before == {"state": "failed", "task_id": aio_sandbox.submissions[0].task_id, "credits": 0}


def test_a_broken_book_never_fails_a_task(
    stored: Instance, aio_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (tmp_path / "broken.sqlite").write_text("this is no database, and is long enough to be looked at" * 50)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "broken.sqlite"))
    operator = image()
    assert wait_inline(operator, stored.context(operator))["status"] == "succeeded"
    assert "Not booked" in caplog.text


def test_without_any_record_every_attempt_warns(
    aio_sandbox: Sandbox, stored: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path))  # a directory
    operator = image()
    deferral_of(operator, Instance().context(operator))
    assert "a retry may pay again" in caplog.text


def test_reuse_always_needs_a_ledger(stored: Instance, aio_sandbox: Sandbox) -> None:
    operator = image(reuse="always")
    with pytest.raises(AirflowFailException, match="ledger_url"):
        operator.execute(stored.context(operator))
    assert aio_sandbox.submissions == []


def test_reuse_always_finds_the_job_of_an_earlier_run(aio_sandbox_env: Sandbox) -> None:
    operator = image(reuse="always")
    first = wait_inline(operator, Instance().context(operator))
    later = Instance().context(operator)
    later["ti"].run_id = "scheduled__2026-11-23"
    assert image(reuse="always").execute(later)["task_id"] == first["task_id"]
    other = Instance().context(operator)
    other["ti"].run_id = "scheduled__2026-11-24"
    wait_inline(image(reuse="always", prompt="a green fox"), other)
    assert len(aio_sandbox_env.submissions) == 2


def test_two_attempts_at_once_submit_once(aio_sandbox_env: Sandbox) -> None:
    """A worker that was given up for dead is still at it, while the next attempt begins."""
    aio_sandbox_env.add_fault("slow@1:seconds=0.5")

    def attempt(_: int) -> str:
        operator = image()
        # Airflow's guard around `execute` does not work in a thread (2.11); what it guards does.
        execute = getattr(type(operator).execute, "__wrapped__", type(operator).execute)
        with pytest.raises(TaskDeferred) as deferred:
            execute(operator, Instance().context(operator))
        return str(deferred.value.trigger.aio_task_id)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(attempt, range(2))
    assert first == second == aio_sandbox_env.submissions[0].task_id
    assert aio_sandbox_env.requests["submit"] == 1


def test_a_result_is_handed_over_although_its_job_was_forgotten(
    aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    operator = image()
    trigger = deferral_of(operator, Instance().context(operator)).trigger
    with Ledger.open(tmp_path / "aio-ledger.sqlite") as ledger:
        ledger.forget([trigger.job_key], force=True)
    event = fire(trigger)
    assert operator.execute_complete(Instance().context(operator), event)["status"] == "succeeded"


def test_another_machine_without_a_ledger_hands_over_and_books(
    aio_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aio_sandbox.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "one.sqlite"))
    operator = image()
    event = fire(deferral_of(operator, Instance().context(operator)).trigger)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "other.sqlite"))
    assert operator.execute_complete(Instance().context(operator), event)["status"] == "succeeded"
    with Ledger.open(tmp_path / "other.sqlite") as ledger:
        [entry] = ledger.entries()
    assert (entry.state, entry.credits) == (JobState.SUCCEEDED, aio_sandbox.charged)


# -- helpers -------------------------------------------------------------------------------------------------


def forget_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process that wrote the intent were gone: its lease is not waited for."""
    monkeypatch.setattr("aio_provider.jobs.ledger.planning.is_gone", lambda owner: True)


def settle(kept: Instance, message: str, *, task_id: str | None) -> None:
    """Do what the message says: the REST call against the store, or the command line against the ledger."""
    line = re.search(rf"It was {'' if task_id else 'not '}created: (.+)", message)
    assert line is not None, message
    if kept.store is not None:
        path = "dags/shop/dagRuns/manual__2026-11-22T09%3A00%3A00%2B00%3A00/taskInstances/picture/state-store"
        assert f"/api/v2/{path}/{STATE_KEY}?map_index=-1" in line.group(1)
        if task_id is None:
            assert "-X DELETE" in line.group(1)
            kept.store.delete(STATE_KEY)
        else:
            body = re.search(r"-d '(.+)'", line.group(1))
            assert body is not None and "-X PATCH" in line.group(1)
            value = json.loads(body.group(1).replace("THE_TASK_ID", task_id))["value"]
            kept.store.set(STATE_KEY, value)
        return
    command = re.search(r"aio ledger (resolve .+)", line.group(1))
    assert command is not None
    arguments = command.group(1).replace("THE_TASK_ID", task_id or "").split()
    from click.testing import CliRunner

    from aio_provider.cli import main

    done = CliRunner().invoke(main, ["ledger", *arguments])
    assert done.exit_code == 0, done.output
