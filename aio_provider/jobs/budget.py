"""Credits before they are spent: an estimate of a batch, and a limit that reserves before each submission."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from aio_provider.api.prices import CreditRange, price
from aio_provider.jobs.job import Job

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.jobs.ledger import Ledger

#: past charges looked at for one model
_PAST = 500


@dataclass(frozen=True)
class Estimate:
    """What a batch is expected to cost, in credits.

    :param total: of all requests. A bound that is not known for one of them is not known in all (``None``).
    :param by_model: the same for each model (by name; tools under their kind).
    :param counts: how many requests each model has.
    """

    total: CreditRange
    by_model: Mapping[str, CreditRange] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many requests were looked at."""
        return sum(self.counts.values())


def estimate(requests: Iterable[GenerationRequest | Job], ledger: Ledger | None = None) -> Estimate:
    """What these requests are expected to cost. Sends nothing and spends nothing.

    :param requests: requests or jobs, read lazily.
    :param ledger: where past charges are, for models whose price is not published. Without it such a model
        is ``unknown``: its low is 0, its likely and high are ``None``.
    """
    learned: dict[tuple[str, str | None], CreditRange | None] = {}
    by_model: dict[str, CreditRange] = {}
    counts: dict[str, int] = {}
    for item in requests:
        request = item.request if isinstance(item, Job) else item
        one = item.estimate if isinstance(item, Job) and item.estimate is not None else price(request)
        if one.likely is None and ledger is not None:
            place = (request.kind, request.model)
            if place not in learned:
                learned[place] = _learned(ledger, *place)
            past = learned[place]
            one = one if past is None else _within(past, one)
        name = request.model or request.kind
        by_model[name] = one if name not in by_model else _add(by_model[name], one)
        counts[name] = counts.get(name, 0) + 1
    total = CreditRange(0.0, 0.0, 0.0)
    for part in by_model.values():
        total = _add(total, part)
    missing = sorted(name for name, part in by_model.items() if part.high is None)
    if missing:
        note = f"no upper bound is known for {', '.join(missing)}"
        total = CreditRange(total.low, total.likely, total.high, total.source, note)
    return Estimate(total, by_model, counts)


class CreditLimit:
    """What one run may spend. The high figure is reserved before a submission, the difference freed after.

    :param limit: credits; ``None``: no limit.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self.reserved = 0.0
        self._most: dict[str, float] = {}
        self._changed: list[asyncio.Future[None]] = []

    def amount(self, job: Job) -> float:
        """What to reserve: the high figure, else the likely one, else the most this model has cost."""
        if self.limit is None:
            return 0.0
        expected = job.estimate or price(job.request)
        known = expected.high if expected.high is not None else expected.likely
        most = self._most.get(job.request.model or job.request.kind, 0.0)
        return max(known if known is not None else 0.0, most if known is None else 0.0)

    async def reserve(self, amount: float) -> bool:
        """Reserve credits, waiting for what is in flight to be settled where that may make room.

        :returns: whether they are reserved; ``False``: they would go past the limit.
        """
        if self.limit is None:
            return True
        while self.spent + self.reserved + amount > self.limit or self.spent >= self.limit:
            if not self.reserved:
                return False
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changed.append(changed)
            await changed
        self.reserved += amount
        return True

    def settle(self, job: Job, amount: float, charged: float | None) -> None:
        """The charge is known (``None``: it never will be, so the reservation counts as spent)."""
        self.spent += amount if charged is None else charged
        if charged is not None:
            name = job.request.model or job.request.kind
            self._most[name] = max(self._most.get(name, 0.0), charged)
        self.free(amount)

    def free(self, amount: float) -> None:
        """Nothing was charged."""
        if self.limit is None:
            return
        self.reserved = max(0.0, self.reserved - amount)
        if self.reserved < 1e-9:
            self.reserved = 0.0
        waiting, self._changed = self._changed, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)


def _learned(ledger: Ledger, kind: str, model: str | None) -> CreditRange | None:
    from aio_provider.jobs.ledger import JobState

    entries = ledger.entries(state=JobState.SUCCEEDED, kind=kind, model=model, limit=_PAST)
    past = [entry.credits for entry in islice(entries, _PAST) if entry.credits is not None]
    if not past:
        return None
    note = f"median of {len(past)} past charges"
    return CreditRange(min(past), median(past), max(past), "learned", note)


def _within(past: CreditRange, published: CreditRange) -> CreditRange:
    """Past charges, kept within the published range where there is one."""
    if published.high is None:
        return past
    likely = past.likely if past.likely is not None else published.high
    likely = min(max(likely, published.low), published.high)
    return CreditRange(published.low, likely, published.high, "learned", past.note)


_RANK = {"published": 0, "learned": 1, "unknown": 2}


def _add(a: CreditRange, b: CreditRange) -> CreditRange:
    return CreditRange(
        a.low + b.low,
        None if a.likely is None or b.likely is None else a.likely + b.likely,
        None if a.high is None or b.high is None else a.high + b.high,
        max(a.source, b.source, key=_RANK.__getitem__),
        a.note if a.note == b.note else "; ".join(filter(None, dict.fromkeys([a.note, b.note]))),
    )
