"""What a run finds when it comes with its jobs: new, finished, failed, held, changed, in another's hands."""

from __future__ import annotations

import pytest

from aio_provider.api.prices import CreditRange
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import (
    ENDED,
    Finished,
    JobConflictError,
    JobState,
    Ledger,
    LedgerStateError,
    new_owner,
)
from tests.jobs.ledger_helpers import HandClock, bring_to, job, request, state, succeeded


def test_a_second_run_finds_all_in_order_and_changes_nothing(ledger: Ledger, clock: HandClock) -> None:
    states = [JobState.SUCCEEDED, JobState.FAILED, JobState.ACCEPTED, JobState.EXPIRED]
    for key, wanted in zip("abcd", states, strict=True):
        bring_to(ledger, key, wanted)
    bring_to(ledger, "e", JobState.PLANNED)
    before = ledger.get("abcde")
    clock.forward(100_000)
    entries = ledger.plan([job(key) for key in "ecadb"], owner="second")
    assert [entry.key for entry in entries] == list("ecadb")
    assert ledger.get("abcde") == before == {entry.key: entry for entry in entries}


def test_the_same_job_twice_in_one_call_is_one_job(ledger: Ledger) -> None:
    first, second = ledger.plan([job("k"), job("k")], owner="me")
    assert first == second
    with pytest.raises(JobConflictError, match="twice in this call") as caught:
        ledger.plan([job("new", "a lamp"), job("new", "a chair")], owner="me")
    assert caught.value.keys == ("new",)
    assert ledger.get(["new"]) == {}


def test_failed_jobs_are_tried_again_only_when_asked(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.FAILED)
    [kept] = ledger.plan([job("k")], owner="me")
    assert kept.state is JobState.FAILED
    [again] = ledger.plan([job("k")], owner="me", retry_failed=True)
    assert (again.state, again.attempt, again.task_id, again.credits, again.error) == (
        JobState.PLANNED, 2, None, None, None,
    )  # fmt: skip
    [past] = ledger.past_entries()
    assert (past.key, past.attempt, past.state, past.task_id, past.credits) == (
        "k",
        1,
        JobState.FAILED,
        "task-k",
        5,
    )
    assert past.superseded_for == "submitted again"
    # an attempt that is under way is not started a third time
    ledger.intend(["k"], owner="me")
    [under_way] = ledger.plan([job("k")], owner="me", retry_failed=True)
    assert (under_way.state, under_way.attempt) == (JobState.INTENDED, 2)


def test_held_jobs_are_submitted_again_only_when_asked(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.UNKNOWN)
    [kept] = ledger.plan([job("k")], owner="me", retry_failed=True)
    assert (kept.state, kept.error) == (JobState.UNKNOWN, "no answer")
    [again] = ledger.plan([job("k")], owner="me", on_unknown="resubmit")
    assert (again.state, again.attempt) == (JobState.PLANNED, 2)
    [past] = ledger.past_entries()
    assert past.state is JobState.UNKNOWN


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_a_changed_request_is_a_new_attempt_once_the_old_has_ended(ended: JobState) -> None:
    with Ledger.open(":memory:") as ledger:
        bring_to(ledger, "k", ended, prompt="a lamp")
        [entry] = ledger.plan([job("k", "a chair")], owner="me")
        assert (entry.state, entry.attempt) == (JobState.PLANNED, 2)
        assert entry.fingerprint == request("a chair").fingerprint
        [past] = ledger.past_entries()
        assert (past.fingerprint, past.state, past.credits) == (request("a lamp").fingerprint, ended, 5.0)


@pytest.mark.parametrize("still_open", [JobState.INTENDED, JobState.ACCEPTED, JobState.UNKNOWN])
def test_a_changed_request_is_refused_while_the_old_is_open(still_open: JobState) -> None:
    with Ledger.open(":memory:") as ledger:
        bring_to(ledger, "k", still_open, prompt="a lamp")
        old, new = request("a lamp").fingerprint, request("a chair").fingerprint
        with pytest.raises(JobConflictError) as caught:
            ledger.plan([job("other"), job("k", "a chair")], owner="me")
        said = str(caught.value)
        assert old[:12] in said and new[:12] in said and still_open.value in said
        assert caught.value.keys == ("k",)
        assert ledger.get(["other"]) == {}, "found before anything is written"
        assert state(ledger, "k") is still_open


def test_a_changed_request_that_was_never_sent_takes_its_place(ledger: Ledger) -> None:
    ledger.plan([job("k", "a lamp", {"run_id": "1"})], owner="me")
    estimate = CreditRange(4, 5, 6, "published", "")
    [entry] = ledger.plan([Job("k", request("a chair"), {"run_id": "2"}, estimate)], owner="me")
    assert (entry.fingerprint, entry.attempt, entry.labels) == (
        request("a chair").fingerprint, 1, {"run_id": "2"},
    )  # fmt: skip
    assert (entry.estimate_low, entry.estimate_likely, entry.estimate_high, entry.estimate_source) == (
        4, 5, 6, "published",
    )  # fmt: skip
    assert list(ledger.past_entries()) == []


def test_the_run_that_will_spend_is_the_one_on_the_label(ledger: Ledger) -> None:
    ledger.plan([job("k", labels={"run_id": "1"})], owner="me")
    [entry] = ledger.plan([job("k", labels={"run_id": "2"})], owner="me")
    assert entry.labels == {"run_id": "2"}
    ledger.intend(["k"], owner="me")
    [entry] = ledger.plan([job("k", labels={"run_id": "3"})], owner="me")
    assert entry.labels == {"run_id": "2"}


def test_requests_are_kept_only_when_asked(target: str) -> None:
    with Ledger.open(target) as plain:
        [entry] = plain.plan([job("k", "a secret garden")], owner="me")
        assert entry.request is None
    with Ledger.open(target, store_requests=True) as whole:
        [entry] = whole.plan([job("j", "a secret garden")], owner="me")
        assert entry.request == {"model": "flux-2", "prompt": "a secret garden"}


# -- leases ----------------------------------------------------------------------------------------------


def test_an_intent_stands_while_its_lease_runs_and_is_held_after(ledger: Ledger, clock: HandClock) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="first")
    clock.forward(119)
    [entry] = ledger.plan([job("k")], owner="second")
    assert entry.state is JobState.INTENDED
    assert ledger.renew("first") == 1
    clock.forward(119)
    assert ledger.plan([job("k")], owner="second")[0].state is JobState.INTENDED
    clock.forward(2)
    [entry] = ledger.plan([job("k")], owner="second")
    assert (entry.state, entry.error_type) == (JobState.UNKNOWN, "LeaseLapsed")
    assert ledger.intend(["k"], owner="second") == set()
    assert ledger.renew("first") == 0


def test_sweep_holds_all_lapsed_intents(ledger: Ledger, clock: HandClock) -> None:
    assert ledger.sweep() == []
    for key in "abc":
        bring_to(ledger, key, JobState.INTENDED, owner=key)
    clock.forward(60)
    ledger.renew("b")
    clock.forward(100)
    assert [entry.key for entry in ledger.sweep()] == ["a", "c"]
    assert [state(ledger, key) for key in "abc"] == [JobState.UNKNOWN, JobState.INTENDED, JobState.UNKNOWN]


def test_a_clock_set_back_never_frees_an_intent(ledger: Ledger, clock: HandClock) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="first")
    clock.forward(-3600)
    assert ledger.plan([job("k")], owner="second", on_unknown="resubmit")[0].state is JobState.INTENDED
    ledger.renew("first")
    ledger.accept([("k", "t")], owner="first")
    ledger.finish([succeeded("k", "t")])
    assert state(ledger, "k") is JobState.SUCCEEDED


def test_an_owner_that_is_gone_from_this_machine_is_not_waited_for(ledger: Ledger) -> None:
    parts = new_owner().split("|")
    parts[4] = "1"  # the same process id, started at another time: that process is no more
    bring_to(ledger, "dead", JobState.INTENDED, owner="|".join(parts))
    bring_to(ledger, "alive", JobState.INTENDED, owner=new_owner())
    entries = ledger.plan([job("dead"), job("alive")], owner=new_owner())
    assert [entry.state for entry in entries] == [JobState.UNKNOWN, JobState.INTENDED]


# -- answers that come late ------------------------------------------------------------------------------


def test_a_slow_owners_answer_settles_its_own_lapsed_intent(ledger: Ledger, clock: HandClock) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="slow")
    bring_to(ledger, "r", JobState.INTENDED, owner="slow")
    clock.forward(1000)
    assert len(ledger.sweep()) == 2
    ledger.accept([("k", "t1")], owner="slow")
    ledger.release(["r"], owner="slow")
    assert (state(ledger, "k"), state(ledger, "r")) == (JobState.ACCEPTED, JobState.PLANNED)


def test_a_late_answer_after_a_resubmission_is_booked_on_its_own_attempt(
    ledger: Ledger, clock: HandClock
) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="slow")
    clock.forward(1000)
    ledger.plan([job("k")], owner="quick", on_unknown="resubmit")
    assert ledger.intend(["k"], owner="quick") == {"k"}
    ledger.accept([("k", "t-slow")], owner="slow")
    ledger.accept([("k", "t-quick")], owner="quick")
    ledger.accept([("k", "t-slow")], owner="slow")  # twice is no harm
    ledger.finish([succeeded("k", "t-slow", 7), succeeded("k", "t-quick", 5)])
    ledger.finish([succeeded("k", "t-slow", 7)])
    present, [past] = ledger.get(["k"])["k"], ledger.past_entries()
    assert (present.task_id, present.credits, present.attempt) == ("t-quick", 5, 2)
    assert (past.task_id, past.credits, past.state) == ("t-slow", 7, JobState.SUCCEEDED)
    with pytest.raises(LedgerStateError, match="cannot become failed"):
        ledger.finish([Finished("k", JobState.FAILED, task_id="t-slow")])


def test_a_late_chat_answer_is_booked_on_its_own_attempt(ledger: Ledger, clock: HandClock) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="slow")
    clock.forward(1000)
    ledger.plan([job("k")], owner="quick", on_unknown="resubmit")
    ledger.intend(["k"], owner="quick")
    ledger.finish([Finished("k", JobState.SUCCEEDED, text="late", credits=3)], owner="slow")
    assert state(ledger, "k") is JobState.INTENDED
    [past] = ledger.past_entries()
    assert (past.state, past.text, past.credits) == (JobState.SUCCEEDED, "late", 3)


def test_a_late_not_sent_after_a_resubmission_takes_that_attempt_off_the_book(
    ledger: Ledger, clock: HandClock
) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="slow")
    clock.forward(1000)
    ledger.plan([job("k")], owner="quick", on_unknown="resubmit")
    ledger.intend(["k"], owner="quick")
    ledger.hold([("k", "no answer")], owner="slow")
    assert len(list(ledger.past_entries())) == 1
    ledger.release(["k"], owner="slow")
    assert list(ledger.past_entries()) == []
    assert state(ledger, "k") is JobState.INTENDED


@pytest.mark.parametrize("verb", ["release", "hold", "finish"])
def test_a_stranger_cannot_touch_an_intent(ledger: Ledger, verb: str) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="me")
    with pytest.raises(LedgerStateError):
        {
            "release": lambda: ledger.release(["k"], owner="stranger"),
            "hold": lambda: ledger.hold([("k", "?")], owner="stranger"),
            "finish": lambda: ledger.finish([Finished("k", JobState.SUCCEEDED)], owner="stranger"),
        }[verb]()
    assert state(ledger, "k") is JobState.INTENDED


def test_a_poller_of_an_old_attempt_does_not_end_the_new_one(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.FAILED)
    ledger.plan([job("k")], owner="me", retry_failed=True)
    ledger.finish([Finished("k", JobState.FAILED, task_id="task-k", error="told again")])
    assert state(ledger, "k") is JobState.PLANNED
    [past] = ledger.past_entries()
    assert past.error == "told again"


def test_answers_about_a_job_forgotten_under_way_reach_its_attempt(ledger: Ledger) -> None:
    for key in "ab":
        bring_to(ledger, key, JobState.INTENDED, owner="me")
    ledger.forget("ab", force=True)
    ledger.accept([("a", "ta")], owner="me")
    ledger.finish([succeeded("a", "ta", 5)])
    with pytest.raises(LedgerStateError, match="not in the ledger"):
        ledger.release(["b"])  # from whom? that attempt stays as it is
    ledger.release(["b"], owner="me")
    [past] = ledger.past_entries()
    assert (past.key, past.state, past.credits) == ("a", JobState.SUCCEEDED, 5.0)
    with pytest.raises(LedgerStateError, match="its task is lost-id"):
        ledger.accept([("never planned", "lost-id")], owner="me")
