"""The calls a user makes: ``generate`` and ``agenerate``."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import pandas as pd

from aio_provider.api.validation import waiting
from aio_provider.frames.columns import Expression
from aio_provider.frames.options import Reuse
from aio_provider.frames.prepared import prepare
from aio_provider.frames.result import StreamResult
from aio_provider.frames.scan import Source
from aio_provider.frames.schema import DEFAULT_PREFIX

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import BudgetEvent


@overload
def generate(source: pd.DataFrame, kind: str, **arguments: Any) -> pd.DataFrame: ...
@overload
def generate(source: Source, kind: str, *, output: None = None, **arguments: Any) -> pd.DataFrame: ...
@overload
def generate(
    source: Source, kind: str, *, output: str | os.PathLike[str], **arguments: Any
) -> StreamResult: ...
def generate(
    source: Source,
    kind: str,
    *,
    model: str | Expression | None = None,
    params: Mapping[str, Any] | None = None,
    key: Hashable | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    dtype: Literal["str"] | type[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    partition_by: str | Sequence[str] | None = None,
    max_rows_per_part: int | None = None,
    prefix: str = DEFAULT_PREFIX,
    overwrite_columns: bool = False,
    max_credits: float | None = None,
    on_budget_event: Callable[[BudgetEvent], object] | None = None,
    errors: Literal["rows", "raise"] = "rows",
    on_unknown: Literal["hold", "resubmit"] = "hold",
    retry_failed: bool = False,
    refresh_urls: bool = False,
    reuse: Reuse = "always",
    run_id: str | None = None,
    deadline: float | None = None,
    prefer: Literal["results", "finish"] | None = None,
    labels: Mapping[str, str] | None = None,
    progress: bool | None = None,
    gallery: bool | int | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
    requests_per_minute: float | None = None,
    limiter_url: str | None = None,
    timeout: float | None = None,
    allow_insecure: bool | None = None,
    on_server_error: Literal["hold", "retry"] | None = None,
    **fields: str | Expression,
) -> pd.DataFrame | StreamResult:
    """Make something for every row, and give the rows back with what was made.

    Every other keyword names a request field and takes a **column name**, ``aio.template(...)`` or
    ``aio.lit(...)``. A null optional field is left out; a row whose prompt is null is skipped.

    A DataFrame in, a DataFrame out. Any other source with ``output=`` is **streamed**: rows are read, sent
    and written a part at a time, memory does not grow with them, and a :class:`~.result.StreamResult` says
    where they are (``.read()`` gives the DataFrame). Without ``output=`` it is read into memory.

    :param source: a DataFrame; the path, glob, folder or fsspec URL of Parquet, CSV or JSON-lines files, or a
        list of them; a ``pyarrow.dataset.Dataset``; or an iterator of DataFrames, tables or record batches.
    :param kind: ``image``, ``video``, ``music``, ``speech``, ``chat``, ``remove_background``, ``swap_face``,
        ``remove_video_background`` or ``upscale_image``.
    :param model: the model's name (see the catalog), or ``aio.col(...)`` for one a row; by default the
        kind's usual one. Tools need none.
    :param params: request fields as constants or ``aio.col(...)``.
    :param key: the column that says which job a row is. Without it a row's content does, and equal rows are
        variations; with it, rows with the same key and the same content share one paid job.
    :param encoding: of CSV files; utf-8 by default.
    :param delimiter: of CSV files; a comma by default.
    :param dtype: of the columns of CSV files: ``"str"`` (or ``str``) reads them all as text; by default a
        column of plain numbers is numbers.
    :param output: write the result here as Parquet (path or fsspec URL): a ``.parquet`` file, or a folder of
        parts (it ends in ``/``, exists, or has no suffix). Every file appears whole. What is there is refused
        unless it is this same call's (a re-run, which completes it).
    :param overwrite: replace an existing ``output`` whatever it is; but never files of others in a folder.
    :param partition_by: columns whose values name folders below ``output``.
    :param max_rows_per_part: rows of one part of a streamed output; 10,000 by default.
    :param prefix: begins the names of the output columns; give each of several calls on one frame its own.
    :param overwrite_columns: replace output columns that the input has already.
    :param max_credits: submit nothing that could take this call past so many credits; a row left out for it
        is ``not_submitted``, with a warning.
    :param on_budget_event: called with each :class:`~aio_provider.jobs.ledger.BudgetEvent`: a budget of the
        ledger has reached 80 or 100 percent.
    :param errors: ``"rows"``: a failed row is a row; ``"raise"``: bad rows raise before anything is spent,
        and rows that fail later raise ``RowsFailedError`` at the end, with everything in its ``frame``.
    :param on_unknown: a submission of an earlier run that may have been charged: ``"hold"`` it, or
        ``"resubmit"`` it and perhaps pay twice.
    :param retry_failed: pay again for rows that failed in an earlier run.
    :param refresh_urls: ask the service again for results that are on record (free): their URLs may have
        expired. A result that is gone makes the row ``expired``; it is not paid for again.
    :param reuse: whose results count: ``"always"`` any run's in this ledger, ``"run"`` only those of the same
        ``run_id``, ``"never"`` none: pay anew.
    :param run_id: names the run, in the ledger and for ``reuse="run"``.
    :param deadline: seconds to wait for one result before its row is left ``pending``; by default 15 minutes
        for pictures, 30 for music and speech, 2 hours for video.
    :param prefer: ``"results"`` as early as can be, or an early ``"finish"`` of the whole call, with results
        late; by default ``"finish"`` with ``output=``, where nobody looks before the end.
    :param labels: kept with each job in the ledger, for reports.
    :param progress: ``None``: a bar in a terminal or notebook, a line now and then in a log; ``False``:
        nothing.
    :param gallery: how many results a notebook shows under the cell (``False`` for none; 8 by default).
    :param api_key: instead of ``AIO_API_KEY``.
    :param base_url: instead of ``AIO_BASE_URL``.
    :param ledger: path or SQLAlchemy URL, instead of ``AIO_LEDGER``.
    :param requests_per_minute: the key's limit, instead of ``AIO_REQUESTS_PER_MINUTE``; 0: none.
    :param limiter_url: instead of ``AIO_LIMITER_URL``.
    :param timeout: seconds for one HTTP request.
    :param allow_insecure: permit plain ``http://`` to a host that is not loopback.
    :param on_server_error: ``"hold"`` or ``"retry"`` a submission that a 5xx answered.
    :returns: the input's rows, in their order and index, with the columns of
        :mod:`aio_provider.frames.schema`. ``out.attrs["aio"]`` has the run's figures. Of a streamed call, a
        :class:`~.result.StreamResult`.
    :raises ValueError: a damaged file, files with different columns, a streamed input without rows; nothing
        was spent.
    :raises InvalidRequestError: a field, a column or a constant that cannot be; nothing was spent.
    :raises ConfigurationError: a missing key, a bad address or option; nothing was spent.
    :raises FileExistsError: ``output`` is there and not this call's; nothing was spent.
    :raises InsufficientCreditsError: out of credits. What was in flight has been collected and written.
        This, a refused key, a lost ledger and ``KeyboardInterrupt`` all carry the ``frame`` so far (of a
        streamed call, the ``result``).
    """
    return prepare(locals()).blocking()


@overload
async def agenerate(source: pd.DataFrame, kind: str, **arguments: Any) -> pd.DataFrame: ...
@overload
async def agenerate(source: Source, kind: str, *, output: None = None, **arguments: Any) -> pd.DataFrame: ...
@overload
async def agenerate(
    source: Source, kind: str, *, output: str | os.PathLike[str], **arguments: Any
) -> StreamResult: ...
async def agenerate(source: Source, kind: str, **arguments: Any) -> pd.DataFrame | StreamResult:
    """:func:`generate` for a coroutine: the same arguments, the same result, in the caller's own loop."""
    given = inspect.signature(generate).bind(source, kind, **arguments)
    given.apply_defaults()
    told = waiting.set(deque())
    try:
        prepared = await asyncio.to_thread(prepare, given.arguments)
        prepared.run.warnings.extend(waiting.get() or ())
    finally:
        waiting.reset(told)
    return await prepared.awaiting()


agenerate.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]
