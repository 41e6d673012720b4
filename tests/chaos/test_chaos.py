"""A few kills on each database with every test run; ``python -m tests.chaos`` makes the hundreds."""

from __future__ import annotations

import os

import pytest
import sqlalchemy as sa

from aio_provider.jobs.ledger import planning
from aio_provider.jobs.ledger.schema import jobs
from tests.chaos.harness import Tally
from tests.chaos.running import play, play_each
from tests.chaos.victim import POINTS, Trap

KILLS = int(os.environ.get("AIO_TEST_CHAOS_KILLS", "8"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_paid_twice_or_lost_whenever_it_is_killed(database: str) -> None:
    tally = play(database, KILLS if database == "sqlite" else KILLS // 2)
    _all_is_well(tally)


@pytest.mark.timeout(600)
def test_nothing_is_paid_twice_or_lost_at_each_marked_point() -> None:
    tally = play_each("sqlite", [Trap(point, 1 if "Parquet" in point else 5, 0.002) for point in POINTS], 2)
    _all_is_well(tally)
    assert set(tally.points) == set(POINTS)


@pytest.mark.timeout(600)
def test_the_harness_sees_a_ledger_that_forgets_its_intents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the check: with lapsed intents taken for new jobs, something is paid twice."""
    careless = (
        sa.update(jobs)
        .where(jobs.c.key.in_(sa.bindparam("keys", expanding=True)))
        .values(state="planned", owner=None, lease_until=None, updated_at=sa.bindparam("now"))
    )
    monkeypatch.setattr(planning, "_HOLD", careless)
    tally = play_each("sqlite", [Trap("after acceptance, before the record", 5)])
    assert tally.paid_twice > 0
    assert any("paid twice" in problem for problem in tally.problems)


def _all_is_well(tally: Tally) -> None:
    print(tally)
    assert tally.problems == []
    assert (tally.paid_twice, tally.lost) == (0, 0)
    assert tally.book == tally.charged
