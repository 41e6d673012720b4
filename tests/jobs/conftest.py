"""Ledgers for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aio_provider.jobs.ledger import Ledger
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
        return str(tmp_path / "book" / "ledger.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ledger(target: str, clock: HandClock) -> Iterator[Ledger]:
    with Ledger.open(target, clock=clock) as opened:
        yield opened
