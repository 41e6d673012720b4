"""``aio credits``: what was spent, by whom, on what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from aio_provider.api.errors import AioError
from aio_provider.cli_shared import age, storage_errors

if TYPE_CHECKING:
    import pandas as pd

_FILTERS = (
    "dag",
    "run",
    "task",
    "user",
    "notebook",
    "model",
    "kind",
    "label",
    "team",
    "connection",
    "service",
)
#: what a terminal shows; the other figures are in the files
_SHOWN = (
    *("credits", "money", "tasks", "succeeded", "failed", "in_flight", "in_flight_credits", "unknown"),
    *("at_stake", "wasted", "estimate_error", "latency_median", "latency_p95"),
)
#: what goes first where a terminal is too narrow for all
_LEAVE = (
    *("latency_p95", "latency_median", "estimate_error", "wasted", "succeeded", "failed", "unknown"),
    *("in_flight", "tasks", "in_flight_credits", "at_stake", "money"),
)
_TITLES = {
    "estimate_error": "est. error",
    "latency_median": "median",
    "latency_p95": "p95",
    "in_flight": "in flight",
    "in_flight_credits": "credits in flight",
    "at_stake": "at stake",
}


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(_FILTERS):
        what = f'Only this {name} (may be given several times; "" for none).'
        if name == "label":
            what = "Only this label, or NAME=VALUE for a label of another name, such as campaign=xmas."
        command = click.option(f"--{name}", multiple=True, help=what)(command)
    return command


@click.command()
@click.option("--by", default="model", show_default=True, metavar="NAMES", help="Such as day,model or team.")
@click.option("--since", metavar="TIME", help="From here on: 2026-11, 2026-11-22 or ISO 8601 (UTC).")
@click.option("--until", metavar="TIME", help="Up to here, which no longer counts.")
@click.option("--last", callback=age, metavar="SPAN", help="The last 30d, 12h or 2w, instead of --since.")
@click.option("--price", metavar="PRICE", help="Of a credit: 0.01, '0.008 EUR' or published.")
@click.option("--format", "-f", "form", type=click.Choice(["table", "csv", "json", "parquet", "html"]))
@click.option("--output", "-o", metavar="FILE", help="Where to; its ending says the format.")
@click.option("--no-archived", is_flag=True, help="Leave out what was pruned to Parquet files.")
@click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER.")
@_filters
def credits(
    by: str,
    since: str | None,
    until: str | None,
    last: timedelta | None,
    price: str | None,
    form: str | None,
    output: str | None,
    no_archived: bool,
    ledger: str | None,
    **filters: tuple[str, ...],
) -> None:
    """Say what was spent, by any of day, month, dag, run, task, user, notebook, model, kind, label, team,
    connection and service, and by label:NAME for any other label. Sends nothing and needs no key.

    \b
    aio credits --by month,team --since 2026-01 --price 0.01
    aio credits --last 30d -o credits.html
    """  # noqa: D301 - click's own mark for a paragraph to leave alone
    from aio_provider.accounting.formats import encode, format_of, put

    try:
        if output and form == "table":
            raise click.UsageError("a table is for the terminal; a file is csv, json, parquet or html")
        form = format_of(output, form) if output else form or "table"
        if form == "parquet" and not output:
            raise click.UsageError("a Parquet file needs a name: -o FILE.parquet")
        if last is not None and since is not None:
            raise click.UsageError("give either --since or --last")
        question: dict[str, Any] = {
            "since": since if last is None else _ago(last),
            "until": until,
            "price": price,
            "archived": not no_archived,
            **_chosen(filters),
        }
        if form == "html":
            from aio_provider.accounting.page import render
            from aio_provider.accounting.reporting import report

            found = report(ledger, by=by, **question)
            frame, content = found.table, render(found).encode()
        else:
            from aio_provider.accounting.figures import credits as work_out

            frame = work_out(ledger, by, **question)
            content = b"" if form == "table" else encode(frame, form)
        if output:
            with storage_errors(output):
                put(output, content)
    except (AioError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if form == "table":
        _print(frame)
    elif not output:
        click.echo(content.decode(), nl=False)
    _say_which_book(frame, err=form != "table")


def _ago(last: timedelta) -> datetime:
    if not last:
        raise click.BadParameter("give a span above 0, such as 30d", param_hint="--last")
    try:
        return datetime.now(UTC) - last
    except OverflowError:
        raise click.BadParameter(
            "that is before the year 1: leave it out for all time", param_hint="--last"
        ) from None


def _chosen(filters: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """The filters that were given; ``--label NAME=VALUE`` is one about the label of that name."""
    chosen: dict[str, list[str]] = {}
    for name, values in filters.items():
        for value in values:
            own, is_pair, rest = value.partition("=")
            if name == "label" and is_pair:
                chosen.setdefault("label" if own == "label" else f"label:{own.strip()}", []).append(rest)
            else:
                chosen.setdefault(name, []).append(value)
    return chosen


def _print(frame: pd.DataFrame) -> None:
    from aio_provider.accounting.formats import shown_text, text
    from aio_provider.cli_tables import Column, show

    if frame.empty:
        click.echo("Nothing was submitted in this period.")
        return
    note = frame.attrs["aio"]
    figures = [name for name in _SHOWN if name in frame]
    # A column without a single value says nothing, and terminals are narrow.
    figures = [n for n in figures if n in ("credits", "tasks") or (frame[n].fillna(0) != 0).any()]
    several = len(frame) > 1
    columns = []
    for place, name in enumerate((*note["by"], *figures)):
        is_figure = name in figures
        footer = "total" if place == 0 and not is_figure else ""
        if is_figure:
            value = note["totals"][name]
            footer = text(name, float("nan") if value is None else value)
        columns.append(
            Column(
                note["price"]["currency"] if name == "money" else _TITLES.get(name, name),
                [shown_text(text(name, value)) for value in frame[name].tolist()],
                footer=footer if several else "",
                is_figure=is_figure,
                leaves=_LEAVE.index(name) + 1 if name in _LEAVE else 0,
            )
        )
    show(columns)


def _say_which_book(frame: pd.DataFrame, *, err: bool) -> None:
    note = frame.attrs["aio"]
    click.echo(f"\n{note['what']}. Book: {note['book']['url']}, {note['book']['what']}.", err=err)
    if note["archived"]["told"]:
        click.echo(note["archived"]["told"], err=err)
