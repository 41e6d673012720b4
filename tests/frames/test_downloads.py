from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames import rewriting
from aio_provider.frames.download_records import RECORDS
from aio_provider.frames.schema import RowResult, result_columns
from tests.jobs.test_download import Handler, Host, serving

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

DTYPES = {
    "aio_file": "string",
    "aio_files": "object",
    "aio_bytes": "Int64",
    "aio_sha256": "object",
    "aio_file_error": "string",
}


def made(kind: str = "image", count: int = 2, **arguments: Any) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"sku": [f"S/{n}" for n in range(count)], "text": [f"a red chair {n}" for n in range(count)]}
    )
    return aio.generate(frame, kind, prompt="text", progress=False, **arguments)


def with_urls(*urls: str | None) -> pd.DataFrame:
    results = [
        RowResult("succeeded", urls=(url,) if url else (), task_id=f"t{n}") for n, url in enumerate(urls)
    ]
    return result_columns(results, pd.RangeIndex(len(results)))


def visible(folder: Path) -> list[str]:
    """The files' names, without the folder of their records."""
    return sorted(path.name for path in folder.iterdir() if path.name != RECORDS)


def test_files_sizes_and_sums(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    out = aio.download(made(), tmp_path / "pictures", progress=False)
    for task, path, files, size, sums in zip(
        out["aio_task_id"],
        out["aio_file"],
        out["aio_files"],
        out["aio_bytes"],
        out["aio_sha256"],
        strict=True,
    ):
        data = Path(path).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert Path(path).name == f"{task}.png"
        assert files == [path]
        assert size == len(data)
        assert sums == [hashlib.sha256(data).hexdigest()]
    assert out["aio_file_error"].isna().all()
    assert {name: str(out[name].dtype) for name in DTYPES} == DTYPES
    assert len(visible(tmp_path / "pictures")) == 2


def test_a_second_run_fetches_nothing(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame = made()
    first = aio.download(frame, tmp_path, progress=False)
    inode = Path(first["aio_file"][0]).stat().st_ino
    again = aio.download(first, tmp_path, progress=False)
    assert Path(first["aio_file"][0]).stat().st_ino == inode
    pd.testing.assert_frame_equal(again, first)
    aio.download(frame, tmp_path, progress=False, overwrite=True)
    assert Path(first["aio_file"][0]).stat().st_ino != inode


def test_every_result_of_a_row(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    out = aio.download(made("music", 1), tmp_path / "music", progress=False)
    assert len(out["aio_files"][0]) == len(out["aio_urls"][0]) > 1
    assert out["aio_bytes"][0] == sum(
        (tmp_path / "music" / name).stat().st_size for name in visible(tmp_path / "music")
    )


def test_names_from_a_column(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame = made()
    folder = tmp_path / "pictures"
    frame.aio.download(folder, names="sku", progress=False)
    assert sorted(path.name for path in folder.iterdir()) == [RECORDS, "S_0.png", "S_1.png"]


# -- the same download again


class StallingHost(Host):
    """A host that can leave one answer unfinished until whoever asked has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _StallingHandler
        self.stalls = ""
        self.stalled = threading.Event()


class _StallingHandler(Handler):
    server: StallingHost

    def do_GET(self) -> None:
        super().do_GET()
        if self.path == self.server.stalls:
            self.server.stalled.set()
            self.connection.recv(1)


@pytest.fixture
def host() -> Iterator[StallingHost]:
    with serving(StallingHost()) as server:
        yield server


def hosted(host: Host, *contents: bytes) -> pd.DataFrame:
    """A frame with a result for each content; its tasks are t0, t1, …."""
    for number, content in enumerate(contents):
        host.answers[f"/{number}.png"] = (200, {}, content)
    frame = with_urls(*(host.url(f"/{number}.png") for number in range(len(contents))))
    return frame.assign(sku=[f"S{number}" for number in range(len(contents))])


def asked(host: Host) -> list[str]:
    """What was fetched since the last time."""
    paths = sorted(path for path, _ in host.asked)
    host.asked.clear()
    return paths


def plainly(frame: Any, folder: Any, **arguments: Any) -> Any:
    return aio.download(frame, folder, allow_private=True, progress=False, **arguments)


@pytest.mark.parametrize("damaged", [b"", b"zero and junk", b"ZERO"])
def test_a_damaged_file_is_fetched_again(host: Host, tmp_path: Path, damaged: bytes) -> None:
    frame, folder = hosted(host, b"zero", b"one"), tmp_path / "pictures"
    first = plainly(frame, folder)
    (folder / "t0.png").write_bytes(damaged)
    asked(host)
    with pytest.warns(UserWarning, match=r"changed or damaged .* again: 1, such as 't0\.png'"):
        again = plainly(frame, folder)
    assert asked(host) == ["/0.png"] and (folder / "t0.png").read_bytes() == b"zero"
    pd.testing.assert_frame_equal(again, first)


def test_a_damaged_file_whose_result_is_gone_is_an_error_in_its_row(host: Host, tmp_path: Path) -> None:
    frame = hosted(host, b"zero", b"one")
    plainly(frame, tmp_path)
    (tmp_path / "t0.png").write_bytes(b"z")
    host.answers.clear()
    with pytest.warns(UserWarning, match=r"again: 1, such as"):
        again = plainly(frame, tmp_path)
    assert again["aio_file"].isna().tolist() == [True, False]
    assert "NotFoundError" in again["aio_file_error"][0]


def test_of_an_object_the_size_is_compared_and_nothing_read(host: Host, tmp_path: Path) -> None:
    frame, folder = hosted(host, b"zero", b"one"), "memory://bucket-of-damaged/pictures"
    fs = fsspec.filesystem("memory")
    first = plainly(frame, folder)
    fs.pipe_file(f"{folder}/t0.png", b"")
    fs.pipe_file(f"{folder}/t1.png", b"ONE")
    asked(host)
    with pytest.warns(UserWarning, match=r"again: 1, such as 't0\.png'"):
        again = plainly(frame, folder)
    assert asked(host) == ["/0.png"]
    pd.testing.assert_frame_equal(again, first)
    fs.rm("/bucket-of-damaged", recursive=True)


def test_a_file_of_a_version_that_kept_no_records(host: Host, tmp_path: Path) -> None:
    """It is taken as it is and put on record; an empty one is no result."""
    frame = hosted(host, b"zero", b"one")
    (tmp_path / "t0.png").write_bytes(b"")
    (tmp_path / "t1.png").write_bytes(b"from then")
    with pytest.warns(UserWarning, match=r"again: 1, such as 't0\.png'"):
        out = plainly(frame, tmp_path)
    assert asked(host) == ["/0.png"]
    assert out["aio_bytes"].tolist() == [4, 9]
    (tmp_path / "t1.png").write_bytes(b"from")
    with pytest.warns(UserWarning, match=r"again: 1, such as 't1\.png'"):
        assert plainly(frame, tmp_path)["aio_bytes"].tolist() == [4, 3]


def test_a_file_named_like_a_task_is_not_taken_for_its(host: Host, tmp_path: Path) -> None:
    frame = hosted(host, b"zero", b"one")
    aio.download(frame.assign(sku=["t1", "t0"]), tmp_path, names="sku", allow_private=True, progress=False)
    with pytest.raises(FileExistsError, match=r"t0\.png' exists, and it is another row's result, of task t1"):
        plainly(frame.head(1), tmp_path)


def test_a_streamed_download_mends_what_was_damaged(host: Host, tmp_path: Path) -> None:
    frame, out = hosted(host, b"zero", b"one"), {"output": tmp_path / "files.parquet"}
    frame.to_parquet(tmp_path / "rows.parquet")
    plainly(tmp_path / "rows.parquet", tmp_path / "pictures", **out)
    (tmp_path / "pictures" / "t1.png").write_bytes(b"on")
    with pytest.warns(UserWarning, match="again: 1"):
        assert plainly(tmp_path / "rows.parquet", tmp_path / "pictures", **out).bytes == 7
    assert (tmp_path / "pictures" / "t1.png").read_bytes() == b"one"


@pytest.mark.parametrize("form", ["csv", "json", "numpy", "one"])
def test_urls_that_were_text_in_between(host: Host, tmp_path: Path, form: str) -> None:
    """CSV has no lists: what pandas writes for one is read."""
    frame = hosted(host, b"zero", b"one").head(1)
    urls = [host.url("/0.png"), host.url("/1.png")]
    frame["aio_urls"] = {
        "csv": [urls],
        "json": [json.dumps(urls)],
        "numpy": [str(np.array(urls))],
        "one": [urls[0]],
    }[form]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    out = plainly(pd.read_csv(tmp_path / "rows.csv"), tmp_path / "pictures")
    assert out["aio_file_error"].isna().all()
    assert asked(host) == (["/0.png"] if form == "one" else ["/0.png", "/1.png"])
    done = plainly(tmp_path / "rows.csv", tmp_path / "pictures", output=tmp_path / "files.parquet")
    assert (done.saved, asked(host)) == (1, [])


def test_urls_of_an_unreadable_text_are_said_once(tmp_path: Path) -> None:
    frame = with_urls("https://x.test/1.png", None).assign(aio_urls="[https://x.test/1.png]")
    with pytest.raises(ValueError, match=r"'aio_urls' holds text in place of lists, and that of row 0"):
        aio.download(frame, tmp_path, progress=False)


def fetch(frame: Any, folder: Path, **arguments: Any) -> Any:
    return aio.download(frame, folder, names="sku", allow_private=True, progress=False, **arguments)


def test_named_files_that_are_there_are_not_fetched_again(host: Host, tmp_path: Path) -> None:
    frame, folder = hosted(host, b"zero", b"one", b"two"), tmp_path / "pictures"
    del host.answers["/1.png"]
    first = fetch(frame, folder)
    assert first["aio_file_error"].notna().tolist() == [False, True, False]
    host.answers["/1.png"] = (200, {}, b"one")
    asked(host)
    again = fetch(frame, folder)
    assert asked(host) == ["/1.png"]
    assert [Path(path).read_bytes() for path in again["aio_file"]] == [b"zero", b"one", b"two"]
    assert again["aio_bytes"].tolist() == [4, 3, 3]
    assert again["aio_sha256"][2] == [hashlib.sha256(b"two").hexdigest()]
    pd.testing.assert_frame_equal(fetch(frame, folder), again)
    assert asked(host) == []
    Path(again["aio_file"][0]).unlink()
    fetch(frame, folder)
    assert asked(host) == ["/0.png"]
    fetch(frame, folder, overwrite=True)
    assert asked(host) == ["/0.png", "/1.png", "/2.png"]


def test_named_files_of_others_are_refused_before_anything_is_fetched(host: Host, tmp_path: Path) -> None:
    frame, folder = hosted(host, b"zero", b"one", b"two"), tmp_path / "pictures"
    fetch(frame.head(1), folder)
    mine = folder / "S2.png"
    mine.write_bytes(b"two")  # the very same bytes, but nobody knows whose
    asked(host)
    with pytest.raises(
        FileExistsError, match=rf"S2\.png' exists, and no record in {RECORDS}.*overwrite=True"
    ):
        fetch(frame, folder)
    assert asked(host) == [] and not (folder / "S1.png").exists()
    mine.unlink()
    (folder / "S0.png").write_bytes(b"ZERO")
    with pytest.raises(FileExistsError, match=r"S0\.png' exists, and it has been changed since"):
        fetch(frame, folder)
    (folder / "S0.png").write_bytes(b"zero")
    with pytest.raises(FileExistsError, match=r"S0\.png' exists, and it is another row's.*of task t0\."):
        fetch(frame.assign(aio_task_id=["t9", "t1", "t2"]), folder)
    for damaged in (b"{", b"[]", b"{}"):
        next((folder / RECORDS).iterdir()).write_bytes(damaged)
        with pytest.raises(FileExistsError, match="no record"):
            fetch(frame, folder)
    assert asked(host) == []
    assert [path.name for path in folder.iterdir() if path.suffix] == ["S0.png"]
    fetch(frame, folder, overwrite=True)
    assert asked(host) == ["/0.png", "/1.png", "/2.png"]
    fetch(frame, folder)
    assert asked(host) == []


def test_named_files_of_results_without_a_task(tmp_path: Path) -> None:
    """They are told apart by their URLs."""
    frame = with_urls("data:image/png;base64,iVBORw0KGgo=").assign(sku="S", aio_task_id=None)
    for _ in range(2):
        assert fetch(frame, tmp_path)["aio_bytes"][0] == 8
    other = with_urls("data:image/png;base64,iVBORw0KGgoA").assign(sku="S", aio_task_id=None)
    with pytest.raises(FileExistsError, match="another row's result"):
        fetch(other, tmp_path)


def test_results_without_a_task_of_two_frames_in_one_folder(tmp_path: Path) -> None:
    """Their files are named by their URLs: the second frame's are not taken for the first's."""
    sums = []
    for content in ("iVBORw0KGgo=", "iVBORw0KGgoA"):
        frame = with_urls(f"data:image/png;base64,{content}").assign(aio_task_id=None)
        sums.append(aio.download(frame, str(tmp_path), progress=False)["aio_sha256"][0])
    assert sums[0] != sums[1]
    assert len(visible(tmp_path)) == 2


def test_every_named_result_of_a_row(host: Host, tmp_path: Path) -> None:
    frame = hosted(host, b"zero", b"one").head(1)
    frame["aio_urls"] = [[host.url("/0.png"), host.url("/1.png")]]
    first = fetch(frame, tmp_path)
    assert [Path(path).name for path in first["aio_files"][0]] == ["S0-1.png", "S0-2.png"]
    (tmp_path / "S0-2.png").unlink()
    asked(host)
    assert fetch(frame, tmp_path)["aio_bytes"][0] == 7
    assert asked(host) == ["/1.png"]
    (tmp_path / "S0-2.png").write_bytes(b"zero")
    with pytest.raises(FileExistsError, match=r"S0-2\.png"):
        fetch(frame, tmp_path)


def test_a_named_file_from_an_address_that_was_asked_for(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    """The row's own URL has expired, and the service's has another ending."""
    frame = made(count=1)
    frame["aio_urls"] = [[f"{aio_sandbox_env.origin}/files/expired-1.webp"]]
    first = fetch(frame, tmp_path)
    file = tmp_path / "S_0.png"
    assert first["aio_bytes"][0] == file.stat().st_size
    written = file.stat()
    assert fetch(frame, tmp_path)["aio_sha256"][0] == first["aio_sha256"][0]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    file.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"S_0\.png"):
        fetch(frame, tmp_path)
    assert file.read_bytes() == b"mine"


def test_a_killed_download_goes_on(host: StallingHost, tmp_path: Path) -> None:
    """Killed while its last file is on its way: what was there before is not fetched again."""
    frame, folder = hosted(host, *(bytes([n]) * 1000 for n in range(6))), tmp_path / "pictures"
    frame.to_parquet(tmp_path / "rows.parquet")
    host.answers["/5.png"] = (200, {"Content-Length": "5000"}, b"the host never says more")
    host.stalls = "/5.png"
    script = (
        "import sys, pandas as pd, aio_provider as aio\n"
        "rows = pd.read_parquet(sys.argv[1])\n"
        "aio.download(rows, sys.argv[2], names='sku', allow_private=True, concurrency=1, progress=False)"
    )
    run = subprocess.Popen([sys.executable, "-c", script, tmp_path / "rows.parquet", folder])
    assert host.stalled.wait(120)
    run.kill()
    run.wait(120)
    host.stalls, host.answers["/5.png"] = "", (200, {}, b"all of it")
    assert len(asked(host)) == 6
    out = fetch(frame, folder)
    assert asked(host) == ["/5.png"] and out["aio_bytes"].tolist() == [1000] * 5 + [9]


def test_a_streamed_download_with_names_goes_on(host: Host, tmp_path: Path, monkeypatch: Any) -> None:
    """Also past its first rows, and whatever is in the way of its last ones is found before the first."""
    monkeypatch.setattr(rewriting, "_ROWS", 2)
    frame, folder = hosted(host, b"zero", b"one", b"two", b"three", b"four"), tmp_path / "pictures"
    frame.assign(sku=["S0", "S1", "S2", "S3", "S1"]).to_parquet(tmp_path / "rows.parquet")
    out = {"output": tmp_path / "files.parquet"}
    with pytest.raises(ValueError, match=r"names: row 1 \('S1'\) and row 4 \('S1'\) would both"):
        fetch(tmp_path / "rows.parquet", folder, **out)
    frame.to_parquet(tmp_path / "rows.parquet")
    folder.mkdir(exist_ok=True)
    (folder / "S4.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"S4\.png"):
        fetch(tmp_path / "rows.parquet", folder, **out)
    assert asked(host) == [] and sorted(path.name for path in tmp_path.iterdir()) == [
        "pictures",
        "rows.parquet",
    ]
    (folder / "S4.png").unlink()
    fetch(frame.head(3), folder)
    asked(host)
    for wanted in (["/3.png", "/4.png"], []):
        done = fetch(tmp_path / "rows.parquet", folder, **out)
        assert (done.rows, done.saved, done.failed, done.bytes) == (5, 5, 0, 19)
        assert asked(host) == wanted


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a/b", "a_b"], r"row 10 \('a/b'\) and row 11 \('a_b'\) would both be named 'a_b'"),
        (["a", None], "is null in row 11"),
        (["A", "a"], "both"),
    ],
)
def test_names_must_be_there_and_differ(tmp_path: Path, names: list[Any], says: str) -> None:
    frame = with_urls("https://x.test/1.png", "https://x.test/2.png").assign(sku=names)
    frame.index = pd.Index([10, 11])
    with pytest.raises(ValueError, match=says):
        aio.download(frame, tmp_path / "pictures", names="sku", progress=False)
    assert not (tmp_path / "pictures").exists()


def test_a_name_cannot_leave_the_folder(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame = made(count=1).assign(sku=["../../etc/passwd"])
    out = aio.download(frame, tmp_path / "pictures", names="sku", progress=False)
    assert Path(out["aio_file"][0]).parent == tmp_path / "pictures"


def test_rows_without_results_and_hosts_that_are_not_to_be_trusted(tmp_path: Path) -> None:
    """Without a service on loopback, an address inside one's own network is refused."""
    frame = with_urls(
        None, "http://127.0.0.1:9/x.png", "file:///etc/passwd", "data:image/png;base64,iVBORw0KGgo="
    )
    out = aio.download(frame, tmp_path, progress=False)
    assert out["aio_file_error"].isna().tolist() == [True, False, False, True]
    assert "inside this network" in out["aio_file_error"][1]
    assert "InvalidRequestError" in out["aio_file_error"][2]
    assert visible(tmp_path) == ["t3.png"]


def test_a_file_too_large_is_an_error_in_its_row(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    out = aio.download(made(), folder, max_bytes=100, progress=False)
    assert out["aio_file"].isna().all()
    assert out["aio_file_error"].str.contains("max_bytes").all()
    assert list(folder.iterdir()) == []


def test_a_url_that_has_gone_is_asked_for_again(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame = made(count=1)
    frame["aio_urls"] = [[f"{aio_sandbox_env.origin}/files/expired-1.png"]]
    out = aio.download(frame, tmp_path, progress=False)
    assert Path(out["aio_file"][0]).read_bytes().startswith(b"\x89PNG")
    assert len(aio_sandbox_env.submissions) == 1
    frame["aio_task_id"] = ["n00unknown"]
    gone = aio.download(frame, tmp_path / "other", progress=False)
    assert "NotFoundError" in gone["aio_file_error"][0]


def test_fsspec_folders(aio_sandbox_env: Sandbox) -> None:
    out = aio.download(made(), "memory://bucket-of-downloads/pictures", progress=False)
    fs = fsspec.filesystem("memory")
    assert len(fs.glob("/bucket-of-downloads/pictures/*.png")) == 2
    with fsspec.open(out["aio_file"][0], "rb") as file:
        assert file.read(4) == b"\x89PNG"
    fs.rm("/bucket-of-downloads", recursive=True)


def test_an_empty_frame_and_bad_arguments(tmp_path: Path) -> None:
    out = aio.download(with_urls(), tmp_path, progress=False)
    assert {name: str(out[name].dtype) for name in DTYPES} == DTYPES
    with pytest.raises(TypeError, match="DataFrame"):
        aio.download([1], tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="aio_urls"):
        aio.download(pd.DataFrame({"a": [1]}), tmp_path)
    with pytest.raises(ValueError, match="'sku'"):
        aio.download(with_urls(None), tmp_path, names="sku")
    with pytest.raises(aio.ConfigurationError, match="concurrency"):
        aio.download(with_urls(None), tmp_path, concurrency=0)


@pytest.mark.parametrize("below", ["", "/pictures", "/new/pictures"])
def test_a_folder_that_is_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=rf"folder: '{tmp_path}/file' is a file\."):
        aio.download(with_urls("https://x.test/1.png"), f"{tmp_path}/file{below}", progress=False)
