"""``aio reconcile``: the service's usage statement against the ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from aio_provider.api.errors import AioError
from aio_provider.cli_shared import StorageError, storage_errors

if TYPE_CHECKING:
    import pandas as pd

    from aio_provider.accounting.reconciling import Reconciliation
    from aio_provider.cli_tables import Column

#: rows that a terminal shows of what does not agree
_SHOWN = 50


class _Trouble(click.ClickException):
    exit_code = 2  # as diff's: 1 says that two things were compared and differ


@click.command()
@click.argument("statement", type=click.Path(dir_okay=False))
@click.option("--task-id-column", metavar="NAME", help="Guessed unless given, as the other columns.")
@click.option("--credits-column", metavar="NAME")
@click.option("--time-column", metavar="NAME")
@click.option("--model-column", metavar="NAME")
@click.option("--encoding", metavar="NAME", help="UTF-8 unless given: cp1254, latin-1, …")
@click.option("--delimiter", metavar="CHAR", help="Guessed from the header unless given.")
@click.option("--decimal", type=click.Choice([".", ","]), help="Guessed where the numbers leave no doubt.")
@click.option("--timezone", default="UTC", show_default=True, help="Of times that name none.")
@click.option("--since", metavar="TIME", help="The statement's period begins here, not with its first line.")
@click.option("--until", metavar="TIME", help="And ends before this.")
@click.option("--format", "-f", "form", type=click.Choice(["table", "csv", "json"]), default=None)
@click.option("--output", "-o", metavar="FILE", help="All rows, as .csv or .json.")
@click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER.")
def reconcile(
    statement: str, form: str | None, output: str | None, ledger: str | None, **options: Any
) -> None:
    """Compare STATEMENT, a CSV of the service's usage, with the ledger.

    Exit code 0: they agree. 1: they differ. 2: they could not be compared.
    """
    try:
        from aio_provider.accounting.formats import format_of, put
        from aio_provider.accounting.reconciling import reconcile as compare

        if output and form == "table":
            raise click.UsageError("a table is for the terminal; a file is csv or json")
        form = format_of(output, form, forms=("csv", "json")) if output else form or "table"
        found = compare(statement, ledger, **options)
        if output:
            with storage_errors(output):
                put(output, _encoded(found, form))
    except StorageError as error:
        raise _Trouble(error.message) from error
    except (AioError, OSError) as error:
        raise _Trouble(str(error)) from error
    if output:
        _summary(found)
    elif form == "table":
        _print(found)
    else:
        click.echo(_encoded(found, form).decode(), nl=False)
    _say(found, err=not output and form != "table")
    click.get_current_context().exit(0 if found.agrees else 1)


def _encoded(found: Reconciliation, form: str) -> bytes:
    if form == "csv":
        return found.rows.to_csv(index=False, lineterminator="\n").encode()
    rows = json.loads(found.rows.to_json(orient="records", date_format="iso", date_unit="us"))
    summary = json.loads(found.summary.to_json(orient="records"))
    count, credits = found.unmatchable
    whole = {
        "agrees": found.agrees,
        "said": found.said,
        "summary": summary,
        "ledger_rows_without_task_id": {"rows": count, "credits": credits},
        "held": {"jobs": found.held[0], "credits_at_most": found.held[1]},
        "rows": rows,
    }
    return f"{json.dumps(whole, indent=1, ensure_ascii=False)}\n".encode()


def _print(found: Reconciliation) -> None:
    from aio_provider.accounting.formats import shown_text

    _summary(found)
    off = found.rows[found.rows["outcome"] != "matched"]
    if len(off):
        from aio_provider.cli_tables import Column, show

        click.echo()
        head = off.head(_SHOWN)
        lines = [str(number) if isinstance(number, int) else "" for number in head["line"].tolist()]
        show(
            [
                Column("outcome", [name.replace("_", " ") for name in head["outcome"]]),
                *(
                    Column(title, [shown_text(value) for value in head[name]])
                    for title, name in (("task", "task_id"), ("model", "model"), ("dag", "dag"))
                ),
                Column("line", lines, is_figure=True, leaves=1),
                *_amounts(head),
            ]
        )
        if len(off) > _SHOWN:
            click.echo(f"… and {len(off) - _SHOWN:,} more: -o FILE.csv has all of them")


def _say(found: Reconciliation, *, err: bool) -> None:
    """What the rows do not say, the verdict, and how the statement was read."""
    for note in found.notes:
        click.echo(note, err=err)
    click.echo("\nThey agree." if found.agrees else "\nThey differ.", err=err)
    click.echo(f"\n{found.said}", err=err)


def _amounts(rows: pd.DataFrame) -> list[Column]:
    from aio_provider.accounting.formats import number
    from aio_provider.cli_tables import Column

    # what goes first in a narrow terminal can be worked out from the others
    return [
        Column(title, [number(value) for value in rows[name]], is_figure=True, leaves=leaves)
        for title, name, leaves in (
            ("statement", "statement_credits", 3),
            ("ledger", "ledger_credits", 4),
            ("difference", "difference", 0),
        )
    ]


def _summary(found: Reconciliation) -> None:
    """How many of each outcome, and the verdict."""
    from aio_provider.accounting.reconciling import OUTCOMES
    from aio_provider.cli_tables import Column, show

    rows = found.summary
    rows = rows[(rows["rows"] > 0) | (rows["outcome"] == "matched")]
    show(
        [
            Column("outcome", [name.replace("_", " ") for name in rows["outcome"]]),
            Column("tasks", [f"{count:,}" for count in rows["rows"]], is_figure=True),
            *_amounts(rows),
            Column("", [OUTCOMES[name] for name in rows["outcome"]], leaves=1),
        ]
    )
