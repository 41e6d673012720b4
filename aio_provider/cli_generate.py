"""``aio generate``: enrich a file of rows from the terminal."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aio_provider.api.catalog import KINDS
from aio_provider.api.errors import AioError
from aio_provider.cli_shared import age, storage_errors

if TYPE_CHECKING:
    from aio_provider.frames.result import StreamResult

#: each kind's model where none is named, for ``--help``; a test holds it against the catalog
_USUAL = "image flux-2, video kling-3, music suno, speech elevenlabs-v3, chat gemini"

F = TypeVar("F", bound=Callable[..., Any])


def _kind(_: click.Context, __: click.Parameter, value: str) -> str:
    if value not in KINDS:
        kinds = ", ".join(KINDS)
        raise click.BadParameter(
            f"{value!r} is none; after the INPUTs comes one of {kinds}", param_hint="KIND"
        )
    return value


def mapping_options(command: F) -> F:
    """The arguments that say what to make of which column; the same for a run and its estimate."""
    decorators = [
        click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
        # eager: where the kind is missing, the last INPUT stands in its place, and that is what is wrong
        click.argument("kind", callback=_kind, is_eager=True, metavar=f"{{{'|'.join(KINDS)}}}"),
        click.option("--model", "-m", help=f"The model's name; by default {_USUAL}."),
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
        click.option(
            "--as-written", is_flag=True, help="Send a field that looks like a misspelling all the same."
        ),
        click.option("--key", metavar="COLUMN", help="The column that says which job a row is."),
        click.option("--encoding", metavar="NAME", help="Of CSV files, such as cp1252; utf-8 by default."),
        click.option(
            "--delimiter",
            metavar="CHARACTER",
            callback=lambda _, __, value: value and value.replace("\\t", "\t"),
            help="Of CSV files, such as ';' or '\\t'; a comma by default.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["str"]),
            help="Of CSV files: str reads every column as text; by default plain numbers are numbers.",
        ),
        click.option("--max-credits", type=float, help="Submit nothing that could go past so many credits."),
        click.option("--retry-failed", is_flag=True, help="Pay again for rows that failed before."),
        click.option(
            "--on-unknown",
            type=click.Choice(["hold", "resubmit"]),
            default="hold",
            show_default=True,
            help="Rows that an earlier run may have paid for: hold them, or send them again.",
        ),
        click.option(
            "--reuse",
            type=click.Choice(["always", "run", "never"]),
            default="always",
            show_default=True,
            help="Whose results count: any run's, those of the same --run-id, or none (pay anew).",
        ),
        click.option("--run-id", metavar="NAME", help="Names the run, in the ledger and for --reuse run."),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="NAME=VALUE",
            help="Kept with each job, for budgets and reports: team, user, notebook, label, or any other "
            "name, which is label:NAME to `aio credits --by`.",
        ),
        click.option("--base-url", help="Instead of AIO_BASE_URL."),
        click.option("--ledger", metavar="PATH|URL", help="Instead of AIO_LEDGER."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def mapping(
    kind: str,
    model: str | None,
    columns: tuple[str, ...],
    templates: tuple[str, ...],
    params: tuple[str, ...],
    *,
    as_written: bool,
) -> dict[str, Any]:
    """The options of :func:`mapping_options` as arguments of :func:`aio_provider.generate`.

    :raises click.BadParameter: without a ``=``, a field given twice, or one that is nearly a known one.
    """
    from aio_provider.frames.columns import col, template

    fields: dict[str, Any] = {} if model is None else {"model": model}
    for option, values, read in (
        ("--column", columns, col),
        ("--template", templates, template),
        ("--param", params, _constant),
    ):
        for name, text in _pairs(option, values):
            if name in fields:
                raise click.BadParameter(f"the field {name!r} is given twice")
            fields[name] = read(text)
    if not as_written:
        _check_spelling(kind, fields)
    return {"model": fields.pop("model", None), "params": fields}


def labelled(labels: tuple[str, ...]) -> dict[str, str]:
    """The values of ``--label``.

    :raises click.BadParameter: one without a ``=``.
    """
    return dict(_pairs("--label", labels))


@contextmanager
def told() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1, in the words of the command; warnings too."""
    from aio_provider.frames.words import COMMAND, words

    def show(message: Warning | str, *_: object, **__: object) -> None:
        click.echo(f"Warning: {message}", err=True)

    before = words.set(COMMAND)
    given = click.get_current_context().params
    try:
        with warnings.catch_warnings(), storage_errors(*given.get("inputs", ()), given.get("output")):
            warnings.showwarning = show
            yield
    except BrokenPipeError:  # `… | head` has seen enough: click ends quietly
        raise
    except KeyboardInterrupt as stop:
        click.echo(_stopped(stop, given), err=True)
        raise click.exceptions.Exit(130) from None  # as shells count it: 128 and the signal
    except (AioError, ValueError, TypeError, OSError) as error:
        note = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        raise click.ClickException(f"{_message(error)}{note}") from error
    finally:
        words.reset(before)


_OUTPUT = "The Parquet file to write, or a folder of them (ends in / or has no suffix)."


@click.command(context_settings={"show_default": True})
@mapping_options
@click.option("--output", "-o", required=True, metavar="PATH|URL", help=_OUTPUT)
@click.option(
    "--partition-by", multiple=True, metavar="COLUMN", help="Its values name folders in the output."
)
@click.option("--max-rows-per-part", type=click.IntRange(min=1), help="Rows of a part; 10,000 by default.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file whatever it is.")
@click.option("--overwrite-columns", is_flag=True, help="Replace output columns that the input has.")
@click.option("--prefix", default="aio_", help="Begins the names of the output columns.")
@click.option(
    "--prefer",
    type=click.Choice(["results", "finish"]),
    default="finish",
    help="Results as early as can be, or an early finish of the whole run.",
)
@click.option("--refresh-urls", is_flag=True, help="Ask again for results on record (free).")
@click.option("--deadline", callback=age, metavar="AGE", help="How long to wait for one result, such as 20m.")
@click.option("--requests-per-minute", type=float, help="The key's limit, polls included; 0: none.")
@click.option("--limiter-url", metavar="URL", help="Where several machines share the key's limit.")
@click.option("--timeout", type=float, metavar="SECONDS", help="For one HTTP request.")
@click.option("--allow-insecure", is_flag=True, default=None, help="Permit http:// beyond this machine.")
@click.option(
    "--on-server-error",
    type=click.Choice(["hold", "retry"]),
    help="A submission that a 5xx answered: hold it, or send it again and perhaps pay twice.",
)
@click.option(
    "--errors",
    type=click.Choice(["rows", "raise"]),
    default="rows",
    help="raise: send nothing when a row is bad, and exit 1 when a row has failed.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, no summary.")
def generate(
    inputs: tuple[str, ...],
    kind: str,
    model: str | None,
    columns: tuple[str, ...],
    templates: tuple[str, ...],
    params: tuple[str, ...],
    as_written: bool,
    labels: tuple[str, ...],
    deadline: timedelta | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Make something for every row of the INPUTs and write the rows to a Parquet file or a folder of parts.

    An INPUT is a Parquet, CSV or JSON-lines file, a glob or a folder of them, by path or URL (s3://…).

    \b
    aio generate products.csv image -m flux-2 -c prompt=caption -p aspect_ratio=16:9 -o images.parquet

    The key comes from AIO_API_KEY. Run again to finish what was cut short; what is paid for is kept.

    Exit code: 0 when a row has its result, or there was nothing to do; 1 when no row has one;
    130 after Ctrl-C.
    """  # noqa: D301 - click's own mark for a paragraph to leave alone
    output = options["output"]
    with told():
        from aio_provider.frames.calls import generate as run

        out = run(
            list(inputs),
            kind,
            progress=False if quiet else None,
            gallery=False,
            labels=labelled(labels),
            deadline=None if deadline is None else deadline.total_seconds(),
            **mapping(kind, model, columns, templates, params, as_written=as_written),
            **options,
        )
    if not quiet:
        click.echo(f"Wrote {output}: {len(out):,} row{'' if len(out) == 1 else 's'}.")
    _fail_without_results(out, options["prefix"])


def _fail_without_results(out: StreamResult, prefix: str) -> None:
    counts = out.report.statuses
    if not counts.get("succeeded") and len(out) > counts.get("skipped", 0):
        import pyarrow.compute as pc

        bad = out.dataset().filter(pc.field(f"{prefix}status") != "skipped")
        first = bad.head(1, columns=[f"{prefix}error"])[0][0]
        raise click.ClickException(f"no row has its result; the first says: {first}")


def _stopped(stop: KeyboardInterrupt, given: dict[str, Any]) -> str:
    """What a run that Ctrl-C has stopped leaves behind; its summary, unless it is quiet, has the figures."""
    note = "".join(f"\n{note}" for note in getattr(stop, "__notes__", ()))
    result: StreamResult | None = getattr(stop, "result", None)
    if result is None:
        return f"Stopped.{note}"
    again = f"The same line again goes on, and pays for nothing twice.{note}"
    if not given["quiet"]:
        return again
    counts = result.report.statuses
    flying, held = counts.get("pending", 0), counts.get("unknown", 0)
    parts = [f"{flying:,} in flight at the service" if flying else "nothing is in flight"]
    if held:
        parts.append(f"{held:,} held")
    if held and given["ledger"]:
        again += f"\nWhat is held is in that ledger: aio ledger show --ledger {shlex.quote(given['ledger'])}"
    return f"Stopped: {', '.join(parts)}. {again}"


def _pairs(option: str, values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for value in values:
        name, equals, rest = value.partition("=")
        if option == "--label":
            rest = rest.strip()
        if not equals or not name.strip() or not rest:
            form = "NAME=VALUE" if option == "--label" else "FIELD=…"
            raise click.BadParameter(f"{value!r} is not {form}", param_hint=option)
        yield name.strip(), rest


def _check_spelling(kind: str, fields: dict[str, Any]) -> None:
    """A field that is one letter off would be sent, and paid for, without its effect."""
    from aio_provider.frames.spelling import near_miss

    missed = near_miss(kind, fields)
    if missed is not None:
        raise click.BadParameter(f"{missed.message} With --as-written it is sent all the same.")


def _message(error: Exception) -> str:
    """An error without its number, where it is about a file."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _constant(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
