"""DAG files are parsed every few seconds: importing the operators adds nothing heavy to Airflow's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import aio_provider

BASE = """
import airflow.triggers.base
try:
    import airflow.sdk
except ImportError:
    import airflow.models.baseoperator
from airflow.providers.common.compat.sdk import (
    DAG, AirflowException, AirflowFailException, AirflowSensorTimeout, BaseHook, BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator, Context, DecoratedOperator, PokeReturnValue, XCom, context_merge, determine_kwargs,
    task_decorator_factory,
)
"""
OURS = """
import aio_provider.decorators.aio
import aio_provider.hooks.aio
import aio_provider.links.aio
import aio_provider.operators.aio
import aio_provider.sensors.aio
import aio_provider.triggers.aio
"""
SHOW = """
import json, sys
print("MODULES " + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
#: loaded by Airflow anyway, or ours
ALLOWED = {"aio_provider", "httpx", "sqlalchemy", "tenacity"}


def loaded(source: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", source + SHOW], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MODULES "))
    return set(json.loads(line.removeprefix("MODULES ")))


@pytest.fixture(scope="module")
def extra() -> set[str]:
    return loaded(BASE + OURS) - loaded(BASE) - set(sys.stdlib_module_names)


def test_no_third_party_package_is_added(extra: set[str]) -> None:
    # httpx and what it brings along; in Airflow 3 all of it is there already.
    brought = {"anyio", "certifi", "click", "h11", "httpcore", "idna", "pygments", "rich", "sniffio"}
    assert {name for name in extra if not name.startswith("_")} <= ALLOWED | brought


@pytest.mark.parametrize("name", ["pandas", "numpy", "pyarrow", "pyrate_limiter", "fsspec", "tqdm", "upath"])
def test_nothing_heavy(extra: set[str], name: str) -> None:
    assert name not in extra


def test_a_trigger_has_no_way_to_the_record() -> None:
    """A trigger that touches the task state store, which is synchronous, hangs its triggerer."""
    show = (
        'print("MODULES " + json.dumps([name for name in sys.modules if name.startswith("aio_provider.")]))'
    )
    source = f"import json, sys\nimport aio_provider.triggers.aio\n{show}"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    names = json.loads(done.stdout.splitlines()[-1].removeprefix("MODULES "))
    assert [name for name in names if name.startswith("aio_provider.operators")] == []
    for path in (Path(aio_provider.__file__).parent / "triggers").glob("*.py"):
        assert "state_store" not in path.read_text(), path
