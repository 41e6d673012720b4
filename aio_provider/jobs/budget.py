"""Credits before they are spent: an estimate of a batch, and a limit that reserves before each submission."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from aio_provider.api.prices import CreditRange, price
from aio_provider.jobs.job import Job

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.jobs.ledger import Entry, Ledger

#: requests looked at together
_SOME = 500


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


def estimate(
    requests: Iterable[GenerationRequest | Job], ledger: Ledger | None = None, *, scope: str = ""
) -> Estimate:
    """What these requests are expected to cost. Sends nothing and spends nothing.

    :param requests: requests or jobs, read lazily.
    :param ledger: where past charges are: they narrow published ranges, stand in for prices that are not
        published and correct those that have changed. Without it a model without a price is ``unknown``: its
        low is 0, its likely and high are ``None``.
    :param scope: base URL of the service; charges of another one do not count. Empty: any.
    """
    by_model: dict[str, CreditRange] = {}
    counts: dict[str, int] = {}
    for request, one in _each(requests, ledger, scope):
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

    Where no high figure is known, the first job of a model reserves all that is left, and so goes alone; once
    its charge is known, further ones reserve that, or what they are likely to cost.

    :param limit: credits; ``None``: no limit.
    :param most: the most that jobs of each model (by name; tools by their kind) have cost this run so far.
    """

    def __init__(self, limit: float | None, most: Mapping[str, float] | None = None) -> None:
        self.limit = limit
        self.spent = 0.0
        self.reserved = 0.0
        self.most = dict(most or {})
        self._changed: list[asyncio.Future[None]] = []

    def amount(self, job: Job, entry: Entry | None = None) -> float:
        """What to reserve for a job just now.

        :param entry: the job's record, whose estimate knows past charges.
        """
        if self.limit is None:
            return 0.0
        expected, is_bound = self._expected(job, entry)
        if is_bound or (job.request.model or job.request.kind) in self.most:
            return expected
        return max(expected, self.limit - self.spent - self.reserved)

    def fits(self, amount: float) -> bool:
        """Whether there is room for so much, and anything left at all."""
        if self.limit is None:
            return True
        return self.spent < self.limit and self.spent + self.reserved + amount <= self.limit

    async def reserve(self, job: Job, entry: Entry | None = None) -> float | None:
        """Reserve credits, waiting for what is in flight to be settled where that may make room.

        :returns: how many are reserved; ``None``: they would go past the limit.
        """
        while not self.fits(amount := self.amount(job, entry)):
            if not self.reserved:
                return None
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changed.append(changed)
            await changed
        self.reserved += amount
        return amount

    def settle(self, job: Job, amount: float, charged: float | None, entry: Entry | None = None) -> None:
        """The charge is known (``None``: it never will be, so what was expected counts as spent).

        :param amount: what was reserved.
        """
        self.spent += self._expected(job, entry)[0] if charged is None else charged
        if charged is not None:
            learn(self.most, job.request.model or job.request.kind, charged)
        self.free(amount)

    def _expected(self, job: Job, entry: Entry | None) -> tuple[float, bool]:
        """The high figure, else the most this model has cost, at least the likely figure; whether it is the
        high one.
        """
        if entry is not None and entry.estimate_low is not None:
            likely, high = entry.estimate_likely, entry.estimate_high
        else:
            expected = job.estimate or price(job.request)
            likely, high = expected.likely, expected.high
        if high is not None:
            return high, True
        return max(likely or 0.0, self.most.get(job.request.model or job.request.kind, 0.0)), False

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


def learn(most: dict[str, float], model: str, charged: float) -> None:
    """Note what a job of a model has cost, for :class:`CreditLimit`."""
    most[model] = max(most.get(model, 0.0), charged)


def _each(
    items: Iterable[GenerationRequest | Job], ledger: Ledger | None, scope: str
) -> Iterator[tuple[GenerationRequest, CreditRange]]:
    """Requests with their estimates; what a job says of itself comes first."""
    items = iter(items)
    while some := list(islice(items, _SOME)):
        bare = [
            item.request if isinstance(item, Job) else item
            for item in some
            if not (isinstance(item, Job) and item.estimate is not None)
        ]
        found = iter(map(price, bare) if ledger is None else ledger.expected(bare, scope=scope))
        for item in some:
            if isinstance(item, Job):
                yield item.request, item.estimate if item.estimate is not None else next(found)
            else:
                yield item, next(found)


_RANK = {"published": 0, "learned": 1, "unknown": 2}


def _add(a: CreditRange, b: CreditRange) -> CreditRange:
    return CreditRange(
        a.low + b.low,
        None if a.likely is None or b.likely is None else a.likely + b.likely,
        None if a.high is None or b.high is None else a.high + b.high,
        max(a.source, b.source, key=_RANK.__getitem__),
        a.note if a.note == b.note else "; ".join(filter(None, dict.fromkeys([a.note, b.note]))),
    )
