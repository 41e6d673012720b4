"""Tables in the terminal that never lose a name: where room is short, the least important figures go."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

#: between two columns
_GAP = 2
#: no limit
_WIDE = 1_000_000


@dataclass(frozen=True)
class Column:
    """A column as texts.

    :param footer: below it, where there is one.
    :param is_figure: set to the right.
    :param leaves: where a terminal is too narrow, columns go in this order, 1 first; 0: it stays. Names stay.
    """

    title: str
    cells: Sequence[str]
    footer: str = ""
    is_figure: bool = False
    leaves: int = 0


def show(
    columns: Sequence[Column], *, styles: Sequence[str] = (), room: int | None = None
) -> tuple[str, ...]:
    """Print a table, whole lines only: a terminal that is too narrow even for the names folds them itself.

    :param styles: of each row, as rich names them.
    :param room: in characters; by default the terminal's width, and in a pipe or a file no limit.
    :returns: the titles of the columns that were left out; they are said below the table, too.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if room is None:
        room = Console().width if sys.stdout.isatty() else _WIDE
    widths = {
        id(column): max(map(cell_len, (column.title, column.footer, *column.cells))) + _GAP
        for column in columns
    }
    shown = list(columns)
    gone: list[str] = []
    for column in sorted((c for c in columns if c.leaves), key=lambda c: c.leaves):
        if sum(widths[id(c)] for c in shown) - _GAP <= room:
            break
        shown.remove(column)
        gone += filter(None, [column.title])
    has_footer = any(column.footer for column in columns)
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=has_footer)
    for column in shown:
        side = "right" if column.is_figure else "left"
        # Text: a name may hold what would be markup to rich
        table.add_column(Text(column.title), Text(column.footer), justify=side, no_wrap=True)  # type: ignore[arg-type]
    for place in range(max((len(column.cells) for column in shown), default=0)):
        style = styles[place] if styles else None
        table.add_row(*(Text(column.cells[place]) for column in shown), style=style)
    whole = max(room, sum(widths[id(c)] for c in shown))
    Console(width=whole, height=1).print(table, soft_wrap=True)  # both, or rich takes 80 for a dumb terminal
    if gone:
        click.echo(f"Left out for want of room: {', '.join(gone)}. A wider terminal, or a pipe, shows them.")
    return tuple(gone)
