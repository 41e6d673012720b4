"""The rows of a streamed call: parts read, written as they end, and skipped where a run before has them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import pandas as pd

from aio_provider.frames.parts import Part
from aio_provider.frames.report import Report
from aio_provider.frames.result import StreamResult
from aio_provider.frames.run import Run
from aio_provider.frames.same import is_paid
from aio_provider.frames.schema import RowResult, column_names, result_columns
from aio_provider.frames.stream import Stream
from aio_provider.frames.words import words


class Streaming:
    """A streamed input on its way to its output.

    :param run: the run that does it.
    :param overwrite: an output of other rows may be replaced.
    :param frame: the input, where it is in memory: the result is then a frame too.
    :param strict: rows that failed are to be told of one by one, those of an earlier run too.
    """

    def __init__(
        self,
        stream: Stream,
        run: Run,
        *,
        overwrite: bool = False,
        frame: pd.DataFrame | None = None,
        strict: bool = False,
    ) -> None:
        self.total = stream.scan.total
        self._stream = stream
        self._run = run
        self._overwrite = overwrite
        self._frame = frame
        self._kept: dict[int, list[RowResult]] = {}
        self._count = 0
        self._noted = -1  # the last part whose rows are counted
        options = run.options
        #: statuses that this call does not take for an end
        self._again = [
            *(["failed"] if options.retry_failed or strict else []),
            *(["expired"] if strict else []),
            *(["succeeded"] if options.refresh_urls or options.reuse == "never" else []),
        ]

    def parts(self) -> Iterator[Part]:
        """The parts that have rows without an end; the others are counted.

        :raises FileExistsError: the output holds the result of other rows.
        """
        skipped = 0
        for part in self._stream.parts():
            self._count = part.number + 1
            note = None if self._frame is not None else self._stream.target.finished(part, again=self._again)
            if note is not None:
                self._run.skip(note)
                skipped += 1
                if not self._stream.scan.repeatable:
                    self._run.naming.note(part)
                continue
            self._refuse_other(part)
            if skipped and self._stream.scan.repeatable:
                self._catch_up(part.number)
                skipped = 0
            self._noted = part.number
            yield part

    def _catch_up(self, until: int) -> None:
        """Count the rows of skipped parts: an equal row of a later part is a job of its own."""
        for part in self._stream.parts():
            if part.number >= until:
                return
            if part.number > self._noted:
                self._run.naming.note(part)

    def _refuse_other(self, part: Part) -> None:
        """An input without a name is told by its rows alone."""
        old = self._stream.target.known(part.number)
        if old is None or self._overwrite or self._stream.scan.identity or old.input == part.digest:
            return
        raise FileExistsError(
            f"{words.get().argument('output', self._stream.target.url)} holds the result of other rows "
            f"(from row {part.start:,} on). Pass {words.get().argument('overwrite', True)} to replace it, "
            "or give another name."
        )

    def done(self, part: Part) -> None:
        """Write a part."""
        if self._frame is not None:
            self._kept[part.number] = part.filled()
        self._stream.target.write(part)

    def finish(self, report: Report) -> pd.DataFrame | StreamResult:
        """The output is whole.

        :raises OSError: it cannot be written; the parts are there.
        """
        try:
            self._stream.target.complete(self._count, report.to_dict())
        finally:
            self._stream.target.release()
        if self._frame is None:
            return StreamResult(self._stream.target, report)
        results = [result for number in sorted(self._kept) for result in self._kept[number]]
        prefix = self._run.options.prefix
        kept = self._frame.drop(columns=[n for n in column_names(prefix) if n in self._frame.columns])
        out = pd.concat([kept, result_columns(results, kept.index, prefix)], axis="columns")
        out.attrs = {**self._frame.attrs, "aio": report.to_dict()}
        return out

    def stopped(self, error: BaseException, report: Report) -> None:
        """Write what there is, and put it on the exception; where nothing was paid for, leave nothing."""
        target = self._stream.target
        error.result = StreamResult(target, report)  # type: ignore[attr-defined]
        try:
            if not is_paid(report.statuses, report.credits, report.saved) and target.discard():
                return
            for part in list(self._run.open.values()):
                target.write(part)
            if self._run.ended:
                target.complete(self._count, report.to_dict())
        except OSError as failed:
            # the reason for stopping is the more important of the two, and the ledger has the rows
            error.add_note(
                f"The rows so far could not be written to output: {type(failed).__name__}: {failed}"
            )
        finally:
            target.release()

    def label(self, row: int) -> Hashable:
        """What the user calls a row."""
        if self._frame is None:
            return row
        label: Hashable = self._frame.index[row]
        return label
