from __future__ import annotations

import io
import sys

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


def show(view: View, done: int, in_flight: int = 60, **others: int) -> None:
    view.update({"succeeded": done, **others}, credits=5.0 * done, in_flight=in_flight)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_few_lines_not_thousands() -> None:
    stream, time = io.StringIO(), Clock()
    view = LogView(12_000, "image", stream, time)
    for second in range(12_000):  # three hours and twenty minutes, drawn five times a second
        time.now = float(second)
        show(view, second)
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
    show(view, 2)
    time.now = 1000
    view.draw()
    time.now = 2000
    view.draw()
    view.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_the_line_names_everything() -> None:
    line = Snapshot(
        1200, 300, {"failed": 3}, in_flight=60, reused=20, credits=1485.0, eta_seconds=3720
    ).line()
    assert line == "300/1,200 rows, 3 failed, 20 reused, 60 in flight, 1,485 credits, about 1 h 02 min left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (90, "2 min"), (3600, "1 h 00 min"), (-1, "0 s")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_line_has_the_words_of_the_summary() -> None:
    view = View(10, "image")
    view.update({"succeeded": 2, "failed": 1, "expired": 1, "unknown": 1, "pending": 2, "not_submitted": 1})
    assert view.state.line() == "5/10 rows, 1 expired, 1 failed, 1 not submitted, 2 pending, 1 unknown"


def test_the_bar_shows_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    view = make_view(10, "image", None)
    assert isinstance(view, BarView)
    show(view, 8, in_flight=0, failed=2)
    view.close()
    text = stream.getvalue()
    assert "2 failed, 40 credits" in text
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
            show(view, 4)
            view.draw()
        view.close()
        view.say("10 rows & more")
    finally:
        InteractiveShell.clear_instance()
    assert [update for _, update in sent] == [False, True, True]
    assert "4/10 rows" in sent[-1][0]
    assert "10 rows &amp; more" in sent[-1][0]
    assert "&lt;image&gt;" in sent[-1][0]
