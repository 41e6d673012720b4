"""What a call would cost, before anything is spent: no request is sent and no key is needed."""

from __future__ import annotations

import inspect
import os
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from aio_provider.api.amounts import in_credits, in_digits
from aio_provider.api.catalog import load_catalog
from aio_provider.api.prices import CreditRange
from aio_provider.frames.accessor import register
from aio_provider.frames.arguments import check_csv, check_options, check_settings
from aio_provider.frames.calls import generate
from aio_provider.frames.columns import Expression
from aio_provider.frames.files import Csv
from aio_provider.frames.options import Options, Reuse
from aio_provider.frames.parts import Naming, Part
from aio_provider.frames.scan import Source, open_scan
from aio_provider.frames.source import read_source
from aio_provider.frames.spec import make_spec
from aio_provider.frames.stream import PART_ROWS, numbered
from aio_provider.frames.words import words
from aio_provider.jobs.budget import estimate as estimate_jobs
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.jobs.ledger.location import in_memory, locate, require_folder
from aio_provider.jobs.settings import Settings

_CHUNK = 500
#: how far back charges are compared with their estimates
_LATELY = timedelta(days=30)


@dataclass(frozen=True)
class FrameEstimate:
    """What a call over a frame is expected to cost, in credits.

    :param total: low, likely and high; ``likely`` and ``high`` are ``None`` where nothing is known.
    :param by_model: one row a model: ``model, requests, low, likely, high, source, note``. ``source`` says
        where the figures come from: ``published`` rules, ``learned`` from this ledger, or ``unknown``.
    :param rows: in the frame.
    :param requests: that would be sent and paid for.
    :param reused: rows whose job is in the ledger already and costs nothing again.
    :param skipped: rows with a null prompt or picture.
    :param invalid: rows that would fail before they are sent.
    :param first_invalid: the first of them, and why.
    :param default_model: the model that is taken since none was named.
    :param drift: models among these whose charges of the last 30 days were not what had been estimated.
    :param short: budgets of the ledger that have less left than this may cost.
    :param max_credits: the limit that was given, if any; :meth:`notes` say whether it is enough.
    """

    total: CreditRange
    by_model: pd.DataFrame
    rows: int
    requests: int
    reused: int = 0
    skipped: int = 0
    invalid: int = 0
    default_model: str | None = None
    drift: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    max_credits: float | None = None
    first_invalid: str | None = None

    @property
    def low(self) -> float:
        """The least that is to be expected."""
        return self.total.low

    @property
    def likely(self) -> float | None:
        """The most probable figure."""
        return self.total.likely

    @property
    def high(self) -> float | None:
        """What to set aside."""
        return self.total.high

    def __repr__(self) -> str:
        table = [self.by_model.to_string(index=False)] if self.requests else []
        return "\n".join([self.headline(), *table, *self.notes()])

    def _repr_html_(self) -> str:
        # to_html escapes what is in the cells
        table = self.by_model.to_html(index=False, border=0, na_rep="–") if self.requests else ""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes())
        return f"<p>{escape(self.headline())}</p>{table}{notes}"

    def headline(self) -> str:
        """One line for people."""
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        counts = [f"{self.requests:,} of {rows} would be sent"]
        for name in ("reused", "skipped", "invalid"):
            number = getattr(self, name)
            if number:
                counts.append(f"{number:,} {name}")
        note = f" ({self.total.note})" if self.total.note else ""
        return f"{_range(self.total)}; {', '.join(counts)}{note}"

    def notes(self) -> list[str]:
        """What else there is to know, one line each."""
        notes = []
        if self.first_invalid is not None:
            which = "Invalid" if self.invalid == 1 else "The first invalid one"
            notes.append(f"{which}: {self.first_invalid}")
        if self.default_model is not None:
            notes.append(f"No model was named: {self.default_model} is the usual one.")
        notes += [f"Prices change: {line}." for line in self.drift]
        notes += [f"{line}: not all of this may be submitted." for line in self.short]
        if self.max_credits is not None:
            notes.append(self._fit(self.max_credits))
        return notes

    def _fit(self, limit: float) -> str:
        said = words.get().argument("max_credits", int(limit) if limit.is_integer() else limit)
        if self.high is not None and self.high <= limit:
            return f"{said} is enough for all of it."
        if self.low > limit:
            return f"{said} is not enough: some rows would not be submitted."
        return f"{said} may not be enough: rows that could go past it would not be submitted."


def estimate(
    source: Source,
    kind: str,
    *,
    model: str | Expression | None = None,
    params: Mapping[str, Any] | None = None,
    key: Hashable | None = None,
    retry_failed: bool = False,
    on_unknown: Literal["hold", "resubmit"] = "hold",
    reuse: Reuse = "always",
    run_id: str | None = None,
    max_credits: float | None = None,
    labels: Mapping[str, str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    dtype: Literal["str"] | type[str] | None = None,
    base_url: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> FrameEstimate:
    """What :func:`aio_provider.generate` with the same arguments would cost. Spends nothing, sends nothing.

    Its other arguments (``output=`` …) are taken too and change nothing, so that one word turns a call into
    its estimate. With ``max_credits=`` it is said whether that is enough; ``labels=`` say which budgets of
    the ledger it counts for. Rows already in the ledger count as free. Past charges there narrow published
    ranges, stand in for prices that are not published, and correct prices that have changed. A ledger that
    does not exist yet is not made.

    :returns: ``low``, ``likely`` and ``high`` in total and by model, as a :class:`FrameEstimate`.
    :raises InvalidRequestError: a field, a column or a constant that cannot be.
    """
    register()
    others = set(inspect.signature(generate).parameters)
    spec = make_spec(
        kind, model=model, params=params, fields={name: v for name, v in fields.items() if name not in others}
    )
    rows = _Rows.of(source, check_csv({"encoding": encoding, "delimiter": delimiter, "dtype": dtype}))
    spec.check_columns(list(rows.columns))
    given = {
        "key": key,
        "retry_failed": retry_failed,
        "on_unknown": on_unknown,
        "reuse": reuse,
        "run_id": run_id,
        "max_credits": max_credits,
        "labels": labels,
    }
    options = check_options(rows.columns, given)
    spec.check_constants(next(rows.parts()).rows)
    settings = Settings.from_env(**check_settings({"base_url": base_url, "ledger": ledger}))
    naming = Naming(spec, options, settings.base_url, options.run_id or uuid.uuid4().hex)
    book = _existing(settings.ledger)
    try:
        paid = _Paid(book, options)
        unpaid = paid.unpaid(chain.from_iterable(map(naming.jobs, rows.counted())))
        result = estimate_jobs(unpaid, book, scope=settings.base_url)
        drift = () if book is None else _drift(book, settings.base_url, result.by_model)
        short = () if book is None else _short(book, options.labels, result.total)
    finally:
        naming.close()
        if book is not None:
            book.close()
    return FrameEstimate(
        total=result.total,
        by_model=_table(result.by_model, result.counts),
        rows=rows.total,
        requests=result.requests,
        reused=paid.count,
        skipped=rows.statuses["skipped"],
        invalid=rows.statuses["failed"],
        default_model=None if model is not None else load_catalog().endpoint(kind).default_model,
        drift=drift,
        short=short,
        max_credits=options.max_credits,
        first_invalid=rows.first_invalid,
    )


class _Rows:
    """The rows of a call, part by part."""

    def __init__(self, columns: pd.DataFrame, parts: Callable[[], Iterator[Part]]) -> None:
        self.columns = columns
        self.parts = parts
        self.total = 0
        self.statuses: Counter[str] = Counter()
        self.first_invalid: str | None = None

    @classmethod
    def of(cls, source: Source, csv: Csv) -> _Rows:
        if isinstance(source, pd.DataFrame):
            frame = read_source(source)
            return cls(frame, lambda: iter([Part(0, 0, frame)]))
        scan = open_scan(source, csv)
        if not scan.repeatable:
            raise TypeError(
                "An iterator can be read once, and the call itself needs it: estimate a path instead."
            )
        return cls(pd.DataFrame(columns=scan.schema.names), lambda: numbered(scan.tables(PART_ROWS)))

    def counted(self) -> Iterator[Part]:
        """The parts; each is counted once its jobs have been taken."""
        for part in self.parts():
            yield part
            if self.first_invalid is None:
                row, result = next(part.failures(), (0, None))
                if result is not None:
                    label = part.rows.index[row] if isinstance(part.rows, pd.DataFrame) else part.start + row
                    self.first_invalid = f"row {label!r}: {result.error}"
            self.total += len(part.results)
            self.statuses.update(part.statuses())


class _Paid:
    """Sorts out jobs that a run would not submit, since the ledger has them already."""

    def __init__(self, ledger: Ledger | None, options: Options) -> None:
        self._ledger = ledger
        self._again = {JobState.PLANNED}
        if options.retry_failed:
            self._again.add(JobState.FAILED)
        if options.on_unknown == "resubmit":
            self._again.add(JobState.UNKNOWN)
        self.count = 0

    def unpaid(self, jobs: Iterator[Job]) -> Iterator[Job]:
        while chunk := list(islice(jobs, _CHUNK)):
            known = {} if self._ledger is None else self._ledger.get([job.key for job in chunk])
            for job in chunk:
                entry = known.get(job.key)
                changed = entry is not None and entry.fingerprint != job.request.fingerprint
                if entry is None or changed or entry.state in self._again:
                    yield job
                else:
                    self.count += 1


def _existing(target: str | None) -> Ledger | None:
    """The ledger, unless it would have to be made first."""
    url = locate(target)
    require_folder(url)
    if url.get_backend_name() == "sqlite" and (in_memory(url) or not Path(str(url.database)).exists()):
        return None
    return Ledger.open(target)


def _drift(book: Ledger, base_url: str, models: Mapping[str, CreditRange]) -> tuple[str, ...]:
    found = book.estimate_drift(since=_LATELY, scope=base_url)
    return tuple(str(one) for one in found if one.is_notable and (one.model or one.kind) in models)


def _short(book: Ledger, labels: Mapping[str, str], total: CreditRange) -> tuple[str, ...]:
    """Budgets that these jobs would count for, with less left than the most they may cost."""
    most = total.high if total.high is not None else total.likely or 0.0
    return tuple(
        f"Budget {use.name} has {in_digits(use.left)} of {in_credits(use.budget.credits)} left"
        for use in book.budgets_for(labels)
        if most > use.left
    )


def _table(by_model: Mapping[str, CreditRange], counts: Mapping[str, int]) -> pd.DataFrame:
    rows = [
        (model, counts[model], part.low, part.likely, part.high, part.source, part.note)
        for model, part in by_model.items()
    ]
    table = pd.DataFrame(rows, columns=["model", "requests", "low", "likely", "high", "source", "note"])
    kinds = dict.fromkeys(("low", "likely", "high"), "float64") | dict.fromkeys(
        ("model", "source", "note"), "string"
    )
    return table.astype({"requests": "int64", **kinds})


def _range(total: CreditRange) -> str:
    if total.low == total.likely == total.high:
        return in_credits(total.low)
    if total.likely is None and total.high is None:
        return f"at least {in_credits(total.low)}, most of it unknown" if total.low else "an unknown price"
    likely = "unknown" if total.likely is None else in_digits(total.likely)
    high = "unknown" if total.high is None else in_digits(total.high)
    return f"{in_digits(total.low)} to {high}, likely {likely} credits"
