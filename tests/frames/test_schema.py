from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aio_provider.frames.output import METADATA_KEY, Output, read_note
from aio_provider.frames.schema import FIELDS, RowResult, arrow_schema, column_names, result_columns

DONE = RowResult(
    "succeeded",
    urls=("https://x/1.png", "https://x/2.png"),
    credits=5.0,
    task_id="n1",
    model="flux-2",
    submitted_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    finished_at=datetime(2026, 1, 2, 3, 4, 9, tzinfo=UTC),
)
FAILED = RowResult("failed", error="too short")
DTYPES = {
    "aio_status": "string",
    "aio_url": "string",
    "aio_urls": "object",
    "aio_text": "string",
    "aio_credits": "float64",
    "aio_task_id": "string",
    "aio_error": "string",
    "aio_model": "string",
    "aio_submitted_at": "datetime64[us, UTC]",
    "aio_finished_at": "datetime64[us, UTC]",
}


@pytest.mark.parametrize(
    "results", [[], [FAILED], [FAILED, DONE], [DONE]], ids=["empty", "failed", "mixed", "done"]
)
def test_types_do_not_depend_on_the_data(results: list[RowResult], tmp_path: Path) -> None:
    frame = result_columns(results, pd.RangeIndex(len(results)))
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == DTYPES

    path = tmp_path / "out.parquet"
    Output.at(path, prefix="aio_").write(frame, {})
    assert pq.read_schema(path).remove_metadata() == arrow_schema()
    assert list(pq.read_schema(path).names) == column_names() == ["aio_" + name for name in FIELDS]
    back = pd.read_parquet(path)
    assert {name: str(dtype) for name, dtype in back.dtypes.items()} == DTYPES


def test_values_go_through() -> None:
    frame = result_columns([DONE, FAILED], pd.Index(["a", "a"]))
    assert frame["aio_url"].tolist() == ["https://x/1.png", pd.NA]
    assert frame["aio_urls"].tolist() == [["https://x/1.png", "https://x/2.png"], None]
    assert frame["aio_credits"].sum() == 5
    assert frame["aio_submitted_at"].iloc[0] == DONE.submitted_at
    assert frame["aio_finished_at"].isna().tolist() == [False, True]
    assert frame.index.tolist() == ["a", "a"]
    assert (frame["aio_finished_at"] - frame["aio_submitted_at"]).dt.total_seconds().iloc[0] == pytest.approx(
        3.321099
    )
    assert frame[frame["aio_url"].str.startswith("https")].shape[0] == 1


@pytest.mark.parametrize(
    "index",
    [pd.RangeIndex(2), pd.Index(["x", "x"], name="k"), pd.MultiIndex.from_tuples([(1, "a"), (1, "a")])],
)
def test_the_file_gives_the_frame_back(tmp_path: Path, index: pd.Index) -> None:
    results = result_columns([DONE, FAILED], index)
    frame = pd.concat(
        [pd.DataFrame({"n": [1, 2], "s": ["a", None], "l": [[1], [2, 3]]}, index=index), results], axis=1
    )
    path = tmp_path / "out.parquet"
    Output.at(path, prefix="aio_").write(frame, {"run_id": "r1"})
    back = pd.read_parquet(path)
    # pandas 2 reads texts back into another storage of the same dtype
    back = back.astype({name: dtype for name, dtype in frame.dtypes.items() if str(dtype) == "string"})
    pd.testing.assert_frame_equal(back.drop(columns=["l", "aio_urls"]), frame.drop(columns=["l", "aio_urls"]))
    assert [None if v is None else list(v) for v in back["aio_urls"]] == frame["aio_urls"].tolist()
    # what a user saves by hand can be read again too (a list column of ArrowDtype could not)
    frame.to_parquet(tmp_path / "own.parquet")
    pd.read_parquet(tmp_path / "own.parquet")


def test_the_note_is_in_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    Output.at(path, prefix="aio_").write(
        result_columns([DONE], pd.RangeIndex(1)), {"run_id": "r1", "totals": {"rows": 1}}
    )
    assert read_note(path) == {"schema_version": 1, "run_id": "r1", "totals": {"rows": 1}}
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"a": [1]}), plain)
    assert read_note(plain) is None
    assert METADATA_KEY in pq.read_schema(path).metadata
