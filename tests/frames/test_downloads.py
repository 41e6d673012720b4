from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames.schema import RowResult, result_columns

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
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_second_run_fetches_nothing(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame = made()
    first = aio.download(frame, tmp_path, progress=False)
    marked = Path(first["aio_file"][0])
    marked.write_bytes(b"as it was left")
    again = aio.download(first, tmp_path, progress=False)
    assert marked.read_bytes() == b"as it was left"
    assert list(again.columns) == list(first.columns)
    aio.download(frame, tmp_path, progress=False, overwrite=True)
    assert marked.read_bytes().startswith(b"\x89PNG")


def test_every_result_of_a_row(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    out = aio.download(made("music", 1), tmp_path / "music", progress=False)
    assert len(out["aio_files"][0]) == len(out["aio_urls"][0]) > 1
    assert out["aio_bytes"][0] == sum(path.stat().st_size for path in (tmp_path / "music").iterdir())


def test_names_from_a_column(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame = made()
    folder = tmp_path / "pictures"
    frame.aio.download(folder, names="sku", progress=False)
    assert sorted(path.name for path in folder.iterdir()) == ["S_0.png", "S_1.png"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        aio.download(frame, folder, names="sku", progress=False)
    aio.download(frame, folder, names="sku", overwrite=True, progress=False)


@pytest.mark.parametrize(
    ("names", "says"),
    [(["a/b", "a_b"], "would both be named 'a_b'"), (["a", None], "is null in row 1"), (["A", "a"], "both")],
)
def test_names_must_be_there_and_differ(tmp_path: Path, names: list[Any], says: str) -> None:
    frame = with_urls("https://x.test/1.png", "https://x.test/2.png").assign(sku=names)
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
    assert [path.name for path in tmp_path.iterdir()] == ["t3.png"]


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
    assert len(fs.ls("/bucket-of-downloads/pictures")) == 2
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


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        aio.download(with_urls("https://x.test/1.png"), tmp_path / "file", progress=False)
