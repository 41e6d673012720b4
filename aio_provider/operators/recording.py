"""Which job a task instance stands for, and where its record is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, context_merge

from aio_provider.api.errors import BudgetExceededError
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job, keyed, service_scope
from aio_provider.operators.record import JobIdentity, OnUnknown, Record, Reuse, Started, TaskStateRecord
from aio_provider.operators.settling import LedgerCommand

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from aio_provider.hooks.aio import AioHook
    from aio_provider.jobs.ledger import BudgetEvent, Ledger

log = logging.getLogger(__name__)

#: a notifier, or any callable that takes a context
BudgetCallback = Callable[[Any], Any]


def budget_callback(
    callbacks: BudgetCallback | Sequence[BudgetCallback] | None, context: Context
) -> Callable[[BudgetEvent], None] | None:
    """Callbacks of an operator as the ledger calls them: each gets the context with the event in it."""
    if callbacks is None:
        return None
    each = [callbacks] if callable(callbacks) else list(callbacks)

    def tell(event: BudgetEvent) -> None:
        # Merged, not copied: reading all of a context asks the database, and warns of what is deprecated.
        context_merge(context, {"aio_budget_event": event.to_dict()})
        for callback in each:
            callback(context)

    return tell


def place_of(context: Context) -> dict[str, Any]:
    """Which task instance this is. The try number is no part of it: a retry is the same job."""
    ti: Any = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": -1 if ti.map_index is None else ti.map_index,
    }


def labels_of(context: Context, hook: AioHook | None = None) -> dict[str, str]:
    """Who asks: the columns that accounting groups by, and that budgets are set for.

    :param hook: whose connection it is; adds ``conn_id`` and the ``team`` of its extra field. A task's own
        ``team`` (an argument of the operator, or of its DAG's ``default_args``) comes before that.
    """
    ti: Any = context["ti"]
    labels = {**{name: str(value) for name, value in place_of(context).items()}, "try": str(ti.try_number)}
    if hook is not None:
        labels["conn_id"] = hook.aio_conn_id
        team = getattr(context.get("task"), "team", None) or hook.settings.team
        if team:
            labels["team"] = team
    return labels


def identify(context: Context, request: GenerationRequest, base_url: str, reuse: Reuse) -> JobIdentity:
    """The job of this task instance, for this request.

    :param reuse: under ``"always"`` the run is left out of the key and the request is put in: a later run of
        the same task finds the job of an earlier one when it asks for the same.
    """
    place = place_of(context)
    whose = [place["dag_id"], place["task_id"], str(place["map_index"])]
    whose.append(request.fingerprint if reuse == "always" else place["run_id"])
    return JobIdentity(
        key=keyed("\0".join(whose), request.kind, scope=base_url, namespace=f"airflow:{reuse}"),
        fingerprint=request.fingerprint,
        service=service_scope(base_url),
        kind=request.kind,
        model=request.model,
        **place,
    )


def open_record(
    context: Context,
    hook: AioHook,
    identity: JobIdentity,
    request: GenerationRequest | None,
    *,
    on_unknown: OnUnknown,
    retry_failed: bool,
    reuse: Reuse,
    on_budget_event: Callable[[BudgetEvent], None] | None = None,
) -> Record:
    """The record of this job: the connection's ledger, the task state store, or this machine's ledger file.

    :param request: what is to be submitted; ``None`` when a finished job is handed over.
    :param on_budget_event: told when a budget of the ledger reaches 80 or 100 percent.
    :raises AirflowFailException: ``reuse="always"`` without a ledger.
    """
    from aio_provider.operators.ledger_record import LedgerRecord

    def open_ledger() -> Ledger:
        ledger = hook.ledger()
        ledger.on_budget_event = on_budget_event
        return ledger

    policy: dict[str, Any] = {"on_unknown": on_unknown, "retry_failed": retry_failed, "reuse": reuse}
    job = None if request is None else Job(identity.key, request, labels_of(context, hook))
    if hook.settings.ledger:
        return LedgerRecord(open_ledger(), identity, job, settling=LedgerCommand.of(hook), **policy)
    if reuse == "always":
        raise AirflowFailException(
            "reuse='always' needs a ledger: give the connection "
            f"{hook.aio_conn_id!r} a ledger_url (extra field). Nothing was sent."
        )
    store = context.get("task_state_store")
    if store is not None:
        return Booked(TaskStateRecord(store, identity, log=log, **policy), identity, job, open_ledger)
    if request is None:  # the machine that submitted may have been another: its file is not here
        return Booked(NoRecord(), identity, None, open_ledger)
    try:
        ledger = open_ledger()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with that file, the task can do without it
        log.warning("No record is kept, so a retry may pay again (%s): %s", _ADVICE, error)
        return NoRecord()
    log.warning("The record is in a file of this machine; a retry on another may pay again (%s).", _ADVICE)
    return LedgerRecord(ledger, identity, job, settling=LedgerCommand.of(hook), **policy)


_BOOK = "book"
_ADVICE = "give the connection a ledger_url, or run Airflow 3.3 or later, to close this gap"


class NoRecord:
    """Airflow before 3.3, no ``ledger_url``, and no file that could be written: every attempt submits."""

    def find(self) -> Started | None:
        """Nothing is known: submit."""
        return None

    def intend(self) -> None:
        """Not kept."""

    def sending(self) -> AbstractContextManager[None]:
        """Nothing to keep alive."""
        return nullcontext()

    def accept(self, task_id: str, submitted_at: float) -> None:
        """Not kept."""

    def release(self) -> None:
        """Not kept."""

    def hold(self, error: str) -> AirflowFailException:
        """See :meth:`aio_provider.operators.record.Record.hold`."""
        return AirflowFailException(
            f"The submission may have been charged: {error.rstrip('.')}. It is not sent again by itself. "
            "Look in the API in One dashboard whether a task was created; clear this Airflow task to submit "
            "again."
        )

    def finish(self, state: str, result: dict[str, Any]) -> None:
        """Not kept."""

    def budget_events(self) -> list[dict[str, Any]]:
        """Nothing is known."""
        return []

    def close(self) -> None:
        """Nothing is open."""


class Booked:
    """A record kept elsewhere, whose jobs are also booked in this machine's ledger file, for its report.

    The file is one machine's book. It says no where it has a budget that is spent, and decides nothing else:
    whatever is wrong with it, the task goes on.
    """

    def __init__(
        self, record: Record, identity: JobIdentity, job: Job | None, open_ledger: Callable[[], Ledger]
    ) -> None:
        self._record = record
        self._identity = identity
        self._job = job
        self._open_ledger = open_ledger
        self._reserved = False

    def find(self) -> Started | None:
        """The record's answer."""
        return self._record.find()

    def intend(self) -> None:
        """Keep within the budgets of this machine's file, where it has any; then the record's.

        :raises BudgetExceededError: a budget has no room for the job.
        """
        self._book(self._reserve)
        self._record.intend()

    def sending(self) -> AbstractContextManager[None]:
        """The record's."""
        return self._record.sending()

    def accept(self, task_id: str, submitted_at: float) -> None:
        """Record it, then book it."""
        self._record.accept(task_id, submitted_at)
        self._book(lambda ledger: self._enter(ledger, task_id))

    def release(self) -> None:
        """Release the record, then what was reserved for it."""
        self._record.release()
        if self._reserved:
            self._book(lambda ledger: ledger.release([self._identity.key], owner=_BOOK))

    def hold(self, error: str) -> AirflowFailException:
        """Record it, then book it."""
        exception = self._record.hold(error)

        def enter(ledger: Ledger) -> None:
            self._enter(ledger, None)
            ledger.hold([(self._identity.key, error)])

        self._book(enter)
        return exception

    def finish(self, state: str, result: dict[str, Any]) -> None:
        """Record it, then book it."""
        from aio_provider.operators.ledger_record import finished

        self._record.finish(state, result)

        def enter(ledger: Ledger) -> None:
            if self._identity.key not in ledger.get([self._identity.key]):
                self._enter(ledger, result.get("task_id"))
            ledger.finish([finished(self._identity.key, state, result)])

        self._book(enter)

    def budget_events(self) -> list[dict[str, Any]]:
        """Those of this machine's file."""
        from aio_provider.operators.ledger_record import events_of

        found: list[dict[str, Any]] = []
        self._book(lambda ledger: found.extend(events_of(ledger, self._identity.key)))
        return found

    def close(self) -> None:
        """The record's."""
        self._record.close()

    def _reserve(self, ledger: Ledger) -> None:
        if ledger.budgets():
            self._enter(ledger, None)
            self._reserved = True

    def _enter(self, ledger: Ledger, task_id: str | None) -> None:
        me = self._identity
        # The machine that hands a result over need not be the one that submitted, and knows no prompt.
        job = self._job or Job(
            me.key, GenerationRequest(kind=me.kind, endpoint="", model=me.model, params={})
        )
        ledger.plan([job], retry_failed=True, on_unknown="resubmit", owner=_BOOK, scope=me.service)
        ledger.intend([me.key], owner=_BOOK)
        if task_id is not None:
            ledger.accept([(me.key, task_id)])

    def _book(self, enter: Callable[[Ledger], None]) -> None:
        try:
            with self._open_ledger() as ledger:
                enter(ledger)
        except BudgetExceededError:
            raise
        except Exception as error:  # noqa: BLE001 - the book of one machine never fails a task
            log.warning("Not booked in this machine's ledger file (the job itself is on record): %s", error)
