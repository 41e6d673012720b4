"""One submission, from its turn to its record: the only place that spends credits.

The order is what keeps a job from being paid twice: a turn of the rate budget first, then the intent
(committed), then the POST, then at once the id. Nothing else happens in between, and once the intent stands
the rest is carried out even when its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from aio_provider.api.catalog import load_catalog
from aio_provider.api.errors import (
    REFUSALS,
    AioError,
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    NotFoundError,
    RateLimitError,
    ServerError,
    SubmissionUnknownError,
    TransportError,
)
from aio_provider.jobs.ledger import Finished, JobState

if TYPE_CHECKING:
    from aio_provider.api.client import AsyncAioClient
    from aio_provider.api.tasks import ChatCompletion, Task
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger import AsyncLedger, Entry
    from aio_provider.jobs.pacing import Priority, RateBudget

log = logging.getLogger(__name__)

#: told of ``before_intent``, ``after_intent``, ``answered``, ``accepted``, ``finished`` (and the job)
Observer = Callable[[str, "Job"], None]


#: kind and model
_Model = tuple[str, str | None]


class Fate(Enum):
    """What became of a try to submit."""

    ACCEPTED = auto()
    #: answered at once (chat); already on record
    ANSWERED = auto()
    #: refused as it stands; already on record
    REFUSED = auto()
    #: it may have been charged; held
    UNKNOWN = auto()
    #: another process is submitting it
    TAKEN = auto()
    #: the account has too few credits; nothing was charged
    OUT_OF_CREDITS = auto()
    #: submissions were stopped before this one
    STOPPED = auto()
    #: a budget of the ledger has no room for it; nothing was sent
    OVER_BUDGET = auto()
    #: certainly not taken: try again
    AGAIN = auto()


@dataclass(frozen=True, slots=True)
class Submission:
    """The fate of one job, with what the service or the error said."""

    fate: Fate
    task: Task | None = None
    chat: ChatCompletion | None = None
    error: AioError | None = None
    submitted_at: float = 0.0


class Submitter:
    """Submits jobs, each at most once.

    :param client: its own retries are off: each request takes a turn.
    :param ledger: the record.
    :param budget: the turns.
    :param user: whose turns they are.
    :param observer: called at each step.
    :param on_answer: told what became of each submission that was sent.
    :param attempts: rounds of tries to reach the service before giving up; pauses double from ``pause``
        seconds up to 30.
    """

    def __init__(
        self,
        client: AsyncAioClient,
        ledger: AsyncLedger,
        budget: RateBudget,
        *,
        user: object = None,
        observer: Observer | None = None,
        on_answer: Callable[[Job, Submission], None] | None = None,
        attempts: int = 7,
        pause: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._budget = budget
        self._user = user
        self._tell = observer or (lambda step, job: None)
        self._on_answer = on_answer or (lambda job, submission: None)
        self._attempts = attempts
        self._first_pause = pause
        self._clock = clock
        self._wall = wall
        self._failures = 0
        self._pause_until = float("-inf")
        #: models that the service does not have, by kind and model: the answer to the first job of each
        self._refused: dict[_Model, NotFoundError] = {}
        #: models that are in no catalog: those that the service has taken, and whose first answer is awaited
        self._taken: set[_Model] = set()
        self._first: dict[_Model, asyncio.Lock] = {}
        #: set to stop all further submissions: the error that did it
        self.stopped: AioError | None = None
        #: submissions whose answer nobody has taken yet: they outlive the cancellation of their caller
        self.in_air: dict[asyncio.Task[Submission], str] = {}

    async def submit(self, job: Job, entry: Entry, priority: Callable[[], Priority]) -> Submission:
        """Submit a planned job, waiting for its turn and for the service to be reachable.

        :raises AuthenticationError: the key is refused.
        :raises TransportError: the service cannot be reached; the job is still ``planned``.
        :raises LedgerError: the record failed.
        """
        async with self._first_alone(job):
            if refused := self._refused.get(_model_of(job)):
                return Submission(Fate.STOPPED, error=refused)
            return await self._submit(job, entry, priority)

    async def _submit(self, job: Job, entry: Entry, priority: Callable[[], Priority]) -> Submission:
        while True:
            if (wait := self._pause_until - self._clock()) > 0:
                await asyncio.sleep(wait)
            turn = self._budget.request(priority(), self._user)
            async with turn as held:
                if self.stopped is not None:
                    held.withdraw()
                    return Submission(Fate.STOPPED, error=self.stopped)
                if self._pause_until > self._clock():
                    held.withdraw()
                    continue
                self._tell("before_intent", job)
                try:
                    won = await self._ledger.intend(entry)
                except BudgetExceededError as error:
                    held.withdraw()
                    return Submission(Fate.OVER_BUDGET, error=error)
                if not won:
                    held.withdraw()
                    return Submission(Fate.TAKEN)
                sending = asyncio.create_task(self._sent(job))
                self.in_air[sending] = job.key
                sending.add_done_callback(_look_at)
                submission = await asyncio.shield(sending)
            # Not when it is answered, but when the answer is taken: a cancelled caller leaves it for others.
            del self.in_air[sending]
            if submission.fate is not Fate.AGAIN:
                return submission

    async def _sent(self, job: Job) -> Submission:
        submission = await self._send(job)
        self._on_answer(job, submission)
        return submission

    async def _send(self, job: Job) -> Submission:
        self._tell("after_intent", job)
        try:
            if job.request.kind == "chat":
                chat = await self._client.chat(job.request)
                self._failures = 0
                return await self._answered(job, chat)
            task = await self._client.submit(job.request)
        except RateLimitError as error:
            self._budget.close_for(error.retry_after)
            await self._ledger.release(job.key)
            return Submission(Fate.AGAIN, error=error)
        except InsufficientCreditsError as error:
            self.stopped = self.stopped or error
            await self._ledger.release(job.key)
            return Submission(Fate.OUT_OF_CREDITS, error=error)
        except (AuthenticationError, ConfigurationError):
            await self._ledger.release(job.key)
            raise
        except (TransportError, ServerError) as error:
            # A client raises these for a POST only when it certainly may be sent again.
            await self._ledger.release(job.key)
            self._unreachable(error)
            return Submission(Fate.AGAIN)
        except SubmissionUnknownError as error:
            await self._ledger.hold(job.key, error)
            return Submission(Fate.UNKNOWN, error=error)
        except AioError as error:
            if error.status in REFUSALS or (error.status is None and isinstance(error, ValueError)):
                await self._ledger.finish(
                    Finished(
                        job.key,
                        JobState.FAILED,
                        credits=0.0,
                        error=str(error),
                        error_type=type(error).__name__,
                    )
                )
                self._note_refusal(job, error)
                return Submission(Fate.REFUSED, error=error)
            await self._ledger.hold(job.key, error)
            return Submission(Fate.UNKNOWN, error=error)
        except BaseException as error:
            # Cancelled at the end of its grace, or a fault of ours: it may have been taken.
            await self._ledger.hold(job.key, error)
            raise
        await self._ledger.accept(job.key, task.id)
        self._taken.add(_model_of(job))
        self._failures = 0
        self._tell("accepted", job)
        return Submission(Fate.ACCEPTED, task=task, submitted_at=self._wall())

    async def _answered(self, job: Job, chat: ChatCompletion) -> Submission:
        self._taken.add(_model_of(job))
        await self._ledger.finish(Finished(job.key, JobState.SUCCEEDED, text=chat.text, credits=chat.credits))
        self._tell("finished", job)
        return Submission(Fate.ANSWERED, chat=chat, submitted_at=self._wall())

    def _note_refusal(self, job: Job, error: AioError) -> None:
        """A model that the service does not have now it will not have for the next job either.

        Only of a model that the catalog does not know: a 400 or 404 about a known one is about its inputs.
        """
        if _in_catalog(job):
            return
        if error.status == 404 or "model" in str(error).lower():
            model = job.request.model
            why = f"Not sent: the service refused model {model!r} for another job of this run ({error})."
            self._refused.setdefault(_model_of(job), NotFoundError(why, status=error.status))

    @asynccontextmanager
    async def _first_alone(self, job: Job) -> AsyncIterator[None]:
        """The first job of a model that the catalog does not know goes alone: its answer holds for all."""
        model = _model_of(job)
        if model not in self._taken and not _in_catalog(job):
            async with self._first.setdefault(model, asyncio.Lock()):
                if model not in self._taken:
                    yield
                    return
        yield

    def _unreachable(self, error: AioError) -> None:
        """Pause everyone for a while; give up after so many rounds."""
        now = self._clock()
        if now < self._pause_until:
            return  # one of those sent before the pause began
        self._failures += 1
        if self._failures > self._attempts:
            raise error
        pause = min(self._first_pause * 2 ** (self._failures - 1), 30.0)
        self._pause_until = now + pause
        log.warning("Submissions paused for %.1f s: %s: %s", pause, type(error).__name__, error)


def _model_of(job: Job) -> _Model:
    return job.request.kind, job.request.model


def _in_catalog(job: Job) -> bool:
    model = job.request.model
    return model is None or load_catalog().model(model) is not None


def _look_at(sending: asyncio.Task[Submission]) -> None:
    """Keep asyncio from reporting an exception as never retrieved: the caller raises it, if there is one."""
    if not sending.cancelled():
        sending.exception()
