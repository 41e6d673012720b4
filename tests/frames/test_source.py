from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from aio_provider.frames.source import read_source

FRAME = pd.DataFrame({"sku": ["001", "002"], "price": [1.5, None]})


def test_a_frame_is_itself() -> None:
    assert read_source(FRAME) is FRAME


def test_files(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    pd.testing.assert_frame_equal(read_source(tmp_path / "a.parquet"), FRAME)
    assert read_source(str(tmp_path / "a.csv"))["price"].tolist()[0] == 1.5
    # pandas alone would make numbers of these
    assert read_source(tmp_path / "a.jsonl")["sku"].tolist() == ["001", "002"]
    assert len(read_source(f"file://{tmp_path}/a.parquet")) == 2


def test_the_index_of_a_parquet_file_comes_back(tmp_path: Path) -> None:
    FRAME.set_index("sku").to_parquet(tmp_path / "a.parquet")
    assert read_source(tmp_path / "a.parquet").index.tolist() == ["001", "002"]


class Polars:
    def to_pandas(self) -> None: ...


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([{"a": 1}], r"pd\.DataFrame\("),
        ({"a": [1]}, r"pd\.DataFrame\("),
        (FRAME["sku"], r"\.to_frame\(\)"),
        (pa.table({"a": [1]}), r"\.to_pandas\(\)"),
        (Polars(), r"\.to_pandas\(\)"),
        (None, "pass a pandas DataFrame"),
        (3, "pass a pandas DataFrame"),
    ],
)
def test_other_types_say_how_to_convert(source: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        read_source(source)


def test_bytes_are_no_path() -> None:
    with pytest.raises(TypeError):
        read_source(b"a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_corrupt_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe this is neither {")
    with pytest.raises(ValueError, match="cannot be read as"):
        read_source(tmp_path / name)


def test_an_empty_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        read_source(tmp_path / "a.csv")


def test_bad_json_lines_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n[1]\n')
    with pytest.raises(ValueError, match="line 3: a JSON object is needed, not list"):
        read_source(tmp_path / "a.jsonl")


def test_no_such_file_and_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_source(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="must end in"):
        read_source(tmp_path / "a.xlsx")


def test_columns_must_be_flat_and_unique() -> None:
    with pytest.raises(ValueError, match="MultiIndex"):
        read_source(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])))
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        read_source(pd.DataFrame([[1, 2]], columns=["a", "a"]))
