"""Ledgers and a fast sandbox for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aio_provider.jobs.ledger import Ledger
from aio_provider.sandbox import Sandbox
from tests import postgres_server
from tests.jobs.ledger_helpers import HandClock


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with postgres_server.schema() as url:
        yield url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may be: each test that asks for this runs on every database."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "sqlite":
        folder = tmp_path / "book"
        folder.mkdir(mode=0o700)
        return str(folder / "ledger.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ledger(target: str, clock: HandClock) -> Iterator[Ledger]:
    with Ledger.open(target, clock=clock) as opened:
        yield opened


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger file, on the machine's own clock."""
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A hundred times as fast as the service, without a limit."""
    with Sandbox(time_scale=0.01, requests_per_minute=0, credits=100_000) as running:
        yield running
