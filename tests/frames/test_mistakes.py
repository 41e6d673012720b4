"""Mistakes of a first hour: each is told before it costs anything, in the words of who made it."""

from __future__ import annotations

import asyncio
import math
import warnings
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import aio_provider as aio
from aio_provider.cli import main
from aio_provider.jobs.ledger import LedgerUnavailableError

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

ROWS = pd.DataFrame({"caption": [f"a red chair, view {n}" for n in range(200)]})


def generate(source: Any, kind: str = "image", **arguments: Any) -> Any:
    return aio.generate(source, kind, **({"progress": False, "prompt": "caption"} | arguments))


# -- arguments


@pytest.mark.parametrize("call", [generate, aio.estimate])
def test_an_argument_that_is_nearly_one_is_not_offered_as_a_field(call: Any) -> None:
    with pytest.raises(TypeError, match=r"did you mean 'max_credits'\?$"):
        call(ROWS, "image", prompt="caption", max_credit=4)
    with pytest.raises(TypeError, match=r"did you mean 'prompt'\? A field this version does not know"):
        call(ROWS, "image", promt="caption")


@pytest.mark.parametrize("name", ["max_credits", "requests_per_minute", "timeout", "deadline"])
def test_a_null_of_a_cell_lifts_no_limit(aio_sandbox_env: Sandbox, name: str) -> None:
    for value in (np.nan, np.float32("nan"), pd.NA, pd.NaT, Decimal("NaN"), math.inf):
        with pytest.raises(aio.ConfigurationError, match=name):
            generate(ROWS.head(1), **{name: value})
        if name == "max_credits":
            with pytest.raises(aio.ConfigurationError, match=name):
                aio.estimate(ROWS, "image", prompt="caption", max_credits=value)
    assert aio_sandbox_env.requests == {}


def test_a_mistyped_ledger_is_refused_and_a_new_one_is_told_of(
    aio_sandbox_env: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typo = tmp_path / "typo" / "dir" / "l.sqlite"
    out = tmp_path / "out"
    for ledger in (typo, str(typo), f"sqlite:///{typo}"):
        with pytest.raises(LedgerUnavailableError, match=r"the folder '.*/typo/dir' does not exist. Mend"):
            generate(ROWS.head(1), ledger=ledger, output=out)
    ROWS.head(1).to_parquet(tmp_path / "in.parquet")
    call = ("generate", tmp_path / "in.parquet", "image", "-c", "prompt=caption", "-o", out)
    assert "does not exist. Mend the path" in run(*call, "--ledger", typo)
    assert "does not exist. Mend the path" in run("budget", "set", 5, "--total", "--ledger", typo)
    with monkeypatch.context() as patch:
        patch.setenv("AIO_LEDGER", str(typo))
        with pytest.raises(LedgerUnavailableError, match="does not exist"):
            generate(ROWS.head(1))
        with pytest.raises(LedgerUnavailableError, match="does not exist"):
            aio.estimate(ROWS, "image", prompt="caption")
    assert aio_sandbox_env.requests == {} and not out.exists() and not (tmp_path / "typo").exists()

    new = tmp_path / "new.sqlite"
    for said in ([f"ledger: {new} (new)"], []):
        generate(ROWS.head(1), ledger=new, progress=True)
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("ledger")] == said
    monkeypatch.delenv("AIO_LEDGER")
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / "mine" / name)
    generate(ROWS.head(1), progress=True)
    assert "ledger" not in capsys.readouterr().err
    assert (tmp_path / "mine" / "aio-provider" / "ledger.sqlite").exists()


# -- values


def test_a_value_that_is_documented_for_no_model_is_warned_of(aio_sandbox_env: Sandbox) -> None:
    with pytest.warns(UserWarning, match=r"aspect_ratio: 'banana' is documented for no model.*'16:9'"):
        out = generate(ROWS.head(1), params={"aspect_ratio": "banana"})
    assert len(out) == 1
    with pytest.raises(aio.AioError, match=r"'banana' is not one of '1:1'"):  # this model's page lists them
        generate(ROWS.head(1), model="imagen-4", params={"aspect_ratio": "banana"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(ROWS.head(1), params={"aspect_ratio": "16:9"})


def test_of_rows_each_such_value_is_warned_of_once(aio_sandbox_env: Sandbox) -> None:
    df = ROWS.head(6).assign(ratio=["16:9", "banana", "banana", "apple", "1:1", "apple"])
    with pytest.warns(UserWarning) as caught:
        generate(df, aspect_ratio="ratio")
    assert sorted(str(one.message)[:22] for one in caught) == [
        "aspect_ratio: 'apple' ",
        "aspect_ratio: 'banana'",
    ]


@pytest.mark.parametrize("output", [None, "out.parquet", "out/"])
def test_a_warning_points_at_the_users_line(
    aio_sandbox_env: Sandbox, tmp_path: Path, output: str | None
) -> None:
    to = {} if output is None else {"output": f"{tmp_path}/{output}"}
    df = ROWS.head(4).assign(ratio=["banana", "16:9", "apple", "pear"])

    async def awaited() -> None:
        await aio.agenerate(df, "image", prompt="caption", aspect_ratio="ratio", progress=False, **to)

    for call in (lambda: generate(df, aspect_ratio="ratio", **to), lambda: asyncio.run(awaited())):
        with pytest.warns(UserWarning, match="documented for no model") as caught:
            call()
        assert [one.filename for one in caught] == [__file__] * 3


BAD = "bad \ud800 text"


def test_half_a_character_is_one_rows_error(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    df = pd.DataFrame(
        {"caption": ["a red chair", BAD, "a blue cup"], "sku": ["a", "b", BAD], "n": [BAD, 1, 2]},
        index=list("xyz"),
        dtype=object,
    )
    out = generate(df)
    assert out["aio_status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert "prompt: the text in column 'caption' of this row holds half of a char" in out["aio_error"].iloc[1]
    for output in ("out.parquet", "out/"):
        for frame, where in ((df, "'caption' .* row 'y'"), (df.loc[["x", "z"]], "'sku' .* row 'z'")):
            with pytest.raises(aio.ConfigurationError, match=f"column {where}. Mend the text"):
                generate(frame, output=f"{tmp_path}/{output}")
    assert generate(df, prompt=aio.template("A photo of {caption}"))["aio_status"].tolist() == [
        "succeeded",
        "failed",
        "succeeded",
    ]
    out = generate(df, key="sku")
    assert out["aio_status"].tolist() == ["succeeded", "failed", "failed"]
    assert "The key column 'sku' holds half of a character" in out["aio_error"].iloc[2]
    assert aio.estimate(df, "image", prompt="caption").invalid == 1
    for bad in (aio.lit(BAD), aio.template(BAD + "{caption}")):
        with pytest.raises(aio.InvalidRequestError, match="prompt: the text holds half of a character"):
            generate(df, prompt=bad)
    with pytest.raises(aio.InvalidRequestError, match="style: the text holds"):
        generate(df, "music", params={"style": [BAD]})


def test_half_a_character_in_files_and_batches(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A batch of the iterator: column 'caption' holds half"):
        generate(iter([pd.DataFrame({"caption": [BAD]}, dtype=object)]), output=tmp_path / "out")
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"caption": "a red chair"}\n{"caption": "a red chair", "x": "bad \\ud800"}\n')
    for to in ({}, {"output": tmp_path / "out"}):
        with pytest.raises(ValueError, match="line 2: the field 'x' holds half of a character"):
            generate(lines, **to)
    assert aio_sandbox_env.requests == {}


@pytest.mark.parametrize("output", ["out.parquet", "out/"])
def test_a_column_of_several_kinds_is_named(aio_sandbox_env: Sandbox, tmp_path: Path, output: str) -> None:
    df = pd.DataFrame({"caption": ["a red chair", "a cup", "a lamp"], "mix": ["a", 1, None]})
    with pytest.raises(aio.ConfigurationError) as caught:
        generate(df, output=f"{tmp_path}/{output}")
    said = str(caught.value)
    assert "column 'mix' holds values of several kinds (int, str). Convert it (for example" in said
    assert "df['mix'] = df['mix'].astype(str)" in said
    assert aio_sandbox_env.requests == {}


# -- the address


@pytest.mark.parametrize("kind", ["image", "chat"])
def test_an_address_without_its_path_stops_at_the_first_answer(
    aio_sandbox_env: Sandbox, tmp_path: Path, kind: str
) -> None:
    root = aio_sandbox_env.base_url.removesuffix("/api/v1")
    with pytest.raises(aio.ConfigurationError, match=r"AIO_BASE_URL .*usually ends in /api/v1") as caught:
        generate(ROWS, kind, base_url=root)
    frame = caught.value.frame  # type: ignore[attr-defined]
    assert set(frame["aio_status"]) == {"not_submitted"}
    assert generate(ROWS.head(2), kind)["aio_status"].tolist() == ["succeeded"] * 2


@pytest.mark.parametrize("answer", ["<html>Not Found</html>", '{"detail": "Not Found"}', ""])
def test_a_404_that_is_no_envelope_is_a_wrong_address(answer: str) -> None:
    import httpx

    transport = httpx.MockTransport(lambda request: httpx.Response(404, text=answer))
    with aio.AioClient("aio_key_1234", "https://example.com", transport=transport) as client:
        with pytest.raises(aio.ConfigurationError, match=r"https://example\.com has no /images"):
            client.submit(aio.GenerationRequest.image("a red chair"))
        with pytest.raises(aio.NotFoundError):  # a route that nobody documents may not be there
            client.request("POST", "/images/novelties", json={})


def test_a_404_of_the_service_is_about_the_model() -> None:
    import httpx

    said = {"error": {"code": 404, "message": "Model not found", "type": "not_found"}}
    transport = httpx.MockTransport(lambda request: httpx.Response(404, json=said))
    with (
        aio.AioClient("aio_key_1234", "https://example.com", transport=transport) as client,
        pytest.raises(aio.NotFoundError, match="Model not found"),
    ):
        client.submit(aio.GenerationRequest.image("a red chair"))


# -- CSV files that are not as usual


@pytest.fixture
def semicolons(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_bytes("caption;price\nein grüner Stuhl;5\neine blaue Lampe;7\n".encode("cp1252"))
    return path


@pytest.mark.parametrize("output", [None, "out"])
def test_a_csv_file_says_what_it_is_lacking(
    aio_sandbox_env: Sandbox, semicolons: Path, tmp_path: Path, output: str | None
) -> None:
    to = {} if output is None else {"output": tmp_path / output}
    with pytest.raises(ValueError, match=r"not written in utf-8 \(byte 0xfc\).*encoding='cp1252'"):
        generate(semicolons, **to)
    with pytest.raises(aio.InvalidRequestError, match=r"read the CSV file with delimiter=';'"):
        generate(semicolons, encoding="cp1252", **to)
    out = generate(semicolons, encoding="cp1252", delimiter=";", **to)
    rows = out if output is None else out.read()
    assert rows["caption"].tolist() == ["ein grüner Stuhl", "eine blaue Lampe"]
    assert rows["price"].tolist() == [5, 7]
    assert {sent.body["prompt"] for sent in aio_sandbox_env.submissions} == set(rows["caption"])
    estimate = aio.estimate(semicolons, "image", prompt="caption", encoding="cp1252", delimiter=";")
    assert (estimate.rows, estimate.reused) == (2, 2)


@pytest.mark.parametrize("output", [None, "out"])
def test_an_empty_csv_file_is_called_empty(tmp_path: Path, output: str | None) -> None:
    (tmp_path / "in.csv").touch()
    to = {} if output is None else {"output": tmp_path / output}
    with pytest.raises(ValueError, match=r"cannot be read as CSV: it is empty, and should begin with a line"):
        generate(tmp_path / "in.csv", **to)


def test_how_a_csv_file_is_written_must_make_sense(semicolons: Path, tmp_path: Path) -> None:
    for arguments, says in [
        ({"encoding": "utf-9"}, "no such encoding"),
        ({"delimiter": ";;"}, "one character"),
        ({"dtype": "int"}, "dtype='int': it must be 'str'"),
    ]:
        with pytest.raises(aio.ConfigurationError, match=says):
            generate(semicolons, **arguments)
    for dtype in ({"sku": "str"}, int):
        with pytest.raises(TypeError, match=f"dtype must be str, not {type(dtype).__name__}"):
            generate(semicolons, dtype=dtype)
    ROWS.to_parquet(tmp_path / "in.parquet")
    for to in ({}, {"output": tmp_path / "out"}):
        for arguments in ({"delimiter": ";"}, {"dtype": "str"}):
            with pytest.raises(ValueError, match="dtype are for CSV files, and this is Parquet"):
                generate(tmp_path / "in.parquet", **arguments, **to)


# -- the command


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert "Traceback" not in result.output
    return result.output


def test_the_command_takes_them_too(aio_sandbox_env: Sandbox, semicolons: Path, tmp_path: Path) -> None:
    call = (semicolons, "image", "-c", "prompt=caption")
    out = ("-o", tmp_path / "out.parquet")
    assert "such as --encoding cp1252" in run("generate", *call, *out)
    assert "read the CSV file with --delimiter ';'" in run("estimate", *call, "--encoding", "cp1252")
    written = ("--encoding", "cp1252", "--delimiter", ";")
    said = run("estimate", *call, *written, "--max-credits", 10)
    assert said.startswith("10 credits; 2 of 2 rows") and "--max-credits 10 is enough for all of it." in said
    assert "--max-credits 9 is not enough" in run("estimate", *call, *written, "--max-credits", 9)
    assert "2 succeeded" in run("generate", *call, *written, *out, "--max-credits", 10)
    tabs = tmp_path / "tabs.csv"
    tabs.write_text("caption\tprice\na red chair\t5\n")
    assert r"--delimiter '\t'" in run("estimate", tabs, "image", "-c", "prompt=caption")
    assert run("estimate", tabs, "image", "-c", "prompt=caption", "--delimiter", r"\t").startswith(
        "5 credits"
    )


def test_the_command_speaks_of_its_own_options(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ROWS.head(2).to_csv("in.csv", index=False)
    call = ("generate", "in.csv", "image", "-c", "prompt=caption")
    assert "--output out.csv: the result is written as Parquet" in run(*call, "-o", "out.csv")
    assert "--max-credits -5; it must be 0 or more" in run(*call, "-o", "o.parquet", "--max-credits", -5)
    for limit in ("nan", "inf"):
        assert f"--max-credits {limit}" in run(*call, "-o", "o.parquet", "--max-credits", limit)
        assert f"--max-credits {limit}" in run("estimate", *call[1:], "--max-credits", limit)
        assert "requests" in run(*call, "-o", "o.parquet", "--requests-per-minute", limit)
    assert aio_sandbox_env.requests == {}
    assert "2 succeeded" in run(*call, "-o", "o.parquet")
    said = run("generate", "in.csv", "image", "-t", "prompt=Two {caption}", "-o", "o.parquet")
    assert "--output o.parquet exists and holds the result of another call. It differs in prompt." in said
    assert "--time-scale: must be 0 or more" in run("sandbox", "--time-scale", -1)
    assert "--month 2026-13: give one month" in run("budget", "set", 5, "--total", "--month", "2026-13")
