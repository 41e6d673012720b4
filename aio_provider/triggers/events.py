"""The words of a trigger's event, and how an error becomes one."""

from __future__ import annotations

from typing import Any

from aio_provider.api.errors import (
    AioError,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    TaskTimeoutError,
)

#: what an event's ``status`` may be: the task ended; the deadline passed; the service no longer knows the
#: task; the key or the connection was refused (a retry cannot help); polling gave up for now (a retry can)
DONE, TIMEOUT, EXPIRED, FATAL, PASSING = "done", "timeout", "expired", "fatal", "passing"


def going_on(aio_task_id: str) -> str:
    """What to tell a user who stops a task that waits."""
    return (
        f"Task {aio_task_id} goes on at the service: it has no call to cancel one. It is paid for; "
        "clearing this Airflow task picks its result up and pays nothing."
    )


def event_of_error(error: AioError) -> dict[str, Any]:
    """An error of the service, the connection or the deadline as part of an event."""
    if isinstance(error, TaskTimeoutError):
        status = TIMEOUT
    elif isinstance(error, NotFoundError):
        status = EXPIRED
    elif isinstance(error, (AuthenticationError, ConfigurationError, InvalidRequestError)):
        status = FATAL
    else:
        status = PASSING
    return {"status": status, "error": str(error), "error_type": type(error).__name__}
