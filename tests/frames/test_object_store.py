"""Reading and writing on an object store that speaks S3: a server from a package, over HTTP on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fsspec
import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames.download_records import RECORDS
from aio_provider.frames.partfiles import MANIFEST
from aio_provider.jobs.ledger import Ledger

pytest.importorskip("s3fs", reason="needs s3fs")
moto = pytest.importorskip("moto.server", reason="needs moto[server]")

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

ROWS = 25


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The URL of an empty bucket; settings come from the environment, as they do for users."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = fsspec.filesystem("s3")
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    fs.mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sku": [f"S{n:03d}" for n in range(ROWS)],
            "caption": [f"a red chair, view {n % 20}" for n in range(ROWS)],
            "country": ["de" if n % 3 else "fr" for n in range(ROWS)],
        }
    )


def stream(source: Any, output: str, **arguments: Any) -> Any:
    arguments = {"prompt": "caption", "max_rows_per_part": 10, "progress": False} | arguments
    return aio.generate(source, "image", output=output, **arguments)


def names(url: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return sorted(one[len(path) :].lstrip("/") for one in fs.find(path))


def test_parts_in_and_out_and_run_again(aio_sandbox_env: Sandbox, bucket: str) -> None:
    for number in range(3):
        frame()[number * 10 : number * 10 + 10].to_parquet(f"{bucket}/in/{number}.parquet", index=False)
    result = stream(f"{bucket}/in/*.parquet", f"{bucket}/out/")
    assert result.report.statuses == {"succeeded": ROWS}
    assert names(f"{bucket}/out") == [MANIFEST, *(f"part-{n:05d}.parquet" for n in range(3))]
    first = result.read()
    assert first["sku"].tolist() == frame()["sku"].tolist()

    fs = fsspec.filesystem("s3")
    fs.rm_file(f"{bucket}/out/part-00001.parquet")  # a part that a crash did not leave
    again = stream(f"{bucket}/in/*.parquet", f"{bucket}/out/")
    pd.testing.assert_frame_equal(again.read(), first)
    finished = stream(f"{bucket}/in/", f"{bucket}/out-2/", ledger=None)
    assert finished.report.reused == ROWS
    assert len(aio_sandbox_env.submissions) == ROWS


def test_one_object_is_made_of_the_parts(aio_sandbox_env: Sandbox, bucket: str) -> None:
    frame().to_csv(f"{bucket}/in.csv", index=False)
    result = stream(f"{bucket}/in.csv", f"{bucket}/out.parquet")
    assert names(bucket) == ["in.csv", "out.parquet"]
    assert result.read()["aio_status"].tolist() == ["succeeded"] * ROWS
    again = stream(f"{bucket}/in.csv", f"{bucket}/out.parquet")
    assert again.report.reused == ROWS and names(bucket) == ["in.csv", "out.parquet"]


def test_stopped_and_run_again(aio_sandbox_env: Sandbox, bucket: str) -> None:
    frame().to_json(f"{bucket}/in.jsonl", orient="records", lines=True)
    with pytest.warns(UserWarning, match="13 of 25"):
        stream(f"{bucket}/in.jsonl", f"{bucket}/out", max_credits=60, partition_by="country")
    manifest = json.loads(fsspec.filesystem("s3").cat_file(f"{bucket}/out/{MANIFEST}"))
    assert [part["statuses"].get("succeeded", 0) for part in manifest["parts"]] == [10, 2, 0]
    result = stream(f"{bucket}/in.jsonl", f"{bucket}/out", partition_by="country")
    assert result.report.statuses == {"succeeded": ROWS} and len(aio_sandbox_env.submissions) == ROWS
    found = result.read().sort_values("sku", ignore_index=True)
    assert found["country"].tolist() == frame()["country"].tolist()
    assert names(f"{bucket}/out")[1] == "country=de/part-00000.parquet"


def test_objects_of_others_are_never_touched(aio_sandbox_env: Sandbox, bucket: str) -> None:
    frame().to_parquet(f"{bucket}/in.parquet", index=False)
    fsspec.filesystem("s3").pipe_file(f"{bucket}/out/mine.txt", b"mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        stream(f"{bucket}/in.parquet", f"{bucket}/out/")
    with pytest.raises(FileNotFoundError):
        stream(f"{bucket}/nothing/*.parquet", f"{bucket}/out-2/")
    assert len(aio_sandbox_env.submissions) == 0


def test_a_frame_to_an_object(aio_sandbox_env: Sandbox, bucket: str) -> None:
    out = aio.generate(frame(), "image", prompt="caption", output=f"{bucket}/frame.parquet", progress=False)
    found = pd.read_parquet(f"{bucket}/frame.parquet")
    assert found["aio_task_id"].tolist() == out["aio_task_id"].tolist()
    assert names(bucket) == ["frame.parquet"]
    with Ledger.open() as ledger:
        assert len(list(ledger.entries())) == ROWS


def test_results_are_downloaded_to_objects_and_kept(aio_sandbox_env: Sandbox, bucket: str) -> None:
    out = aio.generate(frame().head(4), "image", prompt="caption", progress=False)
    saved = aio.download(out, f"{bucket}/pictures", names="sku", progress=False)
    assert saved["aio_file_error"].isna().all()
    fs = fsspec.filesystem("s3")
    assert sorted(fs.ls(f"{bucket}/pictures", detail=False)) == [
        f"{bucket}/pictures/{name}".removeprefix("s3://")
        for name in (RECORDS, *(f"S{n:03d}.png" for n in range(4)))
    ]
    assert [fs.size(path) for path in saved["aio_file"]] == saved["aio_bytes"].tolist()
    fs.rm_file(saved["aio_file"][1])
    nowhere = [[f"{aio_sandbox_env.origin}/nothing/{n}.png"] for n in range(4)]
    out["aio_urls"] = [urls if n == 1 else nowhere[n] for n, urls in enumerate(out["aio_urls"])]
    polls = aio_sandbox_env.requests["poll"]
    again = aio.download(out, f"{bucket}/pictures", names="sku", progress=False)
    assert again["aio_sha256"].tolist() == saved["aio_sha256"].tolist()
    assert fs.exists(saved["aio_file"][1]) and aio_sandbox_env.requests["poll"] == polls, "the rest was kept"
    fs.pipe_file(saved["aio_file"][3], b"mine")
    with pytest.raises(FileExistsError, match="has been changed since"):
        aio.download(out, f"{bucket}/pictures", names="sku", progress=False)


def test_a_streamed_result_is_downloaded_a_part_at_a_time_and_run_again(
    aio_sandbox_env: Sandbox, bucket: str
) -> None:
    frame().to_parquet(f"{bucket}/in.parquet", index=False)
    result = stream(f"{bucket}/in.parquet", f"{bucket}/out/")
    with pytest.raises(aio.ConfigurationError, match=r"not given.*own: aio\.download\(result, .*, output="):
        aio.download(result, f"{bucket}/pictures", progress=False)
    pictures, saved_to = f"{bucket}/pictures", f"{bucket}/saved.parquet"
    for _ in range(2):  # the second time every file is there
        saved = aio.download(result, pictures, output=saved_to, progress=False)
        assert (saved.rows, saved.saved, saved.failed) == (ROWS, ROWS, 0)
    by_path = aio.download(f"{bucket}/out/", pictures, output=f"{bucket}/by-path.parquet", progress=False)
    assert by_path.saved == ROWS
    found = pd.read_parquet(saved_to)
    assert found["sku"].tolist() == frame()["sku"].tolist()
    pictures_there = [name for name in names(f"{bucket}/pictures") if not name.startswith(RECORDS)]
    assert len(pictures_there) == ROWS and found["aio_bytes"].sum() == saved.bytes
    with pytest.raises(FileExistsError, match="another call"):
        aio.download(result, f"{bucket}/elsewhere", output=saved_to, progress=False)
