"""What ``aio ledger`` asks the service, free: how tasks on record ended, and what an id stands for."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

import click

from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import AioError, AuthenticationError, ConfigurationError, NotFoundError
from aio_provider.jobs.job import SHORT_KEY, service_scope
from aio_provider.jobs.settings import DEFAULT_BASE_URL, Settings

if TYPE_CHECKING:
    from aio_provider.api.client import AsyncAioClient
    from aio_provider.api.tasks import Task
    from aio_provider.jobs.ledger import Entry, Finished, Ledger
    from aio_provider.jobs.pacing import RateBudget
    from aio_provider.jobs.resume import Resumed

_UNCHECKED = "Nothing was recorded; --no-check takes the id as it is."


def is_asked(service: str, base_url: str | None = None) -> bool:
    """Whether a job's service is the one that is asked, where the user gives this base URL or none.

    :param service: the scope of a job; empty where it was not noted.
    """
    here = base_url or os.environ.get("AIO_BASE_URL", "").strip() or DEFAULT_BASE_URL
    return not service or service_scope(service) == service_scope(here)


def collect(
    book: Ledger,
    base_url: str | None,
    wait: float | None,
    told: Callable[[Entry, Finished | AioError], None],
) -> Resumed:
    """Put the ends of all tasks in flight on record. See :func:`.resume.resume`."""

    async def work() -> Resumed:
        from aio_provider.jobs.poller import Poller
        from aio_provider.jobs.polling import PollPlan, catalog_prior
        from aio_provider.jobs.resume import resume

        settings = Settings.from_env(base_url=base_url)
        async with _service(settings) as (client, budget):
            plan = PollPlan(catalog_prior(settings.latency_scale))
            async with aclosing(Poller(client, budget, plan)) as poller:
                return await resume(poller, book, base_url=settings.base_url, wait=wait, told=told)

    try:
        return asyncio.run(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def check(entry: Entry, task_id: str, base_url: str | None) -> str:
    """Ask the service whether this task exists and can be the job's, before it is written down.

    :returns: what was found, in a line.
    :raises click.ClickException: it does not, cannot be, or the service cannot be asked.
    """

    async def work() -> Task:
        from aio_provider.jobs.pacing import Priority

        settings = Settings.from_env(base_url=base_url)
        if entry.scope and not is_asked(entry.scope, settings.base_url):
            raise click.ClickException(
                f"the job was sent to {entry.scope}, not to {settings.base_url}: with --base-url "
                f"{shlex.quote(entry.scope)}, and that service's key as AIO_API_KEY, it is asked there. "
                f"{_UNCHECKED}"
            )
        async with _service(settings) as (client, budget), budget.request(Priority.SURE_POLL):
            return await client.get_task(task_id)

    try:
        task = asyncio.run(work())
    except NotFoundError as error:
        raise click.ClickException(
            f"the service knows no task {task_id!r} ({error}). {_UNCHECKED}"
        ) from error
    except (ConfigurationError, AuthenticationError) as error:
        raise click.ClickException(f"the task cannot be checked: {error} {_UNCHECKED}") from error
    except AioError as error:
        raise click.ClickException(f"the service cannot be asked: {error} {_UNCHECKED}") from error
    found = ", ".join(
        filter(
            None,
            [
                f"task {task_id}: {task.status.value}",
                task.model,
                None if task.credits is None else in_credits(task.credits),
                f"made {task.created_at:%Y-%m-%d %H:%M} UTC" if task.created_at else None,
            ],
        )
    )
    sent = entry.intended_at or entry.planned_at
    found += f"\njob {entry.key[:SHORT_KEY]}: {entry.kind}, {entry.model or 'no model noted'}"
    found += f", sent {sent:%Y-%m-%d %H:%M} UTC" if sent else ""
    if task.model and entry.model and task.model != entry.model:
        raise click.ClickException(f"{found}. The job asked for {entry.model}. {_UNCHECKED}")
    return found


class Told:
    """Says how far it is: few jobs one by one, many in a line that is redrawn or comes now and then."""

    def __init__(self, count: int, *, verbose: bool) -> None:
        self.count = count
        self.done = 0
        self.each = verbose
        self.redrawn = sys.stderr.isatty()
        self.said = monotonic()

    def __call__(self, entry: Entry, ended: Finished | AioError) -> None:
        self.done += 1
        if self.each:
            click.echo(f"{entry.key[:SHORT_KEY]}  {ended if isinstance(ended, Exception) else ended.state}")
        elif monotonic() - self.said >= (0.2 if self.redrawn else 10):
            self.said = monotonic()
            line = f"{self.done:,} of {self.count:,} asked about"
            click.echo(f"\r{line}" if self.redrawn else line, nl=not self.redrawn, err=True)

    def close(self) -> None:
        """Leave the line that was redrawn."""
        if not self.each and self.redrawn:
            click.echo(f"\r{self.done:,} of {self.count:,} asked about", err=True)


@asynccontextmanager
async def _service(settings: Settings) -> AsyncIterator[tuple[AsyncAioClient, RateBudget]]:
    """A client and the key's rate budget, which polls of other processes share."""
    from aio_provider.api.client import AsyncAioClient
    from aio_provider.jobs.limiter import rate_budget

    client = AsyncAioClient(
        settings.api_key,
        settings.base_url,
        timeout=settings.timeout,
        allow_insecure=settings.allow_insecure,
        retry=None,
    )
    budget = rate_budget(settings.requests_per_minute, settings.limiter_url, settings.key_id)
    try:
        async with client:
            yield client, budget
    finally:
        budget.close()
