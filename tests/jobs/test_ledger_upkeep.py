"""Settling by hand, forgetting, pruning: nothing leaves the book unseen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aio_provider.jobs.ledger import JobState, Ledger, LedgerStateError, LedgerUnavailableError
from aio_provider.jobs.ledger import archive as archiving
from tests.jobs.ledger_helpers import HandClock, bring_to, job, state, succeeded


def test_settling_with_the_task_id(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.UNKNOWN)
    entry = ledger.settle("k", task_id="found-it")
    assert (entry.state, entry.task_id, entry.error) == (JobState.ACCEPTED, "found-it", None)
    assert entry.accepted_at == entry.intended_at
    ledger.finish([succeeded("k", "found-it")])


def test_settling_as_never_submitted(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.UNKNOWN)
    assert ledger.settle("k", not_submitted=True).state is JobState.PLANNED
    assert ledger.intend(["k"], owner="other") == {"k"}


def test_settling_many_as_never_submitted(ledger: Ledger, clock: HandClock) -> None:
    keys = [f"k{n:04}" for n in range(1200)]
    for key in keys[:4]:
        bring_to(ledger, key, JobState.UNKNOWN)
    ledger.plan([job(key) for key in keys[4:]], owner="me")
    ledger.intend(keys[4:], owner="me")
    ledger.hold([(key, "no answer") for key in keys[4:]], owner="me")
    seen = list(ledger.entries(state=JobState.UNKNOWN))

    clock.forward(1)
    ledger.settle("k0000", task_id="its-answer")  # while somebody thinks it over
    ledger.settle("k0001", not_submitted=True)
    ledger.settle("k0002", not_submitted=True)
    ledger.intend(["k0002"], owner="other")
    ledger.hold([("k0002", "no answer, again")], owner="other")

    assert ledger.settle_not_submitted(seen) == set(keys[3:])
    assert [state(ledger, key) for key in keys[:5]] == [
        *(JobState.ACCEPTED, JobState.PLANNED, JobState.UNKNOWN, JobState.PLANNED, JobState.PLANNED)
    ]
    freed = ledger.get(["k0003"])["k0003"]
    assert (freed.intended_at, freed.reserved, freed.error, freed.owner) == (None, None, None, None)
    assert ledger.intend(keys, owner="other") == {"k0001", *keys[3:]}
    assert ledger.settle_not_submitted(seen) == set()


@pytest.mark.parametrize("before", [JobState.PLANNED, JobState.ACCEPTED, JobState.SUCCEEDED, JobState.FAILED])
def test_only_held_jobs_are_settled(before: JobState) -> None:
    with Ledger.open(":memory:") as ledger:
        bring_to(ledger, "k", before)
        with pytest.raises(LedgerStateError, match=f"k is {before.value}"):
            ledger.settle("k", not_submitted=True)


def test_an_intent_is_settled_when_its_owner_is_gone_or_by_force(ledger: Ledger, clock: HandClock) -> None:
    bring_to(ledger, "k", JobState.INTENDED, owner="elsewhere")
    with pytest.raises(LedgerStateError, match="just being submitted by elsewhere"):
        ledger.settle("k", not_submitted=True)
    assert ledger.settle("k", not_submitted=True, force=True).state is JobState.PLANNED
    ledger.intend(["k"], owner="elsewhere")
    clock.forward(121)
    assert ledger.settle("k", task_id="t").state is JobState.ACCEPTED


def test_a_task_belongs_to_one_job(ledger: Ledger) -> None:
    bring_to(ledger, "a", JobState.ACCEPTED)
    bring_to(ledger, "b", JobState.UNKNOWN)
    with pytest.raises(LedgerStateError, match="task-a belongs to job a already"):
        ledger.settle("b", task_id="task-a")
    ledger.finish([succeeded("a", "task-a")])
    ledger.forget(["a"])
    with pytest.raises(LedgerStateError, match="task-a belongs to job a already"):
        ledger.settle("b", task_id="task-a")


def test_settling_needs_exactly_one_answer(ledger: Ledger) -> None:
    for wrong in ({}, {"task_id": "t", "not_submitted": True}):
        with pytest.raises(ValueError, match="either"):
            ledger.settle("k", **wrong)  # type: ignore[arg-type]
    with pytest.raises(LedgerStateError, match="not in the ledger"):
        ledger.settle("k", task_id="t")


def test_a_forgotten_job_is_new_again_and_its_credits_stay(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.SUCCEEDED)
    bring_to(ledger, "p", JobState.PLANNED)
    assert ledger.forget(["k", "p", "never seen"]) == 2
    assert ledger.get(["k", "p"]) == {}
    [past] = ledger.past_entries()
    assert (past.key, past.credits, past.superseded_for) == ("k", 5.0, "forgotten")
    [entry] = ledger.plan([job("k")], owner="me")
    assert (entry.state, entry.attempt) == (JobState.PLANNED, 2)
    assert ledger.counts(past=True) == {JobState.SUCCEEDED: (1, 5.0)}


@pytest.mark.parametrize("still_open", [JobState.INTENDED, JobState.ACCEPTED, JobState.UNKNOWN])
def test_open_jobs_are_not_forgotten_by_accident(still_open: JobState) -> None:
    with Ledger.open(":memory:") as ledger:
        bring_to(ledger, "done", JobState.SUCCEEDED)
        bring_to(ledger, "k", still_open)
        with pytest.raises(LedgerStateError, match="may have been charged"):
            ledger.forget(["done", "k"])
        assert set(ledger.get(["done", "k"])) == {"done", "k"}
        assert ledger.forget(["k"], force=True) == 1
        [past] = ledger.past_entries()
        assert past.state is still_open


def test_a_forgotten_task_can_still_be_finished(ledger: Ledger) -> None:
    bring_to(ledger, "k", JobState.ACCEPTED)
    ledger.forget(["k"], force=True)
    ledger.plan([job("k")], owner="me")
    ledger.finish([succeeded("k", "task-k", 5)])
    assert state(ledger, "k") is JobState.PLANNED
    [past] = ledger.past_entries()
    assert (past.state, past.credits) == (JobState.SUCCEEDED, 5)


# -- pruning ---------------------------------------------------------------------------------------------


@pytest.fixture
def old_and_new(ledger: Ledger, clock: HandClock) -> Ledger:
    """Three old ended jobs (one of them a past attempt), one old open one, one new."""
    bring_to(ledger, "old", JobState.SUCCEEDED)
    bring_to(ledger, "retried", JobState.FAILED)
    bring_to(ledger, "held", JobState.UNKNOWN)
    ledger.plan([job("retried", labels={"dag_id": "d", "season": "w"})], owner="me", retry_failed=True)
    ledger.intend(["retried"], owner="me")
    ledger.accept([("retried", "second")], owner="me")
    ledger.finish([succeeded("retried", "second", 6)])
    clock.forward(40 * 86400)
    bring_to(ledger, "new", JobState.SUCCEEDED)
    return ledger


def test_pruning_moves_old_ended_rows_to_parquet(old_and_new: Ledger, tmp_path: Path) -> None:
    pruned = old_and_new.prune(older_than=timedelta(days=30), to=tmp_path / "archive")
    assert (pruned.rows, pruned.credits) == (3, 16.0)
    assert set(old_and_new.get(["old", "retried", "held", "new"])) == {"held", "new"}
    assert list(old_and_new.past_entries()) == []
    rows = [row for path in pruned.files for row in pq.read_table(path).to_pylist()]
    by_key = {(row["key"], row["attempt"]): row for row in rows}
    assert set(by_key) == {("old", 1), ("retried", 1), ("retried", 2)}
    again = by_key["retried", 2]
    assert (again["credits"], again["dag_id"], again["other_labels"], again["urls"]) == (
        6.0, "d", '{"season": "w"}', ["https://x/retried.png"],
    )  # fmt: skip
    assert again["finished_at"] == datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert by_key["retried", 1]["reason"] == "submitted again"
    assert len({pq.read_schema(path) for path in pruned.files}) == 1
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in pruned.files)
    listed = old_and_new.archives()
    assert {row["path"] for row in listed} == {str(path) for path in pruned.files}
    assert sum(row["credits"] for row in listed) == 16.0
    assert old_and_new.prune(older_than=timedelta(days=30), to=tmp_path / "archive").rows == 0


def test_pruning_in_slices_loses_and_doubles_nothing(
    ledger: Ledger, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "SLICE", 7)
    keys = [f"k{index:02}" for index in range(20)]
    ledger.plan([job(key) for key in keys], owner="me")
    ledger.intend(keys, owner="me")
    ledger.accept([(key, f"t-{key}") for key in keys], owner="me")
    ledger.finish([succeeded(key, f"t-{key}") for key in keys])
    clock.forward(10)
    pruned = ledger.prune(older_than=timedelta(seconds=5), to=tmp_path)
    assert len(pruned.files) == 3
    assert sorted(row["key"] for path in pruned.files for row in pq.read_table(path).to_pylist()) == keys


@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
def test_a_prune_that_is_killed_is_tidied_up_by_the_next(
    old_and_new: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if when == "before the commit":
            patch.setattr(archiving.sa, "insert", die)
        else:
            patch.setattr(archiving, "_put_in_place", die)
        with pytest.raises(Killed):
            old_and_new.prune(older_than=timedelta(days=30), to=tmp_path)
    assert list(tmp_path.glob("*.partial"))
    old_and_new.prune(older_than=timedelta(days=30), to=tmp_path)
    assert not list(tmp_path.glob("*.partial"))
    rows = [row for path in tmp_path.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sorted((row["key"], row["attempt"]) for row in rows) == [
        ("old", 1),
        ("retried", 1),
        ("retried", 2),
    ]
    assert {row["path"] for row in old_and_new.archives()} == {
        str(path) for path in tmp_path.glob("*.parquet")
    }


def test_an_unwritable_archive_takes_nothing_from_the_book(old_and_new: Ledger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerUnavailableError, match="cannot be written"):
        old_and_new.prune(older_than=timedelta(days=30), to=tmp_path / "file")
    assert len(old_and_new.get(["old", "retried", "held", "new"])) == 4
