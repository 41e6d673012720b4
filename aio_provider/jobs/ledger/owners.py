"""Who holds an intent: a name for this process that a later process on the same machine can check.

A lease lapses by the database's clock. But where the owner ran on *this* machine and is plainly gone, there
is nothing to wait for: a run started again after ``kill -9`` sees at once which intents nobody looks after.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

_PROC = Path("/proc")


def new_owner() -> str:
    """A name for one run of this process: ``host|boot|pid namespace|pid|start|random``."""
    pid = os.getpid()
    host = socket.gethostname()[:80]
    return "|".join((host, _boot(), _namespace(), str(pid), _started(pid) or "", secrets.token_hex(6)))


def is_gone(owner: str | None) -> bool:
    """Whether the owner certainly no longer runs.

    ``False`` whenever that cannot be told from here: another machine or container, no ``/proc``, a name that
    :func:`new_owner` did not make. Then the lease alone decides.
    """
    parts = (owner or "").split("|")
    if len(parts) != 6 or not all(parts) or not parts[3].isdigit():
        return False
    host, boot, namespace, pid, started, _ = parts
    if host != socket.gethostname()[:80] or namespace != _namespace():
        return False
    if boot != _boot():
        return bool(_boot())  # the machine has restarted since
    return _started(int(pid)) != started


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()[:13]
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink()).removeprefix("pid:").strip("[]")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """The process's start in clock ticks since boot; ``None`` when there is no such (living) process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
