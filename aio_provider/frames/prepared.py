"""A call from checked arguments to its returned frame, in a coroutine or out of one."""

from __future__ import annotations

import asyncio
import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aio_provider.api.amounts import in_digits
from aio_provider.api.errors import AioError, ConfigurationError
from aio_provider.api.validation import give, users_level
from aio_provider.frames import arguments as checks
from aio_provider.frames.accessor import register
from aio_provider.frames.gallery import display_result
from aio_provider.frames.loop import run_blocking
from aio_provider.frames.memory import InMemory, call_fingerprint
from aio_provider.frames.output import Output, arrow_input
from aio_provider.frames.progress import View, in_notebook, make_view
from aio_provider.frames.report import Report
from aio_provider.frames.result import StreamResult
from aio_provider.frames.run import Run
from aio_provider.frames.source import read_source
from aio_provider.frames.spec import make_spec
from aio_provider.frames.stream import open_stream
from aio_provider.frames.streaming import Streaming
from aio_provider.frames.target import is_folder
from aio_provider.frames.words import words
from aio_provider.jobs.ledger.location import locate, public
from aio_provider.jobs.runner import CreditLimitWarning
from aio_provider.jobs.settings import Settings


class RowsFailedError(AioError):
    """Some rows failed and ``errors="raise"`` was given; ``frame`` has every row, the good ones too.

    Of a streamed call, which has no frame, ``result`` says where they are.
    """

    frame: pd.DataFrame
    result: StreamResult


@dataclass(frozen=True)
class Prepared:
    """A call whose arguments have all been checked; nothing has been sent yet."""

    run: Run
    rows: InMemory | Streaming
    errors: str
    progress: bool | None
    gallery: int

    def blocking(self) -> pd.DataFrame | StreamResult:
        """Run it, waiting in this thread."""
        view = self._view()
        if self.rows.total != 0:
            try:
                work = self.run.collect(self.rows.parts(), view, self.rows.done)
                run_blocking(work, tick=lambda: self._tick(view))
            except BaseException as error:
                self._stopped(error, view)
                raise
        return self._hand_over(self.rows.finish(self.run.report()), view)

    async def awaiting(self) -> pd.DataFrame | StreamResult:
        """Run it in the running loop."""
        view = self._view()
        if self.rows.total != 0:
            ticker = asyncio.create_task(_draw_now_and_then(view))
            try:
                await self.run.collect(self.rows.parts(), view, self.rows.done)
            except BaseException as error:
                self._stopped(error, view)
                raise
            finally:
                ticker.cancel()
            give(self.run.warnings)
        out = await asyncio.to_thread(self.rows.finish, self.run.report())
        return self._hand_over(out, view)

    def _tick(self, view: View) -> None:
        view.draw()
        give(self.run.warnings)

    def _view(self) -> View:
        return make_view(self.rows.total, self.run.spec.kind, self.progress)

    def _hand_over(self, out: pd.DataFrame | StreamResult, view: View) -> pd.DataFrame | StreamResult:
        """Tell the user how it went, now that everything is kept."""
        report = self.run.report()
        if report.rows:
            view.settle(report)
            view.close()
        if self.run.new_ledger is not None:
            view.say(f"ledger: {self.run.new_ledger} (new)")
        view.say(report.summary())
        self._say_held(report, view)
        if self.run.figures.over_limit:
            warnings.warn(
                f"max_credits={in_digits(self.run.options.max_credits)}: {self.run.figures.over_limit:,} of "
                f"{report.rows:,} rows were not submitted, since they might have gone past it. "
                "Run again with more for the rest; what is done costs nothing again.",
                CreditLimitWarning,
                stacklevel=users_level(),
            )
        if self.run.figures.over_budget:
            warnings.warn(
                f"{self.run.figures.over_budget:,} of {report.rows:,} rows were not submitted. "
                f"{self.run.figures.budget_error}",
                CreditLimitWarning,
                stacklevel=users_level(),
            )
        if self.gallery and in_notebook():
            shown = out if isinstance(out, pd.DataFrame) else out.head(self.gallery)
            display_result(shown, rows=self.gallery, prefix=self.run.options.prefix, kind=report.kind)
        if self.errors == "raise":
            self._raise_failures(out)
        return out

    def _stopped(self, error: BaseException, view: View) -> None:
        """Keep what there is."""
        report = self.run.report()
        self.rows.stopped(error, report)
        view.settle(report)
        view.close()
        cause = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        view.say(f"Stopped by {cause}. {report.summary()}")
        self._say_held(report, view)

    def _say_held(self, report: Report, view: View) -> None:
        """Name held rows with the lines that settle them, so that no two are taken for each other."""
        held, count = self.run.held(), report.statuses.get("unknown", 0)
        which = _ledger_option(self.run.settings.ledger)
        for row, more, key in held:
            line = f"aio ledger resolve {key}{which}"
            view.say(f"  row {self.rows.label(row)!r}{more}: {line} --task-id ID, or --not-submitted")
        if held and count > len(held):
            view.say(f"  … {count:,} in all: aio ledger show --state unknown{which}")

    def _raise_failures(self, out: pd.DataFrame | StreamResult) -> None:
        if self.run.figures.first_failure is None:
            return
        row, first = self.run.figures.first_failure
        error = RowsFailedError(
            f"{self.run.figures.failed:,} of {len(out):,} rows did not succeed; the first is row "
            f"{self.rows.label(row)!r} ({first.status}): {(first.error or 'no reason given').rstrip('.')}. "
            f"{words.get().rest}"
        )
        if isinstance(out, pd.DataFrame):
            error.frame = out
        else:
            error.result = out
        raise error


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
    run, rows = _streamed(given) if _streams(given) else _in_memory(given)
    return Prepared(run, rows, given["errors"], given["progress"], gallery)


def _streams(given: Mapping[str, Any]) -> bool:
    """Whether rows go from input to output a part at a time: from files to a file, or into a folder."""
    output = given["output"]
    if output is None:
        for name in ("partition_by", "max_rows_per_part"):
            if given[name] is not None:
                raise ConfigurationError(f"{name} says how output is written; give output=... too.")
        return False
    if not isinstance(given["source"], pd.DataFrame):
        return True
    return given["partition_by"] is not None or (isinstance(output, str | os.PathLike) and is_folder(output))


def _in_memory(given: Mapping[str, Any]) -> tuple[Run, InMemory]:
    output = (
        None
        if given["output"] is None
        else Output.at(given["output"], prefix=checks.check_prefix(given["prefix"]))
    )
    spec = make_spec(given["kind"], model=given["model"], params=given["params"], fields=given["fields"])
    frame = read_source(given["source"], checks.check_csv(given))
    spec.check_columns(list(frame.columns))
    options = checks.check_options(frame, given)
    if not given["overwrite_columns"]:
        checks.check_clash(frame, options.prefix)
    settings = Settings.from_env(**checks.check_settings(given))
    spec.check_constants(frame)
    if given["errors"] == "raise":
        spec.check_rows([frame])
    run = Run(spec, options, settings, len(frame))
    if len(frame):  # an empty frame needs no key
        run.connect()
    call: dict[str, Any] = {}
    if output is not None:
        name, told = call_fingerprint(spec, frame, options, settings.base_url)
        call = {"call": name, "about": told}
        output.prepare(frame, name, overwrite=given["overwrite"], about=told)
    return run, InMemory(frame, options.prefix, output, call)


def _streamed(given: Mapping[str, Any]) -> tuple[Run, Streaming]:
    frame = given["source"] if isinstance(given["source"], pd.DataFrame) else None
    source = given["source"] if frame is None else arrow_input(read_source(frame))
    stream = open_stream({**given, "source": source})
    settings = Settings.from_env(**checks.check_settings(given))
    if given["errors"] == "raise":
        stream.check_rows()
    run = Run(stream.spec, stream.options, settings, stream.scan.total)
    run.connect()  # before anything is written: a wrong key or address leaves nothing behind
    stream.prepare(settings.base_url, overwrite=given["overwrite"])
    strict = given["errors"] == "raise"
    return run, Streaming(stream, run, overwrite=given["overwrite"], frame=frame, strict=strict)


def _ledger_option(ledger: str | None) -> str:
    """How ``aio ledger`` is told which ledger, where it would not find it by itself."""
    if ledger is None or ledger == os.environ.get("AIO_LEDGER", "").strip():
        return ""
    return f" --ledger {shlex.quote(public(locate(ledger)) if '://' in ledger else ledger)}"


async def _draw_now_and_then(view: View) -> None:
    while True:
        await asyncio.sleep(0.2)
        view.draw()
