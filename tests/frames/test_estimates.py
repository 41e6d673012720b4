from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.api.prices import CreditRange
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import Finished, JobState, Ledger

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

LIVE = "https://apiin.one/api/v1"
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


# -- what the ledger adds ----------------------------------------------------------------------------------


def _charge(book: Path, request: GenerationRequest, charges: list[float], scope: str) -> None:
    with Ledger.open(book) as ledger:
        jobs = [Job(f"{request.fingerprint[:8]}-{n}", request, {}) for n in range(len(charges))]
        ledger.plan(jobs, owner="me", scope=scope)
        ledger.intend([job.key for job in jobs], owner="me")
        ledger.accept([(job.key, f"t-{job.key}") for job in jobs])
        ledger.finish(
            Finished(job.key, JobState.SUCCEEDED, credits=credits, task_id=f"t-{job.key}")
            for job, credits in zip(jobs, charges, strict=True)
        )


def test_the_usual_model_is_named() -> None:
    frame = pd.DataFrame({"caption": ["a lamp"]})
    said = aio.estimate(frame, "image", prompt="caption")
    assert said.default_model == "flux-2"
    assert "No model was named: flux-2 is the usual one." in repr(said)
    assert aio.estimate(frame, "image", prompt="caption", model="flux-2").default_model is None


def test_the_help_names_the_usual_models_of_the_catalog() -> None:
    from aio_provider.api.catalog import KINDS, load_catalog
    from aio_provider.cli_generate import _USUAL

    usual = [(kind, load_catalog().endpoint(kind).default_model) for kind in KINDS]
    assert ", ".join(f"{kind} {model}" for kind, model in usual if model) == _USUAL


def test_a_range_is_narrowed_by_charges_for_the_same_settings(tmp_path: Path) -> None:
    book, frame = tmp_path / "l.sqlite", pd.DataFrame({"caption": ["a lamp", "a cup"]})
    request = GenerationRequest.video("x", model="kling-3", mode="pro", duration=10)
    _charge(book, request, [700, 720, 710, 700, 705], LIVE)

    def total(**params: object) -> CreditRange:
        given = {"mode": "pro", "duration": 10, **params}
        return aio.estimate(
            frame, "video", model="kling-3", prompt="caption", params=given, ledger=book
        ).total

    learned = total()
    assert (learned.low, learned.likely, learned.high, learned.source) == (1400, 1410, 1440, "learned")
    assert learned.note == "5 past charges: 700 to 720; published 120 to 1,200"
    assert total(duration=5).high == 2400  # other settings: the published range
    with_sandbox = aio.estimate(
        frame, "video", model="kling-3", prompt="caption", params={"mode": "pro", "duration": 10},
        ledger=book, base_url="http://127.0.0.1:9/api/v1",
    )  # fmt: skip
    assert with_sandbox.high == 2400  # another service's charges do not count


def test_a_price_that_has_changed_is_corrected_and_reported(tmp_path: Path) -> None:
    book, frame = tmp_path / "l.sqlite", pd.DataFrame({"caption": ["a lamp"]})
    _charge(book, GenerationRequest.image("a cat"), [5, 5, 7, 7, 7, 7], LIVE)
    before = aio.estimate(frame, "image", prompt="caption", ledger=book)
    assert (before.total.likely, before.total.source) == (5, "published")  # one of the last five was 5
    assert before.drift == ("flux-2 was charged 27% more than estimated (38 instead of 30 credits, 6 jobs)",)
    _charge(book, GenerationRequest.image("a dog"), [7], LIVE)
    after = aio.estimate(frame, "image", prompt="caption", ledger=book)
    assert (after.low, after.likely, after.high) == (7, 7, 7)
    assert after.total.note == "published 5; the last 5 charges were 7"


@pytest.mark.parametrize(("charge", "likely"), [(28.0, 560), (0.5, 10), (0.0, 0), (14.0, 280)])
def test_speech_learns_how_its_characters_are_rounded(tmp_path: Path, charge: float, likely: float) -> None:
    book, frame = tmp_path / "l.sqlite", pd.DataFrame({"line": [f"Good morning, {n:02}" for n in range(20)]})
    before = aio.estimate(frame, "speech", prompt="line", ledger=book).total
    assert (before.low, before.likely, before.high) == (0, 20, 560)
    for number in range(2):  # what was learned is not learned from
        _charge(book, GenerationRequest.speech(f"Hello number {number}", voice="Rachel"), [charge] * 3, LIVE)
        after = aio.estimate(frame, "speech", prompt="line", ledger=book).total
        assert (after.low, after.likely, after.high, after.source) == (
            0,
            pytest.approx(likely),
            560,
            "learned",
        )
    longer = aio.estimate(frame.assign(line="x" * 1500), "speech", prompt="line", ledger=book).total
    assert longer.low <= longer.likely <= longer.high and longer.low == 42 * 20


def test_budgets_with_less_left_are_named(tmp_path: Path) -> None:
    book, frame = tmp_path / "l.sqlite", pd.DataFrame({"caption": ["a lamp", "a cup"]})
    with Ledger.open(book) as ledger:
        ledger.set_budget("total", credits=7)
        ledger.set_budget("team", "art", credits=0)
    said = aio.estimate(frame, "image", prompt="caption", ledger=book)
    assert len(said.short) == 1
    assert "has 7 of 7 credits left: not all of this may be submitted." in said.notes()[-1]
    for team, named in (("art", True), ("ads", False)):
        said = aio.estimate(frame, "image", prompt="caption", ledger=book, labels={"team": team})
        assert any("Budget team art" in note for note in said.notes()) is named


def test_the_first_invalid_row_is_named_with_its_reason(tmp_path: Path) -> None:
    df = DF.set_axis(list("abcd"))
    said = aio.estimate(df, "image", model="flux-2", prompt="caption")
    assert said.notes() == [f"Invalid: {said.first_invalid}"]
    assert said.notes()[0].startswith("Invalid: row 'd': prompt: ")
    pd.concat([DF, DF]).to_parquet(tmp_path / "in.parquet")
    said = aio.estimate(tmp_path / "in.parquet", "image", model="flux-2", prompt="caption")
    assert said.notes()[0].startswith("The first invalid one: row 3: prompt: ")
    assert aio.estimate(DF.head(2), "image", model="flux-2", prompt="caption").notes() == []
