"""``aio ledger``: what a person sees and settles."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aio_provider.api.requests import GenerationRequest
from aio_provider.cli import main
from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox import Sandbox
from tests.jobs.ledger_helpers import bring_to, job, request, state


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("AIO_LEDGER", str(path))
    return path


@pytest.fixture
def book(path: Path) -> Ledger:
    with Ledger.open(path) as ledger:
        for wanted in JobState:
            bring_to(ledger, f"key-{wanted.value}", wanted)
        yield ledger


def aio(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, ["ledger", *arguments], input=stdin)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_show_tells_the_totals_the_open_jobs_and_what_to_do(book: Ledger) -> None:
    said = aio("show").output
    assert book.url in said
    assert "key-accepted  accepted  image  flux-2  task-key-accepted" in said
    assert "key-unknown" in said and "no answer" in said
    assert "key-succeeded" not in said and "key-planned" not in said
    assert "aio ledger resolve KEY --not-submitted" in said
    assert "5 credits" in said


def test_show_one_job_in_full_and_by_state(book: Ledger) -> None:
    assert f"fingerprint: {request().fingerprint}" in aio("show", "key-succ").output
    listed = json.loads(aio("show", "--state", "failed", "--state", "planned", "--json").output)
    assert [job["key"] for job in listed] == ["key-failed", "key-planned"]
    assert "no job begins with 'zzz'" in aio("show", "zzz", code=1).output
    assert "several jobs begin with 'key-'" in aio("show", "key-", code=1).output
    assert "none of planned, intended" in aio("show", "--state", "lost", code=2).output
    assert "… and 2 more: --limit 3" in aio("show", "--limit", "1").output


def test_show_past_attempts(book: Ledger) -> None:
    book.forget(["key-succeeded"])
    assert "key-succeeded" in aio("show", "--past").output


def test_resolve_by_the_beginning_of_a_key(book: Ledger) -> None:
    assert "key-unknown  accepted" in aio("resolve", "key-unk", "--task-id", "n41", "--no-check").output
    assert book.get(["key-unknown"])["key-unknown"].task_id == "n41"
    assert "nothing to settle" in aio("resolve", "key-unk", "--not-submitted", code=1).output
    assert "give either" in aio("resolve", "key-unk", code=2).output
    assert "give either" in aio("resolve", "key-unk", "--task-id", "x", "--not-submitted", code=2).output
    assert "just being submitted" in aio("resolve", "key-int", "--not-submitted", code=1).output
    aio("resolve", "key-int", "--not-submitted", "--force")
    assert state(book, "key-intended") is JobState.PLANNED


@pytest.fixture
def lost_network(path: Path) -> Iterator[Ledger]:
    """Sixty submissions of two DAGs without an answer, five of them to another service, and one with one."""
    with Ledger.open(path) as ledger:
        for service, first, last in (
            ("https://apiin.one/api/v1", 0, 55),
            ("http://127.0.0.1/api/v1", 55, 60),
        ):
            names = [f"lost-{n:02}" for n in range(first, last)]
            jobs = [job(key, key, {"dag_id": "shop" if key < "lost-50" else "crm"}) for key in names]
            ledger.plan(jobs, owner="me", scope=service)
            ledger.intend(names, owner="me")
            ledger.hold([(key, "no answer") for key in names], owner="me")
        bring_to(ledger, "taken", JobState.ACCEPTED)
        yield ledger


def test_many_are_settled_at_once_after_a_look_and_a_question(lost_network: Ledger) -> None:
    held = ("resolve", "--state", "unknown", "--not-submitted")
    for answer in (
        "n\n",
        "\n",
        "",
    ):  # no is the default; the end of input is what there is without a terminal
        asked = aio(*held, "--dag-id", "crm", code=1, stdin=answer).output
        assert (
            "Settle 10 jobs as never submitted" in asked and "pays again for what the service took" in asked
        )
        assert asked.count("dag_id=crm") == 10 and "dag_id=shop" not in asked
        assert "https://apiin.one/api/v1: 5 jobs, up to 25 credits at stake" in asked
        assert "http://127.0.0.1/api/v1: 5 jobs, up to 25 credits at stake" in asked
        assert lost_network.counts()[JobState.UNKNOWN][0] == 60
    assert "10 settled: the next run submits them" in aio(*held, "--dag-id", "crm", stdin="y\n").output
    assert lost_network.counts()[JobState.PLANNED][0] == 10

    said = aio(*held, "--yes").output
    assert "lost-49" in said and "… and " not in said and "50 settled" in said
    assert lost_network.counts() == {JobState.PLANNED: (60, 0.0), JobState.ACCEPTED: (1, 0.0)}
    assert "nothing was settled" in aio(*held, "--yes", code=1).output


def test_a_long_preview_is_cut(lost_network: Ledger) -> None:
    said = aio("resolve", "--state", "unknown", "--not-submitted", code=1, stdin="n\n").output
    assert "… and 10 more" in said and "Settle 60 jobs as never submitted" in said


def test_several_keys_are_settled_together_or_none(lost_network: Ledger) -> None:
    assert "several jobs begin" in aio("resolve", "lost-00", "lost-", "--not-submitted", "-y", code=1).output
    refused = aio("resolve", "lost-00", "taken", "--not-submitted", "--yes", code=1).output
    assert "job taken is accepted, not unknown: nothing was settled" in refused
    assert lost_network.counts()[JobState.UNKNOWN][0] == 60
    asked = aio("resolve", "lost-00", "lost-01", "lost-00", "--not-submitted", stdin="y\n").output
    assert "Settle 2 jobs as never submitted" in asked and "2 settled" in asked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--not-submitted"], "say which"),
        (["--not-submitted", "--dag-id", "shop", "--yes"], "say which: KEYS, or --state unknown"),
        (["--not-submitted", "--state", "intended"], "'unknown'"),
        (["lost-00", "--not-submitted", "--state", "unknown"], "either KEYS or"),
        (["lost-00", "lost-01", "--task-id", "n41"], "--task-id is for one job"),
        (["--state", "unknown", "--task-id", "n41"], "--task-id is for one job"),
        (["--state", "unknown", "--not-submitted", "--force", "--yes"], "--force is for one job"),
        (["--state", "unknown", "--yes"], "give either --task-id"),
    ],
)
def test_settling_many_has_no_short_cut(lost_network: Ledger, arguments: list[str], said: str) -> None:
    assert said in aio("resolve", *arguments, code=2).output
    assert lost_network.counts()[JobState.UNKNOWN][0] == 60


def test_forget_asks_first(book: Ledger) -> None:
    aio("forget", "key-succ", code=1, stdin="n\n")
    assert book.get(["key-succeeded"])
    assert "1 forgotten" in aio("forget", "key-succ", stdin="y\n").output
    assert "1 forgotten" in aio("forget", "--state", "failed", "--yes").output
    assert "nothing matches" in aio("forget", "--dag-id", "none", "--yes", code=1).output
    assert "may have been charged" in aio("forget", "key-acc", "--yes", code=1).output
    assert "1 forgotten" in aio("forget", "key-acc", "--yes", "--force").output
    assert "say which" in aio("forget", "--yes", code=2).output
    assert "either KEYS or filters" in aio("forget", "k", "--model", "m", code=2).output
    assert set(book.get([f"key-{wanted.value}" for wanted in JobState])) == {
        "key-planned", "key-intended", "key-expired", "key-unknown",
    }  # fmt: skip


def test_prune(book: Ledger, tmp_path: Path) -> None:
    asked = aio("prune", "--older-than", "30d", "--to", str(tmp_path / "old"), code=1, stdin="n\n").output
    assert "pays for it again" in asked and "30d ago" in asked
    assert "0 rows" in aio("prune", "--older-than", "30d", "--to", str(tmp_path / "old"), "--yes").output
    said = aio("prune", "--older-than", "0s", "--to", str(tmp_path / "old"), "-y").output
    assert said.startswith("3 rows, 15 credits, 1 file\n")
    assert "3 rows archived, 15 credits, in 1 file\n" in aio("show").output
    assert "such as 90d" in aio("prune", "--older-than", "soon", "--to", "x", code=2).output


def test_a_ledger_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    said = aio("show", "--ledger", str(tmp_path), code=1).output
    assert "is a directory" in said


@pytest.mark.parametrize("command", [["show"], ["resume"], ["prune", "--older-than=1d", "--to=x", "-y"]])
def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path, command: list[str]) -> None:
    missing = tmp_path / "mistyped.sqlite"
    said = aio(*command, "--ledger", str(missing), code=1).output
    assert f"There is no ledger at sqlite:///{missing}" in said
    assert not missing.exists()


def test_resume_collects_what_is_in_flight(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aio_provider.api.client import AioClient

    with Sandbox(time_scale=0.001, requests_per_minute=0, seed=1) as sandbox:
        for name, value in {
            "AIO_API_KEY": sandbox.api_key,
            "AIO_BASE_URL": sandbox.base_url,
            "AIO_REQUESTS_PER_MINUTE": "0",
            "AIO_LATENCY_SCALE": "0.001",
        }.items():
            monkeypatch.setenv(name, value)
        with AioClient() as client, Ledger.open(path) as ledger:
            tasks = {key: client.submit(request(f"a lamp {key}")).id for key in ("a", "b", "c")}
            for key, task_id in tasks.items():
                scope = "https://elsewhere/api/v1" if key == "c" else sandbox.base_url
                ledger.plan([job(key, f"a lamp {key}")], owner="me", scope=scope)
                ledger.intend([key], owner="me")
                ledger.accept([(key, task_id)], owner="me")
            ledger.forget(["b"], force=True)  # a past attempt's credits count as well
            ledger.plan([job("gone")], owner="me", scope=sandbox.base_url)
            ledger.intend(["gone"], owner="me")
            before = len(sandbox.submissions)
            said = aio("resume").output
            assert "2 succeeded, 0 failed, 0 expired, 0 still running; 10 credits" in said
            assert "1 job of another service." in said
            assert "  aio ledger resume --base-url https://elsewhere/api/v1\n" in said
            assert len(sandbox.submissions) == before
            done = ledger.get(["a"])["a"]
            assert (done.state, done.credits, len(done.urls)) == (JobState.SUCCEEDED, 5.0, 1)
            [past] = ledger.past_entries()
            assert (past.state, past.credits) == (JobState.SUCCEEDED, 5.0)
            assert state(ledger, "gone") is JobState.INTENDED


def test_resume_with_a_wrong_key_is_one_line(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(time_scale=0.001, requests_per_minute=0) as sandbox:
        monkeypatch.setenv("AIO_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("AIO_API_KEY", "aio_some_other_key")
        monkeypatch.setenv("AIO_REQUESTS_PER_MINUTE", "0")
        said = aio("resume", code=1).output
        assert said.startswith("Error:") and "aio_some_other_key" not in said
        monkeypatch.delenv("AIO_API_KEY")
        assert "AIO_API_KEY" in aio("resume", code=1).output


def test_keys_are_shown_short_and_taken_short(path: Path) -> None:
    with Ledger.open(path) as ledger:
        key = "5d41402abc4b2a76" + "0" * 48
        bring_to(ledger, key, JobState.UNKNOWN)
        bring_to(ledger, "5d41402abc4c" + "1" * 52, JobState.UNKNOWN)
        said = aio("show").output
        assert "\n5d41402abc4b  unknown" in said and key not in said
        assert f"key: {key}" in aio("show", "5d41402abc4b").output
        assert (
            "several jobs begin with '5d41402a'"
            in aio("resolve", "5d41402a", "--not-submitted", code=1).output
        )
        aio("resolve", "5d41402abc4b", "--task-id", "n41", "--no-check")
        assert state(ledger, key) is JobState.ACCEPTED
        assert "1 forgotten" in aio("forget", "5d41402abc4b…", "--yes", "--force").output
        assert "no job begins with ''" in aio("show", "", code=1).output


def test_totals_tell_services_apart_and_count_like_people(path: Path) -> None:
    sandbox, production = "http://127.0.0.1:8000/api/v1", "https://apiin.one/api/v1"
    with Ledger.open(path) as ledger:
        for key, scope, number in (("a", sandbox, 2), ("b", production, 1)):
            for n in range(number):
                [entry] = ledger.plan([job(f"{key}{n}")], owner="me", scope=scope)
                ledger.intend([entry], owner="me")
                ledger.accept([(entry.key, f"task-{entry.key}")], owner="me")
        ledger.forget(["b0"], force=True)
        ledger.plan([job("b0")], owner="me", scope=production)
    lines = aio("show").output.splitlines()
    assert [" ".join(line.split()) for line in lines[1:6]] == [
        sandbox,
        "2 jobs accepted 0 credits",
        production,
        "1 job planned 0 credits",
        "1 past attempt accepted 0 credits",
    ]


def test_json_is_one_document_with_every_job_and_an_empty_one_without(path: Path) -> None:
    assert json.loads(aio("show", "--json").output) == []
    with Ledger.open(path) as ledger:
        ledger.plan([job(f"key-{n:03}", f"cat {n}") for n in range(60)], owner="me")
    assert len(json.loads(aio("show", "--json", "--state", "planned").output)) == 60
    assert len(json.loads(aio("show", "--json", "--state", "planned", "--limit", "3").output)) == 3
    assert "… and 10 more: --limit 60" in aio("show", "--state", "planned").output


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(time_scale=0.001, requests_per_minute=0, seed=1) as sandbox:
        for name, value in {
            "AIO_API_KEY": sandbox.api_key,
            "AIO_BASE_URL": sandbox.base_url,
            "AIO_REQUESTS_PER_MINUTE": "0",
            "AIO_LATENCY_SCALE": "0.001",
        }.items():
            monkeypatch.setenv(name, value)
        yield sandbox


def test_a_task_is_asked_about_before_it_is_written_down(
    book: Ledger, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aio_provider.api.client import AioClient

    with AioClient() as client:
        ours = client.submit(request()).id
        others = client.submit(GenerationRequest.image("a lamp", model="imagen4-ultra")).id
    sent = len(sandbox.submissions)
    refused = aio("resolve", "key-unk", "--task-id", f"{ours}x", code=1).output
    assert f"knows no task '{ours}x'" in refused and "--no-check" in refused
    assert "imagen4-ultra" in (said := aio("resolve", "key-unk", "--task-id", others, code=1).output)
    assert "asked for flux-2" in said
    with monkeypatch.context() as without:
        without.delenv("AIO_API_KEY")
        assert "AIO_API_KEY" in aio("resolve", "key-unk", "--task-id", ours, code=1).output
    with monkeypatch.context() as away:
        away.setenv("AIO_BASE_URL", "http://127.0.0.1:9/api/v1")
        assert "cannot be asked" in aio("resolve", "key-unk", "--task-id", ours, code=1).output
    assert state(book, "key-unknown") is JobState.UNKNOWN
    found = aio("resolve", "key-unk", "--task-id", ours).output
    assert f"task {ours}: " in found and "flux-2" in found and "key-unknown  accepted" in found
    assert len(sandbox.submissions) == sent


def test_a_job_of_another_service_is_not_asked_about_here(path: Path, sandbox: Sandbox) -> None:
    with Ledger.open(path) as ledger:
        ledger.plan([job("k")], owner="me", scope="https://elsewhere/api/v1")
        ledger.intend(["k"], owner="me")
        ledger.hold([("k", "no answer")], owner="me")
    said = aio("resolve", "k", "--task-id", "n41", code=1).output
    assert "sent to https://elsewhere/api/v1" in said and "--base-url https://elsewhere/api/v1, and" in said


def test_the_lines_that_settle_name_service_and_ledger(
    path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aio_provider.api.client import AioClient

    with AioClient() as client:
        task_id = client.submit(request()).id
    with Ledger.open(path) as ledger:
        ledger.plan([job("k")], owner="me", scope=sandbox.base_url)
        ledger.intend(["k"], owner="me")
        ledger.hold([("k", "no answer")], owner="me")
    assert "resolve KEY --task-id ID     it was taken: " in aio("show").output
    monkeypatch.delenv("AIO_BASE_URL")
    monkeypatch.delenv("AIO_LEDGER")
    shown = aio("show", "--ledger", str(path)).output
    line = next(line for line in shown.splitlines() if "--task-id" in line)
    assert f"--base-url {sandbox.base_url} --ledger {path}  it was taken by {sandbox.base_url}" in line
    said = aio("resolve", "k", "--task-id", task_id, "--ledger", str(path), code=1).output
    assert f"with --base-url {sandbox.base_url}, and that service's key" in said
    command = line.partition("  it was")[0].replace("KEY", "k").replace(" ID", f" {task_id}")
    assert "k  accepted" in aio(*command.split()[2:]).output


def test_every_filter_holds_for_the_totals(path: Path) -> None:
    with Ledger.open(path) as ledger:
        bring_to(ledger, "key-failed", JobState.FAILED)
        bring_to(ledger, "key-unknown", JobState.UNKNOWN)
    whole = aio("show").output
    assert "1 job            failed" in whole and "1 job            unknown" in whole
    held = aio("show", "--state", "unknown").output
    assert "1 job            unknown" in held and "1 job            failed" not in held
    assert "1 job            failed" in aio("show", "--model", "flux-2").output
    for filters in (["--model", "nope"], ["--state", "expired"], ["--model", "nope", "--past"]):
        said = aio("show", *filters).output
        assert said.endswith("No jobs.\n") and "1 job" not in said


def test_a_mistyped_id_can_be_mended(book: Ledger, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from aio_provider.api.client import AioClient
    from aio_provider.jobs.poller import Poller

    # A 404 is believed after a minute: here sooner.
    monkeypatch.setitem(Poller.__init__.__kwdefaults__, "not_found_grace", 0.5)
    with AioClient() as client:
        ours = client.submit(request()).id
    aio("resolve", "key-unk", "--task-id", f"{ours}x", "--no-check")
    aio("resume")
    assert state(book, "key-unknown") is JobState.EXPIRED
    assert "nothing to settle" in aio("resolve", "key-unk", "--not-submitted", code=1).output
    aio("resolve", "key-unk", "--task-id", ours)
    mended = book.get(["key-unknown"])["key-unknown"]
    assert (mended.state, mended.task_id, mended.finished_at) == (JobState.ACCEPTED, ours, None)
    aio("resume")
    assert book.get(["key-unknown"])["key-unknown"].credits == 5.0
    # what was charged, or had a result, is no mistake
    assert "nothing to settle" in aio("resolve", "key-exp", "--task-id", "n42", "--no-check", code=1).output


def test_many_resumed_jobs_are_not_a_line_each(path: Path, sandbox: Sandbox) -> None:
    from aio_provider.api.client import AioClient

    keys = [f"key-{n:02}" for n in range(51)]
    with AioClient() as client, Ledger.open(path) as ledger:
        ids = [client.submit(request(key)).id for key in keys]
        ledger.plan([job(key, key) for key in keys], owner="me", scope=sandbox.base_url)
        ledger.intend(keys, owner="me")
        ledger.accept(zip(keys, ids, strict=True), owner="me")
    said = aio("resume").output
    assert "key-00" not in said and "51 succeeded" in said


def test_an_empty_ledger_says_so(path: Path) -> None:
    assert "Empty: no job" in aio("show").output
    with Ledger.open(path) as ledger:
        bring_to(ledger, "k", JobState.SUCCEEDED)
    assert "Empty" not in aio("show").output
    assert "No jobs." in aio("show", "--dag-id", "none").output


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [["show", "--past", "--limit", "9999"], ["show", "--json", "--past"]])
def test_a_reader_that_has_seen_enough_is_no_error(path: Path, arguments: list[str]) -> None:
    with Ledger.open(path) as ledger:
        keys = [f"key-{n:04}" for n in range(2000)]
        ledger.plan([job(key, key) for key in keys], owner="me")
        ledger.intend(keys, owner="me")
        ledger.forget(keys, force=True)
    command = [sys.executable, "-m", "aio_provider.cli", "ledger", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
