"""The answers of the API, in the form its documentation shows, or in every form that was ever published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aio_provider.sandbox.tasks import FAILED, IN_PROGRESS, SUCCESS, SandboxTask, timestamp

#: HTTP status → the error type of the documentation's table.
ERROR_TYPES = {
    400: "invalid_request",
    401: "authentication_error",
    402: "insufficient_credits",
    404: "not_found",
    429: "rate_limit",
    500: "server_error",
}

WRAPPED, NO_STATUS, TASK_ID_CAMEL, BARE_ID, BARE_TASK_ID = (
    "wrapped",
    "no-status",
    "msg-taskId",
    "bare-id",
    "bare-task_id",
)
CREATION_FORMS = (WRAPPED, NO_STATUS, TASK_ID_CAMEL, BARE_ID, BARE_TASK_ID)

#: Where an endpoint's documented example differs from ``{code, message, data: {task_id, status}}``.
DOCUMENTED_FORMS = {
    "/images/tools/remove-bg": NO_STATUS,
    "/audio/music/upload-cover/generate": NO_STATUS,
    "/audio/music/cover/generate": TASK_ID_CAMEL,
}

_SPELLINGS = {
    IN_PROGRESS: ("IN_PROGRESS", "pending", "PENDING", "processing"),
    SUCCESS: ("SUCCESS", "COMPLETED", "completed", "success", "complete"),
    FAILED: ("FAILED", "failed", "ERROR", "error"),
}
_RESULT_FORMS = ("list", "string", "output", "objects", "field")


class ApiError(Exception):
    """An error answer: raised by a handler, sent as ``{error: {code, message, type}}``.

    :param status: HTTP status, and the envelope's ``code``.
    :param message: the envelope's text.
    :param type: the envelope's ``type``; by default the documented one of that status.
    :param headers: of the answer.
    """

    def __init__(
        self, status: int, message: str, *, type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or ERROR_TYPES[status]
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.status, "message": self.message, "type": self.type}}


def created(task: SandboxTask, *, varied: bool) -> dict[str, Any]:
    """The answer to an accepted submission.

    :param varied: cycle through the published forms instead of the endpoint's own.
    """
    if varied:
        form = CREATION_FORMS[task.number % len(CREATION_FORMS)]
    else:
        form = DOCUMENTED_FORMS.get(task.endpoint, WRAPPED)
    if form == WRAPPED:
        return {"code": 200, "message": "success", "data": {"task_id": task.task_id, "status": IN_PROGRESS}}
    if form == NO_STATUS:
        return {"code": 200, "message": "success", "data": {"task_id": task.task_id}}
    if form == TASK_ID_CAMEL:
        return {"code": 200, "msg": "success", "data": {"taskId": task.task_id}}
    id_field = "id" if form == BARE_ID else "task_id"
    return {
        id_field: task.task_id,
        "status": "pending",
        "model": task.model,
        "created_at": timestamp(task.accepted_at),
    }


def polled(task: SandboxTask, now: float, urls: Sequence[str], *, varied: bool) -> dict[str, Any]:
    """The answer to ``GET /tasks/{task_id}``.

    :param now: seconds since the epoch.
    :param urls: of the results, used once the task has succeeded.
    :param varied: cycle through status spellings, places of the result, and kinds of ``consumed_credits``.
    """
    status = task.status(now)
    data: dict[str, Any] = {
        "task_id": task.task_id,
        "status": _spelling(status, task.number) if varied else status,
        "consumed_credits": None if status == IN_PROGRESS else _whole(task.cost(now)),
        "error_message": None,
        "created_at": timestamp(task.accepted_at),
        "request": task.body,
        "response": list(urls) if status == SUCCESS else [],
    }
    if status == FAILED:
        data["error_message"] = (
            "The model could not produce a result for this request (a fault of the sandbox)"
        )
    if not varied:
        return {"code": 200, "message": "success", "data": data}
    return _varied(task, status, data, urls)


def _varied(task: SandboxTask, status: str, data: dict[str, Any], urls: Sequence[str]) -> dict[str, Any]:
    if status == FAILED and task.number % 2:
        data["error"] = data.pop("error_message")
    if status != IN_PROGRESS and task.number % 3 == 0:
        data["consumed_credits"] = str(data["consumed_credits"])
    form = _RESULT_FORMS[task.number % len(_RESULT_FORMS)]
    if status == SUCCESS and form != "list":
        del data["response"]
        field = _url_field(urls[0])
        if form == "string" and len(urls) == 1:
            data["response"] = urls[0]
        elif form == "output" and len(urls) == 1:
            data["output"] = {field: urls[0]}
        elif form == "field" and len(urls) == 1:
            data[field] = urls[0]
        else:
            data["response"] = [{field: url} for url in urls]
    if task.number % 7 == 0:
        return data
    return {"code": 200, "message": "success", "data": data}


def _spelling(status: str, number: int) -> str:
    spellings = _SPELLINGS[status]
    return spellings[number % len(spellings)]


def _url_field(url: str) -> str:
    if url.endswith(".mp4"):
        return "video_url"
    return "audio_url" if url.endswith(".wav") else "image_url"


def _whole(credits: float) -> float:
    return int(credits) if credits == int(credits) else credits
