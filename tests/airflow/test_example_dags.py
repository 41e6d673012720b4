"""Every example DAG runs, on this Airflow, against the sandbox, and costs what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from aio_provider.sandbox import Sandbox

from .conftest import DAGS_FOLDER

EXAMPLES = Path(__file__).parents[2] / "dags_examples"


@pytest.fixture
def run_example(
    load_dag: Callable[[Path], ModuleType],
    aio_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Run an example to its end, without a ledger in the connection, as a newcomer would."""
    for name, value in aio_sandbox.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIO_LEDGER", str(tmp_path / "ledger.sqlite"))
    monkeypatch.setenv("AIO_EXAMPLE_OUTPUT", str(tmp_path / "output"))
    if not (DAGS_FOLDER / "data").exists():
        (DAGS_FOLDER / "data").symlink_to(EXAMPLES / "data")

    def run(name: str, **conf: Any) -> Any:
        module = load_dag(EXAMPLES / f"{name}.py")
        [dag] = _dags_of(module)
        done = dag.test(run_conf=conf)
        states = {f"{ti.task_id}[{ti.map_index}]": str(ti.state) for ti in done.get_task_instances()}
        assert done.state == "success", states
        return done

    return run


def _dags_of(module: ModuleType) -> list[Any]:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2
        from airflow.models.dagbag import DagBag

    bag = DagBag(module.__file__)
    assert bag.import_errors == {}
    return list(bag.dags.values())


def kinds(sandbox: Sandbox) -> Counter[str]:
    return Counter(submission.kind for submission in sandbox.submissions)


def xcom(run: Any, task_id: str, **arguments: Any) -> Any:
    [instance] = [ti for ti in run.get_task_instances() if ti.task_id == task_id]
    return instance.xcom_pull(task_ids=task_id, **arguments)


def test_each_example_is_tried_here() -> None:
    tried = {name.removeprefix("test_") for name in globals()}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tried


def test_quickstart(run_example: Callable[..., Any], aio_sandbox: Sandbox) -> None:
    source = (EXAMPLES / "quickstart.py").read_text()
    assert len([line for line in source.splitlines() if line]) <= 15
    run = run_example("quickstart")
    assert kinds(aio_sandbox) == {"image": 1}
    result = xcom(run, "picture")
    assert result["credits"] == aio_sandbox.charged
    assert xcom(run, "picture", key="aio_link") == result["urls"][0]


def test_chat(run_example: Callable[..., Any], aio_sandbox: Sandbox) -> None:
    run = run_example("chat", subject="a harbour")
    assert kinds(aio_sandbox) == {"chat": 1, "image": 1}
    asked = next(s for s in aio_sandbox.submissions if s.kind == "chat")
    assert "a harbour" in asked.body["messages"][1]["content"]
    drawn = next(s for s in aio_sandbox.submissions if s.kind == "image")
    assert drawn.body["prompt"] == xcom(run, "idea")["text"]


def test_wait_for_task(run_example: Callable[..., Any], aio_sandbox: Sandbox) -> None:
    run = run_example("wait_for_task")
    assert kinds(aio_sandbox) == {"image": 1}
    assert xcom(run, "wait")["status"] == "succeeded"


def test_speech_and_music(run_example: Callable[..., Any], aio_sandbox: Sandbox, tmp_path: Path) -> None:
    run_example("speech_and_music")
    assert kinds(aio_sandbox) == {"music": 1, "speech": 2}
    files = sorted((tmp_path / "output" / "audio").iterdir())
    assert len(files) >= 3 and all(file.stat().st_size > 0 for file in files)


def test_enrich_catalog(run_example: Callable[..., Any], aio_sandbox: Sandbox, tmp_path: Path) -> None:
    import pandas as pd

    run = run_example("enrich_catalog", limit=3, output=str(tmp_path / "mine"))
    assert kinds(aio_sandbox) == {"image": 3, "remove_background": 3, "video": 1}
    table = pd.read_parquet(tmp_path / "mine" / "enriched_catalog.parquet")
    assert len(table) == 3 and table["sku"].is_unique
    assert table["credits"].sum() == aio_sandbox.charged == xcom(run, "credits_by_model")["total"]
    assert set(table["picture_status"]) == {"succeeded"}
    assert table["video_url"].notna().tolist() == [True, False, False]
    for path in [*table["picture_file"], *table["cutout_file"], table["video_file"][0]]:
        assert Path(path).stat().st_size > 0
    assert all(aio_sandbox.api_key.encode() not in path.read_bytes() for path in tmp_path.rglob("*.parquet"))


def test_enrich_shards(run_example: Callable[..., Any], aio_sandbox: Sandbox, tmp_path: Path) -> None:
    import pandas as pd

    run = run_example("enrich_shards", rows=7, shards=3, output=str(tmp_path / "mine"))
    assert kinds(aio_sandbox) == {"image": 7}
    assert xcom(run, "total") == {"rows": 7, "succeeded": 7, "credits": aio_sandbox.charged}
    table = pd.read_parquet(tmp_path / "mine" / "pictures")
    products = pd.read_parquet(EXAMPLES / "data" / "products.parquet").head(7)
    assert table["sku"].tolist() == products["sku"].tolist()
    assert table["aio_credits"].sum() == aio_sandbox.charged


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_retry(path: Path, load_dag: Callable[[Path], ModuleType]) -> None:
    """A retry is free, and a short trigger may lose a race in the scheduler: examples have one."""
    [dag] = _dags_of(load_dag(path))
    assert isinstance(dag, DAG)
    for task in dag.tasks:
        if task.task_type.startswith(("Aio", "_Aio")):
            assert task.retries >= 1, task.task_id
