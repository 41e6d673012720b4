"""The ledger in an event loop: grouped commits, each caller its own answer, nothing lost by cancelling."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aio_provider.jobs.ledger import (
    AsyncLedger,
    Finished,
    JobConflictError,
    JobState,
    Ledger,
    LedgerError,
    LedgerStateError,
    LedgerUnavailableError,
)
from aio_provider.jobs.ledger.verbs import Claim
from tests.jobs.ledger_helpers import job, state, succeeded


@pytest.fixture
async def grouped(target: str) -> AsyncIterator[AsyncLedger]:
    with Ledger.open(target) as ledger:
        async with AsyncLedger(ledger) as opened:
            yield opened


class Gate:
    """Holds the writer thread in front of its transactions, and counts them."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commits = 0
        self.open = threading.Event()
        self.reached = threading.Event()
        inner = ledger.store.attempt

        def attempt(work: Callable[..., object], *, patient: bool = False) -> object:
            self.reached.set()
            assert self.open.wait(120)
            self.commits += 1
            return inner(work, patient=patient)

        monkeypatch.setattr(ledger.store, "attempt", attempt)


async def test_the_whole_way_of_many_jobs_at_once(grouped: AsyncLedger) -> None:
    async def one(key: str) -> None:
        [entry] = await grouped.plan([job(key)], scope="https://svc")
        assert await grouped.intend(entry)
        await grouped.accept(key, f"t-{key}")
        assert (await grouped.get([key]))[key].state is JobState.ACCEPTED
        await grouped.finish(succeeded(key, f"t-{key}"))

    keys = [f"k{index}" for index in range(100)]
    await asyncio.gather(*(one(key) for key in keys))
    assert grouped.ledger.counts() == {JobState.SUCCEEDED: (100, 500.0)}
    assert {entry.task_id for entry in grouped.ledger.entries()} == {f"t-{key}" for key in keys}


async def test_verbs_that_wait_share_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(":memory:") as ledger:
        keys = [f"k{index}" for index in range(50)]
        async with AsyncLedger(ledger) as grouped:
            await grouped.plan([job(key) for key in keys])
            gate = Gate(ledger, monkeypatch)
            claims = [asyncio.ensure_future(grouped.intend(key)) for key in keys]
            await asyncio.to_thread(gate.reached.wait, 10)
            await asyncio.sleep(0)  # the first commit is under way; the others gather behind it
            gate.open.set()
            assert all(await asyncio.gather(*claims))
            assert gate.commits <= 2


async def test_two_claims_of_one_group_win_once(grouped: AsyncLedger) -> None:
    await grouped.plan([job("k")])
    assert sorted(await asyncio.gather(grouped.intend("k"), grouped.intend("k"))) == [False, True]


async def test_each_caller_gets_its_own_error(grouped: AsyncLedger) -> None:
    await grouped.plan([job("a"), job("b")])
    assert await grouped.intend("a")
    answers = await asyncio.gather(
        grouped.accept("a", "ta"),
        grouped.accept("missing", "tm"),
        grouped.finish(Finished("b", JobState.SUCCEEDED)),
        grouped.plan([job("c")]),
        grouped.plan([job("a", "another prompt")]),
        grouped.intend("b"),
        return_exceptions=True,
    )
    assert answers[0] is None
    assert isinstance(answers[1], LedgerStateError) and answers[1].keys == ("missing",)
    assert isinstance(answers[2], LedgerStateError) and answers[2].keys == ("b",)
    assert [entry.key for entry in answers[3]] == ["c"]  # type: ignore[union-attr]
    assert isinstance(answers[4], JobConflictError) and answers[4].keys == ("a",)
    assert answers[5] is True
    assert state(grouped.ledger, "a") is JobState.ACCEPTED


async def test_an_item_the_database_refuses_spoils_nothing_for_the_others(postgres_url: str) -> None:
    with Ledger.open(postgres_url) as ledger:
        async with AsyncLedger(ledger) as grouped:
            await grouped.plan([job("a"), job("b")])
            await asyncio.gather(grouped.intend("a"), grouped.intend("b"))
            answers = await asyncio.gather(
                grouped.accept("a", "bad\x00id"), grouped.accept("b", "tb"), return_exceptions=True
            )
        assert isinstance(answers[0], LedgerError | ValueError)
        assert answers[1] is None
        assert state(ledger, "b") is JobState.ACCEPTED


async def test_a_cancelled_claim_gives_its_job_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(":memory:") as ledger:
        async with AsyncLedger(ledger) as grouped:
            await grouped.plan([job("under way"), job("waiting")])
            gate = Gate(ledger, monkeypatch)
            first = asyncio.ensure_future(grouped.intend("under way"))
            await asyncio.to_thread(gate.reached.wait, 10)
            second = asyncio.ensure_future(grouped.intend("waiting"))
            await asyncio.sleep(0)
            first.cancel()
            second.cancel()
            gate.open.set()
            await asyncio.gather(first, second, return_exceptions=True)
        assert [state(ledger, key) for key in ("under way", "waiting")] == [JobState.PLANNED] * 2


async def test_a_claim_cancelled_as_its_answer_comes_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(":memory:") as ledger:
        async with AsyncLedger(ledger) as grouped:
            await grouped.plan([job("k")])
            claim = asyncio.ensure_future(grouped.intend("k"))
            inner = grouped._hand_over

            def cancel_at_once(calls: object) -> None:
                inner(calls)  # type: ignore[arg-type]
                claim.cancel()

            monkeypatch.setattr(grouped, "_hand_over", cancel_at_once)
            with pytest.raises(asyncio.CancelledError):
                await claim
        assert state(ledger, "k") is JobState.PLANNED


async def test_a_claim_cancelled_while_closing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(":memory:") as ledger:
        grouped = AsyncLedger(ledger)
        await grouped.plan([job("k")])
        gate = Gate(ledger, monkeypatch)
        claim = asyncio.ensure_future(grouped.intend("k"))
        await asyncio.to_thread(gate.reached.wait, 10)
        closing = asyncio.ensure_future(grouped.aclose())
        await asyncio.sleep(0)
        claim.cancel()
        gate.open.set()
        await closing
        assert state(ledger, "k") is JobState.PLANNED


def test_a_claim_whose_loop_is_gone_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.plan([job("k")], owner="me")
        gate = Gate(ledger, monkeypatch)
        grouped = AsyncLedger(ledger, owner="me")
        loop = asyncio.new_event_loop()

        async def leave() -> None:
            grouped._put("intend", Claim("k", "me"))
            await asyncio.to_thread(gate.reached.wait, 10)

        loop.run_until_complete(leave())
        loop.close()
        gate.open.set()
        asyncio.run(grouped.aclose())
        assert state(ledger, "k") is JobState.PLANNED


async def test_an_id_is_written_down_even_when_its_caller_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Ledger.open(":memory:") as ledger:
        async with AsyncLedger(ledger) as grouped:
            await grouped.plan([job("k")])
            await grouped.intend("k")
            gate = Gate(ledger, monkeypatch)
            accept = asyncio.ensure_future(grouped.accept("k", "t"))
            await asyncio.to_thread(gate.reached.wait, 10)
            accept.cancel()
            gate.open.set()
            await asyncio.gather(accept, return_exceptions=True)
        assert state(ledger, "k") is JobState.ACCEPTED


async def test_open_intents_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    with Ledger.open(":memory:", lease_seconds=0.03) as ledger:
        async with AsyncLedger(ledger, owner="me") as grouped:
            await grouped.plan([job("k")])
            inner = ledger.renew

            def renew(owner: str) -> int:
                count = inner(owner)
                if owner == "me" and count == 1:
                    renewed.set()
                return count

            monkeypatch.setattr(ledger, "renew", renew)
            await grouped.intend("k")
            assert await asyncio.to_thread(renewed.wait, 10)
            await grouped.release("k")


def test_a_slow_post_keeps_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    with Ledger.open(":memory:", lease_seconds=0.03) as ledger:
        ledger.plan([job("k")], owner="me")
        ledger.intend(["k"], owner="me")
        monkeypatch.setattr(ledger, "renew", lambda owner: renewed.set())
        with ledger.renewing("me"):
            assert renewed.wait(120)


async def test_closing_commits_what_waits_and_refuses_more(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        grouped = AsyncLedger(ledger)
        await grouped.plan([job("k")])
        claim = asyncio.ensure_future(grouped.intend("k"))
        await asyncio.sleep(0)
        await grouped.aclose()
        assert await claim is True
        with pytest.raises(LedgerError, match="closed"):
            await grouped.get(["k"])
        await AsyncLedger(ledger).aclose()  # one that was never used


async def test_a_lost_database_reaches_every_caller_with_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(":memory:") as ledger:
        async with AsyncLedger(ledger) as grouped:
            await grouped.plan([job("a"), job("b"), job("c")])
            await grouped.intend("a")

            def attempt(work: object, *, patient: bool = False) -> object:
                raise LedgerUnavailableError("the disk is full")

            monkeypatch.setattr(ledger.store, "attempt", attempt)
            answers = await asyncio.gather(
                grouped.accept("a", "paid-id"),
                grouped.intend("b"),
                grouped.plan([job("d")]),
                return_exceptions=True,
            )
    assert all(isinstance(answer, LedgerUnavailableError) for answer in answers)
    assert "a=paid-id" in str(answers[0])
    assert len({id(answer) for answer in answers}) == 3
