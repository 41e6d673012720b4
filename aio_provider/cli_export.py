"""``aio ledger export``: the ledger as Parquet files for DuckDB, Spark and BI tools."""

from __future__ import annotations

import click

from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import AioError
from aio_provider.cli_shared import many, storage_errors


@click.command()
@click.argument("dest")
@click.option("--partition", type=click.Choice(["month", "none"]), default="month", show_default=True)
@click.option("--since", metavar="MONTH", help="From this month on, such as 2026-11.")
@click.option("--until", metavar="MONTH", help="Up to this month, which is no longer written.")
@click.option("--no-archived", is_flag=True, help="Leave out what was pruned to Parquet files.")
@click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER.")
def export(
    dest: str, partition: str, since: str | None, until: str | None, no_archived: bool, ledger: str | None
) -> None:
    """Write every attempt on record as Parquet into DEST, a folder or URL (s3://bucket/ledger). No prompts.

    Run again, it replaces the months it writes; into a folder of the other --partition it writes nothing.
    """
    try:
        from aio_provider.accounting.export import export_ledger

        with storage_errors(dest):
            done = export_ledger(
                dest,
                ledger,
                partition=None if partition == "none" else partition,
                since=since,
                until=until,
                archived=not no_archived,
            )
    except (AioError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    for path, rows in done.files.items():
        click.echo(f"{rows:>10,}  {path}")
    click.echo(f"{many(done.rows, 'row')}, {in_credits(done.credits)}, {many(len(done.files), 'file')}")
