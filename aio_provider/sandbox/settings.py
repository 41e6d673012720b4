"""What can be set on a sandbox, checked before anything starts."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aio_provider.sandbox.clock import Clock, SystemClock
from aio_provider.sandbox.faults import Fault

#: Requests a minute of one key, as documented.
DEFAULT_LIMIT = 60
SHAPES = ("documented", "varied")
RETRY_AFTER = ("none", "seconds", "date")


@dataclass(frozen=True)
class SandboxSettings:
    """The settings of one sandbox. Every one has a default; a bad value raises ``ValueError`` naming it.

    :param api_key: the key that is accepted; every other one gets 401.
    :param extra_api_keys: more keys of the same account; each has a rate limit of its own.
    :param host: a loopback address or ``localhost``; nothing else is allowed.
    :param port: 0 picks a free one.
    :param time_scale: factor on the published latencies; 1 is real time, 0.01 a hundred times faster.
    :param long_tail: share (0 to 1) of tasks that take three to ten times their usual latency.
    :param credits: the account's balance at the start.
    :param requests_per_minute: of one key, polls included, in any 60 seconds; 0 is no limit. Not scaled.
    :param retry_after: what a 429 carries: ``none`` (as documented), ``seconds`` or ``date``.
    :param faults: see :class:`aio_provider.sandbox.Fault` for the notation.
    :param seed: of latencies, of prices that are published as a range only, and of faults.
    :param shapes: ``documented`` answers each endpoint in the form its documentation shows; ``varied`` cycles
        through every published form and status spelling.
    :param record: a JSONL file to which each accepted submission is appended, so that it outlives a kill.
    :param clock: the time; :class:`aio_provider.sandbox.ManualClock` for tests that must not sleep.
    """

    api_key: str = "aio_sandbox_key"
    extra_api_keys: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 0
    time_scale: float = 0.01
    long_tail: float = 0.0
    credits: float = 10_000
    requests_per_minute: int = DEFAULT_LIMIT
    retry_after: str = "none"
    faults: Sequence[str | Fault] = ()
    seed: int = 0
    shapes: str = "documented"
    record: str | os.PathLike[str] | None = None
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        for key in (self.api_key, *self.extra_api_keys):
            if not key.isascii() or not key or any(c.isspace() for c in key):
                raise ValueError("api_key: must be a non-empty ASCII string without spaces")
        if not is_loopback(self.host):
            raise ValueError(
                f"host: the sandbox binds loopback only (127.0.0.1, ::1, localhost), got {self.host!r}"
            )
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: must be 0 (any free one) to 65535, got {self.port}")
        for name in ("time_scale", "credits", "requests_per_minute"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}: must be 0 or more, got {value}")
        if not 0 <= self.long_tail <= 1:
            raise ValueError(f"long_tail: must be a share from 0 to 1, got {self.long_tail}")
        if self.shapes not in SHAPES:
            raise ValueError(f"shapes: must be one of {', '.join(SHAPES)}, got {self.shapes!r}")
        if self.retry_after not in RETRY_AFTER:
            raise ValueError(
                f"retry_after: must be one of {', '.join(RETRY_AFTER)}, got {self.retry_after!r}"
            )
        if isinstance(self.faults, str):
            raise ValueError(f"faults: give a list, such as [{self.faults!r}], not one string")
        object.__setattr__(self, "faults", tuple(Fault.parse(fault) for fault in self.faults))
        if self.record is not None and not Path(self.record).parent.is_dir():
            raise ValueError(f"record: the folder of {os.fspath(self.record)!r} does not exist")


def is_loopback(host: str) -> bool:
    """Whether a host name or address certainly stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
