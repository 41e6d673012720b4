"""What holds for every test: no network, no settings from this machine, an Airflow home of its own."""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Airflow reads its home when it is first imported, so this cannot wait for a fixture.
_AIRFLOW_HOME = tempfile.mkdtemp(prefix="aio-tests-airflow-")


def _isolate_environment() -> None:
    for name in list(os.environ):
        if name.startswith("AIRFLOW") or (name.startswith("AIO_") and not name.startswith("AIO_TEST_")):
            del os.environ[name]
    os.environ["AIRFLOW_HOME"] = _AIRFLOW_HOME
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
    os.environ["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] = "False"
    # Tests that forget to name a ledger must not write to the user's own.
    os.environ["XDG_DATA_HOME"] = str(Path(_AIRFLOW_HOME) / "data")
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"


def _loopback_only(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if not isinstance(address, tuple):  # a Unix socket
        return
    host = str(address[0])
    try:
        allowed = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        allowed = host in ("localhost", "")
    if not allowed:
        raise RuntimeError(f"a test tried to reach {host}: tests use the sandbox, on loopback")


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port of loopback where every connection is refused: bound, so that nobody else gets it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(autouse=True)
def _no_airflow_context() -> None:
    """``dag.test()`` leaves the context of its last task in the environment."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW_CTX_")]:
        del os.environ[name]


_isolate_environment()
# Airflow 2's logging prints every logger's INFO lines, between what a test wants to see printed.
logging.getLogger("httpx").setLevel(logging.WARNING)
sys.addaudithook(_loopback_only)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_AIRFLOW_HOME, ignore_errors=True)
