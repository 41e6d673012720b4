"""Python's garbage collector, told that a run keeps thousands of rows on purpose."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: new objects between two looks, while a run is under way: rows live as long as their part, and looking at
#: them again and again finds nothing to free, for a sixth of the run's processor time
_OBJECTS = 50_000
_lock = threading.Lock()
_runs = 0
_before = (0, 0, 0)


@contextmanager
def patient_collector() -> Iterator[None]:
    """Let the collector look less often in this block; what was set before comes back after the last one."""
    global _runs, _before
    with _lock:
        if not _runs:
            _before = gc.get_threshold()
            if 0 < _before[0] < _OBJECTS:
                gc.set_threshold(_OBJECTS, *_before[1:])
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                gc.set_threshold(*_before)
