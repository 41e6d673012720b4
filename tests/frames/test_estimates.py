from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import aio_provider as aio

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

DF = pd.DataFrame({"caption": ["a red chair", "a blue lamp", None, "x"]})
DTYPES = {
    "model": "string",
    "requests": "int64",
    "low": "float64",
    "likely": "float64",
    "high": "float64",
    "source": "string",
    "note": "string",
}


def test_total_and_by_model_without_a_key_or_a_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "none.sqlite"
    result = aio.estimate(DF, "image", model="flux-2", prompt="caption", ledger=ledger)
    assert (result.low, result.likely, result.high) == (10, 10, 10)
    assert (result.rows, result.requests, result.skipped, result.invalid, result.reused) == (4, 2, 1, 1, 0)
    assert result.by_model["model"].tolist() == ["flux-2"]
    assert result.by_model["source"].tolist() == ["published"]
    assert not ledger.exists()


def test_types_do_not_depend_on_the_data(tmp_path: Path) -> None:
    for frame in (DF, DF.iloc[:0], DF.iloc[2:]):
        table = aio.estimate(frame, "image", prompt="caption").by_model
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == DTYPES


def test_a_model_of_each_row(tmp_path: Path) -> None:
    frame = pd.DataFrame({"caption": ["a chair", "a lamp", "a bed"], "m": ["flux-2", "imagen-4", "flux-2"]})
    result = aio.estimate(frame, "image", prompt="caption", model=aio.col("m"))
    assert result.by_model.set_index("model")["requests"].to_dict() == {"flux-2": 2, "imagen4": 1}
    assert result.by_model["high"].sum() == result.high


def test_an_unpublished_price_says_so() -> None:
    with pytest.warns(UserWarning, match="not in the packaged catalog"):
        result = aio.estimate(DF, "image", prompt="caption", model="brand-new-model")
    assert (result.low, result.likely, result.high) == (0, None, None)
    assert "unknown" in repr(result)
    assert "brand-new-model" in result._repr_html_()


def test_it_takes_the_arguments_of_generate(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"prompt": "caption", "output": tmp_path / "o.parquet", "max_credits": 5}
    assert DF.aio.estimate("image", **arguments, progress=False, retry_failed=True).low == 10
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="promt"):
        aio.estimate(DF, "image", promt="caption")


def test_it_equals_what_is_charged_and_rows_paid_for_are_free(aio_sandbox_env: Sandbox) -> None:
    before = aio.estimate(DF, "image", prompt="caption")
    aio.generate(DF, "image", prompt="caption", progress=False)
    assert before.likely == aio_sandbox_env.charged
    after = aio.estimate(DF, "image", prompt="caption")
    assert (after.high, after.requests, after.reused) == (0, 0, 2)
    more = aio.estimate(pd.concat([DF, DF]), "image", prompt="caption")
    assert (more.high, more.reused) == (10, 2)
    assert aio.estimate(DF, "image", prompt="caption", reuse="never").high == 10


@pytest.mark.aio_sandbox(faults=["failed"])
def test_failed_rows_cost_again_only_when_retried(aio_sandbox_env: Sandbox) -> None:
    aio.generate(DF, "image", prompt="caption", progress=False)
    assert aio.estimate(DF, "image", prompt="caption").high == 0
    assert aio.estimate(DF, "image", prompt="caption", retry_failed=True).high == 10


def test_html_is_escaped() -> None:
    with pytest.warns(UserWarning):
        html = aio.estimate(DF, "image", prompt="caption", model="<script>")._repr_html_()
    assert "<script" not in html
