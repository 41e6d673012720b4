"""The wheel as a user gets it: built from the sdist, installed with and without Airflow, and used."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Made by the Makefile: what the wheel itself asks for, and no more.
PLAIN = ROOT / ".venvs" / "plain" / "bin" / "python"

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging"), pytest.mark.timeout(300)]

# Run by the plain environment's own interpreter: the sandbox and the frames, as a notebook would.
USE_IT = """
import sys
sys.modules["airflow"] = None
import pandas as pd, aio_provider as aio
from aio_provider.sandbox import Sandbox

with Sandbox(time_scale=0.001, seed=1) as sandbox:
    frame = pd.DataFrame({"caption": ["a red kettle", "a blue mug", None]})
    out = aio.generate(frame, "image", model="flux-2", prompt="caption", output="out.parquet",
                       api_key=sandbox.api_key, base_url=sandbox.base_url, ledger="ledger.sqlite")
    assert list(out["aio_status"]) == ["succeeded", "succeeded", "skipped"], out
    assert len(sandbox.submissions) == 2
    assert out["aio_credits"].sum() == sandbox.charged > 0
    again = aio.generate(frame, "image", model="flux-2", prompt="caption",
                         api_key=sandbox.api_key, base_url=sandbox.base_url, ledger="ledger.sqlite")
    assert list(again["aio_url"]) == list(out["aio_url"])
    assert len(sandbox.submissions) == 2
print(aio.__file__)
"""


def run(command: Sequence[str | Path], cwd: Path, **env: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip_install(python: Path, cwd: Path, *arguments: str | Path) -> None:
    # --no-index: whatever is missing is an error, not a download.
    run([python, "-m", "pip", "install", "-q", "--no-index", *arguments], cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # With neither --sdist nor --wheel, the wheel is built from the sdist: so the sdist is complete too.
    run([sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", folder, ROOT], ROOT)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"aio_provider"}
    in_repository = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "aio_provider").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("aio_provider/")} == in_repository
    assert {"aio_provider/py.typed", "aio_provider/api/catalog.json"} <= in_repository


def test_it_generates_where_there_is_no_airflow(wheel: Path, tmp_path: Path) -> None:
    if not PLAIN.exists():
        reason = f"{PLAIN.relative_to(ROOT)} is not there: `make test` creates it"
        if os.environ.get("AIO_TEST_REQUIRE_SERVICES"):
            pytest.fail(reason)
        pytest.skip(reason)
    run([PLAIN, "-m", "pip", "uninstall", "-q", "-y", "aio-provider"], tmp_path)
    pip_install(PLAIN, tmp_path, f"{wheel}[sandbox]")
    run([PLAIN, "-m", "pip", "check"], tmp_path)
    data_home = str(tmp_path / "data")
    where = run([PLAIN, "-c", USE_IT], tmp_path, XDG_DATA_HOME=data_home).splitlines()[-1]
    assert Path(where).is_relative_to(PLAIN.parents[1])
    assert "sandbox" in run([PLAIN.parent / "aio", "--help"], tmp_path)
    missing = run([PLAIN, "-c", "import importlib.util as u; print(u.find_spec('airflow'))"], tmp_path)
    assert missing.strip() == "None"


def test_airflow_lists_it_once_installed(wheel: Path, tmp_path: Path) -> None:
    # Airflow and the rest come from this environment, but without its editable install of the project:
    # a .pth file adds a folder to the path and reads no .pth file in it.
    environment = tmp_path / "venv"
    run([sys.executable, "-m", "venv", environment], tmp_path)
    python = environment / "bin" / "python"
    pip_install(python, tmp_path, "--no-deps", wheel)
    variables = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=variables))
    (site / "airflow-of-this-machine.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = {"AIRFLOW_HOME": str(tmp_path / "home")}
    where = run([python, "-c", "import aio_provider; print(aio_provider.__file__)"], tmp_path, **env)
    assert Path(where.strip()).is_relative_to(environment)
    listed = run([python, "-m", "airflow", "providers", "get", "aio-provider", "-o", "json"], tmp_path, **env)
    assert "aio-provider" in listed
    hooks = run([python, "-m", "airflow", "providers", "hooks", "-o", "json"], tmp_path, **env)
    assert "aio_provider.hooks.aio.AioHook" in hooks
