from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames import output as output_module
from aio_provider.frames.output import Output, read_note
from aio_provider.frames.schema import RowResult, result_columns

FRAME = pd.DataFrame({"caption": ["a", "b"]})
RESULT = pd.concat(
    [FRAME, result_columns([RowResult("succeeded"), RowResult("failed")], FRAME.index)], axis=1
)


def at(target: Any) -> Output:
    return Output.at(target, prefix="aio_")


@pytest.mark.parametrize("name", ["out.csv", "out", "out.parquet.gz", ""])
def test_only_parquet(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must end in \.parquet"):
        at(name)


@pytest.mark.parametrize("target", [3, b"out.parquet", object()])
def test_only_paths(target: object) -> None:
    with pytest.raises(TypeError, match="output"):
        at(target)


def test_preparing_leaves_nothing_behind(tmp_path: Path) -> None:
    at(tmp_path / "out.parquet").prepare(FRAME, "call", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_this_same_call_may_be_replaced_and_others_not(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    at(path).write(RESULT, {"call": "one"})
    at(path).prepare(FRAME, "one", overwrite=False)
    with pytest.raises(FileExistsError, match=r"another call.*overwrite=True"):
        at(path).prepare(FRAME, "two", overwrite=False)
    at(path).prepare(FRAME, "two", overwrite=True)


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 broken PAR1"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.parquet"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"not a result of aio\.generate"):
        at(path).prepare(FRAME, "one", overwrite=False)
    assert path.read_bytes() == content


def test_unwritable_places_are_found_before_spending(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        at(tmp_path / "no" / "out.parquet").prepare(FRAME, "one", overwrite=False)
    folder = tmp_path / "folder.parquet"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        at(folder).prepare(FRAME, "one", overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError, match="cannot be written"):
        at(tmp_path / "out.parquet").prepare(FRAME, "one", overwrite=False)


def test_a_column_parquet_cannot_hold_is_found_before_spending(tmp_path: Path) -> None:
    mixed = pd.DataFrame({"caption": pd.Series(["a", 3, {"x": 1}], dtype=object)})
    with pytest.raises(ConfigurationError, match="caption"):
        at(tmp_path / "out.parquet").prepare(mixed, "one", overwrite=False)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.parquet"
    at(path).write(RESULT, {"call": "one"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_module, "to_disk", full)
    with pytest.raises(OSError, match="No space"):
        at(path).write(RESULT, {"call": "two"})
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet"]
    assert (read_note(path) or {})["call"] == "one"


def test_fsspec_urls() -> None:
    url = "memory://bucket-of-outputs/out.parquet"
    at(url).prepare(FRAME, "one", overwrite=False)
    at(url).write(RESULT, {"call": "one"})
    at(url).prepare(FRAME, "one", overwrite=False)
    with pytest.raises(FileExistsError):
        at(url).prepare(FRAME, "two", overwrite=False)
    fs = fsspec.filesystem("memory")
    assert [Path(name).name for name in fs.ls("/bucket-of-outputs", detail=False)] == ["out.parquet"]
    assert len(pd.read_parquet(url)) == 2
    fs.rm("/bucket-of-outputs", recursive=True)


def test_a_relative_path_and_a_file_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at("out.parquet").prepare(FRAME, "one", overwrite=False)
    at("out.parquet").write(RESULT, {})
    at(f"file://{tmp_path}/two.parquet").write(RESULT, {})
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.parquet", "two.parquet"]
