"""What is on record about the one paid job of a task instance, so that no attempt pays for it twice.

The order is always: :meth:`Record.find` what is there, :meth:`Record.intend` just before the request is sent,
:meth:`Record.accept` the id at once after it, :meth:`Record.finish` the outcome. An attempt that finds an id
    re-attaches to it; one that finds an intent without an id cannot know whether the service charged it, and
    holds.

Two places can keep the record: the ledger a connection names (:mod:`aio_provider.operators.ledger_record`)
and Airflow's task state store (3.3 and later). XCom cannot: Airflow deletes it when a retry begins.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowFailException

OnUnknown = Literal["hold", "resubmit"]
Reuse = Literal["run", "always", "never"]

#: key of the record in the task state store
STATE_KEY = "aio_job"

# Airflow's `NEVER_EXPIRE` is this very object. The default is 30 days, after which a cleared task would pay
# again; the row goes when its DAG run is deleted.
_NEVER_EXPIRE = timedelta.max
_KEPT_ATTEMPTS = 20


@dataclass(frozen=True)
class JobIdentity:
    """Which job, of which task instance, at which service.

    :param key: 64 hex digits, see :func:`aio_provider.jobs.job.keyed`.
    :param fingerprint: of the request.
    :param service: base URL in one spelling: a sandbox's result must never answer for a production job.
    """

    key: str
    fingerprint: str
    service: str
    kind: str
    model: str | None
    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    def __str__(self) -> str:
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{mapped} of run {self.run_id}"


@dataclass(frozen=True)
class Started:
    """A job that was submitted before: poll it, or take its result.

    :param task_id: the service's id.
    :param submitted_at: seconds since 1970, or ``None`` where the id was entered by hand.
    :param result: what the operator returns, where the job has succeeded.
    """

    task_id: str | None
    submitted_at: float | None
    result: dict[str, Any] | None = None


class RequestChangedError(Exception):
    """The task instance has a job in flight for another request. ``task_id`` is that job's."""

    def __init__(self, task_id: str, message: str) -> None:
        super().__init__(message)
        self.task_id = task_id


class IntentLostError(Exception):
    """Another process submits this very job; look again what is on record."""


class Record(Protocol):
    """Where the job of one task instance is recorded."""

    def find(self) -> Started | None:
        """What was submitted before; ``None``: nothing that stands, so it is to be submitted.

        :raises AirflowFailException: the job is held, has failed for good, or its result is gone.
        :raises RequestChangedError: a job for another request is still in flight.
        """
        ...

    def intend(self) -> None:
        """Write the intent; the request is sent next. When this raises, nothing may be sent.

        :raises IntentLostError: another process was faster.
        """
        ...

    def sending(self) -> AbstractContextManager[None]:
        """Wraps the time from before the intent to after the answer (a lease is kept alive meanwhile)."""
        ...

    def accept(self, task_id: str, submitted_at: float) -> None:
        """The service took it: write the id at once."""
        ...

    def release(self) -> None:
        """The service certainly did not take it (429, 402, never connected): the next attempt may submit."""
        ...

    def hold(self, error: str) -> AirflowFailException:
        """It may have been taken and charged. Returns the exception to raise, which says how to settle it."""
        ...

    def finish(self, state: str, result: dict[str, Any]) -> None:
        """It ended: ``succeeded``, ``failed`` or ``expired``."""
        ...

    def budget_events(self) -> list[dict[str, Any]]:
        """Budgets of the ledger that the job counts for and that have reached 80 or 100 percent."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


def held(
    identity: JobIdentity, reason: str, *, where: str, was_taken: str, was_not: str
) -> AirflowFailException:
    """The exception for a submission that may have been charged: not retried, but settled by a person.

    :param was_taken: the command that puts the task's id on record.
    :param was_not: the command that frees the job for another submission.
    """
    ways = f"It was not created: {was_not}\n"
    if identity.kind != "chat":  # a chat has no id to put on record
        ways = f"It was created: {was_taken}\n{ways}"
    return AirflowFailException(
        f"The submission of {identity} ({identity.kind}, model {identity.model}) may have been charged: "
        f"{reason.rstrip('.')}. It is held, so that it is not paid twice. Look in the API in One dashboard "
        "whether it was created, run the line that fits, and clear this Airflow task; a task on record is "
        f"then polled, not submitted ({where}).\n{ways}"
        "on_unknown='resubmit' submits without asking, and may pay twice."
    )


class TaskStateRecord:
    """The record in Airflow's task state store (3.3 and later), one JSON value a task instance.

    It survives retries and clearing, and is deleted with the DAG run. Worker side only: the store is
    synchronous, and a trigger that touches it can wedge its triggerer. Holds no prompt and no key.

    :param store: ``context["task_state_store"]``.
    """

    def __init__(
        self,
        store: Any,
        identity: JobIdentity,
        *,
        on_unknown: OnUnknown = "hold",
        retry_failed: bool = True,
        reuse: Reuse = "run",
        log: Any = None,
    ) -> None:
        self._store = store
        self._identity = identity
        self._on_unknown = on_unknown
        self._retry_failed = retry_failed
        self._reuse = reuse
        self._log = log

    def find(self) -> Started | None:
        """See :meth:`Record.find`. A store that cannot be read raises: it never counts as an empty one."""
        entry = self._read()
        if entry is None or self._may_submit_again(entry):
            return None
        result = entry.get("result") if entry["state"] == "succeeded" else None
        return Started(entry.get("task_id"), entry.get("submitted_at"), result)

    def intend(self) -> None:
        """See :meth:`Record.intend`. Airflow runs one attempt of a task instance at a time: no race."""
        self._write(self._intent(self._read()))

    def sending(self) -> AbstractContextManager[None]:
        """An intent in the store needs no lease."""
        return nullcontext()

    def accept(self, task_id: str, submitted_at: float) -> None:
        """See :meth:`Record.accept`."""
        self._update(state="accepted", task_id=task_id, submitted_at=submitted_at)

    def release(self) -> None:
        """See :meth:`Record.release`. What earlier attempts left on record stays."""
        entry = self._read() or {}
        if entry.get("previous"):
            self._write({**entry, "state": "planned", "task_id": None})
        else:
            self._store.delete(STATE_KEY)

    def hold(self, error: str) -> AirflowFailException:
        """See :meth:`Record.hold`."""
        self._update(state="unknown", error=error)
        return self._held(error)

    def finish(self, state: str, result: dict[str, Any]) -> None:
        """See :meth:`Record.finish`. A record that has moved on to another job is left alone."""
        entry = self._read() or {}
        if entry.get("task_id") in (None, result.get("task_id")):
            self._update(state=state, task_id=result.get("task_id"), result=result, error=result.get("error"))

    def budget_events(self) -> list[dict[str, Any]]:
        """The store knows of no budgets."""
        return []

    def close(self) -> None:
        """Nothing is held open."""

    def _may_submit_again(self, entry: dict[str, Any]) -> bool:
        state, changed = entry["state"], self._changed(entry)
        if state == "planned":
            return True
        if state in ("intended", "unknown"):
            if self._on_unknown != "resubmit":
                raise self._held(
                    entry.get("error") or "a previous attempt ended between sending it and its answer"
                )
            if self._log:
                self._log.warning(
                    "A submission of %s may have been charged; on_unknown='resubmit': it is sent again.",
                    self._identity,
                )
            return True
        if state == "accepted":
            if changed:
                raise RequestChangedError(entry["task_id"], self._changed_message(entry))
            return False
        if changed or (state in ("succeeded", "expired") and self._reuse == "never"):
            return True
        if state == "failed":
            if not self._retry_failed:
                raise AirflowFailException(
                    f"Task {entry['task_id']} of {self._identity} failed: {entry.get('error')}. "
                    "retry_failed=False: it is not submitted again."
                )
            return True
        if state == "expired":
            raise AirflowFailException(
                f"The service no longer knows task {entry['task_id']} of {self._identity}, which was paid "
                f"for. To pay for a new one, delete its record and clear the task:\n{self._delete_call()}"
            )
        return False

    def _changed(self, entry: dict[str, Any]) -> bool:
        # A record that was settled by hand has an id alone, and is taken at its word.
        fingerprint, service = entry.get("fingerprint"), entry.get("service")
        return fingerprint is not None and (fingerprint, service) != (
            self._identity.fingerprint,
            self._identity.service,
        )

    def _changed_message(self, entry: dict[str, Any]) -> str:
        me = self._identity
        return (
            f"{me} has task {entry['task_id']} in flight at {entry.get('service')} for another request "
            f"(fingerprint {str(entry.get('fingerprint'))[:12]}, now {me.fingerprint[:12]} at {me.service}). "
            "Wait for it to end and clear the task, or restore the request. "
            f"To give that task up (it is paid for), delete its record:\n{self._delete_call()}"
        )

    def _held(self, reason: str) -> AirflowFailException:
        return held(
            self._identity,
            reason,
            where="AIRFLOW_TOKEN is a token of Airflow's REST API",
            was_taken=f"curl -X PATCH '{self._url()}' -H \"Authorization: Bearer $AIRFLOW_TOKEN\" "
            '-H \'Content-Type: application/json\' -d \'{"value": {"task_id": "THE_TASK_ID"}}\'',
            was_not=self._delete_call(),
        )

    def _delete_call(self) -> str:
        return f"curl -X DELETE '{self._url()}' -H \"Authorization: Bearer $AIRFLOW_TOKEN\""

    def _url(self) -> str:
        # REST API of Airflow 3.3: core_api/routes/public/task_state_store.py
        from airflow.providers.common.compat.sdk import conf

        site = conf.get("api", "base_url", fallback="")
        if not site:  # then the workers' own way to the API server tells
            site = conf.get("core", "execution_api_server_url", fallback="").rstrip("/")
            site = site.removesuffix("/execution")
        if not site:
            site = f"http://localhost:{conf.get('api', 'port', fallback='') or '8080'}"
        me = self._identity
        path = "/".join(
            f"{name}/{quote(value, safe='')}"
            for name, value in (("dags", me.dag_id), ("dagRuns", me.run_id), ("taskInstances", me.task_id))
        )
        return f"{site.rstrip('/')}/api/v2/{path}/state-store/{STATE_KEY}?map_index={me.map_index}"

    def _intent(self, before: dict[str, Any] | None) -> dict[str, Any]:
        me = self._identity
        intent: dict[str, Any] = {
            "state": "intended",
            "fingerprint": me.fingerprint or None,
            "service": me.service,
            "kind": me.kind,
            "model": me.model,
            "task_id": None,
            "intended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        previous = list((before or {}).get("previous") or [])
        if before and before["state"] != "planned":
            credits = (before.get("result") or {}).get("credits")
            previous.append({"state": before["state"], "task_id": before.get("task_id"), "credits": credits})
        if previous:
            intent["previous"] = previous[-_KEPT_ATTEMPTS:]
        return intent

    def _update(self, **values: Any) -> None:
        self._write({**(self._read() or self._intent(None)), **values})

    def _write(self, entry: dict[str, Any]) -> None:
        self._store.set(STATE_KEY, entry, retention=_NEVER_EXPIRE)

    def _read(self) -> dict[str, Any] | None:
        raw = self._store.get(STATE_KEY)
        if raw is None:
            return None
        if isinstance(raw, dict) and isinstance(raw.get("task_id"), str) and "state" not in raw:
            return {**raw, "state": "accepted"}
        states = ("planned", "intended", "unknown", "accepted", "succeeded", "failed", "expired")
        if not isinstance(raw, dict) or raw.get("state") not in states:
            raise AirflowFailException(
                f"The record {STATE_KEY!r} of {self._identity} cannot be read: {json.dumps(raw)[:200]}. "
                "A job may be in flight; nothing was submitted. Settle it by hand:\n"
                f'PATCH or DELETE {self._url()}, value {{"task_id": "THE_TASK_ID"}}.'
            )
        return raw
