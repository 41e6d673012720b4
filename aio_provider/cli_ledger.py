"""``aio ledger``: look into the record of paid jobs, and settle by hand what no program can know."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from aio_provider.api.amounts import in_credits
from aio_provider.cli_entries import LISTED, filters, find, opens, plain, say, span, state_of
from aio_provider.cli_export import export
from aio_provider.cli_resolve import resolve
from aio_provider.cli_shared import age, many, opened

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Entry, Ledger


@click.group()
def ledger() -> None:
    """Look into the record of paid jobs, and settle what only a person can."""


ledger.add_command(export)
ledger.add_command(resolve)


@ledger.command()
@click.argument("keys", nargs=-1)
@click.option("--state", "states", multiple=True, help="Only this state (may be given several times).")
@click.option("--past", is_flag=True, help="Attempts that a newer one took the place of, and forgotten jobs.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Jobs to list at most; {LISTED} by default, all with --json.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON array of jobs, one a line, for programs.")
@filters
@opens
def show(
    keys: tuple[str, ...],
    states: tuple[str, ...],
    past: bool,
    limit: int | None,
    as_json: bool,
    model: str | None,
    ledger: str | None,
    **labels: str | None,
) -> None:
    """Totals, and the jobs that are open: held, being submitted, in flight.

    Totals are for each service (base URL) apart: a sandbox's credits are no money. With KEYS (or beginnings
    of keys) those jobs, with --state those states. Filters hold for jobs and totals.
    """
    from aio_provider.jobs.ledger import OPEN

    with opened(ledger) as book:
        book.sweep()
        wanted = {name: value for name, value in labels.items() if value is not None}
        chosen: Any = None
        given = [state_of(name) for name in states] or None
        if keys:
            entries: Iterator[Entry] = iter([find(book, key) for key in keys])
        else:
            select = book.past_entries if past else book.entries
            chosen = given or (None if past else sorted(OPEN))
            entries = select(state=chosen, model=model, labels=wanted)
        if as_json:
            _as_json(islice(entries, limit))
            return
        limit = limit or LISTED
        shown = list(islice(entries, limit + 1))
        if not keys and not _totals(book, given, model, wanted):
            filtered = given or model or wanted
            click.echo("No jobs." if filtered else "Empty: no job was ever put into it.")
        for entry in shown[:limit]:
            say(entry, whole=bool(keys))
        if len(shown) > limit:
            more = _count(book, past, chosen, model, wanted) - limit
            click.echo(f"… and {more:,} more: --limit {limit + more}")
        held = [entry for entry in shown if entry.state == "unknown"]
        if held:
            click.echo("\nunknown: may have been charged. Look at the service's dashboard, then")
            for line in _how_to_settle(held, ledger):
                click.echo(f"  {line}")


@ledger.command()
@click.option(
    "--wait",
    callback=age,
    metavar="AGE",
    help="How long to wait for one task; by default its kind's deadline.",
)
@click.option("--base-url", help="Instead of AIO_BASE_URL.")
@click.option("--verbose", "-v", is_flag=True, help="A line for each job, however many there are.")
@opens
def resume(wait: timedelta | None, base_url: str | None, verbose: bool, ledger: str | None) -> None:
    """Collect the results of jobs that are in flight. Costs nothing: it only asks.

    The key comes from AIO_API_KEY.
    """
    from aio_provider.cli_service import Told, collect
    from aio_provider.jobs.ledger import JobState

    with opened(ledger) as book:
        count = sum(book.counts(past=past).get(JobState.ACCEPTED, (0, 0.0))[0] for past in (False, True))
        told = Told(count, verbose=verbose or count <= LISTED)
        total = collect(book, base_url, None if wait is None else wait.total_seconds(), told)
        told.close()
        click.echo(
            f"{total.succeeded} succeeded, {total.failed} failed, {total.expired} expired, "
            f"{total.running} still running; {in_credits(total.credits)}"
        )
        if total.elsewhere:
            click.echo(
                f"{many(total.elsewhere, 'job')} of another service. To collect, with its key as AIO_API_KEY:"
            )
            for service in _others_in_flight(book, base_url):
                click.echo(f"  aio ledger resume{_option('base-url', service)}{_option('ledger', ledger)}")


@ledger.command()
@click.argument("keys", nargs=-1)
@click.option("--state", "states", multiple=True, help="Only jobs in this state.")
@click.option("--force", is_flag=True, help="Also jobs that are open and may have been charged.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@filters
@opens
def forget(
    keys: tuple[str, ...],
    states: tuple[str, ...],
    force: bool,
    yes: bool,
    model: str | None,
    ledger: str | None,
    **labels: str | None,
) -> None:
    """Make jobs new again, so that the next run pays for them again. Their credits stay in the book."""
    wanted = {name: value for name, value in labels.items() if value is not None}
    if not (keys or states or model or wanted):
        raise click.UsageError("say which: KEYS, --state, --model, --dag-id, --run-id or --user")
    if keys and (states or model or wanted):
        raise click.UsageError("give either KEYS or filters")
    with opened(ledger) as book:
        if keys:
            chosen = [find(book, key).key for key in keys]
        else:
            state = [state_of(name) for name in states] or None
            chosen = [entry.key for entry in book.entries(state=state, model=model, labels=wanted)]
        if not chosen:
            raise click.ClickException("no such job: nothing matches, nothing was forgotten")
        if not yes:
            what = many(len(chosen), "job")
            click.confirm(f"Forget {what}? The next run pays for what is forgotten again.", abort=True)
        click.echo(f"{book.forget(chosen, force=force)} forgotten.")


@ledger.command()
@click.option("--older-than", callback=age, required=True, metavar="AGE", help="Such as 180d.")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Where the Parquet files go.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@opens
def prune(older_than: timedelta, folder: str, yes: bool, ledger: str | None) -> None:
    """Move jobs that ended, and were not touched since, to Parquet files.

    Their results are no longer reused: a run that asks for such a job again PAYS FOR IT AGAIN. Reports and
    budgets count what they cost. Open jobs stay.
    """
    with opened(ledger) as book:
        if not yes:
            click.confirm(
                f"Move what ended more than {span(older_than)} ago out of {book.url}? A run that asks for "
                "one of these jobs again pays for it again.",
                abort=True,
            )
        pruned = book.prune(older_than=older_than, to=folder)
        figures = (many(pruned.rows, "row"), in_credits(pruned.credits), many(len(pruned.files), "file"))
        click.echo(", ".join(figures))
        for path in pruned.files:
            click.echo(str(path))


# -- shared ----------------------------------------------------------------------------------------------


def _count(book: Ledger, past: bool, states: Any, model: str | None, labels: dict[str, str]) -> int:
    from aio_provider.jobs.ledger import reading
    from aio_provider.jobs.ledger.schema import jobs, past_attempts

    wanted = reading.Wanted.of(states, model=model, labels=labels)
    return sum(n for n, _ in reading.counts(book.store, past_attempts if past else jobs, wanted).values())


def _how_to_settle(held: list[Entry], ledger: str | None) -> list[str]:
    """Lines that settle held jobs. A service that is not the usual one is named: the key is sent there."""
    from aio_provider.cli_service import is_asked

    which = _option("ledger", ledger)
    lines = [("--not-submitted", "it was not: the next run submits it")]
    for service in sorted({entry.scope or "" for entry in held}, reverse=True):
        if is_asked(service):
            lines.insert(0, ("--task-id ID", "it was taken: collect its result"))
        else:
            meaning = f"it was taken by {service}: collect its result"
            lines.insert(0, (f"--task-id ID{_option('base-url', service)}", meaning))
    whole = [(f"aio ledger resolve KEY {what}{which}", meaning) for what, meaning in dict.fromkeys(lines)]
    room = max(len(line) for line, _ in whole)
    return [f"{line:<{room}}  {meaning}" for line, meaning in whole]


def _option(name: str, value: str | None) -> str:
    return f" --{name} {shlex.quote(value)}" if value else ""


def _others_in_flight(book: Ledger, base_url: str | None) -> list[str]:
    """The other services that jobs in flight were sent to."""
    from aio_provider.cli_service import is_asked
    from aio_provider.jobs.ledger import JobState, reading
    from aio_provider.jobs.ledger.schema import jobs, past_attempts

    wanted = reading.Wanted.of(JobState.ACCEPTED)
    return sorted(
        {
            service
            for table in (jobs, past_attempts)
            for service in reading.counts_by_service(book.store, table, wanted)
            if not is_asked(service, base_url)
        }
    )


def _totals(book: Ledger, states: Any, model: str | None, labels: dict[str, str]) -> bool:
    """Print them; whether there were any."""
    from aio_provider.jobs.ledger import reading
    from aio_provider.jobs.ledger.schema import jobs, past_attempts

    click.echo(book.url)
    wanted = reading.Wanted.of(states, model=model, labels=labels)
    lines: dict[str, list[str]] = {}
    for title, table in (("job", jobs), ("past attempt", past_attempts)):
        for service, counts in reading.counts_by_service(book.store, table, wanted).items():
            for state, (count, credits) in sorted(counts.items()):
                what = many(count, title).partition(" ")[2]
                line = f"  {count:>8,} {what:<14} {state.value:<10} {in_credits(credits):>18}"
                lines.setdefault(service, []).append(line)
    for service, figures in sorted(lines.items()):
        click.echo(service or "(service not noted)")
        click.echo("\n".join(figures))
    moved = [] if states or model or labels else book.archives()
    if moved:
        rows, credits = sum(file["rows"] for file in moved), sum(file["credits"] for file in moved)
        click.echo(f"{many(rows, 'row')} archived, {in_credits(credits)}, in {many(len(moved), 'file')}")
    return bool(lines or moved)


def _as_json(entries: Iterator[Entry]) -> None:
    """An array with one job a line, written as it is read: a ledger may be long."""
    between = "[\n"
    for entry in entries:
        click.echo(f"{between}{json.dumps(plain(entry))}", nl=False)
        between = ",\n"
    click.echo("[]" if between == "[\n" else "\n]")
