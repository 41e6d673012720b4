"""One run over the parts of an input: jobs out to the engine, outcomes back to their rows, then a report.

A frame in memory is one part; a streamed input is many, of which only a few are open at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from aio_provider.api.client import AsyncAioClient
from aio_provider.api.validation import waiting
from aio_provider.frames.collector import patient_collector
from aio_provider.frames.figures import Figures
from aio_provider.frames.options import Options
from aio_provider.frames.parts import STRETCH, Naming, Part, RowJob, recorded
from aio_provider.frames.progress import View
from aio_provider.frames.report import Report
from aio_provider.frames.schema import RowResult
from aio_provider.jobs.job import SHORT_KEY, Job, Outcome, OutcomeStatus
from aio_provider.jobs.ledger import JobState, Ledger, LedgerError
from aio_provider.jobs.ledger.location import is_new, locate, require_folder
from aio_provider.jobs.limiter import rate_budget
from aio_provider.jobs.polling import PollPlan, catalog_prior
from aio_provider.jobs.progress import Progress
from aio_provider.jobs.runner import Runner

if TYPE_CHECKING:
    from aio_provider.frames.partfiles import PartNote
    from aio_provider.frames.spec import RequestSpec
    from aio_provider.jobs.settings import Settings

#: parts held at once; a row that takes hours must not make the rest of the input pile up behind it
OPEN_PARTS = 8
#: held jobs that are named after a run
HELD_NAMED: Final = 5
#: seconds between two looks at how far it is: it changes with every row, and the last look is the report's
_SHOW_EVERY = 0.05


class Held(NamedTuple):
    """A job that may have been charged: its row, what to add to the row's name, and the job's short key."""

    row: int
    more: str
    key: str


class Run:
    """A call under way: :meth:`collect` in a coroutine; :meth:`report` anywhere.

    :param total: rows, where that is known.
    """

    def __init__(self, spec: RequestSpec, options: Options, settings: Settings, total: int | None) -> None:
        self.spec = spec
        self.options = options
        self.settings = settings
        self.run_id = options.run_id or uuid.uuid4().hex
        self.naming = Naming(spec, options, settings.base_url, self.run_id)
        #: parts that were begun and are not done, by number
        self.open: dict[int, Part] = {}
        #: the input has been read to its end
        self.ended = False
        #: ends on record that this run does not take for one
        self._again = {
            *([JobState.FAILED] if options.retry_failed else ()),
            *([JobState.SUCCEEDED] if options.refresh_urls else ()),
        }
        #: held by the thread that names rows: a run that is cancelled does not wait for it
        self._reading = threading.Lock()
        self.figures = Figures(total)
        self._drift: list[str] = []
        #: of rows, for the caller's thread to give
        self.warnings: deque[str] = deque()
        #: the ledger's file, where it was named and this run began it
        self.new_ledger: str | None = None
        self._held: list[Held] = []
        #: the engine's own figures, for the view
        self._progress = Progress()
        #: jobs that this run has sent and whose end it was not told of
        self._sent: set[str] = set()
        self._started = time.monotonic()
        self._shown = 0.0
        self._began = datetime.now(UTC)

    def connect(self) -> None:
        """Make the client, so that a missing key is found before anything else happens.

        :raises ConfigurationError: a key or an address that cannot be used.
        :raises LedgerUnavailableError: a ledger in a folder that does not exist.
        """
        settings = self.settings
        where = locate(settings.ledger)
        require_folder(where)
        self.new_ledger = str(where.database) if is_new(settings.ledger) else None
        self._client = AsyncAioClient(
            settings.api_key,
            settings.base_url,
            timeout=settings.timeout,
            allow_insecure=settings.allow_insecure,
            on_server_error=settings.on_server_error,
            retry=None,  # each request takes its own turn of the budget
        )

    async def collect(
        self, parts: Iterable[Part], view: View, done: Callable[[Part], None] | None = None
    ) -> None:
        """Send every row's request and take in what becomes of it.

        :param parts: read one after the other, in a thread.
        :param view: is told how far it is.
        :param done: called in a thread with each part that has all its results.
        :raises AioError: what stopped the run early. Parts in :attr:`open` then have what the record knows.
        """
        told = waiting.set(self.warnings)  # rows are read in threads, where nobody's line is
        try:
            await self._collect_all(parts, view, done)
        finally:
            waiting.reset(told)

    async def _collect_all(
        self, parts: Iterable[Part], view: View, done: Callable[[Part], None] | None
    ) -> None:
        ledger = await asyncio.to_thread(Ledger.open, self.settings.ledger)
        ledger.on_budget_event = self.options.on_budget_event
        try:
            async with self._client as client:
                self._view, self._ledger, self._done = view, ledger, done
                self._room, self._turn = asyncio.Event(), asyncio.Lock()
                self._loop = asyncio.get_running_loop()
                with patient_collector():
                    await self._collect(self._runner(client, ledger), parts)
            if self.figures.spent:
                self._drift = await asyncio.to_thread(ledger.drift_notes, self._began, self.settings.base_url)
        except BaseException:
            for part in self.open.values():
                self._look_up(part)
            raise
        finally:
            ledger.close()
            with self._reading:
                self.naming.close()

    def _runner(self, client: AsyncAioClient, ledger: Ledger) -> Runner:
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
            progress=self._tell,
            observer=self._step,
        )

    def held(self) -> list[Held]:
        """The first jobs that may have been charged."""
        found = [*self._held, *(one for part in self.open.values() for one in self._held_of(part))]
        return sorted(found)[:HELD_NAMED]

    def _held_of(self, part: Part) -> Iterator[Held]:
        for row, result in part.failures():
            if result.status == "unknown" and row in part.keys:
                more = part.with_key(row, self.options.key)
                yield Held(part.start + row, more, part.keys[row][:SHORT_KEY])

    def skip(self, note: PartNote) -> None:
        """Count a part that an earlier run has finished; called where parts are read, in a thread."""
        self._loop.call_soon_threadsafe(self._skipped, note)

    def _skipped(self, note: PartNote) -> None:
        self.figures.skipped(note)
        self._show()

    def report(self) -> Report:
        """The figures so far. Rows that were never reached are ``not_submitted``."""
        return self.figures.report(
            self.run_id,
            self.spec.kind,
            self.open.values(),
            seconds=time.monotonic() - self._started,
            drift=self._drift,
        )

    async def _collect(self, runner: Runner, parts: Iterable[Part]) -> None:
        jobs = self._jobs(iter(parts))
        outcomes = cast("AsyncGenerator[Outcome, None]", runner.run(jobs, total=self.figures.expected))
        try:
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    if self._take(outcome).done:
                        await self._finish()
        finally:
            for outcome in runner.left:
                self._take(outcome)
            self._budget.close()

    async def _jobs(self, parts: Iterator[Part]) -> AsyncIterator[Iterable[Job]]:
        """The jobs without an end on record, part after part; one is read when there is room for it."""
        while True:
            while len(self.open) >= OPEN_PARTS:
                self._room.clear()
                await self._room.wait()
            part = await asyncio.to_thread(next, parts, None)
            if part is None:
                self.ended = True
                return
            self.open[part.number] = part
            self._feeding = self.naming.jobs(part)
            while some := await asyncio.to_thread(self._stretch):
                jobs, ended = some
                self._reuse(part, ended)
                part.open += len(jobs)
                if jobs:
                    yield jobs
            part.fed = True
            self.figures.without_job(part)
            self._show()
            if part.done:
                await self._finish()

    def _stretch(self) -> tuple[list[RowJob], list[tuple[int, RowResult]]] | None:
        """The next rows with a job: those to do, and the results of those whose end is on record.

        Most of a run done again is such rows: they go past the engine.
        """
        with self._reading:
            jobs = list(islice(self._feeding, STRETCH))
        if not jobs:
            return None
        endings = self._ledger.endings([job.key for job in jobs])
        left: list[RowJob] = []
        ended: list[tuple[int, RowResult]] = []
        for job in jobs:
            ending = endings.get(job.key)
            if ending is None or ending.state in self._again or ending.fingerprint != job.request.fingerprint:
                left.append(job)
            else:
                ended.append((job.row, recorded(ending)))
        return left, ended

    def _reuse(self, part: Part, ended: list[tuple[int, RowResult]]) -> None:
        for row, result in ended:
            part.settle(row, result)
            self.figures.found(result)
        self._show()

    async def _finish(self) -> None:
        """Hand on the parts that have all their results."""
        async with self._turn:
            while (part := self._ready()) is not None:
                await asyncio.to_thread(self._complete, part)
                self.close(part)
                self._room.set()

    def _ready(self) -> Part | None:
        for part in self.open.values():
            # a row that shares the job of an earlier part's row waits for that part
            if part.done and not (part.copies and part.number != min(self.open)):
                return part
        return None

    def _complete(self, part: Part) -> None:
        """The last that is to be known of a part, then to whoever wants it."""
        with suppress(LedgerError):  # our own clock's times are nearly as good
            part.take_times(self._ledger.endings(part.keys[row] for row in part.fresh))
        elsewhere = part.copy_within()
        if elsewhere:
            part.look_up(self._ledger.get(elsewhere))
        part.name_held()
        if self._done is not None:
            self._done(part)

    def close(self, part: Part) -> None:
        """Take a part into the figures and let go of it."""
        del self.open[part.number]
        self._held = sorted([*self._held, *islice(self._held_of(part), HELD_NAMED)])[:HELD_NAMED]
        self.figures.closed(part)

    def _take(self, outcome: Outcome) -> Part:
        job = cast("RowJob", outcome.job)
        part = cast("Part", job.part)
        result = RowResult.of(outcome)
        part.take(job.row, result)
        self.figures.took(outcome)
        if outcome.status not in (OutcomeStatus.PENDING, OutcomeStatus.NOT_SUBMITTED):
            self._sent.discard(job.key)
        self._show()
        if outcome.finished_at is not None and outcome.finished_at >= self._began:
            part.fresh.append(job.row)
        return part

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if now < self._shown + _SHOW_EVERY:
            return
        self._shown = now
        progress = self._progress
        self._view.update(
            self.figures.live,
            reused=self.figures.reused,
            credits=self.figures.spent,
            in_flight=progress.in_flight,
            eta_seconds=progress.eta_seconds,
        )

    def _step(self, step: str, job: Job) -> None:
        if step == "after_intent":
            self._sent.add(job.key)

    def _look_up(self, part: Part) -> None:
        """After an early stop: what the record says of jobs without an end. It knows more than we were told:
        an answer may have come, and been written down, while everything was being stopped; and rows that this
        run did not reach may have been paid for by an earlier one.
        """
        if not part.fed:
            with self._reading:
                for _ in self._feeding:
                    pass  # each notes the row of its key
        # The ledger being lost may be what stopped the run: then no more is known.
        with suppress(LedgerError):
            part.take_times(self._ledger.endings(part.keys[row] for row in part.fresh))
            part.copy_within()
            entries = self._ledger.get(part.wanting())
            part.look_up(entries)
            for key in entries.keys() & set(part.keys.values()):
                self.figures.settled(entries[key], sent=key in self._sent)
        part.name_held()
