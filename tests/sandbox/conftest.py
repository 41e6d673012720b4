"""A sandbox with a clock driven by hand, and a bare HTTP client for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from aio_provider.sandbox import ManualClock, Sandbox


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def serve(clock: ManualClock) -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes that the test ends with; time stands still and nothing limits requests unless asked."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Sandbox:
            defaults = {"clock": clock, "requests_per_minute": 0, "time_scale": 1.0}
            return stack.enter_context(Sandbox(**{**defaults, **settings}))

        yield start


@pytest.fixture(scope="module")
def _lasting() -> Iterator[Sandbox]:
    with Sandbox(clock=ManualClock(), requests_per_minute=0, time_scale=1.0) as sandbox:
        yield sandbox


@pytest.fixture
def shared(_lasting: Sandbox) -> Sandbox:
    """One sandbox for the many cases of a table, emptied for each."""
    _lasting.reset()
    return _lasting


@pytest.fixture
def connect() -> Iterator[Callable[..., httpx.Client]]:
    """HTTP clients that hold a sandbox's key, or another one."""
    with ExitStack() as stack:

        def client(sandbox: Any, key: str | None = None) -> httpx.Client:
            headers = {"Authorization": f"Bearer {key or sandbox.api_key}"}
            return stack.enter_context(
                httpx.Client(base_url=sandbox.base_url, headers=headers, trust_env=False, verify=False)
            )

        yield client
