"""The rows of a call that are in memory: one part, its frame, and the one file it may be written to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd

from aio_provider.frames.columns import plain
from aio_provider.frames.options import Options
from aio_provider.frames.output import Output
from aio_provider.frames.parts import Part
from aio_provider.frames.report import Report
from aio_provider.frames.same import about
from aio_provider.frames.schema import column_names, result_columns
from aio_provider.frames.spec import RequestSpec, cells
from aio_provider.jobs.job import service_scope


class InMemory:
    """A frame and what becomes of it.

    :param output: the file that the result is written to, if any.
    :param call: the call's fingerprint and description, for that file.
    """

    #: nothing is done with a part before the end
    done = None

    def __init__(self, frame: pd.DataFrame, prefix: str, output: Output | None, call: dict[str, Any]) -> None:
        self.total: int | None = len(frame)
        self._frame = frame
        self._prefix = prefix
        self._output = output
        self._call = call
        self._part = Part(0, 0, frame)

    def parts(self) -> Iterator[Part]:
        """The frame."""
        yield self._part

    def finish(self, report: Report) -> pd.DataFrame:
        """The frame with the output columns, written if it is to be.

        :raises OSError: it cannot be written; the frame is on the exception.
        """
        out = self._filled(report)
        try:
            self._write(out, report)
        except OSError as error:
            error.frame = out  # type: ignore[attr-defined]  # a full disk loses nothing that was paid for
            raise
        return out

    def stopped(self, error: BaseException, report: Report) -> None:
        """Keep what there is: in the file, and on the exception."""
        out = self._filled(report)
        error.frame = out  # type: ignore[attr-defined]
        try:
            if self._output is not None and self._output.succeeded() > report.succeeded:
                error.add_note(
                    f"output={self._output.url!r} was left as it was: it knows more than this run."
                )
            else:
                self._write(out, report)
        except OSError as failed:
            # the reason for stopping is the more important of the two, and `frame` has the rows
            error.add_note(
                f"The rows so far could not be written to output: {type(failed).__name__}: {failed}"
            )

    def label(self, row: int) -> Hashable:
        """What the user calls a row."""
        label: Hashable = self._frame.index[row]
        return label

    def _filled(self, report: Report) -> pd.DataFrame:
        names = column_names(self._prefix)
        kept = self._frame.drop(columns=[name for name in names if name in self._frame.columns])
        made = result_columns(self._part.filled(), kept.index, self._prefix)
        out = pd.concat([kept, made], axis="columns")
        out.attrs = {**self._frame.attrs, "aio": report.to_dict()}
        return out

    def _write(self, out: pd.DataFrame, report: Report) -> None:
        if self._output is not None:
            note = {**self._call, "run_id": report.run_id, "totals": report.to_dict()}
            self._output.write(out, note)


def call_fingerprint(
    spec: RequestSpec, frame: pd.DataFrame, options: Options, base_url: str
) -> tuple[str, dict[str, Any]]:
    """What makes two calls the same call: what is sent where for which rows, and how the columns are called.

    :returns: 64 hex digits, and a small description for the output's metadata.
    """
    key = options.key
    shape: dict[str, Any] = {
        **spec.describe(),
        "key": None if key is None else str(key),
        "prefix": options.prefix,
        "service": service_scope(base_url),
    }
    rows = hashlib.sha256()
    for name in [*spec.columns, *([] if key is None else [key])]:
        rows.update(repr(name).encode())
        for value in cells(frame, name):
            rows.update(repr(plain(value)).encode())
            rows.update(b"\0")
    call = hashlib.sha256(json.dumps(shape, sort_keys=True).encode() + rows.digest()).hexdigest()
    return call, about({**shape, "count": len(frame), "rows": rows.hexdigest(), "run": ""})
