"""The pytest fixtures, used as a user's project would: in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest


def run(folder: Path, test: str, *options: str) -> str:
    """Run a test file in a pytest of its own, and return what it printed."""
    (folder / "test_users.py").write_text(dedent(test), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", "--strict-markers", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixtures_serve_and_set_the_environment(tmp_path: Path) -> None:
    output = run(
        tmp_path,
        """
        import json, os
        import pytest
        from aio_provider.api.client import AioClient
        from aio_provider.api.requests import GenerationRequest

        def test_defaults(aio_sandbox_env):
            assert os.environ["AIO_REQUESTS_PER_MINUTE"] == "0"
            with AioClient() as client:
                client.submit(GenerationRequest.image("A mug"))
            assert aio_sandbox_env.charged == 5
            connection = json.loads(os.environ["AIRFLOW_CONN_AIO_DEFAULT"])
            assert connection["host"] == aio_sandbox_env.base_url == os.environ["AIO_BASE_URL"]
            assert connection["password"] == os.environ["AIO_API_KEY"]
            assert connection["extra"]["ledger_url"] == os.environ["AIO_LEDGER"]

        @pytest.mark.aio_sandbox(credits=50, time_scale=0)
        class TestMarked:
            @pytest.mark.aio_sandbox(credits=3, faults=["429"])
            def test_the_nearest_marker_wins(self, aio_sandbox):
                assert aio_sandbox.credits == 3
                assert aio_sandbox.settings.time_scale == 0
                assert aio_sandbox.faults[0]["fault"] == "429"
                assert "AIO_API_KEY" not in os.environ
        """,
    )

    assert "2 passed" in output


def test_bad_marker_settings_are_errors_not_skips(tmp_path: Path) -> None:
    output = run(
        tmp_path,
        """
        import pytest

        @pytest.mark.aio_sandbox(["429"])
        def test_positional(aio_sandbox): ...

        @pytest.mark.aio_sandbox(credit=5)
        def test_unknown(aio_sandbox): ...
        """,
    )

    assert "2 errors" in output
    assert "give settings by name" in output
    assert "credit" in output


def test_without_the_extra_only_tests_that_ask_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        dedent(
            """
            import importlib.util
            real = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *more: None if name == "starlette" else real(name, *more)
            """
        )
    )
    output = run(
        tmp_path,
        """
        def test_plain(): ...
        def test_asking(aio_sandbox): ...
        """,
    )

    assert "1 passed, 1 skipped" in output
    assert "the sandbox needs starlette: pip install 'aio-provider[sandbox]'" in output


def test_a_pytest_that_uses_no_fixture_loads_nothing_heavy(tmp_path: Path) -> None:
    output = run(
        tmp_path,
        """
        import sys

        def test_modules():
            ours = {name for name in sys.modules if name.startswith("aio_provider.")}
            assert ours - {"aio_provider._version"} == {
                "aio_provider.sandbox", "aio_provider.sandbox.pytest_plugin"
            }
            assert not {"starlette", "uvicorn", "PIL", "httpx", "pandas"} & set(sys.modules)
        """,
        "-p",
        "no:hypothesispytest",
    )

    assert "1 passed" in output, output


@pytest.mark.aio_sandbox(credits=77)
def test_the_fixture_works_here_too(aio_sandbox) -> None:  # type: ignore[no-untyped-def]
    assert aio_sandbox.credits == 77
