"""The base of every operator that pays for one generation: record, submit, wait, hand over the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator

from aio_provider.api.errors import ConfigurationError, InvalidRequestError
from aio_provider.api.requests import GenerationRequest
from aio_provider.hooks import metrics
from aio_provider.hooks.aio import AioHook
from aio_provider.hooks.results import openlineage, tell_assets
from aio_provider.jobs.job import service_scope
from aio_provider.links.aio import AioTaskLink, no_links_yet
from aio_provider.operators.arguments import at_least_zero, misplaced_fields, one_of, positive_seconds
from aio_provider.operators.ending import end, end_by_event, tell
from aio_provider.operators.record import IntentLostError, JobIdentity, OnUnknown, Record, Reuse
from aio_provider.operators.recording import (
    BudgetCallback,
    budget_callback,
    identify,
    open_record,
    place_of,
)
from aio_provider.operators.submission import Found, answer_of, check_credits, find, refreshed
from aio_provider.triggers.aio import AioTaskTrigger
from aio_provider.triggers.events import going_on

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

T = TypeVar("T")

#: how long to wait for a task, by kind, counted from its submission
DEADLINES: Mapping[str, timedelta] = {
    "image": timedelta(minutes=15),
    "remove_background": timedelta(minutes=15),
    "swap_face": timedelta(minutes=15),
    "upscale_image": timedelta(minutes=15),
    "music": timedelta(minutes=30),
    "speech": timedelta(minutes=30),
    "video": timedelta(hours=2),
    "remove_video_background": timedelta(hours=2),
    "custom": timedelta(hours=2),
}


# What Airflow itself allows a deferral, for a triggerer that is down; it must not cut our own deadline short.
DEFERRAL_MARGIN = timedelta(minutes=10)


class AioBaseOperator(BaseOperator):
    """
    Pay for one generation, once, and return its result.

    Every attempt of a task instance first reads its record. A job that was submitted is polled, never
    submitted again: after a retry, a killed worker, a restarted triggerer or a cleared task. The record is
    kept in the ledger the connection names (``ledger_url``), else in Airflow's task state store (3.3 and
    later).

    Returns (XCom): ``{"task_id", "status", "urls", "credits", "model", "kind", "submitted_at", "finished_at",
    "error", "reused"}``, plain JSON; times are ISO 8601 in UTC, credits a number or null.

    Raises :class:`~aio_provider.api.errors.TaskFailedError` when the service failed the task (a retry submits
    a new one), :class:`~aio_provider.api.errors.TaskTimeoutError` at the deadline (a retry waits for the same
    one), and ``AirflowFailException`` where a retry cannot help: bad input, a refused key, a held submission.

    :param model: model, as the service spells it; ``None`` for the endpoint's usual one.
    :param request_params: further fields of the request (templated).
    :param aio_conn_id: connection id.
    :param deferrable: wait in the triggerer (default), or on the worker with the same engine.
    :param deadline: how long to wait, from the submission on (seconds or a timedelta). By kind: images and
        tools 15 minutes, music and speech 30, videos 2 hours. The job goes on after it, and a retry picks it
        up.
    :param retry_failed: whether a retry submits a new job after the service failed the last one.
    :param on_unknown: what to do about a submission that may have been charged: ``"hold"`` it until someone
        has looked, or ``"resubmit"`` it, which may pay twice.
    :param reuse: whose result may stand for this one. ``"run"``: an earlier attempt of this task instance.
        ``"always"``: also this task's in an earlier run, for the same request (needs ``ledger_url``).
        ``"never"``: clearing a finished task pays again; one in flight is still picked up.
    :param refresh_urls: ask the service again for the URLs of a result that was on record (free): they may
        have expired since.
    :param team: whose credits these are, for budgets and reports (templated); by default the ``team`` of the
        connection's extra field. A DAG's ``default_args`` may set it for all its tasks.
    :param max_credits: send nothing that may cost more: the high end of the estimate counts, or where none is
        known the most that the model has cost.
    :param on_budget_event: called when this task brings a budget of the ledger to 80 or 100 percent: a
        notifier, or any callable that takes a context (or a list of them). ``context["aio_budget_event"]``
        has the figures.
    """

    template_fields: Sequence[str] = ("model", "request_params", "aio_conn_id", "team")
    template_fields_renderers: ClassVar[dict[str, str]] = {"request_params": "json"}
    operator_extra_links: tuple[AioTaskLink, ...] = (AioTaskLink(),)
    ui_color = "#e6f4f1"

    #: kind of generation, one of :data:`aio_provider.api.catalog.KINDS`
    kind: str = ""
    #: arguments of the operator that are fields of the request
    request_fields: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        model: str | None = None,
        request_params: dict[str, Any] | None = None,
        aio_conn_id: str = AioHook.default_conn_name,
        deferrable: bool = True,
        deadline: timedelta | float | None = None,
        retry_failed: bool = True,
        on_unknown: OnUnknown = "hold",
        reuse: Reuse = "run",
        refresh_urls: bool = False,
        team: str | None = None,
        max_credits: float | None = None,
        on_budget_event: BudgetCallback | Sequence[BudgetCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
        except (TypeError, AirflowException) as error:  # the latter in Airflow 2
            airflows = signature(BaseOperator.__init__).parameters
            hints = misplaced_fields(self.kind, self.request_fields, kwargs.keys() - airflows.keys())
            if not hints:
                raise
            raise TypeError(f"{' '.join(hints)} ({error})") from error
        one_of("on_unknown", on_unknown, ("hold", "resubmit"))
        one_of("reuse", reuse, ("run", "always", "never"))
        self.model = model
        self.request_params = request_params
        self.aio_conn_id = aio_conn_id
        self.deferrable = deferrable
        self.deadline = positive_seconds(deadline)
        self.retry_failed = retry_failed
        self.on_unknown = on_unknown
        self.reuse = reuse
        self.refresh_urls = refresh_urls
        self.team = team
        self.max_credits = at_least_zero("max_credits", max_credits)
        self.on_budget_event = on_budget_event
        self._aio_task_id: str | None = None
        self._result_urls: list[str] = []

    @cached_property
    def hook(self) -> AioHook:
        """The hook of ``aio_conn_id``."""
        return AioHook(self.aio_conn_id)

    def build_request(self) -> GenerationRequest:
        """The request, checked before anything is spent.

        :raises InvalidRequestError: names the field and what is wrong with it.
        """
        return GenerationRequest.build(self.kind, model=self.model, **self._request_arguments())

    def execute(self, context: Context) -> Any:
        """Find the job on record, or submit it; then wait for it."""
        no_links_yet(self)
        try:
            request = self.build_request()
            settings = self.hook.settings
            identity = identify(context, request, settings.base_url, self.reuse)
            with self.hook.get_conn():  # a malformed key or address fails here, before the intent is written
                pass
        except (InvalidRequestError, ConfigurationError) as error:
            raise AirflowFailException(f"Nothing was sent. {error}") from error
        record = self._open_record(context, identity, request)
        try:
            found = self._find_or_send(record, identity, request)
            if found.ended is not None:
                result = end(
                    record, identity, found.ended, found.submitted_at, retry_failed=self.retry_failed
                )
                return self._hand_over(context, record, result)
            if found.result is not None:
                self.log.info("%s has its result already; nothing is paid.", identity)
                result = refreshed(record, found.result, self.hook) if self.refresh_urls else found.result
                return self._hand_over(context, record, {**result, "reused": True})
            self._aio_task_id = found.task_id
            self._show(context, found.task_id, f"{settings.base_url}/tasks/{found.task_id}")
            trigger = self._trigger(identity, found.task_id, found.submitted_at)
            if not self.deferrable:
                event = asyncio.run(trigger.payload(self.hook))
                return self._resume(context, record, identity, event)
        finally:
            record.close()
        patience = timedelta(seconds=max(trigger.deadline - time.time(), 0.0)) + DEFERRAL_MARGIN
        self.defer(
            trigger=trigger, method_name="execute_complete", timeout=self.execution_timeout or patience
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Resume after the trigger; all that is needed is in its event."""
        identity = JobIdentity(
            key=event["job_key"],
            fingerprint="",
            service=service_scope(self.hook.settings.base_url),
            kind=event["kind"],
            model=event["model"],
            **place_of(context),
        )
        record = self._open_record(context, identity, None)
        try:
            return self._resume(context, record, identity, event)
        finally:
            record.close()

    def on_kill(self) -> None:
        """The service has no call to cancel a task: say that it goes on, and how its result is picked up."""
        if self._aio_task_id:
            self.log.warning(going_on(self._aio_task_id))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The result's URLs as OpenLineage outputs."""
        return openlineage(inputs=(), outputs=self._result_urls)

    # -- the steps ---------------------------------------------------------------------------------------

    def _request_arguments(self) -> dict[str, Any]:
        given = {name: value for name in self.request_fields if (value := getattr(self, name)) is not None}
        extra = self.request_params or {}
        if not isinstance(extra, Mapping):
            raise InvalidRequestError(
                f"request_params: must be a dict of request fields, not {type(extra).__name__}",
                field="request_params",
            )
        for name in sorted({*given, "model"} & set(extra)):
            raise InvalidRequestError(
                f"{name}: give it as an argument or in request_params, not both", field=name
            )
        return {**given, **extra}

    def _open_record(
        self, context: Context, identity: JobIdentity, request: GenerationRequest | None
    ) -> Record:
        return open_record(
            context,
            self.hook,
            identity,
            request,
            on_unknown=self.on_unknown,
            retry_failed=self.retry_failed,
            reuse=self.reuse,
            on_budget_event=budget_callback(self.on_budget_event, context),
        )

    def _find_or_send(self, record: Record, identity: JobIdentity, request: GenerationRequest) -> Found:
        while True:
            started = find(record, identity, self.hook, self.log)
            if started is not None:
                if started.result is None:
                    self.log.info("Re-attached to task %s of %s; nothing is paid.", started.task_id, identity)
                return Found(str(started.task_id), started.submitted_at or time.time(), result=started.result)
            check_credits(request, self.max_credits, self.hook, self.log)
            try:
                with record.sending():
                    return self._send(record, request)
            except IntentLostError:
                continue  # another process submits it: see what became of that

    def _send(self, record: Record, request: GenerationRequest) -> Found:
        """Send the request and put the id on record at once."""
        task = self._answer_of(
            record, request, self.hook.submit(request, intend=record.intend, release=record.release)
        )
        submitted_at = time.time()
        # Before it is recorded: should the record be lost now, this line still has the id.
        self.log.info("Submitted: task %s.", task.id)
        record.accept(task.id, submitted_at)
        metrics.submitted(request.kind, request.model)
        return Found(task.id, submitted_at, ended=task.to_dict() if task.done else None)

    def _answer_of(self, record: Record, request: GenerationRequest, sending: Coroutine[Any, Any, T]) -> T:
        return answer_of(record, request, sending)

    def _trigger(self, identity: JobIdentity, aio_task_id: str, submitted_at: float) -> AioTaskTrigger:
        patience = self.deadline or DEADLINES[identity.kind].total_seconds()
        deadline = submitted_at + patience
        if deadline <= time.time():  # a retry after the deadline waits as long again
            deadline = time.time() + patience
        return AioTaskTrigger(
            aio_task_id=aio_task_id,
            aio_conn_id=self.aio_conn_id,
            kind=identity.kind,
            model=identity.model,
            submitted_at=submitted_at,
            deadline=deadline,
            job_key=identity.key,
        )

    def _resume(self, context: Context, record: Record, identity: JobIdentity, event: dict[str, Any]) -> Any:
        result = end_by_event(record, identity, event, retry_failed=self.retry_failed)
        return self._hand_over(context, record, result)

    def _hand_over(self, context: Context, record: Record, result: dict[str, Any]) -> Any:
        self._result_urls = list(result["urls"])
        if result["task_id"]:
            self._show(context, result["task_id"], next(iter(result["urls"]), ""))
        reused = bool(result["reused"])
        tell(result, self.log)
        tell_assets(
            context,
            rows=1,
            credits=0 if reused else result["credits"],
            failures=0,
            reused=int(reused),
            budget_events=record.budget_events,
        )
        return result

    def _show(self, context: Context, aio_task_id: str, url: str) -> None:
        """Id and link for the UI, there before the waiting begins."""
        if self.do_xcom_push:
            ti: Any = context["ti"]
            ti.xcom_push(key="aio_task_id", value=aio_task_id)
            AioTaskLink.persist(context, url)
