"""A call from checked arguments to its returned frame, in a coroutine or out of one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aio_provider.api.errors import AioError
from aio_provider.api.validation import users_level
from aio_provider.frames import arguments as checks
from aio_provider.frames.accessor import register
from aio_provider.frames.columns import plain
from aio_provider.frames.gallery import display_result
from aio_provider.frames.loop import run_blocking
from aio_provider.frames.options import Options
from aio_provider.frames.output import Output
from aio_provider.frames.progress import View, make_view
from aio_provider.frames.run import Run
from aio_provider.frames.source import read_source
from aio_provider.frames.spec import RequestSpec, make_spec
from aio_provider.frames.words import words
from aio_provider.jobs.job import service_scope
from aio_provider.jobs.runner import CreditLimitWarning
from aio_provider.jobs.settings import Settings


class RowsFailedError(AioError):
    """Some rows failed and ``errors="raise"`` was given; ``frame`` has every row, the good ones too."""

    frame: pd.DataFrame


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
        view = self._view()
        if len(self.run.frame):
            try:
                run_blocking(self.run.collect(view), tick=view.draw)
            except BaseException as error:
                self._stopped(error, view)
                raise
        out = self.run.frame_so_far()
        self._write(out)
        return self._hand_over(out, view)

    async def awaiting(self) -> pd.DataFrame:
        """Run it in the running loop."""
        view = self._view()
        if len(self.run.frame):
            ticker = asyncio.create_task(_draw_now_and_then(view))
            try:
                await self.run.collect(view)
            except BaseException as error:
                self._stopped(error, view)
                raise
            finally:
                ticker.cancel()
        out = self.run.frame_so_far()
        await asyncio.to_thread(self._write, out)
        return self._hand_over(out, view)

    def _view(self) -> View:
        rows = len(self.run.frame)
        return make_view(rows, self.run.spec.kind, self.progress if rows else False)

    def _hand_over(self, out: pd.DataFrame, view: View) -> pd.DataFrame:
        """Tell the user how it went, now that everything is kept."""
        report = self.run.report()
        view.close()
        view.say(report.summary())
        if self.run.over_limit:
            warnings.warn(
                f"max_credits={self.run.options.max_credits:g}: {self.run.over_limit:,} of {report.rows:,} "
                "rows were not submitted, since they might have gone past it. "
                "Run again with more for the rest; what is done costs nothing again.",
                CreditLimitWarning,
                stacklevel=users_level(),
            )
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
        view.say(f"Stopped by {type(error).__name__}. {self.run.report().summary()}")
        try:
            if self.output is not None and self.output.succeeded() > self.run.report().succeeded:
                error.add_note(f"output={self.output.url!r} was left as it was: it knows more than this run.")
            else:
                self._write(out)
        except OSError as failed:
            # the reason for stopping is the more important of the two, and `frame` has the rows
            error.add_note(
                f"The rows so far could not be written to output: {type(failed).__name__}: {failed}"
            )

    def _write(self, out: pd.DataFrame) -> None:
        if self.output is None:
            return
        report = self.run.report()
        try:
            self.output.write(out, {"call": self.call, "run_id": report.run_id, "totals": report.to_dict()})
        except OSError as error:
            error.frame = out  # type: ignore[attr-defined]  # a full disk loses nothing that was paid for
            raise


def prepare(arguments: Mapping[str, Any]) -> Prepared:
    """Check everything about a call before anything is sent.

    :param arguments: those of :func:`generate`, by name, with ``fields`` as a dict.
    """
    register()
    given = dict(arguments)
    for name in ("overwrite", "overwrite_columns"):
        checks.check_type(name, given[name], bool)
    checks.check_choice("errors", given["errors"], ("rows", "raise"))
    checks.check_type("progress", given["progress"], bool, none=True)
    gallery = checks.check_gallery(given["gallery"])
    output = (
        None
        if given["output"] is None
        else Output.at(given["output"], prefix=checks.check_prefix(given["prefix"]))
    )
    spec = make_spec(given["kind"], model=given["model"], params=given["params"], fields=given["fields"])
    frame = read_source(given["source"])
    spec.check_columns(list(frame.columns))
    options = checks.check_options(frame, given)
    if not given["overwrite_columns"]:
        checks.check_clash(frame, options.prefix)
    settings = Settings.from_env(**checks.check_settings(given))
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


def _raise_failures(run: Run, out: pd.DataFrame) -> None:
    failures = run.failures()
    if not failures:
        return
    label, first = failures[0]
    error = RowsFailedError(
        f"{len(failures):,} of {len(out):,} rows did not succeed; the first is row {label!r} "
        f"({first.status}): {(first.error or 'no reason given').rstrip('.')}. "
        f"{words.get().rest}"
    )
    error.frame = out
    raise error


async def _draw_now_and_then(view: View) -> None:
    while True:
        await asyncio.sleep(0.2)
        view.draw()
