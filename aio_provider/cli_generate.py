"""``aio generate``: enrich a file of rows from the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from aio_provider.api.catalog import KINDS
from aio_provider.api.errors import AioError

F = TypeVar("F", bound=Callable[..., Any])


def mapping_options(command: F) -> F:
    """The arguments that say what to make of which column; the same for a run and its estimate."""
    decorators = [
        click.argument("file"),
        click.argument("kind", type=click.Choice(KINDS)),
        click.option("--model", "-m", help="The model's name; the kind's usual one by default."),
        click.option(
            "--column", "-c", "columns", multiple=True, metavar="FIELD=COLUMN", help="A field from a column."
        ),
        click.option(
            "--template",
            "-t",
            "templates",
            multiple=True,
            metavar="FIELD=TEXT",
            help="A field from {columns}.",
        ),
        click.option(
            "--param",
            "-p",
            "params",
            multiple=True,
            metavar="FIELD=VALUE",
            help="A constant (JSON, else text).",
        ),
        click.option("--key", metavar="COLUMN", help="The column that says which job a row is."),
        click.option("--retry-failed", is_flag=True, help="Pay again for rows that failed before."),
        click.option(
            "--on-unknown", type=click.Choice(["hold", "resubmit"]), default="hold", show_default=True
        ),
        click.option("--base-url", help="Instead of AIO_BASE_URL."),
        click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def mapping(columns: tuple[str, ...], templates: tuple[str, ...], params: tuple[str, ...]) -> dict[str, Any]:
    """The options as arguments of :func:`aio_provider.generate`.

    :raises click.BadParameter: without a ``=``, or a field given twice.
    """
    from aio_provider.frames.columns import template

    fields: dict[str, Any] = {}
    for name, column in _pairs("--column", columns):
        _put(fields, name, column)
    for name, text in _pairs("--template", templates):
        _put(fields, name, template(text))
    constants = {name: _constant(text) for name, text in _pairs("--param", params)}
    return {**fields, "params": constants}


@contextmanager
def told() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1."""
    try:
        yield
    except (AioError, ValueError, TypeError, OSError) as error:
        note = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        raise click.ClickException(f"{error}{note}") from error


@click.command(context_settings={"show_default": True})
@mapping_options
@click.option("--output", "-o", required=True, metavar="PATH|URL", help="The Parquet file to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file whatever it is.")
@click.option("--overwrite-columns", is_flag=True, help="Replace output columns that the input has.")
@click.option("--prefix", default="aio_", help="Begins the names of the output columns.")
@click.option("--max-credits", type=float, help="Submit nothing that could take the run past so many.")
@click.option(
    "--errors", type=click.Choice(["rows", "raise"]), default="rows", help="raise: exit 1 on bad rows."
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, no summary.")
def generate(
    file: str,
    kind: str,
    columns: tuple[str, ...],
    templates: tuple[str, ...],
    params: tuple[str, ...],
    quiet: bool,
    **options: Any,
) -> None:
    """Make something for every row of FILE (Parquet, CSV or JSON lines) and write the rows to a Parquet file.

    \b
    aio generate products.csv image -m flux-2 -c prompt=caption -p aspect_ratio=16:9 -o images.parquet

    The key comes from AIO_API_KEY. Run again to finish what was cut short; what is paid for is kept.
    """  # noqa: D301 - click's own mark for a paragraph to leave alone
    with told():
        from aio_provider.frames.calls import generate as run

        run(file, kind, progress=False if quiet else None, **mapping(columns, templates, params), **options)


def _pairs(option: str, values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name.strip() or not rest:
            raise click.BadParameter(f"{value!r} is not FIELD=…", param_hint=option)
        yield name.strip(), rest


def _put(fields: dict[str, Any], name: str, value: Any) -> None:
    if name in fields:
        raise click.BadParameter(f"the field {name!r} is given twice")
    fields[name] = value


def _constant(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
