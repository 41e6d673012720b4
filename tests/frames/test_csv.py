"""What a CSV file says is what is sent: nothing loses a zero, and no text becomes a null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import aio_provider as aio
from aio_provider.cli import main
from aio_provider.frames import csvfiles
from aio_provider.frames.batch import Batch
from aio_provider.frames.files import AS_USUAL, Csv
from aio_provider.frames.scan import open_scan
from aio_provider.frames.source import read_source
from aio_provider.sandbox import Sandbox

INT, FLOAT, BOOL, TEXT = "int64", "double", "bool", "string"


@pytest.fixture(autouse=True)
def two_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfiles, "_ROWS", 2)


def column(path: Path, cells: list[str], csv: Csv = AS_USUAL) -> tuple[str, list[Any]]:
    """What a column of these cells is read as; the same with and without a stream."""
    path.write_text("".join(f"{line}\n" for line in ["cell,n", *(f"{cell},0" for cell in cells)]))
    table = next(open_scan(path, csv).tables(100))
    values = table["cell"].to_pylist()
    frame = read_source(path, csv)
    assert [None if pd.isna(value) else value for value in frame["cell"]] == values
    assert frame.index.equals(pd.RangeIndex(len(cells)))
    return str(table.schema.field("cell").type), values


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "2", "007"], TEXT, ["1", "2", "007"]),
        (["01067", "", "1"], TEXT, ["01067", None, "1"]),
        (["1.5", "0.5", "00.5"], TEXT, ["1.5", "0.5", "00.5"]),
        (["-07", "7"], TEXT, ["-07", "7"]),
        (["+4930", "7"], TEXT, ["+4930", "7"]),
        (["1", "2", "1234567890123456789"], TEXT, ["1", "2", "1234567890123456789"]),
        (["0", "-1", "10", " 7", "20 "], INT, [0, -1, 10, 7, 20]),
        (["7", "8", "", "123456789012345678"], INT, [7, 8, None, 123456789012345678]),
        (["NA", "None", "7", '""', "nan"], INT, [None, None, 7, None, None]),
        (["1", "0", "0.5", ".5", "5.", "-1e3", "NA", ""], FLOAT, [1, 0, 0.5, 0.5, 5, -1000, None, None]),
        (["true", "FALSE", "True"], BOOL, [True, False, True]),
        (["true", "FALSE", ""], TEXT, ["true", "FALSE", None]),
        (["true", "1", "0"], TEXT, ["true", "1", "0"]),
        (["", "NA", "a", '""'], TEXT, [None, "NA", "a", None]),
        (["NA", "None", "null", "N/A", "nan"], TEXT, ["NA", "None", "null", "N/A", "nan"]),
        (["1", "2", "3", "None", "a"], TEXT, ["1", "2", "3", "None", "a"]),
        (["", "", '""'], TEXT, [None, None, None]),
    ],
)
def test_a_column_is_numbers_or_text_as_written(
    tmp_path: Path, cells: list[str], kind: str, values: list[Any]
) -> None:
    assert column(tmp_path / "in.csv", cells) == (kind, values)
    text = [None if cell in ("", '""') else cell for cell in cells]
    assert column(tmp_path / "in.csv", cells, Csv(dtype="str")) == (TEXT, text)


def test_what_a_column_holds_is_settled_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("sku,caption\n7,NA\n8,\n")
    (tmp_path / "2.csv").write_text("sku,caption\n009,a lamp\n")
    rows = next(open_scan(tmp_path).tables(10)).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("7", "NA"), ("8", None), ("009", "a lamp")]


@pytest.mark.parametrize("output", [None, "out.parquet"])
def test_a_prompt_says_what_the_file_says(
    aio_sandbox_env: Sandbox, tmp_path: Path, output: str | None
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("sku,name,stock\n007,NA,7\n01067,None,\n10,null,9\n")
    to = {} if output is None else {"output": tmp_path / output}
    out: Any = aio.generate(path, "image", prompt=aio.template("{sku} {name}"), progress=False, **to)
    assert sorted(sent.body["prompt"] for sent in aio_sandbox_env.submissions) == [
        "007 NA",
        "01067 None",
        "10 null",
    ]
    out = aio.generate(path, "image", prompt=aio.template("{stock} of {sku}"), progress=False)
    assert out["aio_status"].tolist() == ["succeeded", "skipped", "succeeded"]
    assert {sent.body["prompt"] for sent in aio_sandbox_env.submissions} >= {"7 of 007", "9 of 10"}


@pytest.mark.parametrize("line", ["a,b,", "a,b,c", "a,b,c,d"])
def test_lines_with_more_cells_than_the_header_are_refused(tmp_path: Path, line: str) -> None:
    """pandas would take the first cells for row labels, and every value for its neighbour's."""
    (tmp_path / "in.csv").write_text(f"caption,other\n{line}\n{line}\n")
    for read in (open_scan, read_source):
        with pytest.raises(ValueError, match=r"in\.csv' cannot be read as CSV: .*cells"):
            read(tmp_path / "in.csv", AS_USUAL)


def test_every_column_as_text(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.parquet"
    path.write_text("price\n1.50\n\n19.90\n")
    call: dict[str, Any] = {"prompt": aio.template("for {price}"), "dtype": "str"}
    aio.generate(path, "image", progress=False, **{**call, "dtype": str})
    assert {sent.body["prompt"] for sent in aio_sandbox_env.submissions} == {"for 1.50", "for 19.90"}
    estimate = aio.estimate(path, "image", **call)
    assert (estimate.rows, estimate.requests, estimate.reused) == (2, 0, 2)
    assert aio.estimate(path, "image", **{**call, "dtype": None}).requests == 2, "those say 1.5 and 19.9"
    batch = Batch(path, "image", output=out, base_url=aio_sandbox_env.base_url, **call)
    assert [job.request.body()["prompt"] for job in batch.jobs()] == ["for 1.50", "for 19.90"]
    said = CliRunner().invoke(
        main, ["estimate", str(path), "image", "-t", "prompt=for {price}", "--dtype", "str"]
    )
    assert said.output.startswith("0 credits"), said.output
    said = CliRunner().invoke(main, ["estimate", str(path), "image", "-c", "prompt=price", "--dtype", "int"])
    assert said.exit_code == 2 and "--dtype" in said.output
