from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from aio_provider.cli import main
from aio_provider.jobs.ledger import Ledger

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    pd.DataFrame({"sku": ["a", "b"], "caption": ["a red chair", "a blue lamp"]}).to_csv(path, index=False)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def pictures(table: Path, output: Path, *more: object) -> Result:
    """A picture for each row."""
    return run("generate", table, "image", "-c", "prompt=caption", "-o", output, *more)


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


def test_one_word_turns_a_run_into_its_estimate(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path
) -> None:
    line = [table, "image", "-c", "prompt=caption", "-o", tmp_path / "out", "--partition-by", "sku"]
    line += ["--prefix", "pic_", "--label", "team=growth", "--deadline", "20m", "-q"]
    assert run("estimate", *line).output.startswith("10 credits; 2 of 2 rows would be sent")
    assert not (tmp_path / "out").exists()
    done = run("generate", *line)
    assert done.exit_code == 0, done.output
    assert run("estimate", *line).output.startswith("0 credits")
    assert run("estimate", *line, "--reuse", "never").output.startswith("10 credits; 2 of 2 rows")
    assert "No such option" in run("estimate", *line, "--outptu", "x").output


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
    result = pictures(table, tmp_path / "out.parquet")
    assert result.exit_code == 1
    assert "AIO_API_KEY" in result.output


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_errors_raise_is_exit_code_1(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    result = pictures(
        table,
        tmp_path / "o.parquet",
        "-q",
        "--errors",
        "raise",
    )
    assert result.exit_code == 1
    assert "1 of 2 rows did not succeed" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["image", "-c", "prompt=captoin"], "For a constant, write -p prompt=captoin."),
        (["image"], '(-c prompt=caption) or write a text about columns (-t "prompt=A photo of {product}")'),
        (["remove_background"], "(-c image=photo_url)"),
        (["image", "-c", "prompt=caption", "--reuse", "run"], "--reuse run needs --run-id ..."),
        (["image", "-c", "prompt=caption", "--key", "skew"], "Did you mean 'sku'?"),
        (["image", "-t", "prompt=a chair"], "for a constant text use -p FIELD=TEXT"),
        (["image", "-t", "prompt={} chair"], "name a column, as in {product}"),
    ],
)
def test_a_message_speaks_the_words_of_the_command(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    result = run("generate", table, *arguments, "-o", tmp_path / "out.parquet")
    assert result.exit_code == 1
    assert says in result.output
    assert "aio." not in result.output and "params=" not in result.output
    assert aio_sandbox_env.requests.get("requests", 0) == 0


def test_what_is_there_already_is_kept_unless_an_option_says_so(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    generate = ["generate", table, "image", "-o", out, "-c"]
    result = run(*generate, "prompt=caption")
    assert f"Wrote {out}: 2 rows." in result.output
    refused = run(*generate, "prompt=sku")
    assert "Pass --overwrite to replace it" in refused.output
    assert "Pass --overwrite-columns to allow it" in pictures(out, tmp_path / "two.parquet").output
    assert len(aio_sandbox_env.submissions) == 2


def test_a_missing_file_is_named_without_a_number(tmp_path: Path) -> None:
    said = run(
        "generate", tmp_path / "nowhere.csv", "image", "-c", "prompt=x", "-o", tmp_path / "o.parquet"
    ).output
    assert said == f"Error: {tmp_path / 'nowhere.csv'}: No such file or directory\n"


@pytest.mark.aio_sandbox(faults=["failed"])
def test_a_run_without_any_result_is_exit_code_1(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    result = pictures(table, out)
    assert result.exit_code == 1
    assert f"Wrote {out}" in result.output and "no row has its result; the first says: " in result.output


@pytest.mark.aio_sandbox(faults=["failed@1"])
def test_one_result_of_two_is_exit_code_0(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    assert pictures(table, tmp_path / "o.parquet").exit_code == 0


def test_a_field_that_is_nearly_a_known_one_is_refused_before_it_is_paid_for(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path
) -> None:
    call = [
        "generate",
        table,
        "image",
        "-c",
        "prompt=caption",
        "-p",
        "aspect_rato=16:9",
        "-o",
        tmp_path / "o.parquet",
    ]
    result = run(*call)
    assert (result.exit_code, len(aio_sandbox_env.submissions)) == (2, 0)
    assert "did you mean 'aspect_ratio'?" in result.output
    sent = run(*call, "--as-written")
    assert sent.output.count("Warning: ") == 1 and "site-packages" not in sent.output
    assert aio_sandbox_env.submissions[0].body["aspect_rato"] == "16:9"


def test_everything_about_a_run_is_an_option(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    import inspect

    from aio_provider.cli_generate import generate as command
    from aio_provider.frames.calls import generate

    # Rows and mapping are FILE, KIND, -c, -t and -p; a key in a command line would be in its history; a
    # command has no callback: it logs.
    elsewhere = {"source", "kind", "params", "fields", "progress", "gallery", "api_key"}
    elsewhere |= {"on_budget_event"}
    options = {parameter.name for parameter in command.params}
    assert set(inspect.signature(generate).parameters) - elsewhere <= options

    out = tmp_path / "out.parquet"
    call = ["generate", table, "image", "-c", "prompt=caption", "-c", "model=kind", "-o", out, "--key", "sku"]
    call += ["--reuse", "run", "--run-id", "monday", "--label", "team=shop", "--deadline", "5m"]
    pd.read_csv(table).assign(kind=["flux-2", "imagen4-ultra"]).to_csv(table, index=False)
    assert run(*call).exit_code == 0
    assert [one.model for one in aio_sandbox_env.submissions] == ["flux-2", "imagen4-ultra"]
    assert "2 reused" in run(*call, "--refresh-urls").output
    assert "2 reused" not in run(*call, "--run-id", "tuesday", "--overwrite").output
    shown = run("ledger", "show", "--state", "succeeded", "--json").output
    assert {job["labels"]["team"] for job in json.loads(shown)} == {"shop"}
    assert "NAME=VALUE" in run(*call, "--label", "team").output


def test_an_estimate_names_the_budget_of_its_labels_and_what_is_invalid(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path
) -> None:
    assert run("budget", "set", 3, "--team", "tiny").exit_code == 0
    call = ("estimate", table, "image", "-c", "prompt=caption")
    assert "Budget team tiny, 20" in run(*call, "--label", "team=tiny").output
    assert "Budget" not in run(*call).output
    assert "'tiny' is not NAME=VALUE" in run(*call, "--label", "tiny").output
    assert "--label NAME=VALUE" in run("estimate", "--help").output
    pd.DataFrame({"caption": ["x"]}).to_csv(tmp_path / "bad.csv", index=False)
    said = run("estimate", tmp_path / "bad.csv", "image", "-c", "prompt=caption").output
    assert "Invalid: row 0: prompt: " in said
    assert (
        "row 0"
        in json.loads(
            run("estimate", tmp_path / "bad.csv", "image", "-c", "prompt=caption", "--json").output
        )["first_invalid"]
    )


@pytest.mark.parametrize("command", ["generate", "estimate"])
def test_the_kind_is_missed_where_it_is_missing(command: str, table: Path) -> None:
    said = run(command, table, "-c", "prompt=caption", "-o", "out.parquet")
    assert said.exit_code == 2
    assert (
        f"Invalid value for KIND: {str(table)!r} is none; after the INPUTs comes one of image" in said.output
    )
    assert "Missing argument 'INPUT...'" in run(command, "image", "-c", "prompt=a", "-o", "o.parquet").output


def test_a_label_without_the_blanks_around_it(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    line = ["generate", table, "image", "-c", "prompt=caption", "-o", tmp_path / "out.parquet", "-q"]
    assert run(*line, "--label", "team=  ").exit_code == 2
    assert run(*line, "--label", "team= growth").exit_code == 0
    with Ledger.open() as ledger:
        assert {entry.labels["team"] for entry in ledger.entries()} == {"growth"}


@pytest.mark.aio_sandbox(time_scale=1)
@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_ctrl_c_says_what_is_in_flight(
    aio_sandbox_env: Sandbox, table: Path, tmp_path: Path, quiet: list[str]
) -> None:
    line = ["generate", table, "image", "-c", "prompt=caption", "-o", tmp_path / "out.parquet", *quiet]
    process = subprocess.Popen(
        [sys.executable, "-m", "aio_provider.cli", *map(str, line)], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while len(aio_sandbox_env.submissions) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (
        "Stopped: 2 in flight at the service. The same" if quiet else "2 rows, 0 succeeded, 2 pending"
    ) in said
    assert "The same line again goes on, and pays for nothing twice." in said
    assert "Aborted" not in said and "Traceback" not in said


@pytest.mark.aio_sandbox(faults=["drop-after@1"])
def test_the_ledger_of_held_rows_is_named(aio_sandbox_env: Sandbox, table: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "my ledger.sqlite"
    said = pictures(table, tmp_path / "o.parquet", "--ledger", ledger).output
    assert re.search(rf"aio ledger resolve \w{{12}} --ledger '{ledger}' --task-id ID", said)
    shown = run("ledger", "show", "--ledger", ledger).output
    assert f"--ledger '{ledger}'     it was taken: collect its result" in shown
