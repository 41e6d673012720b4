"""``aio reconcile``: the service's usage statement against the ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from aio_provider.api.errors import AioError

if TYPE_CHECKING:
    from aio_provider.accounting.reconciling import Reconciliation

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

        form = form or (format_of(output) if output else "table")
        if form not in ("table", "csv", "json") or (output and form == "table"):
            raise click.UsageError("the rows are written as csv or json")
        found = compare(statement, ledger, **options)
        if output:
            put(output, _encoded(found, form))
    except (AioError, OSError) as error:
        raise _Trouble(str(error)) from error
    if form == "table":
        _print(found)
    elif not output:
        click.echo(_encoded(found, form).decode(), nl=False)
    click.echo(f"\n{found.said}", err=form != "table")
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
        "rows": rows,
    }
    return f"{json.dumps(whole, indent=1, ensure_ascii=False)}\n".encode()


def _print(found: Reconciliation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from aio_provider.accounting.formats import number, shown_text
    from aio_provider.accounting.reconciling import OUTCOMES

    console = Console()
    summary = Table(box=None, pad_edge=False, header_style="bold")
    summary.add_column("outcome", no_wrap=True)
    for name in ("tasks", "statement", "ledger", "difference"):
        summary.add_column(name, justify="right")
    summary.add_column("")
    for row in found.summary.to_dict("records"):
        if not row["rows"] and row["outcome"] != "matched":
            continue
        amounts = (number(row[name]) for name in ("statement_credits", "ledger_credits", "difference"))
        meaning = OUTCOMES[row["outcome"]]
        summary.add_row(row["outcome"].replace("_", " "), f"{row['rows']:,}", *amounts, meaning)
    console.print(summary)
    off = found.rows[found.rows["outcome"] != "matched"]
    if len(off):
        click.echo()
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("outcome", no_wrap=True)
        for name in ("task", "model", "dag"):
            table.add_column(name, overflow="fold")
        for name in ("line", "statement", "ledger", "difference"):
            table.add_column(name, justify="right")
        for row in off.head(_SHOWN).to_dict("records"):
            texts = (shown_text(row[name]) for name in ("task_id", "model", "dag"))
            line = str(row["line"]) if isinstance(row["line"], int) else ""
            amounts = (number(row[name]) for name in ("statement_credits", "ledger_credits", "difference"))
            table.add_row(row["outcome"].replace("_", " "), *map(Text, texts), line, *amounts)
        console.print(table)
        if len(off) > _SHOWN:
            click.echo(f"… and {len(off) - _SHOWN:,} more: -o FILE.csv has all of them")
    count, credits = found.unmatchable
    if count:
        click.echo(
            f"{count:,} ledger rows ({number(credits)} credits) have no task id: chats cannot be compared"
        )
    click.echo("\nThey agree." if found.agrees else "\nThey differ.")
