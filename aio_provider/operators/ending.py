"""How a job ends: what a trigger's event means, and its result on record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import TaskFailedError, TaskTimeoutError
from aio_provider.hooks import metrics
from aio_provider.hooks.results import result_of, seconds_between
from aio_provider.operators.record import JobIdentity, Record
from aio_provider.triggers.events import DONE, EXPIRED, FATAL, TIMEOUT


def end_by_event(
    record: Record, identity: JobIdentity, event: dict[str, Any], *, retry_failed: bool
) -> dict[str, Any]:
    """The result that a trigger's event brings, once it is on record.

    :raises TaskTimeoutError: at the deadline; a retry waits for the same task.
    :raises AirflowFailException: a retry cannot help.
    :raises AirflowException: a retry goes on waiting. Also as :func:`end`.
    """
    aio_task_id, status = event["aio_task_id"], event["status"]
    if status == DONE:
        return end(record, identity, event["task"], event["submitted_at"], retry_failed=retry_failed)
    message = f"Task {aio_task_id}: {event['error']}"
    if status == EXPIRED:
        gone = {"task_id": aio_task_id, "status": "expired", "error": message}
        record.finish(
            "expired",
            result_of(gone, kind=identity.kind, model=identity.model, submitted_at=event["submitted_at"]),
        )
        metrics.ended(identity.kind, identity.model, "expired", None)
        raise AirflowFailException(message)
    if status == TIMEOUT:
        raise TaskTimeoutError(
            f"{message} A retry, or clearing this task, waits for it again and pays nothing.",
            task_id=aio_task_id,
        )
    if status == FATAL:
        raise AirflowFailException(f"{message} Its id stays on record: clear this task once that is mended.")
    raise AirflowException(f"{message} Its id stays on record: a retry goes on waiting and pays nothing.")


def end(
    record: Record, identity: JobIdentity, task: dict[str, Any], submitted_at: float, *, retry_failed: bool
) -> dict[str, Any]:
    """The result of a task that has ended, once it is on record.

    :raises TaskFailedError: the service failed it; a retry submits a new one.
    :raises AirflowFailException: the same, where a retry must not.
    """
    result = result_of(task, kind=identity.kind, model=identity.model, submitted_at=submitted_at)
    record.finish(result["status"], result)
    metrics.ended(identity.kind, identity.model, result["status"], result["credits"])
    if result["status"] == "succeeded":
        return result
    message = f"Task {result['task_id']} failed at the service: {result['error'] or 'it gives no reason'}."
    if not retry_failed:
        raise AirflowFailException(message)
    raise TaskFailedError(f"{message} A retry submits a new one.")


def tell(result: Mapping[str, Any], log: Any) -> None:
    """One line about the result."""
    credits = result["credits"]
    said = [str(result["status"]), "credits unknown" if credits is None else in_credits(credits)]
    if result["reused"]:
        said[-1] += " (paid before)"
    seconds = seconds_between(result["submitted_at"], result["finished_at"])
    if seconds is not None and not result["reused"]:
        said.append(f"{seconds:.0f} s")
    if result["urls"]:
        said.append(result["urls"][0])
    log.info("Task %s: %s.", result["task_id"] or "answered at once", ", ".join(said))
