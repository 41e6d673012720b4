"""Faults on request: which there are, how they are written, and which request each one hits."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TypeVar

_N = TypeVar("_N", int, float)

SUBMIT, POLL, CHAT = "submit", "poll", "chat"

#: name → (stage, the requests it may hit, what happens). A stage is asked once per request:
#: ``before`` anything is accepted, ``outcome`` of an accepted task, ``after`` acceptance, ``poll`` of a task.
FAULTS: dict[str, tuple[str, frozenset[str], str]] = {
    "401": ("before", frozenset({SUBMIT, POLL, CHAT}), "the key is refused, as if revoked"),
    "402": ("before", frozenset({SUBMIT, CHAT}), "credits are refused, as if spent elsewhere"),
    "429": ("before", frozenset({SUBMIT, POLL, CHAT}), "rate limit answer; nothing accepted"),
    "500": ("before", frozenset({SUBMIT, POLL, CHAT}), "error envelope; nothing accepted"),
    "502-html": ("before", frozenset({SUBMIT, POLL, CHAT}), "a gateway's HTML page; nothing accepted"),
    "drop-before": ("before", frozenset({SUBMIT, CHAT}), "connection dropped; nothing accepted"),
    "failed": ("outcome", frozenset({SUBMIT}), "the task ends FAILED; its credits are refunded"),
    "never-ends": ("outcome", frozenset({SUBMIT}), "the task stays IN_PROGRESS"),
    "lost": ("outcome", frozenset({SUBMIT}), "accepted and charged, but every poll answers 404"),
    "drop-after": ("after", frozenset({SUBMIT, CHAT}), "accepted and charged, then the connection drops"),
    "500-after": ("after", frozenset({SUBMIT, CHAT}), "accepted and charged, then an error envelope"),
    "200-error": ("after", frozenset({SUBMIT, POLL, CHAT}), "HTTP 200 whose body carries code 500"),
    "truncated-json": ("after", frozenset({SUBMIT, POLL, CHAT}), "the answer's JSON is cut in the middle"),
    "slow": ("after", frozenset({SUBMIT, POLL, CHAT}), "the answer comes late (seconds=2)"),
    "404-first-poll": ("poll", frozenset({POLL}), "a task's first poll answers 404"),
}

#: How a fault is written, in one line.
NOTATION = "NAME, NAME:probability, NAME@n or NAME:every=n, and :kind=image, :on=submit|poll|chat, :times=n"


@dataclass(frozen=True)
class Fault:
    """One fault: what happens, and to which of the requests it matches.

    Written ``NAME`` (every matching request), ``NAME:0.1`` (that share, seeded), ``NAME@3`` (the third only)
    or ``NAME:every=5``; further parts narrow it: ``:kind=video`` (that endpoint's kind), ``:on=submit``,
    ``:on=poll`` or ``:on=chat``, ``:times=2`` (then no more), and ``:seconds=2`` for ``slow``.

    :param name: one of :data:`FAULTS`.
    :param probability: 0 to 1, of each matching request.
    :param nth: only the n-th matching request, counted from 1.
    :param every: each n-th matching request.
    :param kind: only requests of this kind, such as ``image``; polls are of their task's kind.
    :param on: only ``submit``, ``poll`` or ``chat`` requests.
    :param times: at most so many hits.
    :param seconds: how late a ``slow`` answer is, in real seconds.
    """

    name: str
    probability: float = 1.0
    nth: int | None = None
    every: int | None = None
    kind: str | None = None
    on: str | None = None
    times: int | None = None
    seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise ValueError(f"fault: {self.name!r} is unknown; there are {', '.join(FAULTS)}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"fault {self.name}: the probability must be 0 to 1, got {self.probability}")
        for part in ("nth", "every", "times"):
            value = getattr(self, part)
            if value is not None and value < 1:
                raise ValueError(f"fault {self.name}: {part} must be 1 or more, got {value}")
        if self.nth is not None and (self.every is not None or self.probability != 1.0):
            raise ValueError(
                f"fault {self.name}: @{self.nth} names one request; leave out every= and the probability"
            )
        if self.on is not None and self.on not in FAULTS[self.name][1]:
            allowed = ", ".join(sorted(FAULTS[self.name][1]))
            raise ValueError(f"fault {self.name}: on= must be one of {allowed}, got {self.on!r}")
        if self.seconds < 0:
            raise ValueError(f"fault {self.name}: seconds must be 0 or more, got {self.seconds}")

    @classmethod
    def parse(cls, text: str | Fault) -> Fault:
        """Read the notation of a fault.

        :param text: such as ``"429:0.1"``; a :class:`Fault` passes through.
        :raises ValueError: with what is wrong and how a fault is written.
        """
        if isinstance(text, Fault):
            return text
        head, *parts = text.strip().split(":")
        name, _, nth = head.partition("@")
        if name not in FAULTS:
            raise ValueError(f"fault {text!r}: {name!r} is unknown; there are {', '.join(FAULTS)}")
        given: dict[str, object] = {}
        if nth:
            given["nth"] = _number(int, nth, text)
        for part in parts:
            field_name, equals, value = part.partition("=")
            if not equals:
                given["probability"] = _number(float, part, text)
            elif field_name in ("every", "times"):
                given[field_name] = _number(int, value, text)
            elif field_name == "seconds":
                given[field_name] = _number(float, value, text)
            elif field_name in ("kind", "on"):
                given[field_name] = value
            else:
                raise ValueError(f"fault {text!r}: {part!r} is not understood; write {NOTATION}")
        return cls(name, **given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [self.name if self.nth is None else f"{self.name}@{self.nth}"]
        if self.probability != 1.0:
            parts.append(f"{self.probability:g}")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("every", "kind", "on", "times", "seconds") and value != item.default:
                parts.append(f"{item.name}={value:g}" if isinstance(value, float) else f"{item.name}={value}")
        return ":".join(parts)


def _number(kind: type[_N], value: str, text: str) -> _N:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"fault {text!r}: {value!r} is not a number; write {NOTATION}") from None


@dataclass
class _Armed:
    fault: Fault
    draw: random.Random
    matched: int = 0
    hits: int = 0


@dataclass
class FaultBoard:
    """The faults that are set now, and how often each has been hit. Safe to change while the server runs.

    :param seed: of the probabilities; the n-th fault added draws its own sequence.
    """

    seed: int = 0
    _armed: list[_Armed] = field(default_factory=list)
    _added: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, faults: Iterable[str | Fault]) -> list[Fault]:
        """Set more faults; all are read before the first one is set."""
        parsed = [Fault.parse(fault) for fault in faults]
        with self._lock:
            for fault in parsed:
                # A fresh list, as `hit` walks the present one without a lock when there is none.
                armed = _Armed(fault, random.Random(f"{self.seed}:{self._added}:{fault.name}"))
                self._armed = [*self._armed, armed]
                self._added += 1
        return parsed

    def clear(self) -> None:
        """Take every fault away, and start the draws anew."""
        with self._lock:
            self._armed = []
            self._added = 0

    def hit(self, stage: str, on: str, kind: str | None) -> Fault | None:
        """The first fault of a stage that hits this request, which counts for each fault it matches.

        :param stage: ``before``, ``outcome``, ``after`` or ``poll``.
        :param on: ``submit``, ``poll`` or ``chat``.
        :param kind: of the request, such as ``image``.
        """
        if not self._armed:
            return None
        chosen: Fault | None = None
        with self._lock:
            for armed in self._armed:
                if _matches(armed.fault, stage, on, kind) and _strikes(armed) and chosen is None:
                    armed.hits += 1
                    chosen = armed.fault
        return chosen

    def describe(self) -> list[dict[str, object]]:
        """Each fault with how many requests it matched and hit, as plain JSON values."""
        return [{"fault": str(a.fault), "matched": a.matched, "hits": a.hits} for a in self._armed]


def _matches(fault: Fault, stage: str, on: str, kind: str | None) -> bool:
    fault_stage, allowed, _ = FAULTS[fault.name]
    return (
        fault_stage == stage
        and on in allowed
        and (fault.on is None or fault.on == on)
        and (fault.kind is None or fault.kind == kind)
    )


def _strikes(armed: _Armed) -> bool:
    fault = armed.fault
    armed.matched += 1
    if fault.times is not None and armed.hits >= fault.times:
        return False
    if fault.nth is not None:
        return armed.matched == fault.nth
    if fault.every is not None and armed.matched % fault.every:
        return False
    return fault.probability >= 1.0 or armed.draw.random() < fault.probability
