"""The calls a user makes: ``generate`` and ``agenerate``."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import inspect
import json
import math
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from aio_provider.api.errors import AioError, ConfigurationError, InvalidRequestError
from aio_provider.frames.accessor import register
from aio_provider.frames.columns import Expression, plain
from aio_provider.frames.gallery import DEFAULT_ROWS, display_result
from aio_provider.frames.loop import run_blocking
from aio_provider.frames.output import Output
from aio_provider.frames.progress import View, make_view
from aio_provider.frames.run import Options, Reuse, Run
from aio_provider.frames.schema import DEFAULT_PREFIX, column_names
from aio_provider.frames.source import read_source
from aio_provider.frames.spec import RequestSpec, make_spec, no_column
from aio_provider.jobs.job import service_scope
from aio_provider.jobs.settings import Settings


class RowsFailedError(AioError):
    """Some rows failed and ``errors="raise"`` was given; ``frame`` has every row, the good ones too."""

    frame: pd.DataFrame


def generate(
    source: pd.DataFrame | str | os.PathLike[str],
    kind: str,
    *,
    model: str | Expression | None = None,
    params: Mapping[str, Any] | None = None,
    key: Hashable | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    prefix: str = DEFAULT_PREFIX,
    overwrite_columns: bool = False,
    max_credits: float | None = None,
    errors: Literal["rows", "raise"] = "rows",
    on_unknown: Literal["hold", "resubmit"] = "hold",
    retry_failed: bool = False,
    reuse: Reuse = "always",
    run_id: str | None = None,
    deadline: float | None = None,
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
) -> pd.DataFrame:
    """Make something for every row, and give the rows back with what was made.

    Every other keyword names a request field and takes a **column name**, ``aio.template(...)`` or
    ``aio.lit(...)``. A null optional field is left out; a row whose prompt is null is skipped.

    :param source: a DataFrame, or the path or fsspec URL of a Parquet, CSV or JSON-lines file.
    :param kind: ``image``, ``video``, ``music``, ``speech``, ``chat``, ``remove_background``, ``swap_face``,
        ``remove_video_background`` or ``upscale_image``.
    :param model: the model's name (see the catalog), or ``aio.col(...)`` for one a row; by default the kind's usual
        one. Tools need none.
    :param params: request fields as constants or ``aio.col(...)``.
    :param key: the column that says which job a row is. Without it a row's content does, and equal rows are
        variations; with it, rows with the same key and the same content share one paid job.
    :param output: write the result here as Parquet (path or fsspec URL), atomically. An existing file is refused
        unless it is this same call's (a re-run).
    :param overwrite: replace an existing ``output`` whatever it is.
    :param prefix: begins the names of the output columns; give each of several calls on one frame its own.
    :param overwrite_columns: replace output columns that the input has already.
    :param max_credits: submit nothing that could take this call past so many credits; a row left out for it is
        ``not_submitted``, with a warning.
    :param errors: ``"rows"``: a failed row is a row; ``"raise"``: bad rows raise before anything is spent, and rows
        that fail later raise :class:`RowsFailedError` at the end, with everything in its ``frame``.
    :param on_unknown: a submission of an earlier run that may have been charged: ``"hold"`` it, or
        ``"resubmit"`` it and perhaps pay twice.
    :param retry_failed: pay again for rows that failed in an earlier run.
    :param reuse: whose results count: ``"always"`` any run's in this ledger, ``"run"`` only those of the same
        ``run_id``, ``"never"`` none: pay anew.
    :param run_id: names the run, in the ledger and for ``reuse="run"``.
    :param deadline: seconds to wait for one result before its row is left ``pending``; by default 15 minutes for
        pictures, 30 for music and speech, 2 hours for video.
    :param labels: kept with each job in the ledger, for reports.
    :param progress: ``None``: a bar in a terminal or notebook, a line now and then in a log; ``False``: nothing.
    :param gallery: how many results a notebook shows under the cell (``False`` for none; 8 by default).
    :param api_key: instead of ``AIO_API_KEY``.
    :param base_url: instead of ``AIO_BASE_URL``.
    :param ledger: path or SQLAlchemy URL, instead of ``AIO_LEDGER``.
    :param requests_per_minute: the key's limit, instead of ``AIO_REQUESTS_PER_MINUTE``; 0: none.
    :param limiter_url: instead of ``AIO_LIMITER_URL``.
    :param timeout: seconds for one HTTP request.
    :param allow_insecure: permit plain ``http://`` to a host that is not loopback.
    :param on_server_error: ``"hold"`` or ``"retry"`` a submission that a 5xx answered.
    :returns: the input's rows, in their order and index, with the columns of :mod:`aio_provider.frames.schema`.
        ``out.attrs["aio"]`` has the run's figures.
    :raises InvalidRequestError: a field, a column or a constant that cannot be; nothing was spent.
    :raises ConfigurationError: a missing key, a bad address or option; nothing was spent.
    :raises FileExistsError: ``output`` is there and not this call's.
    :raises InsufficientCreditsError: out of credits. What was in flight has been collected and written. This, a
        refused key, a lost ledger and ``KeyboardInterrupt`` all carry the ``frame`` so far.
    """
    return prepare(locals()).blocking()


async def agenerate(source: pd.DataFrame | str | os.PathLike[str], kind: str, **arguments: Any) -> pd.DataFrame:
    """:func:`generate` for a coroutine: the same arguments, the same result, in the caller's own loop."""
    given = inspect.signature(generate).bind(source, kind, **arguments)
    given.apply_defaults()
    prepared = await asyncio.to_thread(prepare, given.arguments)
    return await prepared.awaiting()


agenerate.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Prepared:
    """A call whose arguments have all been checked; nothing has been sent yet."""

    run: Run
    output: Output | None
    call: str
    errors: str
    progress: bool | None
    gallery: int

    def blocking(self) -> pd.DataFrame:
        """Run it, waiting in this thread."""
        if not len(self.run.frame):
            return self._end(View(0, self.run.spec.kind))
        view = self._view()
        try:
            run_blocking(self.run.collect(view), tick=view.draw)
        except BaseException as error:
            self._stopped(error, view)
            raise
        return self._end(view)

    async def awaiting(self) -> pd.DataFrame:
        """Run it in the running loop."""
        if not len(self.run.frame):
            return self._end(View(0, self.run.spec.kind))
        view = self._view()
        ticker = asyncio.create_task(_draw_now_and_then(view))
        try:
            await self.run.collect(view)
        except BaseException as error:
            self._stopped(error, view)
            raise
        finally:
            ticker.cancel()
        return self._end(view)

    def _view(self) -> View:
        return make_view(len(self.run.frame), self.run.spec.kind, self.progress)

    def _end(self, view: View) -> pd.DataFrame:
        out = self.run.frame_so_far()
        self._write(out)
        report = self.run.report()
        view.close()
        if self.progress is not False:
            view.say(report.summary())
        if self.gallery:
            display_result(out, rows=self.gallery, prefix=self.run.options.prefix, kind=report.kind)
        if self.errors == "raise":
            _raise_failures(self.run, out)
        return out

    def _stopped(self, error: BaseException, view: View) -> None:
        """Keep what there is: in the file, and on the exception."""
        out = self.run.frame_so_far()
        error.frame = out  # type: ignore[attr-defined]
        view.close()
        if self.progress is not False:
            view.say(f"Stopped by {type(error).__name__}. {self.run.report().summary()}")
        try:
            self._write(out)
        except OSError as failed:
            # the reason for stopping is the more important of the two, and `frame` has the rows
            error.add_note(f"The rows so far could not be written to output: {type(failed).__name__}: {failed}")

    def _write(self, out: pd.DataFrame) -> None:
        if self.output is not None:
            report = self.run.report()
            self.output.write(out, {"call": self.call, "run_id": report.run_id, "totals": report.to_dict()})


def prepare(arguments: Mapping[str, Any]) -> Prepared:
    """Check everything about a call before anything is sent.

    :param arguments: those of :func:`generate`, by name, with ``fields`` as a dict.
    """
    register()
    given = dict(arguments)
    for name in ("overwrite", "overwrite_columns"):
        _check_type(name, given[name], bool)
    _check_choice("errors", given["errors"], ("rows", "raise"))
    _check_type("progress", given["progress"], bool, none=True)
    gallery = _check_gallery(given["gallery"])
    output = None if given["output"] is None else Output.at(given["output"], prefix=_check_prefix(given["prefix"]))
    spec = make_spec(given["kind"], model=given["model"], params=given["params"], fields=given["fields"])
    frame = read_source(given["source"])
    spec.check_columns(list(frame.columns))
    options = check_options(frame, given)
    if not given["overwrite_columns"]:
        _check_clash(frame, options.prefix)
    settings = Settings.from_env(**{name: given[name] for name in _SETTINGS})
    spec.check_constants(frame)
    if given["errors"] == "raise":
        spec.check_rows(frame)
    run = Run(frame, spec, options, settings)
    call = call_fingerprint(spec, frame, options, settings.base_url)
    if output is not None:
        output.prepare(frame, call, overwrite=given["overwrite"])
    if len(frame):  # an empty frame needs no key
        run.connect()
    return Prepared(run, output, call, given["errors"], given["progress"], gallery)


def check_options(frame: pd.DataFrame, given: Mapping[str, Any]) -> Options:
    """The arguments that say how to run a call, checked; what is not given has its default."""
    values = {name: given[name] for name in Options.__dataclass_fields__ if name in given}
    key = values.get("key")
    if key is not None and key not in frame.columns:
        raise InvalidRequestError(no_column("key", None, key, list(frame.columns)), field="key")
    _check_choice("on_unknown", values.get("on_unknown", "hold"), ("hold", "resubmit"))
    _check_choice("reuse", values.get("reuse", "always"), ("always", "run", "never"))
    _check_type("retry_failed", values.get("retry_failed", False), bool)
    values["prefix"] = _check_prefix(values.get("prefix", DEFAULT_PREFIX))
    values["max_credits"] = _check_credits(values.get("max_credits"))
    values["deadline"] = _check_deadline(values.get("deadline"))
    values["run_id"] = _check_text("run_id", values.get("run_id"))
    values["labels"] = _labels(values.get("labels"))
    if values.get("reuse") == "run" and not values["run_id"]:
        raise ConfigurationError('reuse="run" needs run_id=...: it names the run whose results count.')
    return Options(**values)


def call_fingerprint(spec: RequestSpec, frame: pd.DataFrame, options: Options, base_url: str) -> str:
    """What makes two calls the same call: what is sent where for which rows, and how the columns are called.

    :returns: 64 hex digits.
    """
    key = options.key
    shape = {**spec.describe(), "key": None if key is None else str(key), "prefix": options.prefix}
    shape["service"] = service_scope(base_url)
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name in [*spec.columns, *([] if key is None else [key])]:
        digest.update(repr(name).encode())
        for value in frame[name].tolist():
            digest.update(repr(plain(value)).encode())
            digest.update(b"\0")
    return digest.hexdigest()


_SETTINGS = (
    "api_key",
    "base_url",
    "ledger",
    "requests_per_minute",
    "limiter_url",
    "timeout",
    "allow_insecure",
    "on_server_error",
)


def _raise_failures(run: Run, out: pd.DataFrame) -> None:
    failures = run.failures()
    if not failures:
        return
    label, first = failures[0]
    error = RowsFailedError(
        f"{len(failures):,} of {len(out):,} rows did not succeed; the first is row {label!r} "
        f"({first.status}): {first.error or 'no reason given'}. All rows are in this exception's .frame."
    )
    error.frame = out
    raise error


async def _draw_now_and_then(view: View) -> None:
    while True:
        await asyncio.sleep(0.2)
        view.draw()


def _check_type(name: str, value: object, kind: type, *, none: bool = False) -> None:
    if not isinstance(value, kind) and not (none and value is None):
        raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__} {value!r:.60}.")


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name}={value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def _check_text(name: str, value: object) -> str:
    if value is None:
        return ""
    _check_type(name, value, str)
    return str(value)


def _check_prefix(prefix: object) -> str:
    _check_type("prefix", prefix, str)
    if not prefix:
        raise ConfigurationError("prefix is empty; the output columns need one, such as 'aio_' or 'cutout_'.")
    return str(prefix)


def _check_clash(frame: pd.DataFrame, prefix: str) -> None:
    clash = [name for name in column_names(prefix) if name in frame.columns]
    if clash:
        raise ConfigurationError(
            f"The input has the column{'s' if len(clash) > 1 else ''} {', '.join(clash)} already, and the result's "
            "would take their place. Pass overwrite_columns=True to replace them (a re-run), "
            f'prefix="..." to keep both, or rename: df.rename(columns=lambda c: c.replace({prefix!r}, "first_")).'
        )


def _check_credits(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"max_credits must be a number of credits, not {type(value).__name__}.")
    if math.isnan(value) or value < 0:
        raise ConfigurationError(f"max_credits={value!r}; it must be 0 or more.")
    return float(value)


def _check_deadline(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"deadline must be a number of seconds, not {type(value).__name__}.")
    if not value > 0 or math.isinf(value):
        raise ConfigurationError(f"deadline={value!r}; it must be a number of seconds above 0.")
    return float(value)


def _check_gallery(value: object) -> int:
    if value is None or value is True:
        return DEFAULT_ROWS
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"gallery must be True, False or a number of results, not {value!r}.")
    return int(value)


def _labels(given: object) -> dict[str, str]:
    """Who asks and where, for the book: the user, the notebook or the Airflow task, then what the caller adds."""
    labels: dict[str, str] = {}
    try:
        labels["user"] = getpass.getuser()
    except (OSError, KeyError, ImportError):
        pass  # a container without a name for its user
    for name, variable in _CONTEXT.items():
        if os.environ.get(variable):
            labels[name] = os.environ[variable]
    if given is None:
        return labels
    if not isinstance(given, Mapping) or not all(isinstance(x, str) for pair in given.items() for x in pair):
        raise TypeError("labels must be a dict of text to text.")
    return {**labels, **given}


#: label → where it can be read: Jupyter names the notebook, Airflow the task instance (this imports neither)
_CONTEXT = {
    "notebook": "JPY_SESSION_NAME",
    "dag_id": "AIRFLOW_CTX_DAG_ID",
    "run_id": "AIRFLOW_CTX_DAG_RUN_ID",
    "task_id": "AIRFLOW_CTX_TASK_ID",
    "try": "AIRFLOW_CTX_TRY_NUMBER",
}
