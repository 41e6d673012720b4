"""``aio budget``: who may spend how many credits, and how much of it is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aio_provider.api.amounts import in_credits, in_digits
from aio_provider.cli_shared import opened

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Budget, BudgetEvent, BudgetUse, Ledger

F = TypeVar("F", bound=Callable[..., Any])


def _place(command: F) -> F:
    """The options that say which budget is meant."""
    for option in (
        click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER."),
        click.option("--without-end", is_flag=True, help="For all time, instead of each calendar month."),
        click.option("--month", metavar="YYYY-MM", help="For this month only, in place of the usual budget."),
        click.option("--total", is_flag=True, help="Everything in this ledger."),
        click.option("--team", metavar="NAME", help="Jobs of this team."),
        click.option("--dag", metavar="DAG_ID", help="Jobs of this DAG."),
        click.option("--connection", metavar="CONN_ID", help="Jobs through this Airflow connection."),
    ):
        command = option(command)
    return command


@click.group()
def budget() -> None:
    """Say who may spend how many credits, and see how much of it is gone.

    A budget is for everything (--total), an Airflow connection, a DAG or a team, and for each calendar month
    (UTC), one month, or without end. It is kept in the ledger and holds for every process that uses that
    ledger: a job that might go past it is not submitted. What is paid for is always collected.
    """


@budget.command(
    "set", context_settings={"ignore_unknown_options": True}
)  # -5 is a number, and refused as one
@click.argument("credits", type=float)
@_place
def set_(credits: float, ledger: str | None, month: str | None, without_end: bool, **given: Any) -> None:
    """Set or change a budget of so many CREDITS.

    \b
    aio budget set 5000 --total                    each calendar month
    aio budget set 800 --dag nightly --month 2026-12
    aio budget set 20000 --team ads --without-end
    """  # noqa: D301 - click's own mark for a paragraph to leave alone
    scope, value = _scope(given)
    shown = in_digits(credits).replace(",", "")
    if isfinite(credits) and float(shown) != credits:
        raise click.UsageError(f"{credits} has more decimals than credits have: give {shown}")
    with opened(ledger, new=True) as book:
        made = book.set_budget(scope, value, credits=credits, month=_month(month, without_end))
        click.echo(f"{_sentence(made)}: {_standing(book.budget_use(made))}")
        _warn_of_one_machine(book)


@budget.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER.")
def list_(as_json: bool, ledger: str | None) -> None:
    """List all budgets and how they stand, in credits."""
    with opened(ledger) as book:
        uses = [book.budget_use(one) for one in book.budgets()]
        if as_json:
            click.echo(json.dumps([_plain(use) for use in uses]))
        elif uses:
            _table(uses)
        else:
            click.echo(f"No budgets in {book.url}. Set one: aio budget set 5000 --total")


@budget.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_place
def show(as_json: bool, ledger: str | None, month: str | None, without_end: bool, **given: Any) -> None:
    """Show one budget: figures, and when it filled up."""
    scope, value = _scope(given)
    with opened(ledger) as book:
        found = [one for one in book.budgets() if (one.scope, one.value) == (scope, value)]
        wanted = _month(month, without_end)
        chosen = next((one for one in found if one.month == wanted), None)
        period = None
        if chosen is None and month is not None:  # a past month of the budget for each month
            chosen, period = next((one for one in found if one.month == "each"), None), month
        if chosen is None:
            raise click.ClickException(f"{_none(book, scope, value)}. `aio budget list` shows all.")
        use = book.budget_use(chosen, month=period)
        events = [event for event in book.budget_events() if _is_about(event, use)]
        if as_json:
            click.echo(json.dumps({**_plain(use), "events": [event.to_dict() for event in events]}))
            return
        click.echo(f"{_sentence(chosen)}: {_standing(use)}")
        for event in events:
            click.echo(f"  {event.at:%Y-%m-%d %H:%M} UTC  {event.message}")


@budget.command()
@_place
def remove(ledger: str | None, month: str | None, without_end: bool, **given: Any) -> None:
    """Take a budget away. Its events stay on record."""
    scope, value = _scope(given)
    with opened(ledger) as book:
        if not book.remove_budget(scope, value, month=_month(month, without_end)):
            raise click.ClickException(f"{_none(book, scope, value)}. `aio budget list` shows all.")
        click.echo("Removed.")


# -- in words --------------------------------------------------------------------------------------------


def _scope(given: dict[str, Any]) -> tuple[Any, str]:
    for scope, value in given.items():
        if isinstance(value, str) and not value.strip():
            raise click.UsageError(f"--{scope} is empty: give a name")
    chosen = [
        (scope, value.strip() if isinstance(value, str) else value) for scope, value in given.items() if value
    ]
    if len(chosen) != 1:
        too_many = " and ".join(f"--{scope}" for scope, _ in chosen)
        raise click.UsageError(
            "say what it is for: one of --total, --connection ID, --dag ID, --team NAME"
            + (f", not both {too_many}" if chosen else "")
        )
    scope, value = chosen[0]
    return scope, "" if scope == "total" else value


def _month(month: str | None, without_end: bool) -> str | None:
    if month is not None and without_end:
        raise click.UsageError("give either --month or --without-end")
    if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise click.UsageError(f"--month {month}: give one month such as 2026-11 (UTC), or --without-end")
    return None if without_end else month or "each"


def _when(one: Budget) -> str:
    if one.month is None:
        return "without end"
    return "each month" if one.month == "each" else one.month


def _sentence(one: Budget) -> str:
    return f"{one.scope} {one.value}".strip() + f", {_when(one)}"


def _standing(use: BudgetUse) -> str:
    now = f" in {use.period} (UTC)" if use.period else ""
    return (
        f"{in_digits(use.charged)} charged and {in_digits(use.reserved)} reserved of "
        f"{in_credits(use.budget.credits)}{now}, {in_digits(use.left)} left"
    )


def _none(book: Ledger, scope: str, value: str) -> str:
    return f"no such budget for {f'{scope} {value}'.strip()} in {book.url}"


def _is_about(event: BudgetEvent, use: BudgetUse) -> bool:
    return (event.scope, event.value, event.period) == (use.budget.scope, use.budget.value, use.period)


def _plain(use: BudgetUse) -> dict[str, Any]:
    one = use.budget
    return {
        "scope": one.scope,
        "value": one.value,
        "month": one.month,
        "period": use.period,
        "credits": one.credits,
        "charged": use.charged,
        "reserved": use.reserved,
        "left": use.left,
    }


def _table(uses: list[BudgetUse]) -> None:
    from aio_provider.cli_tables import Column, show

    def when(one: Budget, period: str) -> str:
        return f"{_when(one)}, now {period}" if one.month == "each" else _when(one)

    show(
        [
            Column("for", [f"{use.budget.scope} {use.budget.value}".strip() for use in uses]),
            Column("period", [when(use.budget, use.period) for use in uses]),
            Column("budget", [in_digits(use.budget.credits) for use in uses], is_figure=True),
            Column("charged", [in_digits(use.charged) for use in uses], is_figure=True, leaves=2),
            Column("reserved", [in_digits(use.reserved) for use in uses], is_figure=True, leaves=1),
            Column("left", [in_digits(use.left) for use in uses], is_figure=True),
            Column("used", [f"{use.percent:.0f} %" for use in uses], is_figure=True),
        ],
        styles=["red" if use.percent >= 100 else "yellow" if use.percent >= 80 else "" for use in uses],
    )


def _warn_of_one_machine(book: Ledger) -> None:
    if not book.is_shared:
        click.echo(
            f"It holds for runs that use {book.url}: of other machines only those that share this file.",
            err=True,
        )
