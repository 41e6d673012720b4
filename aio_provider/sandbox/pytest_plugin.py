"""pytest fixtures for tests of DAGs and notebooks: ``aio_sandbox`` and ``aio_sandbox_env``.

Loaded by pytest on its own once aio-provider is installed. Nothing heavy is imported until a fixture is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

_NEEDED = ("starlette", "uvicorn", "PIL")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "aio_sandbox(**settings): settings of the aio_sandbox fixture, such as faults=['failed@1'], "
        "credits=20, requests_per_minute=60 (see aio_provider.sandbox.SandboxSettings)",
    )


@pytest.fixture
def aio_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A running :class:`aio_provider.sandbox.Sandbox`: a hundred times faster than the service, no limit.

    Set it up with ``@pytest.mark.aio_sandbox(faults=["429:0.1"], credits=50)``.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the sandbox needs {', '.join(missing)}: pip install 'aio-provider[sandbox]'")
    from aio_provider.sandbox import Sandbox

    settings = {"time_scale": 0.01, "requests_per_minute": 0}
    for marker in reversed(list(request.node.iter_markers("aio_sandbox"))):
        if marker.args:
            raise pytest.UsageError("aio_sandbox: give settings by name, such as credits=50")
        settings.update(marker.kwargs)
    with Sandbox(**settings) as sandbox:
        yield sandbox


@pytest.fixture
def aio_sandbox_env(aio_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """``aio_sandbox``, with the environment pointing at it.

    Sets ``AIO_API_KEY``, ``AIO_BASE_URL``, ``AIO_LEDGER`` (a fresh file), ``AIO_REQUESTS_PER_MINUTE`` and
    ``AIRFLOW_CONN_AIO_DEFAULT``.
    """
    ledger = tmp_path / "aio-ledger.sqlite"
    for name, value in aio_sandbox.environment(ledger=str(ledger)).items():
        monkeypatch.setenv(name, value)
    return aio_sandbox
