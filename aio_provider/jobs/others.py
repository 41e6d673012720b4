"""Jobs that another process is submitting just now: wait for what the ledger says of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aio_provider.jobs.ledger import AsyncLedger, JobState

if TYPE_CHECKING:
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger import Entry

#: seconds between two looks
_LOOK_AGAIN = 1.0


class Others:
    """Jobs that another process is submitting: read the ledger until they are accepted or given up."""

    def __init__(self, ledger: AsyncLedger) -> None:
        self._ledger = ledger
        self._waiting: dict[str, tuple[Job, asyncio.Future[Entry]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def settled(self, job: Job) -> Entry:
        """The job's entry, once it is no longer ``intended`` by another."""
        waiting: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting[job.key] = (job, waiting)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await waiting

    async def aclose(self) -> None:
        """Wait no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        try:
            while self._waiting:
                # Planning again is what turns an intent whose owner has gone into an unknown one.
                entries = await self._ledger.plan([job for job, _ in self._waiting.values()])
                for entry in entries:
                    if entry.state is not JobState.INTENDED:
                        _, waiting = self._waiting.pop(entry.key)
                        if not waiting.done():
                            waiting.set_result(entry)
                await asyncio.sleep(_LOOK_AGAIN)
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            for _, waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)
