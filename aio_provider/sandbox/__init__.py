"""A loopback server that speaks the API in One HTTP API: free, offline, and with a record of every charge.

``Sandbox`` runs it in a thread, ``Sandbox.spawn`` in a process of its own, ``aio sandbox`` in a terminal.
It needs the ``sandbox`` extra; importing this package does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aio_provider.sandbox.clock import Clock, ManualClock, SystemClock
    from aio_provider.sandbox.faults import Fault
    from aio_provider.sandbox.process import SandboxProcess
    from aio_provider.sandbox.server import Sandbox
    from aio_provider.sandbox.settings import SandboxSettings
    from aio_provider.sandbox.tasks import Submission

_HOMES = {
    "Clock": "clock",
    "Fault": "faults",
    "ManualClock": "clock",
    "Sandbox": "server",
    "SandboxProcess": "process",
    "SandboxSettings": "settings",
    "Submission": "tasks",
    "SystemClock": "clock",
}

__all__ = [
    "Clock",
    "Fault",
    "ManualClock",
    "Sandbox",
    "SandboxProcess",
    "SandboxSettings",
    "Submission",
    "SystemClock",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
