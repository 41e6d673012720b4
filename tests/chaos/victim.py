"""The process that is killed: one ``aio.generate`` call, with a trap at a marked point if one is set."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

import pandas as pd

import aio_provider as aio
from aio_provider.api.client import AsyncAioClient
from aio_provider.api.errors import AioError
from aio_provider.frames import output
from aio_provider.jobs.ledger import AsyncLedger

#: Where a run is killed. The first four are the ones that can cost money.
POINTS = (
    "before the intent",
    "after the intent",
    "during the POST",
    "after acceptance, before the record",
    "after the record",
    "while polling",
    "before the end is recorded",
    "while writing Parquet",
    "after writing Parquet",
)


@dataclass(frozen=True)
class Trap:
    """Kills the process at the ``nth`` time a point is reached; during a POST, ``delay`` seconds into it."""

    point: str
    nth: int = 1
    delay: float = 0.0


def run(
    rows: pd.DataFrame,
    kind: str,
    path: Path,
    environment: dict[str, str],
    trap: Trap | None = None,
    in_air: mmap | None = None,
) -> None:
    """Make everything for ``rows``; does not return. Exit status 0: done, 1: an error, on stderr.

    :param in_air: its first byte is kept at the number of submissions whose answer is not on record yet.
    """
    status = 1
    try:
        os.environ.update(environment)
        if in_air is not None:
            _count(in_air)
        if trap is not None:
            _set(trap)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aio.generate(rows, kind, prompt="prompt", output=path, progress=False)
        status = 0
    except AioError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


def _count(in_air: mmap) -> None:
    """Count from the moment a job asks for its intent to the moment its answer is on the disk."""
    keys: set[str] = set()

    def counted(name: str) -> None:
        inner = getattr(AsyncLedger, name)

        async def verb(self: AsyncLedger, item: Any, *args: Any) -> Any:
            key = getattr(item, "key", item)
            if name == "intend":
                keys.add(key)
                in_air[0] = len(keys)
            answer = await inner(self, item, *args)
            if name != "intend" or not answer:
                keys.discard(key)
                in_air[0] = len(keys)
            return answer

        setattr(AsyncLedger, name, verb)

    for name in ("intend", "accept", "finish", "hold", "release"):
        counted(name)


def _set(trap: Trap) -> None:
    reached = 0

    def is_it() -> bool:
        nonlocal reached
        reached += 1
        return reached == trap.nth

    def before(owner: Any, name: str, die: Callable[[], None] = _die) -> None:
        inner = getattr(owner, name)

        def trapped(*args: Any, **kwargs: Any) -> Any:
            if is_it():
                die()
            return inner(*args, **kwargs)

        setattr(owner, name, trapped)

    def after(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        async def trapped(*args: Any, **kwargs: Any) -> Any:
            answer = await inner(*args, **kwargs)
            if answer is not False and is_it():
                _die()
            return answer

        setattr(owner, name, trapped)

    def soon() -> None:
        asyncio.get_running_loop().call_later(trap.delay, _die)

    def written(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def trapped(*args: Any, **kwargs: Any) -> None:
            inner(*args, **kwargs)
            _die()

        setattr(owner, name, trapped)

    {
        "before the intent": lambda: before(AsyncLedger, "intend"),
        "after the intent": lambda: after(AsyncLedger, "intend"),
        "during the POST": lambda: (
            before(AsyncAioClient, "submit", soon),
            before(AsyncAioClient, "chat", soon),
        ),
        "after acceptance, before the record": lambda: before(AsyncLedger, "accept"),
        "after the record": lambda: after(AsyncLedger, "accept"),
        "while polling": lambda: before(AsyncAioClient, "get_task"),
        "before the end is recorded": lambda: before(AsyncLedger, "finish"),
        "while writing Parquet": lambda: written(output.pq, "write_table"),
        "after writing Parquet": lambda: written(output.Output, "write"),
    }[trap.point]()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
