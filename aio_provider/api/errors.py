"""Every way a call can fail, one exception each; none of them ever holds the API key.

The six documented errors (400, 401, 402, 404, 429, 500) come from https://apiin.one/docs ("Error handling").
All exceptions pickle, so they survive the trip between an Airflow worker, a trigger and a log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aio_provider.api.tasks import Task


class AioError(Exception):
    """The base of all errors of this package.

    :param message: what happened and, where there is one, the fix.
    :param status: the HTTP status, or the ``code`` of the answer's body; None when there was no answer.
    :param type: the service's own name of the error (``invalid_request``, ``rate_limit`` …); None when the
        answer was not one of the API's JSON envelopes.
    """

    def __init__(self, message: str = "", *, status: int | None = None, type: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.type = type


class ConfigurationError(AioError, ValueError):
    """A key, a URL or a setting is missing or malformed. Raised before any request is sent."""


class AuthenticationError(AioError):
    """401 or 403: the key is missing, invalid or revoked."""


class InsufficientCreditsError(AioError):
    """402: the account has too few credits. Nothing was charged."""


class InvalidRequestError(AioError, ValueError):
    """A request that the API refuses (400, 422), or that it would refuse: found before anything is sent.

    :param field: the name of the field at fault, such as ``prompt`` or ``dialogue[0].text``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        field: str | None = None,
        status: int | None = None,
        type: str | None = None,
    ) -> None:
        super().__init__(message, status=status, type=type)
        self.field = field


class NotFoundError(AioError):
    """404: no such task, model or route. Soon after a submission it may only mean "not yet"."""


class RateLimitError(AioError):
    """429: more than the allowed requests a minute (60 by default). Nothing was charged.

    :param retry_after: seconds to wait, from the ``Retry-After`` header; None when the answer had none.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        status: int | None = None,
        type: str | None = None,
    ) -> None:
        super().__init__(message, status=status, type=type)
        self.retry_after = retry_after


class ServerError(AioError):
    """5xx: the service, or a gateway before it, failed.

    :param retry_after: as for :class:`RateLimitError`; a 503 may have one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        status: int | None = None,
        type: str | None = None,
    ) -> None:
        super().__init__(message, status=status, type=type)
        self.retry_after = retry_after


class TransportError(AioError):
    """No answer: the connection could not be made, broke, or timed out.

    Raised for a POST only when the connection was never made, so that nothing can have been charged.
    """


class ProtocolError(AioError):
    """An answer that cannot be read as one of the published forms. Carries its first 500 characters."""


class SubmissionUnknownError(AioError):
    """A POST whose fate is unknown: the service may have accepted it, and charged for it.

    The answer was lost, cut off, unreadable, timed out, or was any 5xx. Do not send it again without looking.
    """


class TaskFailedError(AioError):
    """The task ended as FAILED.

    :param task: the task as last read, with the service's own message in ``task.error``.
    """

    def __init__(self, message: str = "", *, task: Task | None = None) -> None:
        super().__init__(message)
        self.task = task


class TaskTimeoutError(AioError):
    """The task was still running at the deadline. It goes on at the service; its id can be polled again.

    :param task_id: the id to poll later.
    """

    def __init__(self, message: str = "", *, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class BudgetExceededError(AioError):
    """A submission would go past the credits the caller or a budget allows. Raised before it is sent.

    :param budget: which limit: ``max_credits``, or a budget such as ``dag nightly, 2026-11``.
    :param limit: its credits.
    :param charged: credits charged under it so far.
    :param reserved: credits set aside for what is in flight or held.
    :param amount: what this job would set aside.
    :param keys: the jobs that were not submitted.
    """

    #: of several jobs intended at once, those that were let through
    won: frozenset[str] = frozenset()

    def __init__(
        self,
        message: str = "",
        *,
        budget: str = "",
        limit: float | None = None,
        charged: float = 0.0,
        reserved: float = 0.0,
        amount: float = 0.0,
        keys: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.limit = limit
        self.charged = charged
        self.reserved = reserved
        self.amount = amount
        self.keys = tuple(keys)

    @property
    def may_pass(self) -> bool:
        """Whether only reservations stand in the way: there may be room when what is in flight has ended."""
        return self.limit is not None and self.charged + self.amount <= self.limit and self.reserved > 0


# The documented type of each status, used where an envelope has none of its own.
_TYPES = {
    400: "invalid_request",
    401: "authentication_error",
    402: "insufficient_credits",
    403: "authentication_error",
    404: "not_found",
    422: "invalid_request",
    429: "rate_limit",
}

# What a web framework says of itself where it has no such route: not an envelope of the API.
_NO_ROUTE = {"detail": "Not Found"}

# A POST answered by one of these was certainly refused: no task was made, nothing charged.
REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 422, 429, 431})


def error_for(
    status: int, payload: object = None, *, text: str = "", retry_after: float | None = None
) -> AioError:
    """The exception for an answer that says ``status``, by HTTP status or by the ``code`` of its body.

    :param status: 400, 401 …; any number.
    :param payload: the decoded body; None when it was not JSON.
    :param text: the body as text, quoted (first 500 characters) where it is not an envelope.
    :param retry_after: seconds, for a 429 or a 503.
    """
    message, kind = _read_envelope(payload)
    quoted = " ".join(text[:2000].split())[:500]  # in one line: it goes into logs and tables
    said = message or (f"unexpected answer: {quoted!r}" if quoted else "no message")
    if isinstance(payload, Mapping) and kind is None and payload != _NO_ROUTE:
        kind = _TYPES.get(status, "server_error" if status >= 500 else None)
    full = f"{status} {kind or ''}".strip() + f": {said}"
    if status in (401, 403):
        hint = "check the API key (AIO_API_KEY, or the password of the connection)"
        return AuthenticationError(f"{full} ({hint})", status=status, type=kind)
    if status == 402:
        return InsufficientCreditsError(full, status=status, type=kind)
    if status == 404:
        return NotFoundError(full, status=status, type=kind)
    if status == 429:
        return RateLimitError(full, retry_after=retry_after, status=status, type=kind)
    if status in REFUSALS:
        return InvalidRequestError(full, status=status, type=kind)
    if 500 <= status <= 599:
        return ServerError(full, retry_after=retry_after, status=status, type=kind)
    return ProtocolError(full, status=status, type=kind)


def _read_envelope(payload: object) -> tuple[str | None, str | None]:
    """Message and type out of ``{error: {code, message, type}}`` and its kin."""
    if not isinstance(payload, Mapping):
        return None, None
    inner: Any = payload.get("error")
    source: Mapping[str, Any] = inner if isinstance(inner, Mapping) else payload
    message = source.get("message") or source.get("msg") or source.get("detail")
    if message is None and isinstance(inner, str):
        message = inner
    kind = source.get("type")
    return (str(message) if message else None), (kind if isinstance(kind, str) else None)
