"""``aio sandbox``: the sandbox in a terminal."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from pathlib import Path
from typing import Any

import click
import platformdirs
from rich.console import Console
from rich.markup import escape

from aio_provider.api.amounts import in_credits, in_digits
from aio_provider.cli import missing
from aio_provider.cli_shared import many
from aio_provider.sandbox.environment import connection_uri
from aio_provider.sandbox.faults import FAULTS, NOTATION
from aio_provider.sandbox.server import Sandbox
from aio_provider.sandbox.settings import RETRY_AFTER, SHAPES

#: Seconds between two looks for new submissions, and how many of them are shown one by one.
_GLANCE = 0.5
_SHOWN_EACH = 20

_FAULT_HELP = f"A fault, any number of times: {NOTATION}. Names: {', '.join(FAULTS)}."


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", help="A loopback address; nothing else is allowed.")
@click.option("--port", default=8765, help="0 picks a free one.")
@click.option(
    "--time-scale", default=1.0, help="Factor on the usual latencies; 0.01 is a hundred times faster."
)
@click.option("--long-tail", default=0.0, help="Share of tasks that take three to ten times as long.")
@click.option("--credits", default=10_000.0, help="The balance at the start.")
@click.option("--requests-per-minute", default=60, help="The limit of a key, polls included; 0 is none.")
@click.option("--retry-after", type=click.Choice(RETRY_AFTER), default="none", help="What a 429 carries.")
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help=_FAULT_HELP)
@click.option("--seed", default=0, help="Of latencies, of price ranges and of faults.")
@click.option(
    "--shapes", type=click.Choice(SHAPES), default="documented", help="varied: every published form."
)
@click.option(
    "--record", type=click.Path(dir_okay=False), help="Append accepted submissions to this JSONL file."
)
@click.option("--key", "api_key", default="aio_sandbox_key", help="The API key that is accepted.")
@click.option(
    "--ready-file", type=click.Path(dir_okay=False), help="Write the address here, as JSON, once it listens."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def sandbox(ready_file: str | None, quiet: bool, **settings: Any) -> None:
    """Serve the API in One HTTP API on this machine, for free.

    Point AIO_BASE_URL and AIO_API_KEY, or an Airflow connection, at it; Ctrl-C stops it.
    """
    console = Console(quiet=quiet, highlight=False)
    try:
        server = Sandbox(**settings)
    except ValueError as error:
        what, colon, rest = str(error).partition(":")
        options = {param.name: param.opts[0] for param in click.get_current_context().command.params}
        raise click.UsageError(f"{options.get(what, what)}{colon}{rest}") from error
    stop = threading.Event()
    # Before it listens: whoever waits for the ready file may send the signal at once.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stop.set())
    try:
        server.start()
    except ModuleNotFoundError as error:
        raise missing("sandbox", error) from error
    except OSError as error:
        raise click.ClickException(f"{error.strerror or error}; --port 0 picks a free one") from error
    with server:
        _greet(console, server)
        if ready_file is not None:
            _write_ready(ready_file, server)
        watch(console, server, stop)
    console.print(
        f"\nStopped. {many(len(server.account.tasks), 'submission')}, {in_credits(server.charged)} charged, "
        f"{many(server.requests.get('requests', 0), 'request')}."
    )


def _greet(console: Console, server: Sandbox) -> None:
    """Where it is, and the lines to copy; printed unwrapped, so that they can be."""
    settings = server.settings
    limit = settings.requests_per_minute
    console.print(f"[bold]API in One sandbox[/bold]  {server.origin}/  (page, tasks, pictures)")
    console.print(
        f"{in_digits(settings.credits)} credits, {limit or 'no limit of'} requests a minute, "
        f"{settings.time_scale:g} x the usual latencies, seed {settings.seed}"
    )
    for fault in server.faults:
        console.print(f"[yellow]fault[/yellow] {escape(str(fault['fault']))}")
    console.print("\nTo use it, in another terminal:\n")
    ledger = str(fresh_ledger(server.port))
    for name, value in server.environment(ledger=ledger).items():
        console.print(f"export {name}={shlex.quote(value)}", soft_wrap=True, markup=False)
    uri = connection_uri(
        server.base_url,
        server.api_key,
        requests_per_minute=limit,
        latency_scale=settings.time_scale,
        ledger=ledger,
    )
    console.print("\nThe same connection as a URI:\n")
    console.print(f"export AIRFLOW_CONN_AIO_DEFAULT={shlex.quote(uri)}", soft_wrap=True, markup=False)
    console.print("\nCtrl-C stops it. Accepted submissions:\n")


def fresh_ledger(port: int) -> Path:
    """A ledger for what uses this sandbox, notebooks and DAGs: play money stays out of the user's own book.

    Emptied here, since the tasks that an earlier sandbox made are gone with it.
    """
    path = platformdirs.user_data_path("aio-provider") / f"sandbox-{port}.sqlite"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return path


def _write_ready(path: str, server: Sandbox) -> None:
    """Write the address whole or not at all, as somebody is waiting for this file."""
    facts = {"base_url": server.base_url, "api_key": server.api_key, "port": server.port, "pid": os.getpid()}
    part = Path(f"{path}.part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    part.replace(path)


def watch(console: Console, server: Sandbox, stop: threading.Event) -> None:
    """Show what is accepted, as it comes, until it is time to stop.

    :param stop: set when it is; what was accepted until then is still shown.
    """
    seen = 0
    while True:
        stopping = stop.wait(_GLANCE)
        if len(server.account.tasks) < seen:  # it was reset
            seen = 0
        fresh = server.account.submissions(seen) if len(server.account.tasks) > seen else []
        seen += len(fresh)
        for submission in fresh[:_SHOWN_EACH]:
            what = submission.model or submission.endpoint
            line = f"{submission.kind:<24} {what:<28} {submission.credits:>6g} credits  {submission.task_id}"
            console.print(line, markup=False, soft_wrap=True)
        if len(fresh) > _SHOWN_EACH:
            console.print(f"… and {len(fresh) - _SHOWN_EACH} more")
        if stopping:
            return
