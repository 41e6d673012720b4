"""The policies of :mod:`pace_sim` over real HTTP, against a sandbox that runs faster than life."""

from __future__ import annotations

import asyncio
import time

import virtual
from pace_sim import Policy, Result

from aio_provider.api.client import AsyncAioClient
from aio_provider.api.errors import RateLimitError
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.tasks import Task
from aio_provider.jobs.job import Job, jobs_for
from aio_provider.jobs.pacing import MemoryRateBudget
from aio_provider.sandbox import Sandbox


class Wire:
    """A client that notes when each task ended and when that was found."""

    def __init__(self, client: AsyncAioClient, sandbox: Sandbox) -> None:
        self._client = client
        self._sandbox = sandbox
        self.base_url = client.base_url
        self.done_at: dict[str, float] = {}
        self.found_at: dict[str, float] = {}
        self.requests = self.refused = 0

    async def submit(self, request: GenerationRequest) -> Task:
        """Submit, and look up in the sandbox when it will end (for the oracle, and for the lag)."""
        task = await self._counted(self._client.submit(request))
        ready_at = self._sandbox.account.tasks[task.id].ready_at
        self.done_at[task.id] = virtual.clock() + ready_at - time.time()
        return task

    async def get_task(self, task_id: str) -> Task:
        """Poll."""
        task = await self._counted(self._client.get_task(task_id))
        if task.done:
            self.found_at.setdefault(task_id, virtual.clock())
        return task

    async def _counted(self, call: object) -> Task:
        self.requests += 1
        try:
            return await call  # type: ignore[misc,no-any-return]
        except RateLimitError:
            self.refused += 1
            raise


def drive(name: str, policy: Policy, jobs: list[Job], scale: float, per_minute: float) -> Result:
    """Run one policy over HTTP; all times are given in the service's own seconds (unscaled)."""

    async def main(sandbox: Sandbox) -> tuple[float, Wire]:
        budget = MemoryRateBudget(per_minute / scale, burst=round(per_minute / 12))
        async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
            wire = Wire(client, sandbox)
            mine = list(jobs_for((job.request for job in jobs), scope=sandbox.base_url))
            began = virtual.clock()
            await policy(wire, mine, budget)  # type: ignore[arg-type]
            return virtual.clock() - began, wire

    with Sandbox(time_scale=scale, requests_per_minute=int(per_minute / scale), credits=1e9) as sandbox:
        makespan, wire = asyncio.run(main(sandbox))
    lags = sorted(max(wire.found_at[t] - wire.done_at[t], 0.0) / scale for t in wire.found_at)
    return Result(
        name,
        makespan / scale,
        wire.requests / len(jobs),
        sum(lags) / len(lags),
        lags[int(0.95 * (len(lags) - 1))],
        wire.refused,
        lags,
    )
