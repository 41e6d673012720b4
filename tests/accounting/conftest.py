"""Ledgers with rows of every kind, put in directly: a report must not depend on how they came there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aio_provider.jobs.ledger import Ledger
from aio_provider.jobs.ledger.schema import jobs, past_attempts
from tests import postgres_server

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
_count = iter(range(10**9))


def row(state: str = "succeeded", credits: float | None = 5.0, **values: Any) -> dict[str, Any]:
    """A row of the ledger; ``sent`` is when it was submitted, ``took`` its seconds."""
    number = next(_count)
    sent = values.pop("sent", NOON)
    took = values.pop("took", 10.0)
    ended = state in ("succeeded", "failed", "expired")
    whole: dict[str, Any] = {
        "key": f"key-{number}",
        "fingerprint": f"{number:064x}",
        "state": state,
        "attempt": 1,
        "scope": "https://apiin.one/api/v1",
        "kind": "image",
        "endpoint": "/images/generations",
        "model": "flux-2",
        "credits": credits,
        "estimate_low": 5.0,
        "estimate_likely": 5.0,
        "estimate_high": 8.0,
        "service_task_id": f"n41{number}",
        "planned_at": sent,
        "intended_at": None if state == "planned" else sent,
        "accepted_at": None if state in ("planned", "unknown", "intended") else sent,
        "finished_at": sent + timedelta(seconds=took) if ended else None,
        "updated_at": sent,
    }
    return whole | values


def put(ledger: Ledger, *rows: Mapping[str, Any], past: bool = False) -> None:
    with ledger.store.write() as conn:
        for each in rows:
            if past:
                more = {"superseded_at": NOON, "reason": "forgotten"}
                conn.execute(sa.insert(past_attempts), [{**each, **more}])
            else:
                conn.execute(sa.insert(jobs), [dict(each)])


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def any_book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """The same on every database."""
    if request.param == "sqlite":
        with Ledger.open(tmp_path / "any.sqlite") as ledger:
            yield ledger
    else:
        with postgres_server.schema() as url, Ledger.open(url) as ledger:
            yield ledger


@pytest.fixture
def aio_cli() -> Callable[..., Any]:
    """The command line: arguments in, ``click``'s result out."""
    from click.testing import CliRunner

    from aio_provider.cli import main

    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])
