"""A batch's record in Airflow's task state store, for where the ledger is a file of one machine.

The file stays the ledger that everything reads. What is about to be sent, and what became of it, is also
written to the store (Airflow 3.3 and later); a worker on another machine puts into its own file what that
lacks. Only the worker touches the store: it is synchronous, and would wedge a triggerer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aio_provider.jobs.ledger import ENDED, Finished, JobState

if TYPE_CHECKING:
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger import Entry, Ledger

#: bytes of one value: Airflow warns above 65,535 ([state_store] max_value_storage_bytes)
_PAGE_BYTES = 48_000
#: digits of a job's key that tell it from the others of its batch
_DIGITS = 24
_NEVER_EXPIRE = timedelta.max  # Airflow's own constant is this very object
_OWNER = "task state store"
_LOST = "the worker that was submitting it went away: it may or may not have been charged"

Item = Mapping[str, Any]


class StateKeeper:
    """The :class:`~aio_provider.jobs.waves.Keeper` of a task instance.

    Values are named ``aio_batch_0``, ``aio_batch_1``, …; each holds jobs by the first digits of their key,
    and a later one counts. They hold no prompt and no key of the service.

    :param store: ``context["task_state_store"]``.
    :param ledger: this machine's.
    :param scope: base URL of the service.
    """

    group = 32

    def __init__(self, store: Any, ledger: Ledger, scope: str) -> None:
        self._store = store
        self._ledger = ledger
        self._scope = scope
        self._known: dict[str, Item] = {}
        self._page: dict[str, Item] = {}
        self._number = 0
        self._load()

    def __len__(self) -> int:
        return len(self._known)

    def intend(self, jobs: Sequence[Job]) -> None:
        """Write down what is sent next."""
        now = time.time()
        self._put({_short(job.key): _item("intended", job.request.fingerprint, now) for job in jobs})

    def record(self, entries: Sequence[Entry]) -> None:
        """Write down what became of jobs."""
        now = time.time()
        self._put({_short(entry.key): _of_entry(entry, now) for entry in entries})

    def restore(self, jobs: Sequence[Job]) -> None:
        """Bring this machine's ledger up to what the store knows of these jobs."""
        wanted = {job.key: job for job in jobs if _short(job.key) in self._known} if self._known else {}
        if not wanted:
            return
        here = self._ledger.get(wanted)
        news = {
            key: self._known[_short(key)]
            for key, job in wanted.items()
            if self._is_news(here.get(key), self._known[_short(key)], job)
        }
        if news:
            self._replay({key: wanted[key] for key in news}, news)

    def _is_news(self, entry: Entry | None, item: Item, job: Job) -> bool:
        if item["s"] == JobState.PLANNED or item["f"] != job.request.fingerprint[:16]:
            return False  # nothing was sent, or for another request, which has ended or the ledger holds
        if entry is None:
            return True
        if entry.state == item["s"] and entry.task_id == item.get("t"):
            return False
        return entry.updated_at is None or entry.updated_at.timestamp() < item["w"]

    def _replay(self, jobs: Mapping[str, Job], news: Mapping[str, Item]) -> None:
        """Take the ledger's own steps, for all these jobs at once."""
        entries = {
            entry.key: entry
            for entry in self._ledger.plan(
                jobs.values(), owner=_OWNER, retry_failed=True, on_unknown="resubmit", scope=self._scope
            )
        }
        fresh = [key for key, entry in entries.items() if entry.state is JobState.PLANNED]
        self._ledger.intend(fresh, owner=_OWNER)
        lost = [key for key in fresh if news[key]["s"] in (JobState.INTENDED, JobState.UNKNOWN)]
        self._ledger.hold([(key, news[key].get("e") or _LOST) for key in lost], owner=_OWNER)
        self._ledger.accept([(key, news[key]["t"]) for key in fresh if news[key].get("t")], owner=_OWNER)
        ended = [key for key, item in news.items() if item["s"] in ENDED]
        self._ledger.finish([_finished(key, news[key]) for key in ended])

    # -- pages

    def _load(self) -> None:
        while (page := self._store.get(_name(self._number))) is not None:
            self._known.update(page)
            self._page = page
            self._number += 1
        self._number = max(self._number - 1, 0)

    def _put(self, items: dict[str, Item]) -> None:
        if not items:
            return
        self._known.update(items)
        if self._page and len(json.dumps(self._page)) + len(json.dumps(items)) > _PAGE_BYTES:
            self._number += 1
            self._page = {}
        self._page = {**self._page, **items}
        self._store.set(_name(self._number), self._page, retention=_NEVER_EXPIRE)


def _name(number: int) -> str:
    return f"aio_batch_{number}"


def _short(key: str) -> str:
    return key[:_DIGITS]


def _item(state: str, fingerprint: str, now: float, **more: Any) -> Item:
    """State, fingerprint, written at; then task id, credits, URLs, text, error and its type, if any."""
    there = {name: value for name, value in more.items() if value not in (None, [])}
    return {"s": state, "f": fingerprint[:16], "w": round(now, 3), **there}


def _of_entry(entry: Entry, now: float) -> Item:
    return _item(
        entry.state.value,
        entry.fingerprint,
        now,
        t=entry.task_id,
        c=entry.credits,
        u=list(entry.urls),
        x=entry.text,
        e=entry.error,
        k=entry.error_type,
    )


def _finished(key: str, item: Item) -> Finished:
    return Finished(
        key,
        JobState(item["s"]),
        urls=tuple(item.get("u", ())),
        text=item.get("x"),
        credits=item.get("c"),
        error=item.get("e"),
        error_type=item.get("k"),
        task_id=item.get("t"),
    )
