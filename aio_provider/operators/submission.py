"""The steps up to a job that stands: what is on record, what it may cost, what the service answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from aio_provider.api.amounts import in_digits
from aio_provider.api.errors import (
    AioError,
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    SubmissionUnknownError,
)
from aio_provider.hooks import metrics
from aio_provider.hooks.results import result_of
from aio_provider.operators.record import JobIdentity, Record, RequestChangedError, Started

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.hooks.aio import AioHook

T = TypeVar("T")


class Found(NamedTuple):
    """A job that stands: submitted just now or before, by its id; or ended; or with its result on record."""

    task_id: str
    submitted_at: float
    ended: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


def find(record: Record, identity: JobIdentity, hook: AioHook, log: Any) -> Started | None:
    """The job on record, or None where it is to be submitted.

    :raises AirflowFailException: the request was changed while its task is in flight.
    """
    try:
        return record.find()
    except RequestChangedError as error:
        # The request was changed while its task was in flight. A free GET tells whether that has ended.
        try:
            with hook.get_conn() as client:
                old = client.get_task(error.task_id)
        except NotFoundError as unknown:
            raise AirflowFailException(f"{error}\nThe service does not know that task.") from unknown
        if not old.done:
            raise AirflowFailException(str(error)) from error
        log.info("Task %s, for the request as it was before, has ended: %s.", old.id, old.status.value)
        ended = result_of(old.to_dict(), kind=identity.kind, model=None, submitted_at=None)
        record.finish(old.status.value, ended)
        return record.find()


def refreshed(record: Record, result: dict[str, Any], hook: AioHook) -> dict[str, Any]:
    """A result on record with the URLs that the service names now.

    :raises AirflowFailException: the service no longer knows the task.
    """
    if not result["task_id"]:  # a chat's answer has no URLs
        return result
    try:
        with hook.get_conn() as client:
            return {**result, "urls": list(client.get_task(result["task_id"]).urls)}
    except NotFoundError as error:
        gone = {**result, "status": "expired", "error": str(error)}
        record.finish("expired", gone)
        raise AirflowFailException(
            f"Task {result['task_id']} was paid for, and the service no longer knows it. To pay for a "
            "new one, set reuse='never' and clear this task."
        ) from error


def check_credits(request: GenerationRequest, max_credits: float | None, hook: AioHook, log: Any) -> None:
    """Let nothing be sent that may cost more than ``max_credits``.

    :raises AirflowFailException: this may.
    """
    if max_credits is None:
        return
    expected = hook.estimate([request]).total
    most = expected.high if expected.high is not None else expected.likely
    if most is None:
        log.warning("What this costs is not known, so max_credits=%s cannot hold it.", in_digits(max_credits))
    elif most > max_credits:
        note = f"; {expected.note}" if expected.note else ""
        raise AirflowFailException(
            f"Nothing was sent. This may cost {in_digits(most)} credits ({expected.source}{note}), more "
            f"than max_credits={in_digits(max_credits)}."
        )


def answer_of(record: Record, request: GenerationRequest, sending: Coroutine[Any, Any, T]) -> T:
    """Send, and put on record what became of a submission that did not succeed.

    :raises AirflowFailException: it was refused, or may have been charged: a retry would not help.
    :raises AirflowException: a retry may submit it.
    """
    try:
        return asyncio.run(sending)
    except BudgetExceededError as error:
        # A retry helps where jobs in flight may turn out cheaper than what is reserved for them.
        raise (AirflowException if error.may_pass else AirflowFailException)(str(error)) from error
    except AioError as error:
        from aio_provider.jobs.ledger import LedgerError  # loaded by now, if at all

        if isinstance(error, LedgerError):
            raise  # the record failed before anything was sent: leave it as it is
        raise _refused(record, request, error) from error


def _refused(record: Record, request: GenerationRequest, error: AioError) -> Exception:
    """What to raise for a submission that did not succeed, once the record says what became of it."""
    if isinstance(error, (SubmissionUnknownError, ServerError)):  # a 500 can follow a charge
        metrics.held(request.kind, request.model)
        return record.hold(str(error))
    record.release()
    if isinstance(error, (InvalidRequestError, NotFoundError)):
        metrics.ended(request.kind, request.model, "refused", None)
    if isinstance(error, (AuthenticationError, ConfigurationError, InvalidRequestError, NotFoundError)):
        return AirflowFailException(f"Not submitted, nothing was charged. {error}")
    return AirflowException(f"Not submitted, nothing was charged; a retry submits it. {error}")
