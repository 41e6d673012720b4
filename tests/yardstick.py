"""How slow this machine is just now: limits in seconds are meant for a machine that is not."""

from __future__ import annotations

import hashlib
import json
import statistics
import time

# The processor's seconds for `_work` on the quiet two-core machine where the limits were set.
REFERENCE = 0.06


def slowness() -> float:
    """
    How many times longer than on the reference machine a piece of Python takes now; 1.0 at least.

    The processor's time is measured, yet that too grows when neighbours share its caches and its clock.
    """
    return max(1.0, statistics.median(_timed() for _ in range(5)) / REFERENCE)


def _timed() -> float:
    began = time.process_time()
    _work()
    return time.process_time() - began


def _work() -> None:
    """Dictionaries, text and hashes, as in what is measured."""
    found = {}
    for index in range(15_000):
        text = json.dumps({"prompt": "a lamp", "seed": index, "ratio": index / 7})
        found[hashlib.sha256(text.encode()).hexdigest()] = json.loads(text)
    sum(len(value) for value in found.values())
