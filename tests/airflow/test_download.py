"""The download operator: what it takes, where it puts it, and what it does about a URL that is gone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, Asset

from aio_provider.api.errors import InvalidRequestError, NotFoundError
from aio_provider.operators.aio import AioDownloadOperator, AioGenerateImageOperator
from aio_provider.sandbox import Sandbox

from .conftest import Instance, wait_inline


@pytest.fixture
def made(aio_sandbox_env: Sandbox) -> dict[str, Any]:
    """A finished picture's result."""
    operator = AioGenerateImageOperator(task_id="picture", prompt="a red fox")
    return wait_inline(operator, Instance().context(operator))


def download(source: Any, output_path: str, **arguments: Any) -> list[dict[str, Any]]:
    operator = AioDownloadOperator(task_id="it", source=source, output_path=output_path, **arguments)
    return operator.execute(Instance().context(operator))


def test_a_result_into_a_folder(made: dict[str, Any], tmp_path: Path) -> None:
    [file] = download(made, f"{tmp_path}/new/folder/")
    path = tmp_path / "new" / "folder" / f"{made['task_id']}-1.png"
    assert file == {
        "url": made["urls"][0],
        "path": str(path),
        "bytes": path.stat().st_size,
        "task_id": made["task_id"],
    }
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_url_to_a_file(made: dict[str, Any], tmp_path: Path) -> None:
    [file] = download(made["urls"][0], str(tmp_path / "fox.png"))
    assert (tmp_path / "fox.png").exists() and file["task_id"] is None


def test_nested_lists_in_order(made: dict[str, Any], tmp_path: Path) -> None:
    files = download([[made], (made["urls"][0],), iter([made])], f"{tmp_path}/")
    assert [file["task_id"] for file in files] == [made["task_id"], None, made["task_id"]]


def test_to_an_object_store(made: dict[str, Any]) -> None:
    import fsspec

    download(made, "memory://bucket/pictures/")
    assert fsspec.filesystem("memory").cat(f"/bucket/pictures/{made['task_id']}-1.png").startswith(b"\x89PNG")


def test_names_take_nothing_from_a_url_but_a_plain_ending(made: dict[str, Any], tmp_path: Path) -> None:
    evil = {"task_id": "../../up", "urls": [made["urls"][0] + "?x=/../../etc/passwd"]}
    [file] = download(evil, f"{tmp_path}/")
    assert Path(file["path"]).parent == tmp_path and Path(file["path"]).name == "______up-1.png"


def test_a_url_that_is_gone_is_asked_for_again(
    made: dict[str, Any], aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    old = {**made, "urls": [f"{aio_sandbox_env.origin}/files/gone.png"]}
    [file] = download(old, f"{tmp_path}/")
    assert Path(file["path"]).read_bytes().startswith(b"\x89PNG")
    assert file["url"] == old["urls"][0]
    assert aio_sandbox_env.requests["submit"] == 1, "a free GET"


def test_a_url_without_a_task_stays_gone(
    made: dict[str, Any], aio_sandbox_env: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError):
        download(f"{aio_sandbox_env.origin}/files/gone.png", f"{tmp_path}/")


def test_too_large(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="max_bytes"):
        download(made, f"{tmp_path}/", max_bytes=10)
    assert list(tmp_path.glob("*.png")) == []


def test_private_hosts_are_refused_for_a_public_service(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", "aio://:aio_key_0123456789@apiin.one")
    with pytest.raises(InvalidRequestError, match="inside this network"):
        download(made, f"{tmp_path}/")
    assert download(made, f"{tmp_path}/", allow_private=True)


@pytest.mark.parametrize(
    ("source", "output_path", "message"),
    [
        (["https://a/1", "https://a/2"], "one.png", "names one file"),
        ([], "one.png", "names one file"),
        (5, "folder/", "must be a URL"),
        ({"url": "https://a/1"}, "folder/", "'url'"),
        ({"task_id": "t", "urls": []}, "folder/", "URLs"),
    ],
)
def test_bad_input(source: Any, output_path: str, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        download(source, output_path)


def test_assets_are_told(made: dict[str, Any], tmp_path: Path) -> None:
    asset, event = Asset("x-aio://files"), SimpleNamespace(extra={})
    operator = AioDownloadOperator(task_id="it", source=made, output_path=f"{tmp_path}/", outlets=[asset])
    operator.execute({**Instance().context(operator), "outlet_events": {asset: event}})
    assert event.extra == {"rows": 1, "credits": 0, "failures": 0, "reused": 0}


def test_template_fields() -> None:
    with DAG("d", schedule=None):
        operator = AioDownloadOperator(task_id="it", source=["{{ x }}"], output_path="{{ x }}/")
    operator.render_template_fields({"x": "there"})  # type: ignore[arg-type]
    assert (operator.source, operator.output_path) == (["there"], "there/")
