"""What the bar, the summary, the Parquet file, the ledger and the service say of one run is the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.jobs.ledger import JobState, Ledger

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox


@pytest.fixture
def source(tmp_path: Path) -> Callable[[int], Path]:
    def make(count: int) -> Path:
        path = tmp_path / "in.parquet"
        pd.DataFrame({"caption": [f"a red chair, view {n}" for n in range(count)]}).to_parquet(path)
        return path

    return make


def stream(source: Any, output: Any, **arguments: Any) -> Any:
    arguments = {"prompt": "caption", "max_rows_per_part": 10} | arguments
    return aio.generate(source, "image", output=output, **arguments)


def interrupt_when(ready: Callable[[], bool]) -> threading.Thread:
    def watch() -> None:
        until = time.monotonic() + 120
        while not ready() and time.monotonic() < until:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


# -- an early stop


def test_after_ctrl_c_the_summary_has_every_credit_that_was_spent(
    aio_sandbox_env: Sandbox,
    source: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Results that were on record and not yet handed out when it was stopped are this run's all the same."""
    path = source(300)
    stream(pd.read_parquet(path).head(40), tmp_path / "first", progress=False)
    watcher = interrupt_when(lambda: aio_sandbox_env.charged >= 5 * 140)
    with pytest.raises(KeyboardInterrupt) as caught:
        stream(path, tmp_path / "out")
    watcher.join()
    result = caught.value.result  # type: ignore[attr-defined]
    report, rows = result.report, result.read()
    assert len(rows) < 300  # it was in the middle of it
    done = rows[rows["aio_status"] == "succeeded"]
    with Ledger.open() as ledger:
        on_record = sum(entry.credits or 0 for entry in ledger.entries(state=JobState.SUCCEEDED))
    assert report.reused * 5 == report.saved == 200
    assert report.succeeded == len(done)
    assert report.credits + report.saved == done["aio_credits"].sum() == on_record
    last = capsys.readouterr().err.splitlines()[-2:]
    assert last[0].startswith(f"image: {len(done)}/300 rows, ")
    assert last[1].startswith("Stopped by Ctrl-C. image: 300 rows, ")
    assert f"{report.credits:,.6g} credits spent" in last[1]


# -- the bar


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The last line of progress, and the summary."""
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("image: ")]
    bar, summary = said[-2:]
    return bar, summary


def test_parts_that_are_there_count_in_the_bar(
    aio_sandbox_env: Sandbox,
    source: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = source(25)
    stream(path, tmp_path / "out", progress=False)
    stream(path, tmp_path / "out")
    bar, summary = lines(capsys)
    assert bar == "image: 25/25 rows, 25 reused, 0 credits"
    assert "25 succeeded, 25 reused (saved 125 credits), 0 credits spent" in summary
    (tmp_path / "out" / "part-00001.parquet").unlink()
    stream(path, tmp_path / "out")  # two parts by the manifest, one by the ledger
    assert lines(capsys)[0] == "image: 25/25 rows, 25 reused, 0 credits"


def test_bad_rows_count_in_the_bar(aio_sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    aio.generate(pd.DataFrame({"caption": ["x", "y", "z"]}), "image", prompt="caption")
    bar, summary = lines(capsys)
    assert bar == "image: 3/3 rows, 3 failed, 0 credits"
    assert "3 failed" in summary


@pytest.mark.aio_sandbox(faults=["failed@1", "drop-after@2"])
def test_the_bar_has_the_words_of_the_summary(
    aio_sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    df = pd.DataFrame({"caption": [f"a red chair, view {n}" for n in range(4)]})
    for _ in range(2):  # on record, a held row is no more a reused one than it was
        out = aio.generate(df, "image", prompt="caption")
        bar, summary = lines(capsys)
        counts = out["aio_status"].value_counts()
        told = [f"{counts[name]} {name}" for name in sorted(counts.index) if name != "succeeded"]
        assert len(told) >= 2 and ", ".join(told) in bar and ", ".join(told) in summary
    succeeded = int(counts["succeeded"])
    assert f"{succeeded} reused" in bar and f"{succeeded} reused" in summary


def test_no_rows_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    out = aio.generate(pd.DataFrame({"caption": []}), "image", prompt="caption")
    assert len(out) == 0
    assert capsys.readouterr().err == "image: 0 rows: nothing to do.\n"


def test_a_download_speaks_of_no_credits(
    aio_sandbox_env: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = aio.generate(
        pd.DataFrame({"caption": ["a red chair", "a blue lamp"]}), "image", prompt="caption", progress=False
    )
    aio.download(out, tmp_path / "files")
    assert capsys.readouterr().err.splitlines()[-1] == "download: 2/2 rows"
