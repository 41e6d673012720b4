"""One run over the rows of a frame: jobs out to the engine, outcomes back to their rows, then a report."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from aio_provider.api.client import AsyncAioClient
from aio_provider.frames.columns import plain
from aio_provider.frames.options import Options
from aio_provider.frames.progress import View, clock, in_credits
from aio_provider.frames.schema import RowResult, column_names, result_columns
from aio_provider.frames.spec import Invalid, Nothing, RequestSpec
from aio_provider.jobs.job import Job, Outcome, job_key, keyed
from aio_provider.jobs.ledger import Entry, JobState, Ledger, LedgerError
from aio_provider.jobs.pacing import rate_budget
from aio_provider.jobs.polling import PollPlan, catalog_prior
from aio_provider.jobs.runner import Progress, Runner

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.jobs.settings import Settings


@dataclass
class Report:
    """What a run came to."""

    run_id: str
    kind: str
    rows: int
    statuses: dict[str, int]
    credits: float
    reused: int
    saved: float
    seconds: float

    @property
    def succeeded(self) -> int:
        """How many rows have their result."""
        return self.statuses.get("succeeded", 0)

    def summary(self) -> str:
        """The figures for people, and what to do about rows without an end."""
        count = self.statuses
        parts = [
            "1 row" if self.rows == 1 else f"{self.rows:,} rows",
            f"{self.succeeded:,} succeeded",
        ]
        parts += [
            f"{n:,} {name.replace('_', ' ')}" for name, n in sorted(count.items()) if name != "succeeded"
        ]
        if self.reused:
            parts.append(f"{self.reused:,} reused (saved {in_credits(self.saved)})")
        parts.append(f"{in_credits(self.credits)} spent")
        lines = [f"{self.kind}: {', '.join(parts)}, in {clock(self.seconds)}."]
        if count.get("unknown"):
            lines.append(
                "Rows that may have been charged are held; `aio ledger show` says how to settle them."
            )
        if count.get("pending"):
            lines.append("What is pending was submitted: the same call again collects it, and pays nothing.")
        return " ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for a file's metadata and for ``out.attrs["aio"]``."""
        return {
            "run_id": self.run_id,
            "kind": self.kind,
            "rows": self.rows,
            "statuses": dict(self.statuses),
            "credits": self.credits,
            "reused": self.reused,
            "saved_credits": self.saved,
        }


class Run:
    """A call under way: :meth:`collect` in a coroutine; :meth:`frame_so_far` and :meth:`report` anywhere."""

    def __init__(self, frame: pd.DataFrame, spec: RequestSpec, options: Options, settings: Settings) -> None:
        self.frame = frame
        self.spec = spec
        self.options = options
        self.settings = settings
        self.run_id = options.run_id or uuid.uuid4().hex
        self._results: list[RowResult | None] = [None] * len(frame)
        self._positions: dict[str, int] = {}  # job key → row
        self._copies: dict[int, int] = {}  # row → the earlier row that it shares a job with
        self._jobs_left: Iterator[Job] = self.jobs()
        self._fresh: list[str] = []  # keys of the jobs that ended while this run watched
        self.over_limit = 0  # rows left out for max_credits
        self._spent = 0.0
        self._reused = 0
        self._saved = 0.0
        self._own_done = 0
        self._own_failed = 0
        self._started = time.monotonic()
        self._began = datetime.now(UTC)

    def connect(self) -> None:
        """Make the client, so that a missing key is found before anything else happens.

        :raises ConfigurationError: a key or an address that cannot be used.
        """
        settings = self.settings
        self._client = AsyncAioClient(
            settings.api_key,
            settings.base_url,
            timeout=settings.timeout,
            allow_insecure=settings.allow_insecure,
            on_server_error=settings.on_server_error,
            retry=None,  # each request takes its own turn of the budget
        )

    async def collect(self, view: View) -> None:
        """Send every row's request and take in what becomes of it.

        :param view: is told how far it is.
        :raises AioError: what stopped the run early; :meth:`frame_so_far` still works.
        """
        ledger = await asyncio.to_thread(Ledger.open, self.settings.ledger)
        try:
            async with self._client as client:
                await self._collect(self._runner(client, ledger, view))
            await asyncio.to_thread(self._take_times, ledger)
        except BaseException:
            self._look_up(ledger)
            raise
        finally:
            ledger.close()

    def _runner(self, client: AsyncAioClient, ledger: Ledger, view: View) -> Runner:
        options, settings = self.options, self.settings
        self._budget = rate_budget(settings.requests_per_minute, settings.limiter_url, settings.key_id)
        return Runner(
            client,
            ledger,
            self._budget,
            plan=PollPlan(catalog_prior(settings.latency_scale)),
            max_credits=options.max_credits,
            warn=False,  # :class:`Prepared` does, where the user sees it
            retry_failed=options.retry_failed,
            refresh_urls=options.refresh_urls,
            on_unknown=options.on_unknown,
            prefer=options.prefer,
            deadlines=None if options.deadline is None else {self.spec.kind: options.deadline},
            progress=lambda progress: self._tell(view, progress),
        )

    async def _collect(self, runner: Runner) -> None:
        self._jobs_left = self.jobs()
        outcomes = cast("AsyncGenerator[Outcome, None]", runner.run(self._jobs_left, total=len(self.frame)))
        try:
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    self._take(outcome)
        finally:
            for outcome in runner.left:
                self._take(outcome)
            self._budget.close()

    def frame_so_far(self) -> pd.DataFrame:
        """The input's rows with the output columns; rows the engine never reached are ``not_submitted``."""
        rest = RowResult(
            "not_submitted", error="The run stopped before this row was sent; nothing was spent on it."
        )
        results = [rest if result is None else result for result in self._filled()]
        names = column_names(self.options.prefix)
        kept = self.frame.drop(columns=[name for name in names if name in self.frame.columns])
        out = pd.concat([kept, result_columns(results, kept.index, self.options.prefix)], axis="columns")
        out.attrs = {**self.frame.attrs, "aio": self.report().to_dict()}
        return out

    def report(self) -> Report:
        """The figures so far."""
        statuses = Counter("not_submitted" if result is None else result.status for result in self._filled())
        shared = [
            result for result in map(self._results.__getitem__, self._copies.values()) if result is not None
        ]
        return Report(
            run_id=self.run_id,
            kind=self.spec.kind,
            rows=len(self.frame),
            statuses=dict(statuses),
            credits=self._spent,
            reused=self._reused + len(shared),
            saved=self._saved + sum(result.credits or 0.0 for result in shared),
            seconds=time.monotonic() - self._started,
        )

    def failures(self) -> list[tuple[Any, RowResult]]:
        """The rows that failed, expired or are held, with their labels in the index."""
        bad = ("failed", "expired", "unknown")
        pairs = zip(self.frame.index, self._filled(), strict=True)
        return [(label, result) for label, result in pairs if result is not None and result.status in bad]

    def jobs(self) -> Iterator[Job]:
        """Jobs, one for each row that has something to do; the other rows get their result here."""
        labels = {"run_id": self.run_id, **self.options.labels}
        keys = (
            None
            if self.options.key is None
            else [plain(value) for value in self.frame[self.options.key].tolist()]
        )
        counts: Counter[bytes] = Counter()
        named: dict[str, tuple[int, bytes]] = {}
        for position, item in enumerate(self.spec.requests(self.frame)):
            if isinstance(item, Nothing):
                self._settle(position, RowResult("skipped", error=item.reason))
                continue
            if isinstance(item, Invalid):
                self._settle(position, RowResult("failed", error=str(item.error)))
                continue
            mark = bytes.fromhex(item.fingerprint[:32])
            if keys is None:
                key = self._content_key(item, counts[mark])
                counts[mark] += 1
            else:
                if keys[position] is None:
                    why = f"The key column {self.options.key!r} is null in this row; nothing was sent."
                    self._settle(position, RowResult("failed", error=why))
                    continue
                key = keyed(
                    keys[position], self.spec.kind, scope=self.settings.base_url, namespace=self._namespace
                )
                first, known = named.setdefault(key, (position, mark))
                if first != position:
                    self._share(position, first, same=known == mark, value=keys[position])
                    continue
            self._positions[key] = position
            yield Job(key, item, labels)

    def _content_key(self, request: GenerationRequest, occurrence: int) -> str:
        scope = self.settings.base_url
        if self.options.reuse == "always":
            return job_key(request, occurrence, scope=scope)
        return keyed(
            f"{request.fingerprint}:{occurrence}", self.spec.kind, scope=scope, namespace=f"run:{self.run_id}"
        )

    @property
    def _namespace(self) -> str:
        # The call's shape keeps two calls over one key column apart (two models, say): each has its own job
        # for a row, and going back to the first finds its results. The run's id does so for runs.
        shape = hashlib.sha256(json.dumps(self.spec.describe(), sort_keys=True).encode()).hexdigest()
        return shape if self.options.reuse == "always" else f"{shape}:run:{self.run_id}"

    def _share(self, position: int, first: int, *, same: bool, value: object) -> None:
        if same:
            self._copies[position] = first
            self._own_done += 1
            return
        why = (
            f"Key {value!r} is also the key of row {first} (counted from 0), which asks for something else; "
            "make the keys unique, or leave key= out."
        )
        self._settle(position, RowResult("failed", error=why))

    def _settle(self, position: int, result: RowResult) -> None:
        self._results[position] = result
        self._own_done += 1
        self._own_failed += result.status == "failed"

    def _take(self, outcome: Outcome) -> None:
        position = self._positions[outcome.key]
        self.over_limit += outcome.error_type == "BudgetExceededError"
        self._results[position] = RowResult.of(outcome)
        if outcome.reused:
            self._reused += 1
            self._saved += outcome.credits or 0.0
        else:
            self._spent += outcome.credits or 0.0
        if outcome.finished_at is not None and outcome.finished_at >= self._began:
            self._fresh.append(outcome.key)

    def _tell(self, view: View, progress: Progress) -> None:
        view.update(progress, extra_done=self._own_done, extra_failed=self._own_failed)

    def _take_times(self, ledger: Ledger) -> None:
        """Give the rows of this run the times of the record, so that a re-run gives the same frame."""
        with suppress(LedgerError):  # our own clock's times are nearly as good
            for key, entry in ledger.get(self._fresh).items():
                position = self._positions[key]
                result = self._results[position]
                if result is not None and result.task_id == entry.task_id and result.status == entry.state:
                    self._results[position] = replace(
                        result, submitted_at=entry.submitted_at, finished_at=entry.finished_at
                    )

    def _look_up(self, ledger: Ledger) -> None:
        """After an early stop: what the record says of jobs without an end. It knows more than we were told:
        an answer may have come, and been written down, while everything was being stopped; and rows that this
        run did not reach may have been paid for by an earlier one.
        """
        for _ in self._jobs_left:
            pass  # each notes the row of its key
        ended = ("succeeded", "failed", "expired", "skipped")
        open_rows = {}
        for key, position in self._positions.items():
            result = self._results[position]
            if result is None or result.status not in ended:
                open_rows[key] = position
        try:
            entries = ledger.get(open_rows)
        except LedgerError:
            return  # the ledger being lost may be what stopped the run: what we were told has to do
        for key, entry in entries.items():
            self._results[open_rows[key]] = _recorded(entry, self._results[open_rows[key]])

    def _filled(self) -> list[RowResult | None]:
        results = list(self._results)
        for position, first in self._copies.items():
            results[position] = results[first]
        return results


#: what a row is called when its run stopped while its job was in this state
_STATUS = {
    JobState.PLANNED: "not_submitted",
    JobState.INTENDED: "unknown",
    JobState.ACCEPTED: "pending",
}


def _recorded(entry: Entry, told: RowResult | None) -> RowResult:
    return RowResult(
        status=_STATUS.get(entry.state, str(entry.state)),
        urls=entry.urls,
        text=entry.text,
        credits=entry.credits,
        task_id=entry.task_id,
        error=entry.error
        or (told.error if told is not None else "The run stopped before this row was done."),
        model=entry.model,
        submitted_at=entry.submitted_at,
        finished_at=entry.finished_at,
    )
