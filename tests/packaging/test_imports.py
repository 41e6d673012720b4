"""What an import costs, asked of fresh interpreters (of the operators: ``tests/airflow``)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.yardstick import slowness

# Prints the distributions' top-level packages (found in site-packages) that the last statements loaded.
REPORT = """
import json, sys, sysconfig
loaded = set(sys.modules)
{after}
folders = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
new = [sys.modules[name] for name in set(sys.modules) - loaded if sys.modules[name] is not None]
files = [(module.__name__.split(".")[0], getattr(module, "__file__", None) or "") for module in new]
print(json.dumps(sorted({{name for name, file in files if file.startswith(folders)}})))
"""


def third_party(after: str) -> set[str]:
    code = REPORT.format(after=after)
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
    assert min(seconds) < 0.050 * slowness()


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
