"""The routes of the API: who asks, whether the limit allows it, which fault strikes, what is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send

from aio_provider.sandbox import answers, chat, control, files, rules, suno
from aio_provider.sandbox.answers import ApiError
from aio_provider.sandbox.faults import CHAT, POLL, SUBMIT, Fault, FaultBoard
from aio_provider.sandbox.settings import DEFAULT_LIMIT, SandboxSettings
from aio_provider.sandbox.tasks import Account, InsufficientCreditsError, SandboxTask

API = "/api/v1"

_GATEWAY_PAGE = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
    "<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)

#: Closes the connection a request came over, without an answer.
Drop = Callable[[Scope], None]
Handler = Callable[[Request, str], Awaitable[Response]]


class Service:
    """The API of one sandbox.

    :param settings: of the sandbox.
    :param account: keys, balance and tasks.
    :param faults: what goes wrong.
    :param drop: closes a request's connection.
    :param origin: ``http://host:port``, for the URLs of results.
    """

    def __init__(
        self, settings: SandboxSettings, account: Account, faults: FaultBoard, drop: Drop, origin: str
    ) -> None:
        self.settings = settings
        self.account = account
        self.faults = faults
        self.origin = origin
        self._drop = drop

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            HttpRoute(f"{API}/tasks/{{task_id}}", self._poll(self._task, ""), methods=["GET"]),
            *(
                HttpRoute(f"{API}{route.path}", self._submission(route), methods=["POST"])
                for route in rules.routes()
            ),
            *(
                HttpRoute(f"{API}{path}", self._poll(handler, made_by), methods=["GET"])
                for path, (handler, made_by) in suno.STATUS.items()
            ),
            HttpRoute(
                f"{API}/{{path:path}}", self._nowhere, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]
            ),
            *files.routes(self),
            *control.routes(self),
        ]
        return Starlette(routes=routes)

    # What happens to every API request.

    def _gate(self, request: Request, on: str, kind: str | None) -> tuple[str, Response | None]:
        """Key, fault and limit, in that order; what a 429 fault refuses takes no place in the window."""
        counts = self.account.counts
        counts["requests"] += 1
        counts[on] += 1
        key_hash = self.account.authenticate(request.headers.get("authorization"))
        if key_hash is None:
            raise ApiError(401, "Invalid API key")
        fault = self.faults.hit("before", on, kind)
        if fault is not None and fault.name == "429":
            raise self._too_many(1.0)
        wait = self.account.admit(key_hash)
        if wait is not None:
            raise self._too_many(wait)
        return key_hash, self._answer_before(fault) if fault is not None else None

    def _answer_before(self, fault: Fault) -> Response:
        if fault.name == "drop-before":
            return Dropped(self._drop)
        if fault.name == "502-html":
            return HTMLResponse(_GATEWAY_PAGE, status_code=502)
        message = {
            "401": "Invalid API key",
            "402": "Insufficient credits",
            "500": "Internal server error. Please try again later.",
        }[fault.name]
        raise ApiError(int(fault.name), message)

    def _too_many(self, wait: float) -> ApiError:
        headers = {}
        if self.settings.retry_after == "seconds":
            headers["Retry-After"] = str(max(1, -int(-wait // 1)))
        elif self.settings.retry_after == "date":
            headers["Retry-After"] = formatdate(self.settings.clock.time() + wait + 1, usegmt=True)
        limit = self.settings.requests_per_minute or DEFAULT_LIMIT
        return ApiError(429, f"Rate limit exceeded: {limit} requests per minute", headers=headers)

    async def _finish(self, response: Response, on: str, kind: str | None) -> Response:
        """Let a fault strike after the request has had its effect."""
        fault = self.faults.hit("after", on, kind)
        if fault is None:
            return response
        if fault.name == "drop-after":
            return Dropped(self._drop)
        if fault.name == "500-after":
            return self.error(ApiError(500, "Internal server error. Please try again later."))
        if fault.name == "200-error":
            return JSONResponse({"code": 500, "message": "Internal server error", "data": None})
        if fault.name == "truncated-json":
            body = bytes(getattr(response, "body", b'data: {"id": "chatcmpl_'))  # a stream has none yet
            return Response(body[: len(body) // 2], media_type=response.media_type)
        await self.settings.clock.sleep(fault.seconds)
        return response

    def error(self, error: ApiError) -> Response:
        """The envelope of an error, counted by its status."""
        self.account.counts[str(error.status)] += 1
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers)

    # Submissions.

    def _submission(self, route: rules.Route) -> Callable[[Request], Awaitable[Response]]:
        on = CHAT if route.kind == "chat" else SUBMIT

        async def endpoint(request: Request) -> Response:
            try:
                key_hash, answered = self._gate(request, on, route.kind)
                if answered is not None:
                    return answered
                body = rules.check(route, _decode(await request.body()))
                task = self._accept(route, body, key_hash)
                if route.kind == "chat":
                    response = await chat.answer(self, task)
                elif route.path in suno.SYNCHRONOUS:
                    response = JSONResponse(suno.SYNCHRONOUS[route.path](self, task))
                else:
                    response = JSONResponse(answers.created(task, varied=self.settings.shapes == "varied"))
                return await self._finish(response, on, route.kind)
            except ApiError as error:
                return self.error(error)

        return endpoint

    def _accept(self, route: rules.Route, body: dict[str, Any], key_hash: str) -> SandboxTask:
        suno.check(self, route.path, body)
        request = rules.request_of(route, body)
        fingerprint = request.fingerprint
        rng = self.account.draw(fingerprint)
        seconds = rules.draw_latency(request, rng, long_tail=self.settings.long_tail)
        price = rules.draw_price(request, rng)
        fault = self.faults.hit("outcome", SUBMIT, route.kind) if route.kind != "chat" else None
        try:
            task = self.account.accept(
                name=rules.id_parts(route, body.get("model")),
                kind=route.kind,
                endpoint=route.path,
                body=body,
                fingerprint=fingerprint,
                price=price,
                latency=0.0 if route.path in suno.SYNCHRONOUS else seconds * self.settings.time_scale,
                key_hash=key_hash,
                fault=fault.name if fault else None,
            )
        except InsufficientCreditsError as error:
            raise ApiError(402, str(error)) from error
        self.account.counts["accepted"] += 1
        suno.accepted(self, task)
        return task

    # Polls.

    def _poll(
        self, handler: Callable[[Service, SandboxTask], Mapping[str, Any]], made_by: str
    ) -> Callable[[Request], Any]:
        """A status route for the tasks whose submission went to a path that starts with ``made_by``."""

        async def endpoint(request: Request) -> Response:
            try:
                task_id = request.path_params.get("task_id") or request.query_params.get("task_id")
                task_id = task_id or request.query_params.get("workId")
                task = self.account.tasks.get(task_id or "")
                kind = task.kind if task is not None else None
                _, answered = self._gate(request, POLL, kind)
                if answered is not None:
                    return answered
                if task_id is None:
                    raise ApiError(400, "task_id is required")
                if task is None or task.fault == "lost" or not _pollable(task, made_by):
                    raise ApiError(404, f"Task {task_id} was not found")
                task.polls += 1
                if task.polls == 1 and self.faults.hit("poll", POLL, kind):
                    raise ApiError(404, f"Task {task_id} was not found")
                return await self._finish(JSONResponse(handler(self, task)), POLL, kind)
            except ApiError as error:
                return self.error(error)

        return endpoint

    @staticmethod
    def _task(service: Service, task: SandboxTask) -> Mapping[str, Any]:
        settings = service.settings
        return answers.polled(
            task, settings.clock.time(), files.urls(service, task), varied=settings.shapes == "varied"
        )

    async def _nowhere(self, request: Request) -> Response:
        try:
            self._gate(request, "other", None)
            raise ApiError(404, f"There is no {request.method} {request.url.path}")
        except ApiError as error:
            return self.error(error)


class Dropped(Response):
    """No answer at all: the connection is closed."""

    def __init__(self, drop: Drop) -> None:
        super().__init__()
        self._drop = drop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drop(scope)
        # The server complains about an application that returns unanswered before it has noticed the closing.
        async with asyncio.timeout(5):
            while (await receive())["type"] != "http.disconnect":
                pass


def _pollable(task: SandboxTask, made_by: str) -> bool:
    return task.endpoint.startswith(made_by) and task.kind != "chat" and task.endpoint not in suno.SYNCHRONOUS


def _decode(body: bytes) -> Any:
    try:
        decoded = json.loads(body, parse_constant=_refuse)
        if b"\\u" in body:  # half a surrogate pair is valid JSON, but no text that could ever be sent back
            json.dumps(decoded, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ApiError(400, "The request body is not valid JSON") from None
    return decoded


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
