"""Picking up what is in flight from the ledger alone: no input file, no DAG, only ids and free GETs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from aio_provider.api.errors import AioError, AuthenticationError, NotFoundError
from aio_provider.api.tasks import TaskStatus
from aio_provider.jobs.job import DEADLINES, service_scope
from aio_provider.jobs.ledger import AsyncLedger, Entry, Finished, JobState, Ledger, LedgerError

if TYPE_CHECKING:
    from aio_provider.jobs.poller import Poller

#: tasks followed at once; the rest wait in the ledger
_AT_ONCE = 1000


@dataclass
class Resumed:
    """What came of it: how many ended how, and what is left."""

    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    #: still running at the service when the wait was over
    running: int = 0
    #: accepted by another service than this key's
    elsewhere: int = 0
    credits: float = 0.0


async def resume(
    poller: Poller,
    ledger: Ledger,
    *,
    base_url: str,
    wait: float | None = None,
    told: Callable[[Entry, Finished | AioError], None] | None = None,
) -> Resumed:
    """Poll every accepted job of the ledger, past attempts included, and put its end on record.

    Costs nothing: a job that is not accepted is left alone.

    :param base_url: the service the poller asks; jobs of other services are counted and left.
    :param wait: seconds to wait for one task; by default the deadline of its kind.
    :param told: called with each job that ended, or could not be asked about.
    :raises AuthenticationError: the key is refused.
    :raises LedgerError: the record failed.
    """
    total = Resumed()
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(book: AsyncLedger, entry: Entry) -> None:
        came: Finished | AioError
        try:
            came = ended = await _look(poller, entry, wait)
            await book.finish(ended)
            setattr(total, ended.state.value, getattr(total, ended.state.value) + 1)
            total.credits += ended.credits or 0.0
        except (AuthenticationError, LedgerError):
            raise
        except AioError as error:
            total.running += 1
            came = error
        finally:
            room.release()
        if told is not None:
            told(entry, came)

    async with AsyncLedger(ledger) as book, asyncio.TaskGroup() as group:
        pages = iter(_accepted(ledger))
        while (entry := await asyncio.to_thread(next, pages, None)) is not None:
            if entry.scope and service_scope(entry.scope) != service_scope(base_url):
                total.elsewhere += 1
                continue
            await room.acquire()
            group.create_task(one(book, entry))
    return total


def _accepted(ledger: Ledger) -> Iterator[Entry]:
    return chain(ledger.entries(state=JobState.ACCEPTED), ledger.past_entries(state=JobState.ACCEPTED))


async def _look(poller: Poller, entry: Entry, wait: float | None) -> Finished:
    """Wait for one task, and read its end.

    :raises AioError: there is none yet, or it cannot be asked about.
    """
    assert entry.task_id is not None, "an accepted job has a task id"
    patience = DEADLINES.get(entry.kind, DEADLINES["custom"]) if wait is None else wait
    try:
        task = await poller.watch(
            entry.task_id,
            kind=entry.kind,
            model=entry.model,
            submitted_at=entry.submitted_at.timestamp() if entry.submitted_at else None,
            deadline=time.time() + patience,
        )
    except NotFoundError as error:
        return Finished(
            entry.key,
            JobState.EXPIRED,
            error=str(error),
            error_type=type(error).__name__,
            task_id=entry.task_id,
        )
    good = task.status is TaskStatus.SUCCEEDED
    return Finished(
        entry.key,
        JobState.SUCCEEDED if good else JobState.FAILED,
        urls=task.urls,
        credits=task.credits,
        error=None if good else task.error or "The service says that the task failed, and no more.",
        error_type=None if good else "TaskFailedError",
        task_id=entry.task_id,
    )
