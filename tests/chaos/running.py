"""A whole chaos run: as many cases as the kills need, on SQLite or on PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from aio_provider.sandbox.process import SandboxProcess
from tests import postgres_server
from tests.chaos.harness import KILLS_A_CASE, Case, Tally
from tests.chaos.victim import Trap


def play(database: str, kills: int, seed: int = 0, told: Callable[[str], None] = lambda line: None) -> Tally:
    """Play seeded cases until so many kills have been made.

    :param database: ``sqlite`` or ``postgresql``.
    :param seed: of the first case; each case's own seed is one more.
    :param told: called with a line after each case.
    """
    tally = Tally()
    with _sandbox(seed) as sandbox:
        while tally.kills < kills:
            with _case(sandbox, database, seed, tally) as case:
                case.play(case.moments(min(KILLS_A_CASE, kills - tally.kills)))
            seed += 1
            told(f"{case.name}: {tally}")
    return tally


def play_each(database: str, moments: Iterable[Trap | float], seed: int = 0) -> Tally:
    """A case without faults for each of these moments."""
    tally = Tally()
    with _sandbox(seed) as sandbox:
        for moment in moments:
            with _case(sandbox, database, seed, tally) as case:
                case.play([moment])
    return tally


def _sandbox(seed: int) -> SandboxProcess:
    # A second of real time is a few hundred of the service's: tasks take 6 to 30 ms.
    return SandboxProcess(time_scale=0.002, requests_per_minute=0, credits=1e9, seed=seed)


@contextmanager
def _case(sandbox: SandboxProcess, database: str, seed: int, tally: Tally) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="aio-chaos-") as name:
        book = nullcontext(f"{name}/ledger.sqlite") if database == "sqlite" else postgres_server.schema()
        with book as url:
            yield Case(sandbox, url, Path(name), seed, tally)
