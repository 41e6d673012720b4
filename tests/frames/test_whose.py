"""An output that is there: this call's, another's (and what differs), or nobody's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames.partfiles import MANIFEST
from aio_provider.jobs.runner import Runner

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

ROWS = pd.DataFrame({"caption": ["a red chair", "a blue lamp"], "other": ["a green door", "a tall tree"]})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    ROWS.to_parquet(path)
    return path


def stream(source: Any, output: Any, **arguments: Any) -> Any:
    arguments = {"prompt": "caption", "progress": False} | arguments
    return aio.generate(source, "image", output=output, **arguments)


def test_other_rows_of_a_frame_are_called_that(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    stream(ROWS, out)
    changed = ROWS.assign(caption=["a red chair", "a green lamp"])
    for rows, arguments, says in [
        (changed, {}, "differs in the rows."),
        (ROWS.head(1), {}, "differs in the number of rows (2 there, 1 here)."),
        (ROWS, {"prompt": "other"}, "differs in prompt."),
        (ROWS, {"key": "other"}, "differs in key (none there, 'other' here)."),
    ]:
        with pytest.raises(FileExistsError) as caught:
            stream(rows, out, **arguments)
        assert says in str(caught.value)
    assert len(aio_sandbox_env.submissions) == 2


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"api_key": ""}, aio.ConfigurationError),
        ({"api_key": "no key"}, aio.ConfigurationError),
        ({"api_key": "aio_wrong_key_of_some_length"}, aio.AuthenticationError),
        ({"base_url": "http://example.com/api/v1"}, aio.ConfigurationError),
        ({"base_url": "example.com/api/v1"}, aio.ConfigurationError),
    ],
)
@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_a_failed_start_leaves_nothing_in_the_way(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, name: str, bad: dict[str, str], error: Any
) -> None:
    with pytest.raises(error):
        stream(source, tmp_path / name, **bad)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
    assert stream(source, tmp_path / name).report.statuses == {"succeeded": 2}


def test_a_service_that_is_down_leaves_nothing_in_the_way(
    aio_sandbox_env: Sandbox,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deaf_port: int,
) -> None:
    monkeypatch.setattr(Runner.__init__, "__kwdefaults__", _impatient())
    with pytest.raises(aio.TransportError) as caught:
        stream(source, tmp_path / "out", base_url=f"http://127.0.0.1:{deaf_port}/api/v1")
    assert not (tmp_path / "out").exists()
    result = caught.value.result  # type: ignore[attr-defined]
    assert (len(result.read()), result.report.statuses) == (0, {"not_submitted": 2})
    assert stream(source, tmp_path / "out").report.statuses == {"succeeded": 2}


def _impatient() -> dict[str, Any]:
    return {**(Runner.__init__.__kwdefaults__ or {}), "connect_attempts": 1, "connect_pause": 0.01}


def test_a_folder_that_was_there_stays_and_a_result_to_be_replaced_is_kept(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path
) -> None:
    wrong = {"api_key": "aio_wrong_key_of_some_length"}
    (tmp_path / "out").mkdir()
    with pytest.raises(aio.AuthenticationError):
        stream(source, tmp_path / "out", **wrong)
    assert list((tmp_path / "out").iterdir()) == []
    stream(source, tmp_path / "out")
    with pytest.raises(aio.AuthenticationError):
        stream(source, tmp_path / "out", prompt="other", overwrite=True, **wrong)
    assert stream(source, tmp_path / "out").report.reused == 2
    assert len(aio_sandbox_env.submissions) == 2


def test_what_a_killed_start_left_is_nobodys(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    for name in ("out", "out.parquet.parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(json.dumps({"call": "another", "parts": []}))
    assert stream(source, tmp_path / "out").report.succeeded == 2
    assert stream(source, tmp_path / "out.parquet").report.succeeded == 2


@pytest.mark.aio_sandbox(faults=["failed"])
def test_rows_that_all_failed_are_replaced(aio_sandbox_env: Sandbox, source: Path, tmp_path: Path) -> None:
    for name in ("out", "out.parquet"):
        assert stream(source, tmp_path / name).report.statuses == {"failed": 2}
    aio_sandbox_env.clear_faults()
    for name in ("out", "out.parquet"):
        assert stream(source, tmp_path / name, prompt="other").report.statuses == {"succeeded": 2}
    aio.generate(ROWS, "image", prompt="other", output=tmp_path / "mem.parquet", progress=False)
    with pytest.raises(FileExistsError, match="another call"):
        aio.generate(ROWS, "image", prompt="caption", output=tmp_path / "mem.parquet", progress=False)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"prompt": "other"}, "It differs in prompt."),
        ({"prompt": aio.template("no secret {other}"), "params": {"seed": 1}}, "It differs in prompt, seed."),
        ({"model": "imagen-4"}, "It differs in model ('flux-2' there, 'imagen-4' here)."),
        ({"max_rows_per_part": 5}, "It differs in max_rows_per_part (10000 there, 5 here)."),
        ({"prefix": "x_"}, "It differs in prefix ('aio_' there, 'x_' here)."),
        ({"reuse": "run", "run_id": "r"}, "It differs in reuse or run_id."),
    ],
)
def test_it_is_said_what_differs(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    for name in ("out", "out.parquet"):
        stream(source, tmp_path / name)
        with pytest.raises(FileExistsError) as caught:
            stream(source, tmp_path / name, **other)
        assert f"holds the result of another call. {says} Pass overwrite=True" in str(caught.value)
        assert ".parts" not in str(caught.value)


def test_the_input_and_the_service_too_and_no_prompt_is_kept(
    aio_sandbox_env: Sandbox, source: Path, tmp_path: Path, deaf_port: int
) -> None:
    secret = aio.template("a secret thought about {caption}")
    stream(source, tmp_path / "out", prompt=secret)
    ROWS.to_parquet(tmp_path / "more.parquet")
    with pytest.raises(FileExistsError, match=r"differs in the input's name\."):
        stream(tmp_path / "more.parquet", tmp_path / "out", prompt=secret)
    with pytest.raises(
        FileExistsError, match=r"differs in base_url \('http://127\.0\.0\.1:\d+/api/v1' there"
    ):
        stream(source, tmp_path / "out", prompt=secret, base_url=f"http://127.0.0.1:{deaf_port}/api/v1")
    again = stream(source, tmp_path / "out", prompt=secret, model="flux-2")
    assert again.report.reused == len(ROWS), "the usual model, named"
    assert "secret" not in (tmp_path / "out" / MANIFEST).read_text()
    aio.generate(ROWS, "image", prompt=secret, output=tmp_path / "mem.parquet", progress=False)
    with pytest.raises(FileExistsError, match=r"differs in model .*, the number of rows"):
        aio.generate(
            ROWS.head(1),
            "image",
            prompt=secret,
            model="imagen-4",
            output=tmp_path / "mem.parquet",
            progress=False,
        )
