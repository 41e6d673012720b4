"""Names in the terminal: whole, in a terminal of 80 columns as in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aio_provider.cli_tables import Column, show
from aio_provider.jobs.ledger import Ledger

from .conftest import NOON, put, row

MODEL = "elevenlabs/eleven-multilingual-v3"


def fill(book: Ledger) -> None:
    put(
        book,
        row(credits=1_234_567.0, model=MODEL, took=75),
        row(credits=7.0, model="flux-2", sent=NOON - timedelta(days=1)),
        row("unknown", None, model=MODEL),
        row("failed", 3.0, model=MODEL),
        row("accepted", None, model=MODEL),
    )


def in_a_terminal(columns: int, *arguments: str) -> str:
    """What the command writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "aio_provider.cli", *arguments]
    environment |= {"TERM": "dumb", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not part:
                break
            parts.append(part)
        process.wait()
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_a_narrow_terminal_loses_figures_and_says_so(book: Ledger) -> None:
    fill(book)
    ledger = str(book.store.path)
    told = in_a_terminal(80, "credits", "--ledger", ledger, "--by", "day,model", "--price", "0.01")
    table, _, rest = told.partition("Left out for want of room: p95, median")
    assert rest and "2026-11-22  " + MODEL in table and "1,234,570" in table and "total" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_pipe_has_every_column(book: Ledger, aio_cli: Callable[..., Any]) -> None:
    fill(book)
    told = aio_cli("credits", "--ledger", book.store.path, "--by", "day,model", "--price", "0.01").output
    heads = told.splitlines()[0]
    assert all(
        title in heads for title in ("day", "model", "credits in flight", "at stake", "est. error", "p95")
    )
    assert f"2026-11-22  {MODEL}" in told and "1,234,570" in told and "Left out" not in told
    assert next(line for line in told.splitlines() if line.startswith("total"))


def test_task_ids_are_whole(book: Ledger, tmp_path: Path) -> None:
    task = "n416a93f4c2e8d07b51_" + "0123456789" * 4
    put(book, row(service_task_id=task, model=MODEL, dag_id="nightly_catalogue_of_everything"))
    statement = tmp_path / "s.csv"
    statement.write_text(f"id,credits\n{task},6\n")
    told = in_a_terminal(80, "reconcile", str(statement), "--ledger", str(book.store.path))
    # a line that is longer than the terminal is folded by the terminal: it has no break of ours
    assert any(
        task in line and MODEL in line and "nightly_catalogue_of_everything" in line
        for line in told.splitlines()
    )


def test_names_stay_even_where_nothing_else_has_room(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [
        Column("model", ["[red]a[/red]", "b" * 50], "total"),
        Column("credits", ["1", "2"], "3", is_figure=True),
        Column("p95", ["9 s", "8 s"], "9 s", is_figure=True, leaves=1),
        Column("tasks", ["4", "5"], "9", is_figure=True, leaves=2),
    ]
    assert show(columns, room=20) == ("p95", "tasks")
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1].startswith("[red]a[/red]") and lines[2].startswith("b" * 50) and lines[3].startswith("total")
    )
    assert show(columns, room=67) == ("p95",) and show(columns, room=72) == ()
