from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from aio_provider.cli import main

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    pd.DataFrame({"sku": ["a", "b"], "caption": ["a red chair", "a blue lamp"]}).to_csv(path, index=False)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_generate_writes_the_rows(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    arguments = ["generate", table, "image", "-m", "flux-2", "-t", "prompt=A photo of {caption}", "-o", out]
    result = run(*arguments, "-p", "aspect_ratio=16:9", "-p", "seed=7")
    assert result.exit_code == 0, result.output
    assert "2 succeeded" in result.output
    assert pd.read_parquet(out)["aio_status"].tolist() == ["succeeded"] * 2
    body = aio_sandbox_env.submissions[0].body
    assert body["prompt"].startswith("A photo of a ")
    assert (body["aspect_ratio"], body["seed"]) == ("16:9", 7)


def test_estimate_spends_nothing(aio_sandbox_env: Sandbox, table: Path) -> None:
    result = run("estimate", table, "image", "-m", "flux-2", "-c", "prompt=caption")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("10 credits; 2 of 2 rows would be sent")
    assert "flux-2" in result.output
    plain = json.loads(run("estimate", table, "image", "-c", "prompt=caption", "--json").output)
    assert (plain["low"], plain["high"], plain["requests"]) == (10, 10, 2)
    assert plain["by_model"][0]["model"] == "flux-2"
    assert aio_sandbox_env.requests.get("requests", 0) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["image", "-c", "prompt=captoin"], 1, "Did you mean 'caption'"),
        (["image", "-c", "prompt"], 2, "FIELD="),
        (["image", "-c", "prompt=caption", "-t", "prompt={sku}"], 2, "given twice"),
        (["image", "-t", "prompt={"], 1, "literal braces"),
        (["imgae", "-c", "prompt=caption"], 2, "imgae"),
    ],
)
def test_what_a_user_can_mend_is_one_line(table: Path, arguments: list[str], code: int, says: str) -> None:
    result = run("estimate", table, *arguments)
    assert result.exit_code == code
    assert says in result.output
    assert "Traceback" not in result.output


def test_a_missing_file_and_a_missing_key(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nowhere.csv" in run("estimate", tmp_path / "nowhere.csv", "image", "-c", "prompt=caption").output
    monkeypatch.delenv("AIO_API_KEY")
    result = run("generate", table, "image", "-c", "prompt=caption", "-o", tmp_path / "out.parquet")
    assert result.exit_code == 1
    assert "AIO_API_KEY" in result.output


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_errors_raise_is_exit_code_1(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    result = run(
        "generate",
        table,
        "image",
        "-c",
        "prompt=caption",
        "-o",
        tmp_path / "o.parquet",
        "-q",
        "--errors",
        "raise",
    )
    assert result.exit_code == 1
    assert "1 of 2 rows did not succeed" in result.output
