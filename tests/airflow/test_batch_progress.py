"""The line of a wave: what it says is left is what is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aio_provider.api.catalog import load_catalog
from aio_provider.jobs.flights import Flight, Tally
from aio_provider.operators import batch_run
from aio_provider.operators.batch_run import BatchRun, State

NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "time", SimpleNamespace(time=lambda: NOW))


def line(total: int, *, kind: str = "video", model: str | None = None, ages: Any = (), **state: Any) -> str:
    flights = {
        str(n): (Flight(f"key{n}", str(n), kind, model, NOW - age), NOW + 3600) for n, age in enumerate(ages)
    }
    settings = SimpleNamespace(requests_per_minute=60, latency_scale=1.0)
    run: Any = BatchRun(
        hook=SimpleNamespace(settings=settings),  # type: ignore[arg-type]
        batch=SimpleNamespace(total=total),  # type: ignore[arg-type]
        ledger=None,  # type: ignore[arg-type]
        state=State(waves=1, flights=flights, **state),
        kind=kind,
        labels={},
    )
    return str(run.progress())


def test_nothing_is_left_where_the_last_row_has_nothing_to_do() -> None:
    said = line(60, tally=Tally(succeeded=59), counted=59, more=False)
    assert said == "Wave 1: 59 of 60 done, 1 with nothing to send, 0 in flight, 0 credits so far."


def test_what_the_youngest_still_needs() -> None:
    latency = load_catalog().latency("video", "kling-3")
    minutes = (latency.min + latency.max) / 2 / 60
    assert minutes > 1
    said = line(8, model="kling-3", ages=[30.0, *[0.0] * 7], more=False)
    assert said.endswith(f"8 in flight, 0 credits so far, about {minutes:.1f} min left.")
    late = line(8, model="kling-3", ages=[7200.0] * 8, more=False)
    assert late.endswith("about 8 s left."), "a poll each, at one a second"


def test_what_the_rate_limit_takes_where_that_is_longer() -> None:
    assert line(610, ages=[0.0] * 10).endswith("about 20.2 min left.")
    assert line(610, kind="chat").endswith("about 20.3 min left.")
    assert " left" not in line(610, stopped="There are too few credits.", ages=[0.0])
