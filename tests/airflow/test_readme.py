"""The README's code runs as it stands, and its table names every operator there is."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from aio_provider.get_provider_info import get_provider_info
from aio_provider.operators import aio as operators
from aio_provider.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def code_below(heading: str) -> str:
    """The first Python block below a heading."""
    found = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def test_the_dag_runs(load_dag: Callable[[str], ModuleType], aio_sandbox_env: Sandbox) -> None:
    pytest.importorskip("airflow.sdk", reason="the README shows Airflow 3")
    code = code_below("A DAG")
    assert len(code.splitlines()) <= 15
    run = load_dag(code).product_pictures().test()
    assert run.state == "success"
    assert [submission.kind for submission in aio_sandbox_env.submissions] == ["image", "remove_background"]


@pytest.mark.timeout(300)
def test_the_tests_of_the_sandbox_page_run(tmp_path: Path) -> None:
    pytest.importorskip("airflow.sdk", reason="the README shows Airflow 3")
    page = (ROOT / "docs" / "sandbox.md").read_text()
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "product_pictures.py").write_text(code_below("A DAG"))
    blocks = re.findall(r"^```python\n# (\w+\.py)\S*(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["conftest.py", "test_product_pictures.py"]
    for name, code in blocks:
        (tmp_path / name).write_text("#" + code)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AIO_"))}
    bare["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{bare['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, env=bare, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_notebook_runs(aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_below("A notebook")
    assert len(code.splitlines()) <= 6
    monkeypatch.chdir(tmp_path)
    cell = tmp_path / "cell.py"
    cell.write_text(code)
    out = runpy.run_path(str(cell))["out"]
    assert list(out["aio_status"]) == ["succeeded", "succeeded"]
    assert (tmp_path / "pictures.parquet").exists()
    assert len(aio_sandbox_env.submissions) == 2
    # "Run the cell again": nothing is paid for.
    again = runpy.run_path(str(cell))["out"]
    assert list(again["aio_url"]) == list(out["aio_url"])
    assert len(aio_sandbox_env.submissions) == 2


def test_the_table_names_every_operator_and_decorator() -> None:
    rows = re.findall(r"^\| `(Aio\w+Operator)` \|(.*?)\|", README, re.MULTILINE)
    shown = {name for name in operators.__all__ if name.endswith("Operator")} - {"AioBaseOperator"}
    assert {name for name, _ in rows} == shown
    decorators = {found for _, cell in rows for found in re.findall(r"@task\.(\w+)", cell)}
    assert decorators == {decorator["name"] for decorator in get_provider_info()["task-decorators"]}


def test_its_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"[`$] ?make (\w+)", README))
    assert {"demo", "test", "docs"} <= named
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
