"""DAG files are parsed every few seconds: importing the operators adds nothing heavy to Airflow's own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
