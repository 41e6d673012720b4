from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from aio_provider.frames.progress import (
    BarView,
    LogView,
    NotebookView,
    Snapshot,
    View,
    clock,
    in_notebook,
    make_view,
)


def figures(done: int, **more: object) -> SimpleNamespace:
    values = {
        "total": 12_000,
        "failed": 0,
        "in_flight": 60,
        "reused": 0,
        "credits": 5.0 * done,
        "eta_seconds": None,
    }
    return SimpleNamespace(**{**values, "done": done, **more})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_few_lines_not_thousands() -> None:
    stream, time = io.StringIO(), Clock()
    view = LogView(12_000, "image", stream, time)
    for second in range(12_000):  # three hours and twenty minutes, drawn five times a second
        time.now = float(second)
        view.update(figures(second))  # type: ignore[arg-type]
        for _ in range(5):
            view.draw()
    view.close()
    lines = stream.getvalue().splitlines()
    assert 10 < len(lines) < 60
    assert lines[0].startswith("image: 2/12,000 rows")
    assert lines[-1].startswith("image: 11,999/12,000 rows")


def test_nothing_new_is_not_written_again() -> None:
    stream, time = io.StringIO(), Clock()
    view = LogView(2, "image", stream, time)
    view.update(figures(2, total=2))  # type: ignore[arg-type]
    time.now = 1000
    view.draw()
    time.now = 2000
    view.draw()
    view.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_the_line_names_everything() -> None:
    line = Snapshot(1200, 300, failed=3, in_flight=60, reused=20, credits=1485.0, eta_seconds=3720).line()
    assert line == "300/1,200 rows, 3 failed, 20 reused, 60 in flight, 1,485 credits, about 1 h 02 min left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (90, "2 min"), (3600, "1 h 00 min"), (-1, "0 s")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_rows_that_never_reached_the_engine_count_as_done() -> None:
    view = View(10, "image")
    view.update(figures(3, failed=1), extra_done=2, extra_failed=1)  # type: ignore[arg-type]
    assert (view.state.done, view.state.failed, view.state.total) == (5, 2, 10)


def test_the_bar_shows_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    view = make_view(10, "image", None)
    assert isinstance(view, BarView)
    view.update(figures(10, total=10, failed=2, in_flight=0))  # type: ignore[arg-type]
    view.close()
    text = stream.getvalue()
    assert "2 failed, 50 credits" in text
    assert "10/10" in text


def test_the_view_suits_the_place() -> None:
    assert isinstance(make_view(1, "image", None), LogView)  # pytest's captured stream is no terminal
    assert type(make_view(1, "image", False)) is View
    assert not in_notebook()


def test_in_a_notebook_it_is_one_output_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel's messages would be, caught where IPython hands them over."""
    pytest.importorskip("IPython")
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    sent: list[tuple[str, bool]] = []

    class Publisher(DisplayPublisher):
        def publish(self, data: dict[str, str], *args: object, update: bool = False, **more: object) -> None:
            sent.append((data["text/html"], update))

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    try:
        shell.display_pub = Publisher(parent=shell)
        shell.kernel = object()
        view = make_view(10, "<image>", None)
        assert isinstance(view, NotebookView)
        for _ in range(3):
            view.update(figures(4, total=10))  # type: ignore[arg-type]
            view.draw()
        view.close()
        view.say("10 rows & more")
    finally:
        InteractiveShell.clear_instance()
    assert [update for _, update in sent] == [False, True, True]
    assert "4/10 rows" in sent[-1][0]
    assert "10 rows &amp; more" in sent[-1][0]
    assert "&lt;image&gt;" in sent[-1][0]
