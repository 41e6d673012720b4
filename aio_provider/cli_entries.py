"""What the commands of ``aio ledger`` share: which jobs are meant, and a job in a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from aio_provider.cli_shared import UNITS
from aio_provider.jobs.job import SHORT_KEY

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Entry, JobState, Ledger

#: jobs listed for a person where nothing else is asked for
LISTED = 50


def opens(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which ledger."""
    return click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER.")(command)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which jobs, by model and labels."""
    for name in ("dag-id", "run-id", "task-id", "user"):
        command = click.option(
            f"--label-{name}" if name == "task-id" else f"--{name}", name.replace("-", "_")
        )(command)
    return click.option("--model", help="The model's name.")(command)


def find(book: Ledger, prefix: str) -> Entry:
    """The job whose key begins like this.

    :raises click.ClickException: there is none, or there are several.
    """
    found = book.find(prefix.rstrip("…")) if prefix.rstrip("…") else []
    if len(found) == 1:
        return found[0]
    why = "several jobs begin with" if found else "no job begins with"
    raise click.ClickException(f"{why} {prefix!r} in {book.url}")


def state_of(name: str) -> JobState:
    """A state by its name.

    :raises click.BadParameter: there is none of that name.
    """
    from aio_provider.jobs.ledger import JobState

    try:
        return JobState(name)
    except ValueError:
        raise click.BadParameter(f"{name!r} is none of {', '.join(JobState)}", param_hint="--state") from None


def say(entry: Entry, *, whole: bool = False) -> None:
    """Print a job in a line, with its error in another; ``whole``: all that is known of it."""
    since = entry.intended_at or entry.planned_at
    age = f"{_ago(since)} ago" if since else ""
    parts = (
        entry.key if whole else _short(entry.key),
        entry.state.value,
        entry.kind,
        entry.model,
        entry.task_id,
        age,
    )
    labels = (f"{name}={value}" for name, value in entry.labels.items())
    click.echo("  ".join(part for part in chain(parts, labels) if part))
    if entry.error:
        click.echo(f"    {entry.error_type or 'error'}: {entry.error}")
    if whole:
        for name, value in plain(entry).items():
            if value not in (None, "", [], {}):
                click.echo(f"    {name}: {value}")


def _short(key: str) -> str:
    """The beginning of a key, which stands for all of it in every command."""
    return key[:SHORT_KEY]


def _ago(then: datetime) -> str:
    return span(datetime.now(UTC) - then)


def span(time: timedelta) -> str:
    """``3d``, ``12h``, ``4m`` or ``30s``."""
    seconds = max(0.0, time.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds >= UNITS[unit]:
            return f"{seconds / UNITS[unit]:.0f}{unit}"
    return f"{seconds:.0f}s"


def plain(entry: Entry) -> dict[str, Any]:
    """A job as JSON takes it."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(entry).items()
    }
