"""What a run has come to so far: rows by status, credits, and what is left for the engine to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from aio_provider.api.prices import price
from aio_provider.frames.report import Report
from aio_provider.jobs.job import OutcomeStatus
from aio_provider.jobs.ledger import ENDED, Entry, JobState
from aio_provider.jobs.outcomes import OVER_LIMIT

if TYPE_CHECKING:
    from aio_provider.frames.partfiles import PartNote
    from aio_provider.frames.parts import Part
    from aio_provider.frames.schema import RowResult
    from aio_provider.jobs.job import Outcome


class Figures:
    """The figures of one run.

    :param total: rows, where that is known.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        #: rows by status, as they come
        self.live: Counter[str] = Counter()
        #: credits that this run was charged
        self.spent = 0.0
        #: results that were there before, and what they had cost
        self.reused = 0
        self.saved = 0.0
        #: rows left out for ``max_credits``; for a budget of the ledger, and what it said
        self.over_limit = 0
        self.over_budget = 0
        self.budget_error = ""
        #: rows that failed, expired or are held; and the first of them
        self.failed = 0
        self.first_failure: tuple[int, RowResult] | None = None
        #: credits that jobs of this run without an end are likely to cost, by key
        self._in_flight: dict[str, float] = {}
        #: rows of parts that are done, by status
        self._statuses: Counter[str] = Counter()
        #: rows that need no job of the engine: without one, or with an end on record
        self._apart = 0

    def expected(self) -> int | None:
        """How many jobs the engine gets."""
        return None if self.total is None else self.total - self._apart

    def skipped(self, note: PartNote) -> None:
        """An earlier run has finished this part."""
        self._statuses.update(note.statuses)
        self.live.update(note.statuses)
        self._apart += note.rows
        self.reused += note.statuses.get("succeeded", 0)
        self.saved += note.credits

    def without_job(self, part: Part) -> None:
        """All rows of this part have been named: count those that have nothing to do."""
        own = [result for row, result in enumerate(part.results) if row not in part.keys]
        self.live.update(result.status for result in own if result is not None)
        self._apart += len(own)

    def found(self, result: RowResult) -> None:
        """A row whose end was on record."""
        self.live[result.status] += 1
        self._apart += 1
        if result.status == "succeeded":
            self._reuse(result.credits)

    def took(self, outcome: Outcome) -> None:
        """A row whose job the engine has carried out."""
        self.live[str(outcome.status)] += 1
        if outcome.error_type == "BudgetExceededError" and outcome.error:
            if outcome.error.startswith(OVER_LIMIT):
                self.over_limit += 1
            else:
                self.over_budget += 1
                self.budget_error = outcome.error
        if not outcome.reused:
            self.spent += outcome.credits or 0.0
            if outcome.status is OutcomeStatus.PENDING:
                self._in_flight[outcome.key] = price(outcome.job.request).likely or 0.0
        elif outcome.status is OutcomeStatus.SUCCEEDED:
            self._reuse(outcome.credits)

    def settled(self, entry: Entry, *, sent: bool) -> None:
        """What the record has of a job whose end the engine did not tell.

        :param sent: by this run, which pays for it.
        """
        self._in_flight.pop(entry.key, None)
        if entry.state not in ENDED:
            if sent and entry.state is JobState.ACCEPTED:
                self._in_flight[entry.key] = entry.estimate_likely or 0.0
            return
        if sent:
            self.spent += entry.credits or 0.0
        elif entry.state is JobState.SUCCEEDED:
            self._reuse(entry.credits)

    def closed(self, part: Part) -> None:
        """A part that is done."""
        self._statuses.update(part.statuses())
        for row in part.copies:
            result = part.results[row]
            if result is None:
                continue
            self.live[result.status] += 1
            if result.status == "succeeded":
                self._reuse(result.credits)
        for row, result in part.failures():
            self.failed += 1
            if self.first_failure is None or part.start + row < self.first_failure[0]:
                self.first_failure = (part.start + row, result)

    def report(
        self, run_id: str, kind: str, parts: Collection[Part], *, seconds: float, drift: Iterable[str]
    ) -> Report:
        """The figures so far. Rows that were never reached are ``not_submitted``.

        :param parts: those that are not done.
        """
        statuses = self._statuses.copy()
        for part in parts:
            statuses.update(part.statuses())
        left = 0 if self.total is None else self.total - statuses.total()
        if left > 0:
            statuses["not_submitted"] += left
        shared = [part.results[row] for part in parts for row in part.copies]
        known = [result for result in shared if result is not None and result.status == "succeeded"]
        return Report(
            run_id=run_id,
            kind=kind,
            rows=statuses.total(),
            statuses=dict(statuses),
            credits=self.spent,
            reused=self.reused + len(known),
            saved=self.saved + sum(result.credits or 0.0 for result in known),
            seconds=seconds,
            in_flight=sum(self._in_flight.values()),
            drift=tuple(drift),
        )

    def _reuse(self, credits: float | None) -> None:
        self.reused += 1
        self.saved += credits or 0.0
