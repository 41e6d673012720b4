"""``aio ledger resolve``: say what became of held jobs, one by its task, or many that were never taken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from aio_provider.api.amounts import in_credits
from aio_provider.cli_entries import LISTED, filters, find, opens, say
from aio_provider.cli_shared import many, opened

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Entry, Ledger


@click.command()
@click.argument("keys", nargs=-1)
@click.option("--task-id", "aio_task_id", metavar="ID", help="The service took it: this is its task.")
@click.option("--not-submitted", is_flag=True, help="The service never took it: submit it in the next run.")
@click.option(
    "--state",
    type=click.Choice(["unknown"]),
    help="All that are held, or with the filters below those of them; only with --not-submitted.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-check", is_flag=True, help="Do not ask the service whether it has that task.")
@click.option("--base-url", help="The service that is asked, instead of AIO_BASE_URL.")
@click.option("--force", is_flag=True, help="Even while the process that was submitting it may live.")
@filters
@opens
def resolve(
    keys: tuple[str, ...],
    aio_task_id: str | None,
    not_submitted: bool,
    state: str | None,
    yes: bool,
    no_check: bool,
    base_url: str | None,
    force: bool,
    model: str | None,
    ledger: str | None,
    **labels: str | None,
) -> None:
    """Say what became of held jobs (KEYS, or the beginnings of keys).

    With --task-id, for one job, the service is asked first whether it has that task (free; the key comes from
    AIO_API_KEY). A job that expired without ever having had a result, as one with a mistyped id does, can be
    given another task.

    With --not-submitted, several KEYS or --state unknown, it shows what would be settled and asks: what the
    service did take after all is PAID FOR TWICE.
    """
    if (aio_task_id is None) == (not not_submitted):
        raise click.UsageError("give either --task-id ID or --not-submitted")
    wanted = {name: value for name, value in labels.items() if value is not None}
    if keys and (state or model or wanted):
        raise click.UsageError("give either KEYS or --state unknown with filters")
    if not keys and not state:
        raise click.UsageError("say which: KEYS, or --state unknown, alone or with filters")
    several = len(keys) != 1
    if several and (aio_task_id is not None or force):
        raise click.UsageError(f"{'--force' if force else '--task-id'} is for one job: give its KEY alone")
    with opened(ledger) as book:
        book.sweep()
        if several:
            from aio_provider.jobs.ledger import JobState

            held = (
                _held(book, keys)
                if keys
                else list(book.entries(state=JobState.UNKNOWN, model=model, labels=wanted))
            )
            _never_submitted(book, held, ask=not yes)
            return
        entry = find(book, keys[0])
        if aio_task_id is not None and not no_check:
            from aio_provider.cli_service import check

            click.echo(check(entry, aio_task_id, base_url))
        say(book.settle(entry.key, task_id=aio_task_id, not_submitted=not_submitted, force=force))


def _held(book: Ledger, keys: Iterable[str]) -> list[Entry]:
    held = list({entry.key: entry for entry in (find(book, key) for key in keys)}.values())
    for entry in held:
        if entry.state != "unknown":
            raise click.ClickException(
                f"job {entry.key} is {entry.state.value}, not unknown: nothing was settled. Leave it out"
            )
    return held


def _never_submitted(book: Ledger, held: list[Entry], *, ask: bool) -> None:
    """Show them, ask, and let the next run submit them."""
    if not held:
        raise click.ClickException("no such job: nothing is held that matches, nothing was settled")
    for entry in held[:LISTED]:
        say(entry)
    if len(held) > LISTED:
        click.echo(f"… and {len(held) - LISTED:,} more")
    for service in sorted({entry.scope or "" for entry in held}):
        there = [entry for entry in held if (entry.scope or "") == service]
        click.echo(f"{service or '(service not noted)'}: {many(len(there), 'job')}, {_at_stake(there)}")
    if ask:
        click.confirm(
            f"Settle {many(len(held), 'job')} as never submitted? The next run submits them, and pays again "
            "for what the service took after all.",
            abort=True,
        )
    settled = len(book.settle_not_submitted(held))
    click.echo(f"{settled:,} settled: the next run submits {'it' if settled == 1 else 'them'}.")
    if settled < len(held):
        click.echo(f"{many(len(held) - settled, 'job')} changed meanwhile and stayed as they are.")


def _at_stake(held: list[Entry]) -> str:
    """The most that they may have cost, as budgets reckon it."""
    stakes = [entry.at_stake for entry in held]
    known = [stake for stake in stakes if stake is not None]
    unknown = len(stakes) - len(known)
    said = [f"up to {in_credits(sum(known))} at stake"] if known else []
    if unknown:
        said.append(f"{many(unknown, 'job')} of unknown price" if known else "of unknown price")
    return ", ".join(said)
