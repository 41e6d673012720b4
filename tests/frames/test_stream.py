"""Streamed calls: from files to files, over real HTTP against the sandbox."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import aio_provider as aio
from aio_provider.frames import RowsFailedError
from aio_provider.frames.batch import Batch
from aio_provider.frames.output import read_note
from aio_provider.frames.partfiles import MANIFEST
from aio_provider.frames.places import write_whole
from aio_provider.frames.result import StreamResult
from aio_provider.jobs.ledger import JobState, Ledger

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

ROWS = 25


def rows(count: int = ROWS, start: int = 0) -> pd.DataFrame:
    numbers = range(start, start + count)
    return pd.DataFrame(
        {
            "sku": [f"S{n:03d}" for n in numbers],
            "caption": [f"a red chair, view {n % 20}" for n in numbers],  # some rows are equal
            "country": ["de" if n % 3 else None for n in numbers],
        }
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    rows().to_parquet(path, index=False)
    return path


def stream(source: Any, output: Any, **arguments: Any) -> Any:
    arguments = {"prompt": "caption", "max_rows_per_part": 10, "progress": False} | arguments
    return aio.generate(source, "image", output=output, **arguments)


def files(folder: Path) -> list[str]:
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("aio-ledger"))


PARTS = [MANIFEST, "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]


# -- the main path


def test_a_folder_of_parts_says_the_same_as_a_frame(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    result = stream(source, tmp_path / "out")
    assert isinstance(result, StreamResult)
    assert (len(result), result.report.statuses, result.report.credits) == (
        ROWS,
        {"succeeded": ROWS},
        5 * ROWS,
    )
    assert files(tmp_path / "out") == PARTS
    assert [pq.read_metadata(one).num_rows for one in result.files] == [10, 10, 5]
    in_memory = aio.generate(rows(), "image", prompt="caption", progress=False)
    assert len(aio_sandbox_env.submissions) == ROWS  # the same jobs: nothing was paid again
    pd.testing.assert_frame_equal(result.read(), in_memory)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), in_memory)
    assert result.head(3)["sku"].tolist() == ["S000", "S001", "S002"]
    assert "25 rows, 25 succeeded" in repr(result) and "S000" in result._repr_html_()


def test_one_file_is_made_of_the_parts(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = stream(source, out)
    assert files(tmp_path) == ["in.parquet", "out.parquet"]
    assert pq.ParquetFile(out).num_row_groups == 3
    pd.testing.assert_frame_equal(
        pd.read_parquet(out), aio.generate(rows(), "image", prompt="caption", progress=False)
    )
    note = read_note(out)
    assert note is not None and note["totals"]["statuses"] == {"succeeded": ROWS}
    before = out.stat()
    again = stream(source, out)  # finished: nothing is written
    assert out.stat() == before and again.report.reused == ROWS and len(aio_sandbox_env.submissions) == ROWS
    assert result.read().equals(again.read()) and files(tmp_path) == ["in.parquet", "out.parquet"]


def test_every_source_gives_the_same_jobs(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    stream(source, tmp_path / "out")
    table = pa.Table.from_pandas(rows(), preserve_index=False)
    several = tmp_path / "several"
    several.mkdir()
    for number, name in enumerate("abc"):
        pq.write_table(table.slice(number * 10, 10), several / f"{name}.parquet")
    rows().to_csv(tmp_path / "in.csv", index=False)
    rows().to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    hive = tmp_path / "hive"
    for name, part in (("kind=a", table.slice(0, 10)), ("kind=b", table.slice(10))):
        (hive / name).mkdir(parents=True)
        pq.write_table(part, hive / name / "x.parquet")
    (several / "_SUCCESS").touch()
    sources: dict[str, Any] = {
        "a glob": f"{several}/*.parquet",
        "a folder": several,
        "a list": [several / "a.parquet", several / "b.parquet", several / "c.parquet"],
        "csv": tmp_path / "in.csv",
        "jsonl": tmp_path / "in.jsonl",
        "a dataset": ds.dataset(several),
        "a filtered dataset": ds.dataset(several).filter(ds.field("sku") != "none"),
        "hive": hive,
        "frames": iter([rows(12), rows(13, start=12)]),
        "batches": iter(table.to_batches(max_chunksize=7)),
    }
    wanted = pd.read_parquet(tmp_path / "out")["aio_task_id"].tolist()
    for number, (name, one) in enumerate(sources.items()):
        result = stream(one, tmp_path / f"out-{number}")
        assert result.read(["aio_task_id"])["aio_task_id"].tolist() == wanted, name
    assert len(aio_sandbox_env.submissions) == ROWS
    assert stream(hive, tmp_path / "last").read()["kind"].tolist() == ["a"] * 10 + ["b"] * 15
    assert len(aio.generate(f"{several}/*.parquet", "image", prompt="caption", progress=False)) == ROWS


def test_partitions(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    result = stream(source, tmp_path / "out", partition_by="country")
    assert files(tmp_path / "out") == [MANIFEST] + [
        f"country={value}/part-{part:05d}.parquet"
        for value in ("__HIVE_DEFAULT_PARTITION__", "de")
        for part in range(3)
    ]
    found = result.read().sort_values("sku", ignore_index=True)
    assert found["country"].isna().tolist() == rows()["country"].isna().tolist()
    assert found["aio_status"].tolist() == ["succeeded"] * ROWS
    frame = aio.generate(
        rows(),
        "image",
        prompt="caption",
        progress=False,
        output=f"{tmp_path}/other/",
        partition_by=["country"],
    )
    assert isinstance(frame, pd.DataFrame) and frame["sku"].tolist() == rows()["sku"].tolist()
    assert files(tmp_path / "other")[1].startswith("country=")


async def test_in_a_coroutine(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    result = await aio.agenerate(
        str(source), "image", prompt="caption", output=tmp_path / "out", progress=False
    )
    assert result.report.succeeded == ROWS


# -- run again


def test_finished_parts_are_skipped_without_the_ledger(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    stream(source, tmp_path / "out")
    again = stream(source, tmp_path / "out", ledger=str(tmp_path / "another.sqlite"))
    assert len(aio_sandbox_env.submissions) == ROWS and again.report.reused == ROWS
    with Ledger.open(str(tmp_path / "another.sqlite")) as ledger:
        assert list(ledger.entries()) == []


def test_a_lost_part_is_made_again_as_it_was(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    """Rows of skipped parts count: row 20 equals row 0, and is still the second of its kind."""
    first = stream(source, tmp_path / "out").read()
    (tmp_path / "out" / "part-00002.parquet").unlink()
    second = stream(source, tmp_path / "out")
    assert second.report.reused == ROWS
    pd.testing.assert_frame_equal(second.read(), first)
    assert files(tmp_path / "out") == PARTS
    assert len(aio_sandbox_env.submissions) == ROWS


def test_a_changed_row_makes_its_part_anew_and_a_shorter_input_leaves_no_more(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    stream(source, tmp_path / "out")
    changed = rows(15)
    changed.loc[12, "caption"] = "a blue chair"
    changed.to_parquet(source, index=False)
    again = stream(source, tmp_path / "out")
    assert files(tmp_path / "out") == PARTS[:-1]
    assert again.read()["caption"].tolist() == changed["caption"].tolist()
    assert len(aio_sandbox_env.submissions) == ROWS + 1


@pytest.mark.aio_sandbox(credits=60)
@pytest.mark.parametrize("output", ["out", "out.parquet"])
def test_out_of_credits_writes_what_is_done_and_a_re_run_completes_it(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, output: str
) -> None:
    with pytest.raises(aio.InsufficientCreditsError) as caught:
        stream(source, tmp_path / output)
    result: StreamResult = caught.value.result  # type: ignore[attr-defined]
    assert result.report.statuses == {"succeeded": 12, "not_submitted": 13}
    assert sorted(result.read()["aio_status"].unique()) == ["not_submitted", "succeeded"]


def test_max_credits_leaves_rows_out_and_more_completes_them(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="13 of 25 rows were not submitted"):
        stream(source, tmp_path / "out", max_credits=60)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["complete"] and manifest["parts"][2]["statuses"] == {"not_submitted": 5}
    result = stream(source, tmp_path / "out")
    assert result.report.statuses == {"succeeded": ROWS} and len(aio_sandbox_env.submissions) == ROWS
    clean = stream(source, tmp_path / "clean")
    pd.testing.assert_frame_equal(result.read(), clean.read())


def test_a_refused_key_writes_what_the_ledger_knows(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    aio.generate(rows(3), "image", prompt="caption", progress=False)
    with pytest.raises(aio.AuthenticationError) as caught:
        stream(source, tmp_path / "out", api_key="aio_wrong_key_of_some_length")
    report = caught.value.result.report  # type: ignore[attr-defined]
    assert report.statuses == {"succeeded": 3, "not_submitted": 22}
    assert stream(source, tmp_path / "out").report.statuses == {"succeeded": ROWS}


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_errors_raise_tells_of_failed_rows_of_finished_parts_too(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    assert stream(source, tmp_path / "out").report.statuses == {"failed": 1, "succeeded": 24}
    for _ in range(2):
        with pytest.raises(RowsFailedError, match="1 of 25 rows did not succeed") as caught:
            stream(source, tmp_path / "out", errors="raise")
        assert caught.value.result.report.statuses == {"failed": 1, "succeeded": 24}
    assert len(aio_sandbox_env.submissions) == ROWS


def test_shared_keys_across_parts_are_one_paid_job(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    frame = rows().assign(sku=["same"] + [f"S{n}" for n in range(23)] + ["same"])
    frame.loc[24, "caption"] = frame.loc[0, "caption"]
    frame.loc[11, "sku"] = "S3"  # another request under a key that is taken
    frame.to_parquet(source, index=False)
    result = stream(source, tmp_path / "out", key="sku")
    out = result.read()
    assert out.loc[0, "aio_task_id"] == out.loc[24, "aio_task_id"]
    assert out.loc[11, "aio_status"] == "failed" and "also the key of row 4" in out.loc[11, "aio_error"]
    assert len(aio_sandbox_env.submissions) == 23 and result.report.reused == 1


SCRIPT = """
import sys, aio_provider as aio
aio.generate(sys.argv[1], "image", prompt="caption", output=sys.argv[2], max_rows_per_part=10,
             requests_per_minute=600)
"""


@pytest.mark.aio_sandbox(time_scale=0.05)
@pytest.mark.parametrize("output", ["out", "out.parquet"])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_parts_that_can_be_read_and_the_next_completes_it(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, output: str, signal_number: signal.Signals
) -> None:
    out = tmp_path / output
    parts = out if output == "out" else tmp_path / "out.parquet.parts"
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(source), str(out)], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not list(parts.glob("part-*")) and script.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(script.pid, signal_number)
    script.communicate(timeout=120)
    assert script.returncode == -signal_number
    # Ctrl-C had the time to put the file together, with rows that were not submitted
    assert signal_number == signal.SIGINT or output == "out" or not out.exists()
    assert len(pd.read_parquet(out if out.exists() else parts)) >= 10
    completed = stream(source, out, requests_per_minute=600)
    unknown = completed.report.statuses.get("unknown", 0)  # in the air when it was killed
    assert completed.report.statuses.get("succeeded", 0) == ROWS - unknown
    assert unknown == 0 or signal_number == signal.SIGKILL
    assert len(aio_sandbox_env.submissions) <= ROWS
    clean = stream(source, tmp_path / f"clean-{output}")
    pd.testing.assert_frame_equal(completed.read(), clean.read())
    names = files(out) if output == "out" else files(tmp_path)
    assert names == (PARTS if output == "out" else ["clean-out.parquet", "in.parquet", "out.parquet"])


# -- bad input and bad output: nothing is sent


def untouched(sandbox: Sandbox, folder: Path, before: list[str]) -> None:
    assert len(sandbox.submissions) == 0
    assert files(folder) == before


def broken(tmp_path: Path) -> Iterator[tuple[Any, type[Exception], str]]:
    folder = tmp_path / "bad"
    folder.mkdir()
    rows(3).to_parquet(folder / "a.parquet", index=False)
    (folder / "b.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-9])
    yield folder, ValueError, r"b\.parquet' cannot be read as Parquet"
    rows(3).assign(sku=[1, 2, 3]).to_parquet(folder / "b.parquet", index=False)
    yield folder, ValueError, r"b\.parquet': column 'sku' is int64"
    rows(3).assign(more=1).to_parquet(folder / "b.parquet", index=False)
    yield folder, ValueError, "has a column 'more'"
    rows(3).drop(columns="caption").to_parquet(folder / "b.parquet", index=False)
    yield folder, ValueError, r"a\.parquet' has a column 'caption' that"
    (folder / "b.parquet").unlink()
    yield [folder / "a.parquet", tmp_path / "nowhere.parquet"], FileNotFoundError, "nowhere"
    yield f"{folder}/*.pq", FileNotFoundError, "matches no file"
    (folder / "c.csv").write_text("caption\nx\n")
    yield folder, ValueError, "several kinds"
    yield iter([]), ValueError, "no batch"
    rows(0).to_parquet(tmp_path / "none.parquet", index=False)
    yield tmp_path / "none.parquet", ValueError, "no rows"
    (tmp_path / "bad.jsonl").write_text('{"caption": "a red chair"}\n{"caption": 3}\n')
    yield tmp_path / "bad.jsonl", ValueError, "changes its type"
    yield 3, TypeError, "DataFrame"


def test_bad_input_is_refused_before_anything_is_spent(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    for source, error, says in broken(tmp_path):
        before = files(tmp_path)
        with pytest.raises(error, match=says):
            stream(source, tmp_path / "out")
        untouched(aio_sandbox_env, tmp_path, before)
    rows(3).to_parquet(tmp_path / "in.parquet", index=False)
    with pytest.raises(aio.InvalidRequestError, match="no column 'text'"):
        stream(tmp_path / "in.parquet", tmp_path / "out", prompt="text")
    assert len(aio_sandbox_env.submissions) == 0


def test_files_of_others_are_never_touched(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"'mine\.txt'"):
            stream(source, out, overwrite=overwrite)
    (out / "mine.txt").unlink()
    (out / "part-00000.parquet").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError, match="part-00000"):
        stream(source, out)
    untouched(aio_sandbox_env, out, ["part-00000.parquet"])


def test_another_calls_output_needs_overwrite(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "out", tmp_path / "out.parquet"):
        stream(source, output)
        with pytest.raises(FileExistsError, match="another call"):
            stream(source, output, params={"seed": 1})
        stream(source, output, params={"seed": 1}, overwrite=True)
    with pytest.raises(FileExistsError, match="another call"):
        stream(iter([rows()]), tmp_path / "out")
    stream(iter([rows()]), tmp_path / "frames")
    with pytest.raises(FileExistsError, match=r"other rows \(from row 10 on\)"):
        stream(iter([rows(10), rows(15, start=11)]), tmp_path / "frames")


def test_outputs_that_cannot_be(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for output, arguments, error, says in [
        ("out.csv", {}, aio.ConfigurationError, r"must end in \.parquet"),
        ("no/out/", {}, FileNotFoundError, "make it first"),
        ("out", {"partition_by": "nothing"}, aio.ConfigurationError, "no column 'nothing'"),
        ("out.parquet", {"partition_by": "sku"}, aio.ConfigurationError, "needs a folder"),
        ("out", {"max_rows_per_part": 0}, aio.ConfigurationError, "above 0"),
    ]:
        with pytest.raises(error, match=says):
            stream(source, f"{tmp_path}/{output}", **arguments)
    monkeypatch.setattr("aio_provider.frames.partfiles._ROW_BYTES", 1 << 60)
    with pytest.raises(OSError, match=r"its disk has .* left"):
        stream(source, tmp_path / "out")
    assert len(aio_sandbox_env.submissions) == 0


def test_a_disk_that_fills_up_stops_the_run_and_the_next_completes_it(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fs: Any, path: str, data: bytes) -> None:
        if path.endswith("part-00001.parquet"):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write_whole(fs, path, data)

    with monkeypatch.context() as patch:
        patch.setattr("aio_provider.frames.partfiles.write_whole", full)
        with pytest.raises(OSError, match="No space left") as caught:
            stream(source, tmp_path / "out")
    assert "could not be written" in caught.value.__notes__[0]
    assert len(pd.read_parquet(caught.value.result.files)) >= 10  # type: ignore[attr-defined]
    completed = stream(source, tmp_path / "out")
    assert completed.report.statuses == {"succeeded": ROWS} and len(aio_sandbox_env.submissions) == ROWS
    assert files(tmp_path / "out") == PARTS


# -- a batch: jobs for others to carry out, and the output from the record


def test_a_batch_has_the_jobs_and_the_output_of_the_call(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    wanted = stream(source, tmp_path / "out").read()
    batch = Batch(
        source,
        "image",
        prompt="caption",
        output=tmp_path / "batch.parquet",
        base_url=aio_sandbox_env.base_url,
        max_rows_per_part=10,
    )
    keys = [job.key for job in batch.jobs()]
    assert (batch.total, len(set(keys))) == (ROWS, ROWS) and keys == [job.key for job in batch.jobs()]
    with Ledger.open() as ledger:
        assert {entry.key for entry in ledger.entries(state=JobState.SUCCEEDED)} == set(keys)
        report = batch.write(ledger)
    assert (report.rows, report.statuses, report.credits) == (ROWS, {"succeeded": ROWS}, 5 * ROWS)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "batch.parquet"), wanted)
    with pytest.raises(aio.ConfigurationError, match="more than once"):
        Batch(
            iter([rows()]), "image", prompt="caption", output=tmp_path / "x", base_url="http://127.0.0.1/v1"
        )


def test_a_batch_reads_csv_as_the_call_does(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.parquet"
    path.write_bytes("caption;price\nein grüner Stuhl;5\neine blaue Lampe;7\n".encode("latin-1"))
    call: dict[str, Any] = {"prompt": "caption", "encoding": "latin-1", "delimiter": ";", "output": out}
    to = {"base_url": aio_sandbox_env.base_url}
    wanted = aio.generate(path, "image", progress=False, **call).read()
    batch = Batch(path, "image", **call, **to)  # the same call: its output is not refused
    assert wanted["price"].tolist() == [5, 7]
    with Ledger.open() as ledger:
        assert batch.write(ledger).statuses == {"succeeded": 2}
    pd.testing.assert_frame_equal(pd.read_parquet(out), wanted)
    # nor is it where only the reading differs: what counts is the rows
    same = Batch(path, "image", **{**call, "encoding": "cp1252"}, **to)
    assert [job.key for job in same.jobs()] == [job.key for job in batch.jobs()]
    for arguments, error, says in [
        ({"encoding": "utf-9"}, aio.ConfigurationError, "encoding='utf-9': no such encoding"),
        ({"delimiter": ";;"}, aio.ConfigurationError, "delimiter=';;': it must be one character"),
        ({"delimiter": 5}, TypeError, "delimiter must be str, not int"),
        ({"dtype": "object"}, aio.ConfigurationError, "dtype='object': it must be 'str'"),
        ({"encoding": None}, ValueError, r"not written in utf-8 \(byte 0xfc\).*encoding='cp1252'"),
        ({"delimiter": None}, aio.InvalidRequestError, "read the CSV file with delimiter=';'"),
    ]:
        with pytest.raises(error, match=says):
            Batch(path, "image", **{**call, **arguments}, **to)
