"""The operator that makes one generation for each row of a file, in waves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator

from aio_provider.api.errors import AioError, AuthenticationError, ConfigurationError
from aio_provider.hooks.aio import AioHook
from aio_provider.hooks.results import openlineage, tell_assets
from aio_provider.links.aio import AioOutputLink, AioTaskLink, no_links_yet
from aio_provider.operators.arguments import at_least_zero, one_of, positive_seconds
from aio_provider.operators.base import DEFERRAL_MARGIN
from aio_provider.operators.batch_checks import check_spelling, count_or_share, open_batch, open_ledger
from aio_provider.operators.batch_claims import give_up_unless_paid, refuse_one_file_for_all, with_advice
from aio_provider.operators.batch_files import airflow_storage, output_of, plain_url
from aio_provider.operators.recording import BudgetCallback, labels_of, place_of
from aio_provider.triggers.batch import AioBatchTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from aio_provider.frames.batch import Batch
    from aio_provider.jobs.ledger import Ledger
    from aio_provider.operators.batch_run import BatchRun, State


class AioGenerateFromParquetOperator(BaseOperator):
    """
    Make one generation for each row of a file, and write the rows with their results as Parquet.

    Works in waves: on the worker it submits what the rate limit leaves room for, which takes seconds, and
    defers; one trigger polls, and wakes the task for the next wave. However long it takes, no slot is held
    while waiting. Every row is a job of its own in the ledger, so a retry, a killed worker, a restarted
    triggerer or a cleared task goes on where it was, and pays for nothing twice.

    .. code-block:: python

        AioGenerateFromParquetOperator(
            task_id="pictures",
            input_path="s3://shop/products/{{ ds }}.parquet",
            output_path="s3://shop/pictures/{{ ds }}.parquet",
            kind="image",
            model="flux-2",
            fields={"prompt": "A photo of {product} on {surface}"},
            request_params={"aspect_ratio": "16:9"},
            retries=2,
        )

    Returns (XCom): ``{"output_path", "rows", "succeeded", "failed", "expired", "unknown", "pending",
    "not_submitted", "skipped", "credits", "reused", "saved_credits", "total_credits", "kind", "model"}``,
    plain JSON. ``credits`` is what this attempt was charged; ``reused`` are results that were there before
    it, which had cost ``saved_credits``; ``total_credits`` is what the rows have cost, whenever that was.

    Raises ``AirflowFailException`` where a retry cannot help: bad input, a refused key, an output that is
    another call's, a model that the service does not have, a held row and no result at all. Too few credits
    (402) fail the task after what is in flight has been collected; a retry does the rest.

    :param input_path: Parquet, CSV or JSON lines: a path, a glob, a folder, a URL that fsspec knows, or an
        ``ObjectStoragePath``, whose connection is then used (templated).
    :param output_path: a ``.parquet`` file, or a folder for parts when it ends with ``/`` (templated). A
        mapped task that is given a folder writes one file there, named after its input and map index.
    :param kind: kind of generation, such as ``"image"`` or ``"chat"``.
    :param model: model, as the service spells it, or ``aio.col("model")`` for one a row (templated).
    :param fields: request field → column name, text with columns in braces (``"A photo of {product}"``), or
        ``aio.col``, ``aio.template``, ``aio.lit`` (templated).
    :param request_params: constants, and ``aio.col`` among them, by request field (templated).
    :param key: a column whose values name the rows' jobs; by default their content does.
    :param encoding: of CSV files; utf-8 by default (templated).
    :param delimiter: of CSV files; a comma by default (templated).
    :param dtype: ``"str"`` reads all columns of CSV files as text; by default plain numbers are numbers
        (templated).
    :param max_credits: what this task instance may spend, over all its attempts. Rows that would go past it
        are not submitted, with a warning.
    :param on_budget_event: called when this task brings a budget of the ledger to 80 or 100 percent: a
        notifier, or any callable that takes a context (or a list of them). ``context["aio_budget_event"]``
        has the figures.
    :param max_failures: with more failed or held rows than this (a count, or a share of all rows between 0
        and 1) nothing more is submitted, and the task fails once what is in flight has been collected.
    :param on_failure: ``"rows"``: a failed row is a row of the output with its error, and the task fails
        only where it has no result at all. ``"fail"``: the output
        is written, and then the task fails if any row failed, is held, or had not ended at its deadline.
    :param retry_failed: whether a retry submits anew what the service failed.
    :param on_unknown: what to do about rows that may have been charged: ``"hold"`` them until someone has
        looked, or ``"resubmit"`` them, which may pay twice.
    :param reuse: whose results may stand for a row's. ``"run"``: those of earlier attempts of this task
        instance; another DAG run pays again. ``"always"``: of any earlier call that asked for the same (needs
        ``ledger_url``).
    :param deadline: how long to wait for a task, from its submission on (seconds or a timedelta); by kind as
        for the other operators.
    :param deferrable: wait in the triggerer (default), or on the worker with the same engine.
    :param partition_by: columns whose values name folders below ``output_path`` (templated).
    :param overwrite: replace an output that is another call's, or that another call has claimed.
    :param as_written: send a field of ``request_params`` that looks like a misspelling all the same.
    :param aio_conn_id: connection id.
    :param team: whose credits these are; by default the ``team`` of the connection's extra field.
    """

    template_fields: Sequence[str] = (
        "input_path",
        "output_path",
        "kind",
        "model",
        "fields",
        "request_params",
        "key",
        "encoding",
        "delimiter",
        "dtype",
        "partition_by",
        "aio_conn_id",
        "team",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"fields": "json", "request_params": "json"}
    operator_extra_links = (AioOutputLink(), AioTaskLink())
    ui_color = "#e6f4f1"

    def __init__(
        self,
        *,
        input_path: Any,
        output_path: Any,
        kind: str,
        fields: dict[str, Any],
        model: Any = None,
        request_params: dict[str, Any] | None = None,
        key: str | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        dtype: str | type[str] | None = None,
        max_credits: float | None = None,
        on_budget_event: BudgetCallback | Sequence[BudgetCallback] | None = None,
        max_failures: float | None = None,
        on_failure: Literal["rows", "fail"] = "rows",
        retry_failed: bool = True,
        on_unknown: Literal["hold", "resubmit"] = "hold",
        reuse: Literal["run", "always"] = "run",
        deadline: timedelta | float | None = None,
        deferrable: bool = True,
        partition_by: str | list[str] | None = None,
        overwrite: bool = False,
        as_written: bool = False,
        aio_conn_id: str = AioHook.default_conn_name,
        team: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        one_of("on_failure", on_failure, ("rows", "fail"))
        one_of("on_unknown", on_unknown, ("hold", "resubmit"))
        one_of("reuse", reuse, ("run", "always"))
        self.input_path = input_path
        self.output_path = output_path
        self.kind = kind
        self.model = model
        self.fields = fields
        self.request_params = request_params
        self.key = key
        self.encoding = encoding
        self.delimiter = delimiter
        self.dtype = "str" if dtype is str else dtype  # Airflow calls what can be called in these fields
        self.max_credits = at_least_zero("max_credits", max_credits)
        self.on_budget_event = on_budget_event
        self.max_failures = count_or_share(max_failures)
        self.on_failure = on_failure
        self.retry_failed = retry_failed
        self.on_unknown: Literal["hold", "resubmit"] = on_unknown
        self.reuse: Literal["run", "always"] = reuse
        self.deadline = positive_seconds(deadline)
        self.deferrable = deferrable
        self.partition_by = partition_by
        self.overwrite = overwrite
        self.as_written = as_written
        self.aio_conn_id = aio_conn_id
        self.team = team
        #: ``None`` while a wave is sent
        self._in_flight: int | None = 0

    @cached_property
    def hook(self) -> AioHook:
        """The hook of ``aio_conn_id``."""
        return AioHook(self.aio_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Send the first wave, or go on where an earlier attempt was."""
        from aio_provider.operators.batch_run import State

        return self._run(context, State(), None)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Resume after the trigger: take its outcomes, send the next wave. All it needs is in the event."""
        from aio_provider.operators.batch_run import State

        return self._run(context, State.from_text(event["carry"]), event)

    def on_kill(self) -> None:
        """The service has no call to cancel tasks: say that they go on, and how they are picked up."""
        if self._in_flight == 0:
            return
        self.log.warning(
            "%s at the service: it has no call to cancel one. They are paid for; clearing this Airflow task "
            "picks their results up and pays nothing.",
            f"{self._in_flight} tasks go on" if self._in_flight else "What was submitted goes on",
        )

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Input and output as OpenLineage datasets."""
        return openlineage(inputs=[str(self.input_path)], outputs=[self._output(task_instance)])

    # -- the steps ---------------------------------------------------------------------------------------

    def _run(self, context: Context, state: State, event: dict[str, Any] | None) -> dict[str, Any]:
        from aio_provider.operators.batch_result import raise_for_event

        no_links_yet(self)
        self._shown = ""
        with (
            airflow_storage(self.input_path, self.output_path),
            open_ledger(context, self.hook, reuse=self.reuse, on_budget_event=self.on_budget_event) as ledger,
        ):
            batch = self._batch(context)
            run = self._batch_run(context, batch, ledger, state, first=event is None)
            while True:
                if event is not None:
                    run.take(event)
                    self._show(context, state)
                    raise_for_event(event)
                self._in_flight = None
                trigger = self._advance(run)
                self._in_flight = len(state.flights)
                self._show(context, state)
                if trigger is None:
                    return self._finish(context, run)
                if self.deferrable:
                    break
                event = asyncio.run(trigger.payload(self.hook))
        until = max([trigger.deadline, *(until for _, until in state.flights.values())])
        patience = timedelta(seconds=max(until - time.time(), 0.0)) + DEFERRAL_MARGIN
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            timeout=self.execution_timeout or patience,
        )

    def _advance(self, run: BatchRun) -> AioBatchTrigger | None:
        from aio_provider.jobs.ledger import LedgerError

        try:
            return run.advance()
        except LedgerError:
            raise
        except AioError as error:
            give_up_unless_paid(run)
            raise self._what_now(error) from error

    def _what_now(self, error: AioError) -> AirflowException:
        from aio_provider.operators.batch_run import sentence

        if isinstance(error, AuthenticationError | ConfigurationError):
            return AirflowFailException(
                f"{sentence(error)} Nothing more was sent; what is in flight stays on record: mend the "
                f"connection {self.aio_conn_id!r} and clear this task."
            )
        return AirflowException(
            f"{sentence(error)} What is in flight stays on record; a retry goes on, and pays nothing twice."
        )

    def _batch(self, context: Context) -> Batch:
        place = "\0".join(map(str, place_of(context).values()))
        map_index = place_of(context)["map_index"]
        refuse_one_file_for_all(self, map_index)
        if not self.as_written:
            check_spelling(self.kind, self.request_params)
        try:
            return open_batch(
                self.input_path,
                self.kind,
                output_path=self._output(context["ti"]),
                fields=self.fields,
                model=self.model,
                params=self.request_params,
                key=self.key,
                encoding=self.encoding,
                delimiter=self.delimiter,
                dtype=self.dtype,
                reuse=self.reuse,
                run_id="" if self.reuse == "always" else place,
                base_url=self.hook.settings.base_url,
                labels=labels_of(context, self.hook),
                overwrite=self.overwrite,
                partition_by=self.partition_by,
                owner=place,
            )
        except AirflowFailException as error:
            raise with_advice(error, map_index) from error.__cause__

    def _batch_run(
        self, context: Context, batch: Batch, ledger: Ledger, state: State, *, first: bool
    ) -> BatchRun:
        from aio_provider.operators.batch_result import charged
        from aio_provider.operators.batch_run import BatchRun
        from aio_provider.operators.batch_state import StateKeeper

        labels = {name: str(value) for name, value in place_of(context).items()}
        store = None if self.hook.settings.ledger else context.get("task_state_store")
        keeper = None if store is None else StateKeeper(store, ledger, self.hook.settings.base_url)
        if first and self.max_credits is not None:
            state.spent = charged(ledger, labels)  # by earlier attempts
        return BatchRun(
            hook=self.hook,
            batch=batch,
            ledger=ledger,
            state=state,
            kind=batch.kind,
            labels=labels,
            keeper=keeper,
            max_credits=self.max_credits,
            max_failures=self._most_failures(batch.total),
            retry_failed=self.retry_failed,
            on_unknown=self.on_unknown,
            patience=self.deadline,
        )

    def _finish(self, context: Context, run: BatchRun) -> dict[str, Any]:
        from aio_provider.operators.batch_result import raise_for_result, result_of_batch, tell, write

        output = self._output(context["ti"])
        result = result_of_batch(run, write(run), output=output, model=self.model)
        failures = result["failed"] + result["expired"] + result["unknown"]
        tell(run, result)
        if self.do_xcom_push:
            AioOutputLink.persist(context, plain_url(output))
        raise_for_result(
            run,
            result,
            most_failures=self._most_failures(result["rows"]),
            strict=self.on_failure == "fail",
            retry_failed=self.retry_failed,
        )
        tell_assets(
            context,
            rows=result["rows"],
            credits=result["credits"],
            failures=failures,
            reused=result["reused"],
            budget_events=lambda: [
                event.to_dict() for event in run.ledger.budget_events(labels=labels_of(context, self.hook))
            ],
            succeeded=result["succeeded"],
            failed=failures,
        )
        return result

    def _show(self, context: Context, state: State) -> None:
        if self.do_xcom_push and state.link != self._shown:
            AioTaskLink.persist(context, state.link)
            self._shown = state.link

    def _output(self, ti: Any) -> str:
        return output_of(self.output_path, self.input_path, -1 if ti.map_index is None else ti.map_index)

    def _most_failures(self, rows: int | None) -> float | None:
        most = self.max_failures
        if most is None or not isinstance(most, float):
            return most
        return None if rows is None else most * rows
