"""What an import costs: asked of fresh interpreters, since this one has loaded everything already."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

OPERATOR_MODULES = [
    "aio_provider.hooks.aio",
    "aio_provider.operators.aio",
    "aio_provider.triggers.aio",
    "aio_provider.sensors.aio",
    "aio_provider.decorators.aio",
    "aio_provider.links.aio",
]

# Prints the distributions' top-level packages (found in site-packages) that the last statements loaded.
REPORT = """
import json, sys, sysconfig
{before}
loaded = set(sys.modules)
{after}
folders = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
new = [sys.modules[name] for name in set(sys.modules) - loaded if sys.modules[name] is not None]
files = [(module.__name__.split(".")[0], getattr(module, "__file__", None) or "") for module in new]
print(json.dumps(sorted({{name for name, file in files if file.startswith(folders)}})))
"""

HEAVY = {
    "pandas",
    "numpy",
    "pyarrow",
    "pyrate_limiter",
    "fsspec",
    "tqdm",
    "starlette",
    "PIL",
    "rich",
    "click",
}


def third_party(after: str, before: str = "") -> set[str]:
    code = REPORT.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_else() -> None:
    assert third_party("import aio_provider") == set()


def test_importing_the_package_takes_less_than_50_ms() -> None:
    # The processor's time, and the least of several runs: what else the machine does adds nothing to that.
    code = "import time; t = time.process_time(); import aio_provider; print(time.process_time() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(7)
    ]
    assert min(seconds) < 0.050


@pytest.mark.parametrize("room", ["api", "jobs", "frames", "sandbox"])
def test_the_rooms_below_do_without_airflow(room: str) -> None:
    # With Airflow made unimportable, every module of the room still imports.
    code = f"""
import sys, pkgutil, importlib
sys.modules["airflow"] = None
import aio_provider.{room} as room
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("room", ["api", "jobs"])
def test_the_lower_rooms_load_no_data_frames(room: str) -> None:
    loaded = third_party(
        f"""
import pkgutil, importlib
import aio_provider.{room} as room
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    importlib.import_module(module.name)
"""
    )
    assert not loaded & {"pandas", "numpy", "pyarrow"}


def test_operator_modules_load_nothing_that_airflow_has_not() -> None:
    if find_spec("airflow.sdk") is not None:
        # What any DAG file has loaded that has imported one operator and one hook of Airflow's own.
        before = (
            "from airflow.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator, task\n"
            "from airflow.triggers.base import BaseTrigger, TriggerEvent\n"
            "from airflow.providers.common.compat.sdk import BaseOperatorLink"
        )
    else:
        before = (
            "from airflow.decorators import task\n"
            "from airflow.hooks.base import BaseHook\n"
            "from airflow.models import DAG, BaseOperator, BaseOperatorLink\n"
            "from airflow.sensors.base import BaseSensorOperator\n"
            "from airflow.triggers.base import BaseTrigger, TriggerEvent\n"
            "import airflow.providers.common.compat.sdk"
        )
    loaded = third_party(f"import {', '.join(OPERATOR_MODULES)}", before)
    assert loaded - {"aio_provider", "airflow"} == set()
    assert not loaded & HEAVY
