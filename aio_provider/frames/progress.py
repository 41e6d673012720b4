"""What the user sees while a run goes on: a bar in a terminal or notebook, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import IO, TYPE_CHECKING

from aio_provider.api.amounts import in_credits

if TYPE_CHECKING:
    from aio_provider.frames.report import Report

#: seconds between two lines in a log: the first come soon, then ever fewer, so a day's run is not a book
LOG_INTERVALS = (2.0, 10.0, 30.0, 60.0, 120.0, 300.0)


#: statuses that are told beside the bar: rows that did not get a result
_TOLD = ("expired", "failed", "not_submitted", "pending", "unknown")
#: statuses of rows that are not done
_WAITING = ("not_submitted", "pending")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a run is, in rows.

    :param counts: of the rows looked at, by status; what is told of them has the summary's words.
    :param credits: spent so far; ``None`` where nothing is paid for.
    """

    total: int | None
    done: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    in_flight: int = 0
    reused: int = 0
    credits: float | None = None
    eta_seconds: float | None = None

    def line(self) -> str:
        """One line of text, the same in every place."""
        of = "" if self.total is None else f"/{self.total:,}"
        return ", ".join(filter(None, [f"{self.done:,}{of} rows", self.details()]))

    def details(self) -> str:
        """What stands beside a bar."""
        counts = ((name, self.counts.get(name, 0)) for name in _TOLD)
        parts = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts if count]
        if self.reused:
            parts.append(f"{self.reused:,} reused")
        if self.in_flight:
            parts.append(f"{self.in_flight:,} in flight")
        if self.credits is not None:
            parts.append(in_credits(self.credits))
        if self.eta_seconds is not None and self.done < (self.total or 0):
            parts.append(f"about {clock(self.eta_seconds)} left")
        return ", ".join(parts)


class View:
    """Holds the latest state of a run and draws it when asked.

    :meth:`update` may be called from any thread and is cheap; :meth:`draw` belongs to the caller's thread.
    """

    def __init__(self, total: int | None, title: str) -> None:
        self.title = title
        self.state = Snapshot(total)

    def update(
        self,
        counts: Mapping[str, int],
        *,
        reused: int = 0,
        credits: float | None = None,
        in_flight: int = 0,
        eta_seconds: float | None = None,
    ) -> None:
        """Take the figures so far; ``counts``: rows by status."""
        done = sum(counts.values()) - sum(counts.get(name, 0) for name in _WAITING)
        self.state = Snapshot(self.state.total, done, dict(counts), in_flight, reused, credits, eta_seconds)

    def settle(self, report: Report) -> None:
        """Take the last figures, so that what is left standing says the same as the summary."""
        self.update(report.statuses, reused=report.reused, credits=report.credits)

    def draw(self) -> None:
        """Show the state; by default it is not shown."""

    def say(self, text: str) -> None:
        """Show a line of text; by default it is not shown."""

    def close(self) -> None:
        """Draw for the last time."""


class BarView(View):
    """A tqdm bar in a terminal."""

    def __init__(self, total: int | None, title: str) -> None:
        super().__init__(total, title)
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=title, bar_format=_BAR)

    def draw(self) -> None:
        """Move the bar."""
        self._bar.n = self.state.done
        self._bar.set_postfix_str(self.state.details(), refresh=True)

    def say(self, text: str) -> None:
        """Print under the bar, which is closed by then."""
        sys.stderr.write(f"{text}\n")

    def close(self) -> None:
        """Leave the bar standing."""
        self.draw()
        self._bar.close()


class NotebookView(View):
    """A bar that is one output of its cell, redrawn in place: it needs no widgets, and a saved notebook keeps
    its last state instead of every one.
    """

    def __init__(self, total: int | None, title: str) -> None:
        super().__init__(total, title)
        self._said: list[str] = []
        self._shown = self.state
        from IPython.display import display

        self._handle = display(self._page(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def draw(self) -> None:
        """Redraw when something has changed."""
        if self.state != self._shown:
            self._update()

    def say(self, text: str) -> None:
        """Write a line under the bar."""
        self._said.append(text)
        self._update()

    def close(self) -> None:
        """Draw the last state."""
        self.draw()

    def _update(self) -> None:
        self._shown = self.state
        self._handle.update(self._page(), raw=True)

    def _page(self) -> dict[str, str]:
        state = self.state
        most = max(state.total or state.done, 1)
        bar = f'<progress value="{state.done}" max="{most}" style="width:16em"></progress>'
        lines = "".join(f"<div>{escape(line)}</div>" for line in self._said)
        html = f"<div>{escape(self.title)} {bar} {escape(state.line())}</div>{lines}"
        return {"text/html": html, "text/plain": "\n".join([f"{self.title}: {state.line()}", *self._said])}


class LogView(View):
    """Lines of text, few of them."""

    def __init__(
        self,
        total: int | None,
        title: str,
        stream: IO[str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(total, title)
        self._stream = stream
        self._now = monotonic
        self._lines = 0
        self._last = monotonic()
        self._shown = self.state

    def draw(self) -> None:
        """Write a line when it is time for one and something has changed."""
        pause = LOG_INTERVALS[min(self._lines, len(LOG_INTERVALS) - 1)]
        if self._now() - self._last >= pause and self.state != self._shown:
            self._write()

    def say(self, text: str) -> None:
        """Write a line now."""
        # looked up at each line: test runners and Airflow swap the stream under us
        print(text, file=self._stream or sys.stderr, flush=True)

    def close(self) -> None:
        """Write the final state unless it is there already."""
        if self.state != self._shown or not self._lines:
            self._write()

    def _write(self) -> None:
        self._lines += 1
        self._last, self._shown = self._now(), self.state
        self.say(f"{self.title}: {self.state.line()}")


def make_view(total: int | None, title: str, progress: bool | None) -> View:
    """The view that suits where we run.

    :param progress: ``None`` or ``True``: a bar in a terminal or notebook, a line now and then elsewhere;
        ``False``: nothing.
    """
    if progress is False:
        return View(total, title)
    if total == 0:
        return LogView(total, title)
    if in_notebook():
        return NotebookView(total, title)
    if sys.stderr is not None and sys.stderr.isatty():
        return BarView(total, title)
    return LogView(total, title)


def in_notebook() -> bool:
    """Whether this is an IPython kernel, which can show pictures (a terminal IPython cannot)."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def clock(seconds: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``3 h 20 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
