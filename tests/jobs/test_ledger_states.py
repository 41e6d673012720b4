"""Every step of a job: the allowed ones are taken, the others are refused and change nothing."""

from __future__ import annotations

import pickle

import pytest

from aio_provider.jobs.ledger import ENDED, Entry, Finished, JobState, Ledger, LedgerStateError
from aio_provider.jobs.ledger.model import STEPS
from tests.jobs.ledger_helpers import HandClock, bring_to, job, state, succeeded

VERBS = {
    JobState.INTENDED: lambda ledger: ledger.intend(["k"], owner="me"),
    JobState.ACCEPTED: lambda ledger: ledger.accept([("k", "new-task")], owner="me"),
    JobState.PLANNED: lambda ledger: ledger.release(["k"], owner="me"),
    JobState.UNKNOWN: lambda ledger: ledger.hold([("k", "no answer")], owner="me"),
    **{end: lambda ledger, end=end: ledger.finish([Finished("k", end)], owner="me") for end in ENDED},
}


@pytest.mark.parametrize("before", JobState)
@pytest.mark.parametrize("after", JobState)
def test_a_step_is_taken_when_allowed_and_refused_otherwise(before: JobState, after: JobState) -> None:
    with Ledger.open(":memory:") as ledger:
        bring_to(ledger, "k", before)
        credits = ledger.get(["k"])["k"].credits
        if after is JobState.INTENDED:  # a claim that is not won is no error: somebody else was quicker
            assert VERBS[after](ledger) == ({"k"} if before is JobState.PLANNED else set())
        elif after in STEPS[before]:
            VERBS[after](ledger)
            assert state(ledger, "k") is after
        elif after is before and after is not JobState.ACCEPTED:
            VERBS[after](ledger)  # saying it twice is no harm
            assert state(ledger, "k") is before
        else:
            with pytest.raises(LedgerStateError, match=f"k is {before.value}") as caught:
                VERBS[after](ledger)
            assert caught.value.keys == ("k",)
            assert state(ledger, "k") is before
        assert credits in (None, ledger.get(["k"])["k"].credits)


def test_the_usual_way(ledger: Ledger, clock: HandClock) -> None:
    labels = {
        "dag_id": "catalog",
        "run_id": "r1",
        "task_id": "t",
        "map_index": "3",
        "user": "ann",
        "season": "w",
    }
    [planned] = ledger.plan([job("k", labels={**labels, "try": "2"})], owner="me", scope="https://svc/api/v1")
    assert (planned.state, planned.attempt, planned.scope) == (JobState.PLANNED, 1, "https://svc/api/v1")
    assert planned.labels == {**labels, "try_number": "2"}
    assert (planned.kind, planned.endpoint, planned.model) == ("image", "/images/generations", "flux-2")
    clock.forward(1)
    assert ledger.intend([planned], owner="me") == {"k"}
    clock.forward(2)
    ledger.accept([("k", "t1")], owner="me")
    clock.forward(30)
    ledger.finish([Finished("k", JobState.SUCCEEDED, urls=("u1", "u2"), text="hi", credits=5, task_id="t1")])
    done = ledger.get(["k"])["k"]
    assert (done.state, done.task_id, done.urls, done.text, done.credits) == (
        JobState.SUCCEEDED, "t1", ("u1", "u2"), "hi", 5.0,
    )  # fmt: skip
    assert done.planned_at and done.intended_at and done.accepted_at and done.finished_at
    times = (done.planned_at, done.intended_at, done.accepted_at, done.finished_at)
    assert [(later - times[0]).total_seconds() for later in times] == [0, 1, 3, 33]
    assert done.submitted_at == done.accepted_at
    assert done.lease_until is None
    assert pickle.loads(pickle.dumps(done)) == done


def test_a_chat_goes_from_intended_to_succeeded_with_its_text(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.INTENDED)
    ledger.finish([Finished("k", JobState.SUCCEEDED, text="Hello.", credits=3)], owner="me")
    entry = ledger.get(["k"])["k"]
    assert (entry.state, entry.text, entry.credits, entry.task_id) == (
        JobState.SUCCEEDED,
        "Hello.",
        3.0,
        None,
    )


def test_a_released_job_can_be_claimed_again(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.INTENDED)
    ledger.release(["k"], owner="me")
    entry = ledger.get(["k"])["k"]
    assert (entry.owner, entry.intended_at, entry.lease_until) == (None, None, None)
    assert ledger.intend(["k"], owner="other") == {"k"}


def test_one_wrong_item_does_not_undo_the_ids_beside_it(ledger: Ledger) -> None:
    for key in "abc":
        bring_to(ledger, key, JobState.INTENDED)
    with pytest.raises(LedgerStateError, match="missing") as caught:
        ledger.accept([("a", "ta"), ("missing", "tm"), ("c", "tc")], owner="me")
    assert caught.value.keys == ("missing",)
    entries = ledger.get("abc")
    assert [entries[key].task_id for key in "abc"] == ["ta", None, "tc"]


def test_several_errors_are_told_together(ledger: Ledger) -> None:
    with pytest.raises(LedgerStateError, match="and 1 more") as caught:
        ledger.release(["x", "y"])
    assert caught.value.keys == ("x", "y")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.keys) == (LedgerStateError, str(caught.value), ("x", "y"))


def test_two_claims_in_one_call_win_once(ledger: Ledger) -> None:
    ledger.plan([job("k")], owner="me")
    assert ledger.intend(["k", "k"], owner="me") == {"k"}
    assert ledger.intend(["k"], owner="me") == set()


def test_a_claim_with_an_entry_holds_for_that_request_only(ledger: Ledger) -> None:
    [old] = ledger.plan([job("k", "a lamp")], owner="me")
    [new] = ledger.plan([job("k", "a chair")], owner="other")  # nothing was sent yet: it may still change
    assert ledger.intend([old], owner="me") == set()
    assert ledger.intend([new], owner="other") == {"k"}


def test_a_second_id_for_a_job_is_kept_and_is_an_error(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.ACCEPTED)
    with pytest.raises(LedgerStateError, match=r"task-k.*both are on record"):
        ledger.accept([("k", "second")], owner="me")
    assert ledger.get(["k"])["k"].task_id == "task-k"
    [stray] = ledger.past_entries()
    assert (stray.key, stray.task_id, stray.state) == ("k", "second", JobState.ACCEPTED)
    ledger.finish([succeeded("k", "second", credits=5)])
    [stray] = ledger.past_entries()
    assert (stray.state, stray.credits) == (JobState.SUCCEEDED, 5.0)
    assert state(ledger, "k") is JobState.ACCEPTED


def test_both_steps_of_one_job_in_one_batch(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.ACCEPTED)
    ledger.finish([succeeded("k", "task-k"), succeeded("k", "task-k")])
    with pytest.raises(LedgerStateError):
        ledger.finish([Finished("k", JobState.EXPIRED), Finished("k", JobState.PLANNED)])
    assert state(ledger, "k") is JobState.EXPIRED


def test_refreshed_urls_replace_the_old_ones_and_credits_stay(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.SUCCEEDED)
    before = ledger.get(["k"])["k"]
    ledger.finish([Finished("k", JobState.SUCCEEDED, urls=("fresh",), task_id="task-k")])
    after = ledger.get(["k"])["k"]
    assert (after.urls, after.credits, after.finished_at) == (("fresh",), before.credits, before.finished_at)
    ledger.finish([Finished("k", JobState.EXPIRED, error="gone", task_id="task-k")])
    gone = ledger.get(["k"])["k"]
    assert (gone.state, gone.credits, gone.urls, gone.error) == (JobState.EXPIRED, 5.0, ("fresh",), "gone")


def test_text_that_a_database_cannot_hold_does_not_stop_the_record(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.INTENDED)
    ledger.hold([("k", ValueError("bad\x00byte"))], owner="me")
    entry = ledger.get(["k"])["k"]
    assert (entry.error, entry.error_type) == ("badbyte", "ValueError")


def test_entries_are_read_in_pages_by_state_model_and_label(ledger: Ledger) -> None:
    wanted = [
        job(f"k{index:04}", labels={"dag_id": "even" if index % 2 == 0 else "odd"}) for index in range(2100)
    ]
    ledger.plan(wanted, owner="me")
    ledger.intend([f"k{index:04}" for index in range(10)], owner="me")

    def keys(**filters: object) -> list[str]:
        found: list[Entry] = list(ledger.entries(**filters))  # type: ignore[arg-type]
        return [entry.key for entry in found]

    assert keys() == [f"k{index:04}" for index in range(2100)]
    assert len(keys(state=JobState.PLANNED)) == 2090
    assert len(keys(state=[JobState.PLANNED, JobState.INTENDED])) == 2100
    assert len(keys(labels={"dag_id": "odd"}, state=JobState.INTENDED)) == 5
    assert len(keys(model="flux-2", kind="image", limit=1500)) == 1500
    assert keys(model="other") == []
    assert ledger.counts() == {JobState.PLANNED: (2090, 0.0), JobState.INTENDED: (10, 0.0)}
    with pytest.raises(ValueError, match="season"):
        keys(labels={"season": "w"})


def test_endings_say_of_what_has_ended_what_its_entry_says(ledger: Ledger, clock: HandClock) -> None:
    for wanted in JobState:
        bring_to(ledger, wanted.value, wanted)
        clock.forward(1)
    bring_to(ledger, "chat", JobState.INTENDED)
    clock.forward(1)
    ledger.finish([Finished("chat", JobState.SUCCEEDED, text="é\n", urls=("https://x/ü",), credits=0.25)])
    found = ledger.endings([*JobState, "chat", "chat", "not there"])
    assert set(found) == {"succeeded", "failed", "expired", "chat"}
    for key, entry in ledger.get(found).items():
        ending = found[key]
        assert {name: getattr(entry, name) for name in ending._fields} == ending._asdict()
        assert type(ending.state) is JobState
