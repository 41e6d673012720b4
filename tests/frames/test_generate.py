"""The calls end to end, over real HTTP against the sandbox."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames import RowsFailedError
from aio_provider.frames.output import read_note
from aio_provider.frames.schema import column_names
from aio_provider.jobs.ledger import Finished, JobState, Ledger

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

COLUMNS = column_names()


def frame(count: int = 4, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"caption": [f"a red chair, view {n}" for n in range(count)], **columns})


def statuses(out: pd.DataFrame) -> list[str]:
    return [str(value) for value in out["aio_status"]]


def generate(source: Any, kind: str = "image", **arguments: Any) -> pd.DataFrame:
    return aio.generate(source, kind, progress=False, **arguments)


# -- the main path


def test_rows_come_back_in_order_with_their_results(aio_sandbox_env: Sandbox) -> None:
    df = frame(5, n=range(5)).set_index(pd.Index([9, 9, 2, 2, 1], name="id"))
    before = df.copy(deep=True)
    out = generate(df, model="flux-2", prompt="caption", params={"aspect_ratio": "16:9"})
    assert list(out.columns) == ["caption", "n", *COLUMNS]
    pd.testing.assert_frame_equal(out[["caption", "n"]], before)
    pd.testing.assert_frame_equal(df, before)  # the input is as it was
    assert statuses(out) == ["succeeded"] * 5
    by_task = {sent.task_id: sent.body for sent in aio_sandbox_env.submissions}
    assert [by_task[task]["prompt"] for task in out["aio_task_id"]] == df["caption"].tolist()
    assert {body["aspect_ratio"] for body in by_task.values()} == {"16:9"}
    assert out["aio_credits"].sum() == aio_sandbox_env.charged == 25
    assert (out["aio_finished_at"] >= out["aio_submitted_at"]).all()
    assert out.attrs["aio"]["statuses"] == {"succeeded": 5}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("image", {"prompt": "text"}),
        ("video", {"prompt": "text"}),
        ("music", {"prompt": "text"}),
        ("speech", {"prompt": "text"}),
        ("chat", {"prompt": "text"}),
        ("remove_background", {"image": "url"}),
        ("swap_face", {"image": "url", "face_image": "url"}),
        ("remove_video_background", {"video": "clip"}),
        ("upscale_image", {"image": "url"}),
    ],
)
def test_every_kind_by_call_and_by_accessor(
    aio_sandbox_env: Sandbox, kind: str, fields: dict[str, str]
) -> None:
    sandbox = aio_sandbox_env
    df = pd.DataFrame(
        {
            "text": ["A calm morning by the sea"],
            "url": [f"{sandbox.origin}/photos/LMP-014.png"],
            "clip": [f"{sandbox.origin}/files/clip.mp4"],
        }
    )
    out = generate(df, kind, **fields)
    assert statuses(out) == ["succeeded"], out["aio_error"].tolist()
    if kind == "chat":
        assert len(out["aio_text"].iloc[0]) > 0
    else:
        assert out["aio_url"].iloc[0].startswith(sandbox.origin)
        assert out["aio_urls"].iloc[0][0] == out["aio_url"].iloc[0]
    assert out["aio_credits"].iloc[0] == sandbox.charged
    again = getattr(df.aio, kind)(progress=False, **fields)
    pd.testing.assert_frame_equal(again.drop(columns=["aio_urls"]), out.drop(columns=["aio_urls"]))
    assert len(sandbox.submissions) == 1  # the second time nothing was paid


def test_template_and_columns_in_params(aio_sandbox_env: Sandbox) -> None:
    df = pd.DataFrame({"product": ["lamp", None], "seed": [7, 8]})
    out = df.aio.image(
        prompt=aio.template("A photo of {product}"), params={"seed": aio.col("seed")}, progress=False
    )
    assert statuses(out) == ["succeeded", "skipped"]
    (sent,) = aio_sandbox_env.submissions
    assert (sent.body["prompt"], sent.body["seed"]) == ("A photo of lamp", 7)


# -- bad rows


def test_one_bad_row_never_costs_the_others(aio_sandbox_env: Sandbox) -> None:
    captions = ["a red chair", None, "x", 12, float("nan"), ["a"], "y" * 5001, "a blue lamp"]
    df = pd.DataFrame({"caption": pd.Series(captions, dtype=object)})
    out = generate(df, prompt="caption")
    assert statuses(out) == [
        "succeeded",
        "skipped",
        "failed",
        "failed",
        "skipped",
        "failed",
        "failed",
        "succeeded",
    ]
    assert len(aio_sandbox_env.submissions) == 2
    assert "null" in out["aio_error"][1]
    assert "prompt" in out["aio_error"][2]
    assert out["aio_error"].isna().tolist() == [True] + [False] * 6 + [True]
    assert out["aio_credits"].isna().tolist() == [False] + [True] * 6 + [False]


@pytest.mark.aio_sandbox(faults=["failed@2"])
def test_a_failed_task_is_a_row(aio_sandbox_env: Sandbox) -> None:
    out = generate(frame(3), prompt="caption")
    assert sorted(statuses(out)) == ["failed", "succeeded", "succeeded"]
    failed = out[out["aio_status"] == "failed"].iloc[0]
    assert failed["aio_task_id"]
    assert failed["aio_error"]
    assert failed["aio_credits"] == 0
    again = generate(frame(3), prompt="caption")
    assert statuses(again) == statuses(out)
    assert len(aio_sandbox_env.submissions) == 3  # failed rows are not paid for again unless asked
    retried = generate(frame(3), prompt="caption", retry_failed=True)
    assert statuses(retried) == ["succeeded"] * 3
    assert len(aio_sandbox_env.submissions) == 4


def test_urls_on_record_can_be_asked_for_again(aio_sandbox_env: Sandbox) -> None:
    first = generate(frame(3), prompt="caption")
    polls = aio_sandbox_env.requests["requests"]
    again = generate(frame(3), prompt="caption", refresh_urls=True)
    assert again["aio_url"].tolist() == first["aio_url"].tolist()
    assert aio_sandbox_env.requests["requests"] == polls + 3
    assert len(aio_sandbox_env.submissions) == 3
    assert again.attrs["aio"]["reused"] == 3


@pytest.mark.aio_sandbox(faults=["failed@2"])
def test_errors_raise_at_the_end_with_every_row(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with pytest.raises(RowsFailedError, match="1 of 3 rows did not succeed") as caught:
        generate(frame(3), prompt="caption", errors="raise", output=path)
    assert sorted(statuses(caught.value.frame)) == ["failed", "succeeded", "succeeded"]
    assert len(pd.read_parquet(path)) == 3


def test_errors_raise_before_anything_is_spent(aio_sandbox_env: Sandbox) -> None:
    with pytest.raises(aio.InvalidRequestError, match="1 of 2 rows cannot be sent"):
        generate(pd.DataFrame({"caption": ["a red chair", "x"]}), prompt="caption", errors="raise")
    assert aio_sandbox_env.submissions == []


@pytest.mark.aio_sandbox(faults=["drop-after@2"])
def test_a_lost_answer_is_held_and_resubmitted_only_when_asked(aio_sandbox_env: Sandbox) -> None:
    out = generate(frame(3), prompt="caption")
    assert sorted(statuses(out)) == ["succeeded", "succeeded", "unknown"]
    with Ledger.open() as ledger:
        (held,) = ledger.entries(state=JobState.UNKNOWN)
    error = out.loc[out["aio_status"] == "unknown", "aio_error"].iloc[0]
    assert error.startswith(f"job {held.key[:12]}: ") and error.count("job ") == 1
    aio_sandbox_env.clear_faults()
    assert statuses(generate(frame(3), prompt="caption")) == statuses(out)
    assert len(aio_sandbox_env.submissions) == 3
    assert statuses(generate(frame(3), prompt="caption", on_unknown="resubmit")) == ["succeeded"] * 3
    assert len(aio_sandbox_env.submissions) == 4


# -- nothing in, nothing spent


@pytest.mark.parametrize(
    "empty", [pd.DataFrame({"caption": []}), pd.DataFrame({"caption": ["a"], "n": [1]}).iloc[:0]]
)
def test_an_empty_frame_has_all_columns_and_needs_no_key(empty: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    out = generate(empty, prompt="caption", output=path)
    assert list(out.columns) == [*empty.columns, *COLUMNS]
    assert len(out) == 0
    assert str(out["aio_finished_at"].dtype) == "datetime64[us, UTC]"
    assert list(pd.read_parquet(path).columns) == list(out.columns)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"prompt": "captoin"}, aio.InvalidRequestError, "Did you mean 'caption'"),
        ({"prompt": "caption", "key": "sku"}, aio.InvalidRequestError, "key: there is no column 'sku'"),
        ({"prompt": "caption", "model": "kling-3"}, aio.InvalidRequestError, "video"),
        ({"prompt": "caption", "errors": "ignore"}, aio.ConfigurationError, "errors='ignore'"),
        ({"prompt": "caption", "on_unknown": "x"}, aio.ConfigurationError, "on_unknown='x'"),
        ({"prompt": "caption", "reuse": "x"}, aio.ConfigurationError, "reuse='x'"),
        ({"prompt": "caption", "reuse": "run"}, aio.ConfigurationError, "run_id"),
        ({"prompt": "caption", "max_credits": "5"}, TypeError, "max_credits"),
        ({"prompt": "caption", "max_credits": -1}, aio.ConfigurationError, "max_credits"),
        ({"prompt": "caption", "max_credits": True}, TypeError, "max_credits"),
        ({"prompt": "caption", "deadline": 0}, aio.ConfigurationError, "deadline"),
        ({"prompt": "caption", "deadline": "1h"}, TypeError, "deadline"),
        ({"prompt": "caption", "overwrite": 1}, TypeError, "overwrite"),
        ({"prompt": "caption", "overwrite_columns": "yes"}, TypeError, "overwrite_columns"),
        ({"prompt": "caption", "retry_failed": "no"}, TypeError, "retry_failed"),
        ({"prompt": "caption", "refresh_urls": 1}, TypeError, "refresh_urls"),
        ({"prompt": "caption", "prefix": ""}, aio.ConfigurationError, "prefix"),
        ({"prompt": "caption", "prefix": 3}, TypeError, "prefix"),
        ({"prompt": "caption", "labels": ["x"]}, TypeError, "labels"),
        ({"prompt": "caption", "labels": {"team": 3}}, TypeError, "labels"),
        ({"prompt": "caption", "gallery": -1}, TypeError, "gallery"),
        ({"prompt": "caption", "gallery": "all"}, TypeError, "gallery"),
        ({"prompt": "caption", "run_id": 3}, TypeError, "run_id"),
        ({"prompt": "caption", "output": 3}, TypeError, "output"),
        ({"prompt": "caption", "output": "out.csv"}, aio.ConfigurationError, "Parquet"),
        ({"prompt": "caption", "output": "/no/such/folder/out.parquet"}, FileNotFoundError, "does not exist"),
        ({"prompt": "caption", "base_url": "apiin.one"}, aio.ConfigurationError, "URL"),
        ({"prompt": "caption", "base_url": "http://apiin.one/api/v1"}, aio.ConfigurationError, "http"),
        ({"prompt": "caption", "requests_per_minute": -5}, aio.ConfigurationError, "requests_per_minute"),
        ({"prompt": "caption", "timeout": "soon"}, aio.ConfigurationError, "timeout"),
        ({"prompt": "caption", "api_key": "a b"}, aio.ConfigurationError, "key"),
        ({"prompt": "caption", "promt": "caption"}, TypeError, "promt"),
        ({"prompt": "caption", "key": ["caption"]}, TypeError, "key must be one column"),
        ({"prompt": "caption", "api_key": 3}, TypeError, "api_key must be str"),
        ({"prompt": "caption", "base_url": 3}, TypeError, "base_url must be str"),
        ({"prompt": "caption", "ledger": 3.5}, TypeError, "ledger must be a path"),
        ({"prompt": "caption", "limiter_url": 3}, TypeError, "limiter_url must be str"),
        ({"prompt": "caption", "allow_insecure": "yes"}, TypeError, "allow_insecure must be bool"),
        ({"prompt": "caption", "on_server_error": "x"}, aio.ConfigurationError, "on_server_error"),
        ({"prompt": "caption", "ledger": "mysql://x"}, aio.ConfigurationError, "mysql"),
    ],
)
def test_bad_arguments_cost_nothing(
    aio_sandbox_env: Sandbox, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        generate(frame(), **arguments)
    assert aio_sandbox_env.requests.get("total", 0) == 0
    assert aio_sandbox_env.submissions == []


def test_a_key_of_the_wrong_type_is_not_repeated() -> None:
    with pytest.raises(TypeError) as caught:
        generate(frame(), prompt="caption", api_key=b"aio_secret_of_some_length")
    assert "secret" not in str(caught.value)


def test_progress_must_be_a_boolean() -> None:
    with pytest.raises(TypeError, match="progress"):
        aio.generate(frame(), "image", prompt="caption", progress="bar")  # type: ignore[arg-type]


def test_a_missing_key_is_found_first(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIO_API_KEY")
    with pytest.raises(aio.ConfigurationError, match="AIO_API_KEY"):
        generate(frame(), prompt="caption")


# -- names of columns


def test_a_rerun_on_a_previous_output_is_refused_with_the_fix_and_allowed(aio_sandbox_env: Sandbox) -> None:
    out = generate(frame(2), prompt="caption")
    with pytest.raises(aio.ConfigurationError, match="overwrite_columns=True") as caught:
        generate(out, prompt="caption")
    assert "aio_status" in str(caught.value)
    assert "prefix=" in str(caught.value)
    again = generate(out, prompt="caption", overwrite_columns=True)
    pd.testing.assert_frame_equal(again.drop(columns="aio_urls"), out.drop(columns="aio_urls"))
    assert len(aio_sandbox_env.submissions) == 2


def test_calls_can_be_chained_by_prefix_or_by_overwriting(aio_sandbox_env: Sandbox) -> None:
    pictures = generate(frame(2), prompt="caption")
    both = generate(pictures, "remove_background", image="aio_url", prefix="cutout_")
    assert list(both.columns) == ["caption", *COLUMNS, *column_names("cutout_")]
    last = generate(pictures, "remove_background", image="aio_url", overwrite_columns=True)
    assert list(last.columns) == ["caption", *COLUMNS]
    assert last["aio_url"].tolist() == both["cutout_url"].tolist()
    assert len(aio_sandbox_env.submissions) == 4


# -- which job a row is


def test_equal_prompts_are_variations_and_found_again(aio_sandbox_env: Sandbox) -> None:
    df = pd.DataFrame({"caption": ["a red chair"] * 3})
    out = generate(df, prompt="caption")
    assert out["aio_task_id"].nunique() == 3
    again = generate(df, prompt="caption")
    assert again["aio_task_id"].tolist() == out["aio_task_id"].tolist()
    more = generate(pd.concat([df, df]), prompt="caption")
    assert more["aio_task_id"].nunique() == 6
    assert len(aio_sandbox_env.submissions) == 6


def test_a_key_column_says_which_job_a_row_is(aio_sandbox_env: Sandbox) -> None:
    df = pd.DataFrame(
        {"sku": ["a", "b", "a", None, "b"], "caption": ["chair", "lamp", "chair", "bed", "other"]}
    )
    out = generate(df, prompt="caption", key="sku")
    assert statuses(out) == ["succeeded", "succeeded", "succeeded", "failed", "failed"]
    assert out["aio_task_id"][0] == out["aio_task_id"][2]  # the same key and content: one paid job
    assert "null" in out["aio_error"][3]
    assert "'b' is also the key of row 1" in out["aio_error"][4]
    assert len(aio_sandbox_env.submissions) == 2
    assert out.attrs["aio"]["reused"] == 1
    # a row moved elsewhere is the same job; a changed one is a new one
    moved = pd.DataFrame({"sku": ["b", "a"], "caption": ["lamp", "chair, from above"]})
    again = generate(moved, prompt="caption", key="sku")
    assert again["aio_task_id"][0] == out["aio_task_id"][1]
    assert again["aio_task_id"][1] != out["aio_task_id"][0]
    assert len(aio_sandbox_env.submissions) == 3


def test_two_models_over_one_key_column_do_not_push_each_other_out(aio_sandbox_env: Sandbox) -> None:
    df = pd.DataFrame({"sku": ["a"], "caption": ["a chair"]})
    for _ in range(2):
        generate(df, prompt="caption", key="sku", model="flux-2")
        generate(df, prompt="caption", key="sku", model="imagen-4")
    assert len(aio_sandbox_env.submissions) == 2


def test_reuse(aio_sandbox_env: Sandbox) -> None:
    df = pd.DataFrame({"caption": ["a red chair", "a red chair"]})
    generate(df, prompt="caption")
    generate(df, prompt="caption", reuse="never")
    assert len(aio_sandbox_env.submissions) == 4
    for _ in range(2):
        generate(df, prompt="caption", reuse="run", run_id="monday")
    assert len(aio_sandbox_env.submissions) == 6
    generate(df, prompt="caption", reuse="run", run_id="tuesday")
    assert len(aio_sandbox_env.submissions) == 8
    generate(df, prompt="caption")
    assert len(aio_sandbox_env.submissions) == 8


def test_refreshed_urls_reach_the_frame_and_the_ledger(aio_sandbox_env: Sandbox) -> None:
    out = generate(frame(3), prompt="caption")
    with Ledger.open() as ledger:
        entries = list(ledger.entries())
        stale = [
            Finished(e.key, JobState.SUCCEEDED, urls=("https://old.test/x.png",), task_id=e.task_id)
            for e in entries
        ]
        ledger.finish(stale)
    assert set(generate(frame(3), prompt="caption")["aio_url"]) == {"https://old.test/x.png"}
    asked = aio_sandbox_env.requests["requests"]
    again = generate(frame(3), prompt="caption", refresh_urls=True)
    assert again["aio_url"].tolist() == out["aio_url"].tolist()
    assert aio_sandbox_env.requests["requests"] == asked + 3
    assert generate(frame(3), prompt="caption")["aio_url"].tolist() == out["aio_url"].tolist()


def test_labels_reach_the_ledger(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "catalog.ipynb")
    generate(frame(1), prompt="caption", labels={"team": "web"}, run_id="r1")
    with Ledger.open() as ledger:
        (entry,) = ledger.entries()
    assert entry.labels["team"] == "web"
    assert entry.labels["notebook"] == "catalog.ipynb"
    assert entry.labels["run_id"] == "r1"
    assert entry.labels["user"]


# -- the file


def test_output_holds_what_was_returned_and_a_note(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    out = generate(frame(2), prompt="caption", output=path)
    back = pd.read_parquet(path)
    assert back["aio_url"].tolist() == out["aio_url"].tolist()
    assert back["aio_submitted_at"].tolist() == out["aio_submitted_at"].tolist()
    note = read_note(path) or {}
    assert note["schema_version"] == 1
    assert note["run_id"] == out.attrs["aio"]["run_id"]
    assert note["totals"]["credits"] == 10
    assert len(note["call"]) == 64
    assert aio_sandbox_env.api_key.encode() not in path.read_bytes()


def test_output_of_this_same_call_is_replaced_and_of_another_refused(
    aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "out.parquet"
    generate(frame(2), prompt="caption", output=path)
    generate(frame(2), prompt="caption", output=path)
    for other in ({"model": "imagen-4"}, {"params": {"seed": 1}}, {"prefix": "x_"}):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            generate(frame(2), prompt="caption", output=path, **other)
    with pytest.raises(FileExistsError):
        generate(frame(3), prompt="caption", output=path)
    assert len(aio_sandbox_env.submissions) == 2
    generate(frame(3), prompt="caption", output=path, overwrite=True)
    assert len(pd.read_parquet(path)) == 3


def test_a_file_in_a_file_out(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    frame(2).to_csv(tmp_path / "in.csv", index=False)
    assert statuses(generate(tmp_path / "in.csv", prompt="caption")) == ["succeeded"] * 2
    out: Any = generate(tmp_path / "in.csv", prompt="caption", output=tmp_path / "out.parquet")
    assert statuses(out.read()) == ["succeeded"] * 2
    assert statuses(pd.read_parquet(tmp_path / "out.parquet")) == ["succeeded"] * 2


# -- stopping early


@pytest.mark.aio_sandbox(credits=12)
def test_402_collects_what_is_in_flight_writes_and_carries_the_frame(
    aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "out.parquet"
    with pytest.raises(aio.InsufficientCreditsError) as caught:
        generate(frame(5), prompt="caption", output=path)
    out = caught.value.frame  # type: ignore[attr-defined]
    assert sorted(statuses(out)) == ["not_submitted"] * 3 + ["succeeded"] * 2
    assert statuses(pd.read_parquet(path)) == statuses(out)
    assert out["aio_credits"].sum() == aio_sandbox_env.charged == 10
    aio_sandbox_env.credits = 1000
    assert statuses(generate(frame(5), prompt="caption", output=path)) == ["succeeded"] * 5
    assert len(aio_sandbox_env.submissions) == 5


def test_401_stops_at_once_with_the_frame(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with pytest.raises(aio.AuthenticationError) as caught:
        generate(frame(5), prompt="caption", output=path, api_key="aio_wrong_key_of_some_length")
    assert statuses(caught.value.frame) == ["not_submitted"] * 5  # type: ignore[attr-defined]
    assert statuses(pd.read_parquet(path)) == ["not_submitted"] * 5
    assert "aio_wrong_key" not in str(caught.value)


def test_max_credits_holds_where_no_price_has_a_bound(aio_sandbox_env: Sandbox) -> None:
    """A chat costs by its tokens, at a rate that is not published: 20 of these cost some 640 credits."""
    rows = pd.DataFrame({"text": [f"{n} " + "kettle " * 1800 for n in range(20)]})
    with pytest.warns(UserWarning, match="max_credits=100: 1[89] of 20 rows"):
        out = rows.aio.chat(prompt="text", max_credits=100, progress=False)
    assert 0 < aio_sandbox_env.charged <= 100
    assert out["aio_credits"].sum() == aio_sandbox_env.charged


def test_max_credits_is_a_warning(aio_sandbox_env: Sandbox) -> None:
    with pytest.warns(UserWarning, match="max_credits=12: 3 of 5 rows") as told:
        out = frame(5).aio.image(prompt="caption", max_credits=12, progress=False)
    assert [warning.filename for warning in told] == [__file__]  # the user's own line
    assert sorted(statuses(out)) == ["not_submitted"] * 3 + ["succeeded"] * 2
    assert aio_sandbox_env.charged == 10
    assert "max_credits" in out[out["aio_status"] == "not_submitted"]["aio_error"].iloc[0]


@pytest.mark.aio_sandbox(time_scale=10)
def test_ctrl_c_keeps_its_type_carries_the_frame_and_loses_nothing(
    aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    """The tasks would take a minute; Ctrl-C comes once both are accepted."""
    path = tmp_path / "out.parquet"
    watcher = threading.Thread(target=_interrupt_when, args=(lambda: len(aio_sandbox_env.submissions) == 2,))
    watcher.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        generate(frame(2), prompt="caption", output=path)
    watcher.join()
    out = caught.value.frame  # type: ignore[attr-defined]
    assert statuses(out) == ["pending"] * 2
    assert out.attrs["aio"]["in_flight_credits"] == aio_sandbox_env.submissions[0].credits * 2 == 10
    assert set(out["aio_task_id"]) == {sent.task_id for sent in aio_sandbox_env.submissions}
    assert statuses(pd.read_parquet(path)) == ["pending"] * 2
    with Ledger.open() as ledger:
        assert [entry.state for entry in ledger.entries()] == [JobState.ACCEPTED] * 2


def _interrupt_when(ready: Any) -> None:
    until = time.monotonic() + 120
    while not ready() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.aio_sandbox(time_scale=10)
def test_a_result_that_takes_longer_than_the_deadline_is_pending(aio_sandbox_env: Sandbox) -> None:
    out = generate(frame(1), prompt="caption", deadline=0.5)
    assert statuses(out) == ["pending"]
    assert out["aio_task_id"][0] == aio_sandbox_env.submissions[0].task_id


def test_a_lost_ledger_stops_before_spending(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is no database" * 100)
    with pytest.raises(aio.AioError) as caught:
        generate(frame(2), prompt="caption", ledger=broken)
    assert statuses(caught.value.frame) == ["not_submitted"] * 2  # type: ignore[attr-defined]
    assert aio_sandbox_env.submissions == []


def test_a_stopped_run_tells_what_earlier_ones_paid_for(aio_sandbox_env: Sandbox) -> None:
    """Ctrl-C comes before the last rows are reached; they were paid for in an earlier run."""
    paid = generate(frame(3), prompt="caption")
    aio_sandbox_env.add_fault("never-ends")
    new = pd.DataFrame({"caption": [f"a blue lamp, view {n}" for n in range(3000)]})
    watcher = threading.Thread(target=_interrupt_when, args=(lambda: len(aio_sandbox_env.submissions) > 3,))
    watcher.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        generate(pd.concat([new, frame(3)]), prompt="caption")
    watcher.join()
    out = caught.value.frame  # type: ignore[attr-defined]
    assert out["aio_url"].tolist()[-3:] == paid["aio_url"].tolist()
    assert set(statuses(out)[:-3]) <= {"pending", "not_submitted"}
    assert statuses(out).count("pending") == len(aio_sandbox_env.submissions) - 3


def test_a_refused_key_leaves_what_was_paid_for(aio_sandbox_env: Sandbox) -> None:
    generate(frame(3), prompt="caption")
    aio_sandbox_env.add_fault("401")
    more = pd.concat([pd.DataFrame({"caption": ["a new one"]}), frame(3)])
    with pytest.raises(aio.AuthenticationError) as caught:
        generate(more, prompt="caption")
    assert statuses(caught.value.frame) == ["not_submitted"] + ["succeeded"] * 3  # type: ignore[attr-defined]


def test_a_stopped_rerun_leaves_a_better_output_alone(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    generate(frame(3), prompt="caption", output=path)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is no database" * 100)
    with pytest.raises(aio.AioError) as caught:
        generate(frame(3), prompt="caption", output=path, ledger=broken)
    assert any("was left as it was" in note for note in caught.value.__notes__)
    assert statuses(pd.read_parquet(path)) == ["succeeded"] * 3


def test_warnings_made_errors_lose_nothing(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="max_credits"):
            generate(frame(3), prompt="caption", max_credits=6, output=path)
    assert sorted(statuses(pd.read_parquet(path))) == ["not_submitted"] * 2 + ["succeeded"]


def test_a_disk_that_fills_up_keeps_its_type_and_carries_the_frame(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aio_provider.frames.output.to_disk", full)
    with pytest.raises(OSError, match="No space") as caught:
        generate(frame(2), prompt="caption", output=tmp_path / "out.parquet")
    assert statuses(caught.value.frame) == ["succeeded"] * 2  # type: ignore[attr-defined]
    assert [one.name for one in tmp_path.iterdir() if "parquet" in one.name] == []


# -- loops


def test_in_a_running_loop_and_as_a_coroutine(aio_sandbox_env: Sandbox) -> None:
    async def cell() -> tuple[pd.DataFrame, pd.DataFrame]:
        blocking = generate(frame(2), prompt="caption")
        awaited = await aio.agenerate(frame(2), "image", prompt="caption", progress=False)
        return blocking, awaited

    blocking, awaited = asyncio.run(cell())
    pd.testing.assert_frame_equal(blocking.drop(columns="aio_urls"), awaited.drop(columns="aio_urls"))
    assert len(aio_sandbox_env.submissions) == 2


async def test_two_coroutines_at_once_share_the_jobs(aio_sandbox_env: Sandbox) -> None:
    one, two = await asyncio.gather(
        aio.agenerate(frame(3), "image", prompt="caption", progress=False),
        frame(3).aio.agenerate("image", prompt="caption", progress=False),
    )
    assert one["aio_task_id"].tolist() == two["aio_task_id"].tolist()
    assert len(aio_sandbox_env.submissions) == 3


@pytest.mark.aio_sandbox(time_scale=10)
async def test_a_cancelled_coroutine_keeps_what_it_has(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    task = asyncio.create_task(
        aio.agenerate(frame(2), "image", prompt="caption", progress=False, output=path)
    )
    while len(aio_sandbox_env.submissions) < 2:  # noqa: ASYNC110 - the server is in a thread
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert statuses(pd.read_parquet(path)) == ["pending"] * 2


async def test_agenerate_refuses_unknown_arguments_as_generate_does(aio_sandbox_env: Sandbox) -> None:
    with pytest.raises(TypeError, match="promt"):
        await aio.agenerate(frame(1), "image", promt="caption")


# -- what the user is told


def test_the_summary_says_what_was_spent_and_saved(
    aio_sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    df = pd.DataFrame({"caption": ["a red chair", "a blue lamp", None, "x"]})
    aio.generate(df, "image", prompt="caption")
    first = capsys.readouterr().err.splitlines()[-1]
    assert first.startswith("image: 4 rows, 2 succeeded, 1 failed, 1 skipped, 10 credits spent, in ")
    aio.generate(df, "image", prompt="caption")
    second = capsys.readouterr().err.splitlines()[-1]
    assert "2 reused (saved 10 credits), 0 credits spent" in second


@pytest.mark.aio_sandbox(faults=["drop-after@2", "never-ends@1"])
def test_the_summary_says_what_to_do_about_rows_without_an_end(
    aio_sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    aio.generate(frame(2), "image", prompt="caption", deadline=0.5)
    summary, line = capsys.readouterr().err.splitlines()[-2:]
    assert re.fullmatch(r"  row \d: aio ledger resolve [0-9a-f]{12} --task-id ID, or --not-submitted", line)
    assert "1 pending, 1 unknown, 0 credits spent and about 5 credits in flight" in summary
    assert "`aio ledger show`" in summary
    assert "the same call again collects it, and pays nothing" in summary


@pytest.mark.aio_sandbox(faults=["drop-after"])
@pytest.mark.parametrize("output", [None, "one.parquet", "folder/"])
def test_held_rows_are_named_with_their_jobs(
    aio_sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str], tmp_path: Path, output: str | None
) -> None:
    """Two held rows told apart by nothing could be settled with each other's tasks."""
    to = {} if output is None else {"output": f"{tmp_path}/{output}"}
    df = frame(7, sku=[f"S{n}" for n in range(7)]).set_index(pd.Index(list("abcdefg")))
    ledger = tmp_path / "other.sqlite"
    for _ in range(2):  # the second finds them on record
        out = aio.generate(df, "image", prompt="caption", key="sku", ledger=ledger, **to)
        said = capsys.readouterr().err.splitlines()
        keys = [error[4:16] for error in out["aio_error"]]
        assert len(set(keys)) == 7
        lines = [line for line in said if line.startswith("  row ")]
        assert lines == [
            f"  row {label!r} (sku={sku!r}): aio ledger resolve {key} --ledger {ledger} "
            "--task-id ID, or --not-submitted"
            for label, sku, key in zip("abcde", df["sku"], keys, strict=False)
        ]
        assert said[-1] == f"  … 7 in all: aio ledger show --state unknown --ledger {ledger}"
    with Ledger.open(ledger) as book:
        assert sorted(keys) == sorted(entry.key[:12] for entry in book.entries())


def test_without_progress_nothing_is_printed(
    aio_sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(frame(1), prompt="caption")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
