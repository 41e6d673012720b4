"""The operator that says what was spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import ConfigurationError
from aio_provider.hooks.aio import AioHook
from aio_provider.hooks.results import openlineage, tell_assets
from aio_provider.links.aio import AioOutputLink, no_links_yet
from aio_provider.operators.batch_files import plain_url

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class AioCreditReportOperator(BaseOperator):
    """
    Say what was spent in a period, from the ledger of the connection, and write it to a file.

    Costs nothing and takes no longer than its queries. The connection needs a ``ledger_url``: without one,
    each machine has a book of its own, and a report would show what one worker happens to know.

    Returns (XCom) ``{"what", "since", "until", "by", "filters", "price", "totals", "book", "groups",
    "path"}``, plain JSON; ``totals`` are ``{"credits", "tasks", "failed", "wasted", …}``: the figures
    of ``aio_provider.accounting.figures.FIGURES``.

    :param by: what to group by: any of day, month, dag, run, task, user, notebook, model, kind, label, team,
        connection, service (templated).
    :param since: the first moment that counts, such as ``"2026-11"`` or ``"{{ data_interval_start }}"``; UTC
        where it names no zone (templated). With neither ``since`` nor ``until``: the run's data interval.
    :param until: the first moment that no longer counts (templated).
    :param output_path: where the report goes; ``.csv``, ``.json``, ``.parquet`` or ``.html`` says how. Local,
        or any URL that Airflow's ObjectStoragePath knows (templated); the link *Output* leads there. None: no
        file, no link.
    :param filters: only these rows: ``{"team": "shop", "model": ["flux-2", "kling-3"]}`` (templated).
    :param price: of one credit, such as ``"0.01 USD"``: adds ``money`` (templated). None:
        ``$AIO_CREDIT_PRICE``.
    :param aio_conn_id: whose ledger to read.
    """

    template_fields: Sequence[str] = (
        "by",
        "since",
        "until",
        "output_path",
        "filters",
        "price",
        "aio_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"filters": "json"}
    operator_extra_links = (AioOutputLink(),)
    ui_color = "#e6f4f1"

    def __init__(
        self,
        *,
        by: str | Sequence[str] = ("model",),
        since: Any = None,
        until: Any = None,
        output_path: str | None = None,
        filters: Mapping[str, str | Sequence[str]] | None = None,
        price: str | float | None = None,
        aio_conn_id: str = AioHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.by = by
        self.since = since
        self.until = until
        self.output_path = output_path
        self.filters = filters
        self.price = price
        self.aio_conn_id = aio_conn_id
        self._written: list[str] = []

    @cached_property
    def hook(self) -> AioHook:
        """The hook of ``aio_conn_id``."""
        return AioHook(self.aio_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask the ledger, write the file, return the totals."""
        no_links_yet(self)
        if not self.hook.settings.ledger:
            raise AirflowFailException(
                f"Connection {self.aio_conn_id!r} has no ledger_url (extra field): its book is one "
                "machine's, so that a report would show what this worker alone has spent. Give it a "
                "ledger_url, or run `aio credits` on that machine."
            )
        from aio_provider.accounting.figures import credits
        from aio_provider.accounting.formats import encode, format_of
        from aio_provider.accounting.page import render
        from aio_provider.accounting.reporting import report

        since, until = self._period(context)
        question = {
            "by": self.by,
            "since": since,
            "until": until,
            "price": self.price,
            **(self.filters or {}),
        }
        try:
            form = format_of(self.output_path) if self.output_path else None
            with self.hook.ledger() as ledger:
                if form == "html":
                    found = report(ledger, **question)
                    frame, content = found.table, render(found).encode()
                else:
                    frame = credits(ledger, **question)
                    content = encode(frame, form) if form else b""
        except ConfigurationError as error:  # a retry asks the same
            raise AirflowFailException(str(error)) from error
        if self.output_path:
            self._write(content)
            if self.do_xcom_push:
                AioOutputLink.persist(context, plain_url(self.output_path))
        note = frame.attrs["aio"]
        totals = note["totals"]
        tell_assets(context, rows=len(frame), credits=totals["credits"], failures=totals["failed"])
        self.log.info("%s: %s, %d tasks.", note["what"], in_credits(totals["credits"]), totals["tasks"])
        if note["archived"]["told"]:
            self.log.info(note["archived"]["told"])
        return {
            **{name: note[name] for name in ("what", "since", "until", "by", "filters", "price", "totals")},
            "book": note["book"]["url"],
            "groups": len(frame),
            "path": self.output_path,
        }

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The file that was written, for OpenLineage."""
        return openlineage(inputs=[], outputs=self._written)

    def _period(self, context: Context) -> tuple[Any, Any]:
        if self.since is not None or self.until is not None:
            return self.since or None, self.until or None
        start: Any = context.get("data_interval_start")
        end: Any = context.get("data_interval_end")
        if start is None or end is None or not start < end:
            raise AirflowFailException(
                "This run has no data interval to report on (a manual run, or a schedule of moments): "
                "say which period with since and until, for example "
                'since="{{ macros.ds_add(ds, -1) }}", until="{{ ds }}".'
            )
        return start, end

    def _write(self, content: bytes) -> None:
        from aio_provider.accounting.formats import put
        from aio_provider.operators.download import storage_of

        path = str(self.output_path)
        target, fs = storage_of(path)
        put(target, content, fs=fs)
        self._written = [path]
