"""What a worker does for a batch between two waits: take outcomes in, send a wave, say what to wait for."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import AioError, BudgetExceededError, RateLimitError
from aio_provider.hooks import metrics
from aio_provider.hooks.aio import AioHook, budget_of, open_async_client
from aio_provider.jobs.budget import CreditLimit, learn
from aio_provider.jobs.flights import MINUTE, Flight, Tally, wave_size
from aio_provider.jobs.job import DEADLINES
from aio_provider.jobs.ledger import AsyncLedger, JobState, Ledger, LedgerStateError
from aio_provider.jobs.submission import Fate, Submission, Submitter
from aio_provider.jobs.waves import Keeper, Wave, Waves
from aio_provider.operators.ledger_record import finished
from aio_provider.triggers.aio import AioBatchTrigger

if TYPE_CHECKING:
    from aio_provider.frames.batch import Batch
    from aio_provider.jobs.job import Job

log = logging.getLogger(__name__)

#: tasks in flight at once, at most: their ids are kept in rows of Airflow's database
MOST_IN_FLIGHT = 1000
#: seconds until the next look, when there is nothing to wait for but room or another process
_LOOK_AGAIN = 15.0


@dataclass
class State:
    """What one wave hands to the next, as JSON: it is kept in Airflow's database, and holds no prompt.

    :param cursor: jobs from the front that need no further look; ``counted``: that were looked at.
    :param more: jobs are left to submit.
    :param again: other processes had jobs of ours in hand: look through all once more.
    :param overdue: tasks that had not ended at their deadline.
    :param stopped: why nothing more is submitted.
    :param stop: the class of the error that did it; ``final``: a retry cannot help.
    :param no_models: models that the service does not have, and how that is known.
    :param spent: what earlier waves were charged, under ``max_credits``; ``most``: the most that jobs of each
        model were.
    :param waves: how many there were.
    :param link: the first result.
    """

    cursor: int = 0
    counted: int = 0
    more: bool = True
    again: bool = False
    overdue: int = 0
    stopped: str | None = None
    stop: str = ""
    final: bool = False
    spent: float = 0.0
    most: dict[str, float] = field(default_factory=dict)
    waves: int = 0
    link: str = ""
    tally: Tally = field(default_factory=Tally)
    no_models: dict[str, str] = field(default_factory=dict)
    #: task id → the flight and when to give it up, in seconds since 1970
    flights: dict[str, tuple[Flight, float]] = field(default_factory=dict)

    def to_text(self) -> str:
        """JSON."""
        flights = [[*asdict(flight).values(), until] for flight, until in self.flights.values()]
        return json.dumps({**asdict(self), "flights": flights}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> State:
        """From :meth:`to_text`, as it comes back from the database."""
        values = json.loads(text)
        flights = {item[1]: (Flight(*item[:-1]), item[-1]) for item in values["flights"]}
        return cls(**{**values, "tally": Tally(**values["tally"]), "flights": flights})


@dataclass(eq=False)  # it stands in line for turns of the rate budget, as itself
class BatchRun:
    """One attempt's work on a batch.

    :param labels: which task instance this is, as its jobs are labelled in the ledger.
    :param max_failures: more failed rows than this, and nothing more is submitted; ``None``: no matter.
    :param patience: seconds to wait for a task, in place of the kind's own deadline.
    """

    hook: AioHook
    batch: Batch
    ledger: Ledger
    state: State
    kind: str
    labels: Mapping[str, str]
    keeper: Keeper | None = None
    max_credits: float | None = None
    max_failures: float | None = None
    retry_failed: bool = True
    on_unknown: Literal["hold", "resubmit"] = "hold"
    patience: float | None = None

    def take(self, event: Mapping[str, Any]) -> None:
        """Put a trigger's outcomes on record."""
        state = self.state
        results = []
        for outcome in event["outcomes"]:
            flight, _ = state.flights.pop(outcome["task_id"])
            ended = JobState(outcome["status"])
            results.append(finished(flight.key, ended.value, outcome))
            credits = outcome["credits"]
            state.tally.count(ended, credits, reused=flight.reused)
            if not flight.reused:
                metrics.ended(flight.kind, flight.model, ended.value, credits)
                unknown = credits is None and ended is JobState.SUCCEEDED
                state.spent += flight.reserved if unknown else credits or 0.0
                if credits is not None:
                    learn(state.most, flight.model or flight.kind, credits)
            state.link = state.link or next(iter(outcome["urls"]), "")
        try:
            self.ledger.finish(results)
        except LedgerStateError as error:  # somebody forgot or settled one meanwhile
            log.warning("Not everything could be recorded: %s", error)
        if self.keeper is not None and results:
            self.keeper.record(list(self.ledger.get([result.key for result in results]).values()))
        self._give_up(bool(results))

    def advance(self) -> AioBatchTrigger | None:
        """Send a wave where there is something to send, and say what to wait for; ``None``: all is done."""
        state = self.state
        if state.again and not state.flights:
            state.cursor, state.more, state.again = 0, True, False
        began, sent = time.time(), 0
        if state.more and state.stopped is None:
            wave = asyncio.run(self._wave())
            sent = wave.sent
            state.waves += 1
            state.cursor, state.counted = wave.cursor, max(wave.counted, state.counted)
            state.more, state.again = wave.more, state.again or wave.elsewhere > 0
            if wave.stopped is not None:
                state.stopped, state.stop = sentence(wave.stopped), type(wave.stopped).__name__
                state.final = isinstance(wave.stopped, BudgetExceededError) and not wave.stopped.may_pass
            state.link = state.link or wave.link
            for flight in wave.flights:
                state.flights.setdefault(flight.task_id, (flight, self._until(flight.submitted_at)))
        self._check_failures()
        log.info("%s", self.progress())
        to_send = state.more and state.stopped is None
        if not (state.flights or to_send or state.again):
            return None
        return self._trigger(began, sent, to_send)

    def progress(self) -> str:
        """How far it is, in one line."""
        state, tally = self.state, self.state.tally
        total = self.batch.total
        parts = [f"{tally.done:,}{'' if total is None else f' of {total:,}'} done"]
        if tally.reused:
            parts.append(f"{tally.reused:,} reused")
        if tally.failed:
            parts.append(f"{tally.failed:,} failed")
        if tally.unknown:
            parts.append(f"{tally.unknown:,} held")
        if tally.left_out:
            parts.append(f"{tally.left_out:,} left out")
        if total is not None and not state.more and state.stopped is None and total > state.counted:
            parts.append(f"{total - state.counted:,} with nothing to send")
        parts.append(f"{len(state.flights):,} in flight")
        parts.append(f"{in_credits(tally.credits)} so far")
        if (seconds := self._left()) > 0:
            parts.append(f"about {_duration(seconds)} left")
        return f"Wave {state.waves}: {', '.join(parts)}."

    # -- inside

    async def _wave(self) -> Wave:
        settings, state = self.hook.settings, self.state
        limit = CreditLimit(self.max_credits, state.most)
        limit.spent = state.spent
        limit.reserved = sum(flight.reserved for flight, _ in state.flights.values())
        with budget_of(settings, spaced=False) as budget:
            async with (
                open_async_client(settings, retry=None) as client,
                AsyncLedger(self.ledger) as ledger,
            ):
                waves = Waves(
                    ledger,
                    Submitter(client, ledger, budget, user=self, attempts=3, on_answer=_tell_metrics),
                    limit,
                    scope=settings.base_url,
                    tally=state.tally,
                    retry_failed=self.retry_failed,
                    on_unknown=self.on_unknown,
                    keeper=self.keeper,
                    in_flight=len(state.flights),
                    most=MOST_IN_FLIGHT,
                    no_models=state.no_models,
                )
                size = wave_size(
                    budget.per_minute,
                    budget.available(),
                    (flight for flight, _ in state.flights.values()),
                    self._latency(),
                    time.time(),
                    MOST_IN_FLIGHT,
                )
                wave = await waves.send(
                    iter(self.batch.jobs()), size, cursor=state.cursor, counted=state.counted
                )
        state.spent, state.most = limit.spent, limit.most
        return wave

    def _latency(self, model: str | None = None) -> float:
        """Seconds that a task is likely to take, by the catalog."""
        if self.kind == "chat":  # answered at once: nothing is polled, and no request kept back for it
            return math.inf
        from aio_provider.api.catalog import load_catalog

        latency = load_catalog().latency(self.kind, model)
        return (latency.min + latency.max) / 2 * self.hook.settings.latency_scale

    def _left(self) -> float:
        """Seconds that the rest is likely to take: by the rate limit, and not less than the youngest task.

        Rows that have nothing to do are in the total and in no tally: whether any are left, ``more`` tells.
        """
        state, tally, total = self.state, self.state.tally, self.batch.total
        per_minute = self.hook.settings.requests_per_minute
        if total is None or not per_minute or state.stopped is not None:
            return 0.0
        flights = [flight for flight, _ in state.flights.values()]
        to_send = total - tally.done - tally.unknown - tally.left_out - len(flights)
        requests = len(flights) + (2 * max(to_send, 0) if state.more or state.again else 0)
        seconds = requests / per_minute * MINUTE
        if flights and self.kind != "chat":
            youngest = max(flights, key=lambda flight: flight.submitted_at)
            seconds = max(seconds, youngest.submitted_at + self._latency(youngest.model) - time.time())
        return seconds

    def _until(self, submitted_at: float) -> float:
        patience = self.patience or DEADLINES.get(self.kind, DEADLINES["custom"])
        until = submitted_at + patience
        return until if until > time.time() else time.time() + patience  # a retry waits as long again

    def _give_up(self, progress: bool) -> None:
        """Wait no more for what is overdue; while results still come in, it is our polls that are late."""
        now, state = time.time(), self.state
        late = [task_id for task_id, (_, until) in state.flights.items() if until <= now]
        for task_id in late:
            if progress:
                state.flights[task_id] = (state.flights[task_id][0], now + MINUTE)
            else:
                state.flights.pop(task_id)
                state.overdue += 1

    def _check_failures(self) -> None:
        state = self.state
        if self.max_failures is None or state.stopped is not None:
            return
        if state.tally.failed + state.tally.unknown > self.max_failures:
            state.stopped = (
                f"{state.tally.failed + state.tally.unknown} rows have failed or are held, more than "
                "max_failures allows."
            )

    def _trigger(self, began: float, sent: int, to_send: bool) -> AioBatchTrigger:
        flights = [flight for flight, _ in self.state.flights.values()]
        wake_at: float | None = None
        if not flights:
            wake_at = began + _LOOK_AGAIN
        if to_send and self.hook.settings.requests_per_minute:
            wake_at = began + (MINUTE if sent else _LOOK_AGAIN)
        until = [until for _, until in self.state.flights.values()]
        return AioBatchTrigger(
            aio_conn_id=self.hook.aio_conn_id,
            groups=groups_of(flights),
            deadline=min(until) if until else (wake_at or began) + MINUTE,
            wake_at=wake_at,
            sparing=to_send or not flights,
            carry=self.state.to_text(),
        )


def sentence(error: AioError) -> str:
    """What an error says, so that another sentence can follow."""
    return f"{str(error).rstrip('.')}."


def _duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < MINUTE else f"{seconds / MINUTE:.1f} min"


def _tell_metrics(job: Job, answer: Submission) -> None:
    kind, model = job.request.kind, job.request.model
    if answer.fate in (Fate.ACCEPTED, Fate.ANSWERED):
        metrics.submitted(kind, model)
    if answer.chat is not None:
        metrics.ended(kind, model, "succeeded", answer.chat.credits)
    elif answer.fate is Fate.REFUSED:
        metrics.ended(kind, model, "refused", None)
    elif answer.fate is Fate.UNKNOWN:
        metrics.held(kind, model)
    elif isinstance(answer.error, RateLimitError):
        metrics.refused("submit")


def groups_of(flights: Iterable[Flight]) -> list[dict[str, Any]]:
    """Tasks in flight as the trigger takes them."""
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for flight in flights:
        kind, model = flight.kind, flight.model
        new: dict[str, Any] = {"kind": kind, "model": model, "ids": [], "submitted_at": []}
        group = groups.setdefault((kind, model), new)
        group["ids"].append(flight.task_id)
        group["submitted_at"].append(flight.submitted_at)
    return list(groups.values())
