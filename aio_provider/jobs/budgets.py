"""A run under the ledger's budgets: what waits while there may be room again, and what is given up.

The ledger decides (:mod:`aio_provider.jobs.ledger.budgets`). A reservation is a job's high estimate and its
charge often less, so a refused job is not given up while others of its run are in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from aio_provider.api.errors import BudgetExceededError
from aio_provider.jobs.submission import Fate, Submission

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Entry


class _Refusal(NamedTuple):
    """A budget's last word: who was refused what."""

    whose: tuple[str | None, ...]
    what: tuple[str, str | None]
    error: BudgetExceededError

    def holds_for(self, whose: tuple[str | None, ...], entry: Entry) -> bool:
        """Whether another job would be told the same: the same labels, and as dear or dearer."""
        if whose != self.whose:
            return False
        high = entry.estimate_high
        return (entry.kind, entry.model) == self.what if high is None else high >= self.error.amount


class Budgets:
    """The jobs of one run at the ledger's budgets. Once one is refused, one at a time asks again."""

    def __init__(self) -> None:
        self._asking = asyncio.Lock()
        self._change: asyncio.Event = asyncio.Event()
        self._refusals: list[_Refusal] = []

    async def submit(
        self, entry: Entry, send: Callable[[], Awaitable[Submission]], busy: Callable[[], bool]
    ) -> Submission:
        """Send a job as soon as there is room for it.

        :param send: submits it; a fate of ``OVER_BUDGET`` says that there is no room.
        :param busy: whether jobs of this run are in flight.
        :returns: what became of it: ``OVER_BUDGET`` where no room is to be expected.
        """
        if not self._asking.locked() and not self._refusals:
            submission = await send()
            if submission.fate is not Fate.OVER_BUDGET:
                return submission
        async with self._asking:
            whose = tuple(entry.labels.get(name) for name in ("conn_id", "dag_id", "team"))
            while True:
                for refusal in self._refusals:
                    if refusal.holds_for(whose, entry):
                        return Submission(Fate.OVER_BUDGET, error=refusal.error)
                self._change.clear()
                submission = await send()
                error = submission.error
                if submission.fate is not Fate.OVER_BUDGET or not isinstance(error, BudgetExceededError):
                    return submission
                await asyncio.sleep(0)  # whoever was let through in the same commit is in the air by now
                if not error.may_pass or not (busy() or self._change.is_set()):
                    self._refusals.append(_Refusal(whose, (entry.kind, entry.model), error))
                    return submission
                await self._change.wait()

    def changed(self) -> None:
        """A job has ended: there may be room where only reservations stood in the way."""
        self._refusals = [refusal for refusal in self._refusals if not refusal.error.may_pass]
        self._change.set()
