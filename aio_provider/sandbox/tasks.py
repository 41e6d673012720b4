"""The account behind the sandbox: its keys, its balance, its tasks, and the record of what was accepted."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
import math
import os
import random
import secrets
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aio_provider.api.amounts import in_digits
from aio_provider.sandbox.settings import SandboxSettings

#: Seconds of the documented limit, 60 requests a minute.
WINDOW = 60.0

IN_PROGRESS, SUCCESS, FAILED = "IN_PROGRESS", "SUCCESS", "FAILED"


@dataclass(frozen=True)
class Submission:
    """One accepted, and so charged, submission: what a test asks about.

    :param task_id: the task's id; of a chat completion, the answer's id.
    :param kind: such as ``image``; ``custom`` for routes outside the nine kinds.
    :param endpoint: the path below the base URL, such as ``/images/generations``.
    :param model: the body's ``model``, or ``None``.
    :param body: the JSON that was sent.
    :param fingerprint: SHA-256 over endpoint and body, equal to ``GenerationRequest.fingerprint``.
    :param credits: what it costs by now; 0 once the task has failed.
    :param status: ``IN_PROGRESS``, ``SUCCESS`` or ``FAILED``, now.
    :param key_hash: which key paid, without the key.
    :param accepted_at: seconds since the epoch.
    """

    task_id: str
    kind: str
    endpoint: str
    model: str | None
    body: Mapping[str, Any]
    fingerprint: str
    credits: float
    status: str
    key_hash: str
    accepted_at: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


@dataclass(slots=True)
class SandboxTask:
    """One task as the server keeps it; its status follows from the time."""

    number: int
    task_id: str
    kind: str
    endpoint: str
    model: str | None
    body: dict[str, Any]
    fingerprint: str
    price: float
    key_hash: str
    accepted_at: float
    ready_at: float
    fault: str | None = None
    polls: int = 0

    def status(self, now: float) -> str:
        if self.fault in ("never-ends", "lost") or now < self.ready_at:
            return IN_PROGRESS
        return FAILED if self.fault == "failed" else SUCCESS

    def cost(self, now: float) -> float:
        return 0 if self.status(now) == FAILED else self.price


class InsufficientCreditsError(Exception):
    """The balance does not cover a submission; nothing was accepted."""

    def __init__(self, needed: float, balance: float) -> None:
        super().__init__(
            f"Insufficient credits: this request needs {in_digits(needed)}, "
            f"the balance is {in_digits(balance)}"
        )


class RateWindow:
    """An exact sliding window for one key: never more than ``limit`` admitted requests in any 60 seconds."""

    __slots__ = ("_admitted", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> float | None:
        """Take a place.

        :param now: seconds.
        :return: ``None`` when admitted, else seconds until the next place is free. A refusal takes none.
        """
        if not self.limit:
            return None
        admitted = self._admitted
        while admitted and now - admitted[0] >= WINDOW:
            admitted.popleft()
        if len(admitted) >= self.limit:
            return WINDOW - (now - admitted[0])
        admitted.append(now)
        return None


class Account:
    """Keys, balance and tasks. Used by the server's event loop and by the test's thread alike.

    :param settings: of the sandbox.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self._keys = {_hash(key): key for key in (settings.api_key, *settings.extra_api_keys)}
        self._lock = threading.RLock()
        # Real ids never come twice, so neither do these, not even after a restart with the same seed.
        self._boot = secrets.token_hex(3)
        self._numbers = 0
        self.reset()

    def reset(self) -> None:
        """Forget every task, charge and request, and restore the balance. Faults are not touched."""
        with self._lock:
            self._balance = float(self.settings.credits)
            self.tasks: dict[str, SandboxTask] = {}
            self.counts: Counter[str] = Counter()
            self.covered: set[str] = set()  # songs that have their cover art
            self._windows = {key: RateWindow(self.settings.requests_per_minute) for key in self._keys}
            self._occurrences: Counter[str] = Counter()
            self._refunds: list[tuple[float, int, SandboxTask]] = []

    def authenticate(self, authorization: str | None) -> str | None:
        """The hash of the key a request came with, or ``None`` when it is not one of ours."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        key_hash = _hash(key.strip())
        known = self._keys.get(key_hash)
        return key_hash if known is not None and hmac.compare_digest(known, key.strip()) else None

    def admit(self, key_hash: str) -> float | None:
        """Count a request against its key's limit; see :meth:`RateWindow.admit`."""
        return self._windows[key_hash].admit(self.settings.clock.time())

    def draw(self, fingerprint: str) -> random.Random:
        """A seeded source for the next submission with this fingerprint.

        It depends on the request and on how many equal ones came before, not on the order of arrival, so
        concurrent runs draw the same prices and latencies.
        """
        with self._lock:
            occurrence = self._occurrences[fingerprint]
            self._occurrences[fingerprint] += 1
        return random.Random(f"{self.settings.seed}:{fingerprint}:{occurrence}")

    def accept(
        self,
        *,
        name: tuple[str, str],
        kind: str,
        endpoint: str,
        body: dict[str, Any],
        fingerprint: str,
        price: float,
        latency: float,
        key_hash: str,
        fault: str | None = None,
    ) -> SandboxTask:
        """Charge a submission and record it.

        :param name: what an id starts and ends with, such as ``("n41", "_flux2")``.
        :param latency: seconds until it is ready, already scaled.
        :raises InsufficientCreditsError: when the balance is too low; nothing is recorded.
        """
        now = self.settings.clock.time()
        with self._lock:
            self._settle(now)
            if price > self._balance:
                raise InsufficientCreditsError(price, self._balance)
            self._balance -= price
            number = self._numbers = self._numbers + 1
            task = SandboxTask(
                number=number,
                task_id=f"{name[0]}{self._boot}{number:04x}{name[1]}",
                kind=kind,
                endpoint=endpoint,
                model=body.get("model"),
                body=body,
                fingerprint=fingerprint,
                price=price,
                key_hash=key_hash,
                accepted_at=now,
                ready_at=now + latency,
                fault=fault,
            )
            self.tasks[task.task_id] = task
            if fault == "failed":
                heapq.heappush(self._refunds, (task.ready_at, number, task))
            self._record(task, now)
        return task

    def adjust(self, task: SandboxTask, price: float) -> None:
        """Change what a task costs after the fact (chat is charged by the tokens it took)."""
        with self._lock:
            self._balance += task.price - price
            if task.price != price:
                task.price = price
                self._record(task, self.settings.clock.time())

    @property
    def balance(self) -> float:
        """Credits left now; refunds of failed tasks included."""
        with self._lock:
            self._settle(self.settings.clock.time())
            return self._balance

    @balance.setter
    def balance(self, credits: float) -> None:
        if not math.isfinite(credits) or credits < 0:
            raise ValueError(f"credits: must be 0 or more, got {credits}")
        with self._lock:
            self._settle(self.settings.clock.time())
            self._balance = float(credits)

    @property
    def charged(self) -> float:
        """Credits that all accepted submissions cost by now."""
        now = self.settings.clock.time()
        with self._lock:
            return sum(task.cost(now) for task in self.tasks.values())

    def submissions(self, start: int = 0) -> list[Submission]:
        """Accepted submissions in order of arrival.

        :param start: leave out so many of the first ones.
        """
        now = self.settings.clock.time()
        with self._lock:
            tasks = list(self.tasks.values())[start:]
        return [self.submission(task, now) for task in tasks]

    def submission(self, task: SandboxTask, now: float) -> Submission:
        """One task as the record shows it."""
        return Submission(
            task_id=task.task_id,
            kind=task.kind,
            endpoint=task.endpoint,
            model=task.model,
            body=task.body,
            fingerprint=task.fingerprint,
            credits=task.cost(now),
            status=task.status(now),
            key_hash=task.key_hash,
            accepted_at=task.accepted_at,
        )

    def _settle(self, now: float) -> None:
        while self._refunds and self._refunds[0][0] <= now:
            task = heapq.heappop(self._refunds)[2]
            self._balance += task.price
            self._record(task, now)

    def _record(self, task: SandboxTask, now: float) -> None:
        """A line for a task as it stands: at its acceptance, and again when its charge has changed."""
        if self.settings.record is not None:
            append_record(self.settings.record, self.submission(task, now))


def append_record(path: str | os.PathLike[str], submission: Submission) -> None:
    """Append one line of JSON in a single write, so that a killed process leaves whole lines."""
    line = json.dumps(submission.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_record(path: str | os.PathLike[str]) -> Sequence[Submission]:
    """Read a record file back: each task once, as its last line has it.

    :param path: what ``record=`` or ``--record`` named; a file that is not there yet is an empty record.
    """
    file = Path(path)
    if not file.exists():
        return []
    found: dict[str, Submission] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        submission = Submission(**json.loads(line))
        found[submission.task_id] = submission
    return list(found.values())


def timestamp(seconds: float) -> str:
    """Seconds since the epoch in the form of the documentation, ``2026-02-25T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]
