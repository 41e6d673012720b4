"""A stretch of the input and what its rows got, and which job each row is."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from aio_provider.frames.columns import HALF, is_broken, plain
from aio_provider.frames.options import Options
from aio_provider.frames.schema import RowResult
from aio_provider.frames.spec import Invalid, Nothing, RequestSpec, cells
from aio_provider.jobs.job import SHORT_KEY, Job, job_key, keyed
from aio_provider.jobs.ledger import Ending, Entry, JobState

if TYPE_CHECKING:
    import pandas as pd

    from aio_provider.api.requests import GenerationRequest as Request

#: what a row is called when its job is in this state and nobody works at it
_STATUS = {
    JobState.PLANNED: "not_submitted",
    JobState.INTENDED: "unknown",
    JobState.ACCEPTED: "pending",
}
#: rows whose jobs are made at once
STRETCH = 500
_NOT_DONE = dict.fromkeys(_STATUS, "The run stopped before this row was done.")
_ENDED = frozenset({"succeeded", "failed", "expired", "skipped"})


@dataclass(frozen=True, slots=True)
class RowJob(Job):
    """A job that knows its row."""

    part: Part | None = None
    row: int = 0


class Part:
    """Some rows that follow each other, held until each has its result.

    :param number: counted from 0; ``start``: rows before it.
    """

    def __init__(self, number: int, start: int, rows: pd.DataFrame | pa.Table) -> None:
        self.number = number
        self.start = start
        self.rows = rows
        self.results: list[RowResult | None] = [None] * len(rows)
        #: row → key of its job
        self.keys: dict[int, str] = {}
        #: rows that share the job of an earlier row
        self.copies: dict[int, str] = {}
        #: rows whose job ended while this run watched
        self.fresh: list[int] = []
        #: jobs that were handed on and are still to end
        self.open = 0
        #: all jobs have been handed on
        self.fed = False
        #: of the input rows
        self.digest = ""

    def settle(self, row: int, result: RowResult) -> None:
        """The result of a row whose job, if it has one, was not handed on."""
        self.results[row] = result

    def take(self, row: int, result: RowResult) -> None:
        """The result of a row's job."""
        self.results[row] = result
        self.open -= 1

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.fed and self.open == 0

    def wanting(self) -> dict[str, list[int]]:
        """Keys of the rows that have no end yet, with their rows."""
        wanted: dict[str, list[int]] = {}
        for row, key in (self.keys | self.copies).items():
            result = self.results[row]
            if result is None or result.status not in _ENDED:
                wanted.setdefault(key, []).append(row)
        return wanted

    def copy_within(self) -> list[str]:
        """Give rows that share a job of this very part its result; the keys that are another part's."""
        if not self.copies:
            return []
        own = {key: row for row, key in self.keys.items()}
        for row, key in self.copies.items():
            if key in own:
                self.results[row] = self.results[own[key]]
        return [key for key in self.copies.values() if key not in own]

    def look_up(self, entries: dict[str, Entry]) -> None:
        """Take what the record says of rows without an end."""
        for key, rows in self.wanting().items():
            if key in entries:
                for row in rows:
                    self.results[row] = recorded(entries[key], self.results[row])

    def take_times(self, endings: dict[str, Ending]) -> None:
        """Give rows that ended in this run the times of the record, so that a re-run gives the same."""
        for row in self.fresh:
            ending, result = endings.get(self.keys[row]), self.results[row]
            if ending is None or result is None:
                continue
            if result.status == ending.state and result.task_id == ending.task_id:
                self.results[row] = result._replace(
                    submitted_at=ending.submitted_at, finished_at=ending.finished_at
                )

    def name_held(self) -> None:
        """Put a held row's job into its error: its beginning is what ``aio ledger resolve`` takes."""
        for row, result in self.failures():
            key = self.keys.get(row) or self.copies.get(row)
            if result.status != "unknown" or key is None:
                continue
            name = f"job {key[:SHORT_KEY]}: "
            if not (result.error or "").startswith(name):
                self.results[row] = result._replace(
                    error=f"{name}{result.error or 'it may have been charged'}"
                )

    def with_key(self, row: int, column: Hashable | None) -> str:
        """What to add to a row's name: its key column's value, if there is such a column."""
        return "" if column is None else f" ({column}={plain(cells(self.rows, column)[row])!r})"

    def filled(self) -> list[RowResult]:
        """A result for every row; what nobody reached is ``not_submitted``."""
        return [_NOT_REACHED if result is None else result for result in self.results]

    def statuses(self) -> Counter[str]:
        """How many rows have which status."""
        return Counter("not_submitted" if one is None else one.status for one in self.results)

    def failures(self) -> Iterator[tuple[int, RowResult]]:
        """Rows of this part that failed, expired or are held."""
        for row, result in enumerate(self.results):
            if result is not None and result.status in ("failed", "expired", "unknown"):
                yield row, result


_NOT_REACHED = RowResult(
    "not_submitted", error="The run stopped before this row was sent; nothing was spent on it."
)


def recorded(entry: Entry | Ending, told: RowResult | None = None) -> RowResult:
    """A row's result as the record has it.

    :param told: what the row was given before, whose error may say more.
    """
    return RowResult(
        status=_STATUS.get(entry.state) or entry.state.value,
        urls=entry.urls,
        text=entry.text,
        credits=entry.credits,
        task_id=entry.task_id,
        error=entry.error or (told.error if told is not None else _NOT_DONE.get(entry.state)),
        model=entry.model,
        submitted_at=entry.submitted_at,
        finished_at=entry.finished_at,
    )


class Naming:
    """Says which job each row is, over all parts in their order.

    A row's content names its job, and the n-th equal row is a job of its own; or a key column does, and rows
    with the same key and content share one job. What was seen is kept in a temporary file, so that memory
    does not grow with rows.

    :param scope: base URL of the service.
    """

    def __init__(self, spec: RequestSpec, options: Options, scope: str, run_id: str) -> None:
        self._spec = spec
        self._options = options
        self._scope = scope
        self._run_id = run_id
        self._labels = {"run_id": run_id, **options.labels}
        self._seen = _Seen()
        # The call's shape keeps two calls over one key column apart (two models, say): each has its own job
        # for a row, and going back to the first finds its results. The run's id does so for runs.
        shape = hashlib.sha256(json.dumps(spec.describe(), sort_keys=True).encode()).hexdigest()
        self._namespace = shape if options.reuse == "always" else f"{shape}:run:{run_id}"

    def jobs(self, part: Part) -> Iterator[RowJob]:
        """A job for each row that has something to do; the other rows get their result here."""
        keys = None if self._options.key is None else cells(part.rows, self._options.key)
        items = enumerate(self._spec.requests(part.rows))
        while some := list(islice(items, STRETCH)):
            yield from self._some(part, some, keys)

    def _some(
        self, part: Part, items: list[tuple[int, Request | Nothing | Invalid]], keys: list[Any] | None
    ) -> list[RowJob]:
        found: list[RowJob] = []
        named: list[tuple[int, Request, str, int]] = []
        for row, item in items:
            if isinstance(item, Nothing):
                part.settle(row, RowResult("skipped", error=item.reason))
                continue
            if isinstance(item, Invalid):
                part.settle(row, RowResult("failed", error=str(item.error)))
                continue
            value = None if keys is None else plain(keys[row])
            if keys is not None and value is None:
                why = f"The key column {self._options.key!r} is null in this row; nothing was sent."
                part.settle(row, RowResult("failed", error=why))
                continue
            if is_broken(value):
                why = f"The key column {self._options.key!r} holds {HALF} in this row; nothing was sent."
                part.settle(row, RowResult("failed", error=why))
                continue
            key = "" if keys is None else self._keyed(value)
            named.append((row, item, key, _short(key or item.fingerprint)))
        seen = self._seen.find(name for _, _, _, name in named)
        for row, item, key, name in named:
            if not key:
                number, _ = seen.get(name, (0, 0))
                seen[name] = (number + 1, 0)
                key = self._content_key(item, number)
            else:
                mark = _short(item.fingerprint)
                first, known = seen.setdefault(name, (part.start + row, mark))
                if first != part.start + row:
                    self._share(part, row, key, first, same=known == mark, value=plain((keys or [])[row]))
                    continue
            part.keys[row] = key
            found.append(RowJob(key, item, self._labels, None, part, row))
        self._seen.keep(seen)
        return found

    def _keyed(self, value: object) -> str:
        return keyed(value, self._spec.kind, scope=self._scope, namespace=self._namespace)

    def note(self, part: Part) -> None:
        """Count a part's rows for the sake of later ones."""
        for _ in self.jobs(part):
            pass

    def close(self) -> None:
        """Drop what was seen."""
        self._seen.close()

    def _content_key(self, request: Any, occurrence: int) -> str:
        if self._options.reuse == "always":
            return job_key(request, occurrence, scope=self._scope)
        name = f"{request.fingerprint}:{occurrence}"
        return keyed(name, self._spec.kind, scope=self._scope, namespace=f"run:{self._run_id}")

    def _share(self, part: Part, row: int, key: str, first: int, *, same: bool, value: object) -> None:
        if same:
            part.copies[row] = key
            return
        why = (
            f"Key {value!r} is also the key of row {first} (counted from 0), which asks for something else; "
            "make the keys unique, or leave key= out."
        )
        part.settle(row, RowResult("failed", error=why))


def _short(digest: str) -> int:
    """A digest as SQLite's own kind of key, three times as fast as a text or a blob.

    63 bits: of ten million rows, two share one with a probability of 5 in a million. Then one row counts as
    the second of its content, as good a name; or gets an error that blames its key, and costs nothing.
    """
    return int(digest[:16], 16) >> 1


class _Seen:
    """What came before, in a temporary database that spills to disk and goes with the process."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4000;"
            "CREATE TABLE seen (name INTEGER PRIMARY KEY, number INTEGER, mark INTEGER); BEGIN"
        )

    def find(self, names: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Number and mark of those of the names that came before."""
        wanted = list(names)
        marks = ",".join("?" * len(wanted))
        rows = self._db.execute(f"SELECT name, number, mark FROM seen WHERE name IN ({marks})", wanted)
        return {name: (number, mark) for name, number, mark in rows}

    def keep(self, seen: Mapping[int, tuple[int, int]]) -> None:
        """Remember names with their number and mark."""
        rows = [(name, number, mark) for name, (number, mark) in seen.items()]
        self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        self._db.close()
