"""An output is one call's from before its first row is sent: whoever comes second sends nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames import claims
from aio_provider.frames.batch import Batch
from aio_provider.frames.claims import CLAIM, LASTS, LOCK
from aio_provider.jobs.ledger import Ledger

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

BASE_URL = "http://127.0.0.1:9/api/v1"
REFUSED = r"holds the result of another call, which is under way, or was stopped \(its claim ends 20.* UTC\)"


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        pd.DataFrame({"caption": [f"{path.stem} {n}" for n in range(3)]}).to_parquet(path)
    return paths


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Any:
    def move(seconds: float) -> None:
        now = claims.time.time() + seconds
        monkeypatch.setattr(claims.time, "time", lambda: now)

    return move


@pytest.fixture(params=["one.parquet", "folder/", "memory://of-claims/one.parquet", "memory://of-claims/f/"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    name = request.param
    yield name if "://" in name else f"{tmp_path}/{name}"
    fs = fsspec.filesystem("memory")
    if fs.exists("/of-claims"):
        fs.rm("/of-claims", recursive=True)


def batch(source: Path, output: Any, **arguments: Any) -> Batch:
    return Batch(source, "image", prompt="caption", output=output, base_url=BASE_URL, **arguments)


def test_the_second_call_is_refused_while_the_first_is_under_way(sources: list[Path], output: str) -> None:
    batch(sources[0], output)
    with pytest.raises(FileExistsError, match=f"{REFUSED}. It differs in the input's name."):
        batch(sources[1], output)
    batch(sources[0], output)  # its next wave, or a run after it was killed
    with pytest.raises(FileExistsError, match=REFUSED):
        batch(sources[1], output)


def test_aio_generate_is_refused_too(aio_sandbox_env: Sandbox, sources: list[Path], output: str) -> None:
    batch(sources[0], output)
    with pytest.raises(FileExistsError, match=REFUSED):
        aio.generate(sources[1], "image", prompt="caption", output=output, progress=False)
    assert aio_sandbox_env.requests == {}


def test_a_claim_ends(sources: list[Path], output: str, later: Any) -> None:
    batch(sources[0], output)
    later(LASTS * 0.9)
    batch(sources[0], output)  # renewed
    later(LASTS * 0.9)
    with pytest.raises(FileExistsError, match=REFUSED):
        batch(sources[1], output)
    later(LASTS * 0.2)
    batch(sources[1], output)
    with pytest.raises(FileExistsError, match=REFUSED):
        batch(sources[0], output)


def test_overwrite_an_owner_and_a_release_end_it_too(sources: list[Path], output: str) -> None:
    batch(sources[0], output, owner="task")
    batch(sources[1], output, owner="task")  # the same task, cleared with other arguments
    batch(sources[0], output, overwrite=True).release()
    first = batch(sources[1], output)
    first.release()
    batch(sources[0], output)


def test_what_is_written_is_no_longer_claimed(
    aio_sandbox_env: Sandbox, sources: list[Path], output: str
) -> None:
    one = batch(sources[0], output)
    with Ledger.open() as ledger:
        one.write(ledger)  # nothing was paid for
    fs, path = fsspec.core.url_to_fs(output)
    assert not [name for name in fs.find(str(Path(path).parent)) if name.endswith(CLAIM)]
    batch(sources[1], output)


def test_nothing_is_left_where_the_first_ended_meanwhile(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is there, and its claim is gone, between the second one's look and its own claim."""
    taken = claims.take

    def ended(fs: Any, root: str, *arguments: Any, **more: Any) -> Any:
        pd.DataFrame({"mine": [1]}).to_parquet(tmp_path / "one.parquet")
        return taken(fs, root, *arguments, **more)

    monkeypatch.setattr("aio_provider.frames.partfiles.take", ended)
    with pytest.raises(FileExistsError, match="not a result"):
        batch(sources[1], tmp_path / "one.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "one.parquet"]


def test_a_claim_that_a_killed_process_did_not_finish(sources: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "one.parquet.parts"
    folder.mkdir()
    (folder / CLAIM).touch()
    with pytest.raises(FileExistsError, match=REFUSED):
        batch(sources[0], tmp_path / "one.parquet")
    os.utime(folder / CLAIM, (0, 0))
    batch(sources[0], tmp_path / "one.parquet")
    assert json.loads((folder / CLAIM).read_text())["until"] > 0


def test_of_two_in_the_same_moment_one_gets_it(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked and found nothing; then both write."""
    output, create = tmp_path / "one.parquet", claims._create

    def the_other_is_faster(*arguments: Any) -> Any:
        monkeypatch.setattr(claims, "_create", create)
        batch(sources[0], output)
        return create(*arguments)

    monkeypatch.setattr(claims, "_create", the_other_is_faster)
    with pytest.raises(FileExistsError, match=REFUSED):
        batch(sources[1], output)
    batch(sources[0], output)


# -- calls of aio.generate: while they run


@pytest.mark.parametrize("name", ["one.parquet", "folder/"])
def test_two_calls_at_once_do_not_write_one_output(
    aio_sandbox_env: Sandbox, sources: list[Path], tmp_path: Path, name: str
) -> None:
    """The same call twice, as two processes may make it: the second one is refused and sends nothing."""
    output = f"{tmp_path}/{name}"

    def call(**arguments: Any) -> Any:
        return aio.generate(sources[0], "image", prompt="caption", output=output, progress=False, **arguments)

    seen: list[str] = []

    def second(*_: Any) -> None:
        for more in ({}, {"overwrite": True}):
            with pytest.raises(FileExistsError) as caught:
                call(**more)
            seen.append(str(caught.value))

    aio_sandbox_env.add_fault("slow")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call)
        folder = tmp_path / (name.rstrip("/") if name.endswith("/") else f"{name}.parts")
        while not (folder / LOCK).exists():
            assert not first.done()
        second()
        assert first.result().report.statuses == {"succeeded": 3}
    assert f"is being written by another call (process {os.getpid()} on " in seen[0] == seen[1]
    assert len(aio_sandbox_env.submissions) == 3
    assert not (folder / LOCK).exists()
    assert call().report.reused == 3


def test_a_killed_process_leaves_no_lock(
    aio_sandbox_env: Sandbox, sources: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    code = (
        "import sys, time; from aio_provider.frames.claims import Lock\n"
        "lock = Lock.take(sys.argv[1], 'it'); print('taken', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"taken\n"
        with pytest.raises(FileExistsError, match=rf"written by another call \(process {other.pid} on "):
            aio.generate(sources[0], "image", prompt="caption", output=output, progress=False)
        assert aio_sandbox_env.requests == {}
        other.kill()
        other.wait()
    assert (output / LOCK).exists()
    out = aio.generate(sources[0], "image", prompt="caption", output=output, progress=False)
    assert out.report.statuses == {"succeeded": 3}
    assert not (output / LOCK).exists()


def test_a_call_that_was_stopped_leaves_no_lock(
    aio_sandbox_env: Sandbox, sources: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(aio.AioError) as caught:
        aio.generate(
            sources[0], "image", prompt="caption", output=output, progress=False, api_key="aio_wrong_key_123"
        )
    assert caught.value is not None  # kept, as a notebook keeps it
    aio.generate(sources[0], "image", prompt="caption", output=output, progress=False)
