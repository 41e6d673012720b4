"""What both clients share: where to send, what to send, and how to judge the answer or its absence.

The one rule that matters is in :meth:`Core.judge`: a POST that may have been taken, and so may have been
charged, becomes :class:`SubmissionUnknownError`, and everything else keeps the exception of its cause.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Literal, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from aio_provider.api.catalog import KINDS, load_catalog
from aio_provider.api.errors import (
    REFUSALS,
    AioError,
    ConfigurationError,
    InvalidRequestError,
    ProtocolError,
    ServerError,
    SubmissionUnknownError,
    TransportError,
    error_for,
)
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.retries import read_retry_after
from aio_provider.api.streams import join_stream
from aio_provider.api.tasks import (
    ChatChunk,
    ChatCompletion,
    Task,
    TaskStatus,
    raise_for_code,
    read_chunk,
    read_completion,
    read_submission,
    read_task,
)
from aio_provider.api.wire import Answer

T = TypeVar("T")
OnServerError = Literal["hold", "retry"]

logger = logging.getLogger("aio_provider.api")

_PROBE = "aio-provider-connection-test"  # a task id that cannot exist
# Answers that ask for the same POST elsewhere: nothing was done here. (302 and 303 may follow a done one.)
_MOVED = frozenset({301, 307, 308})


@dataclass(frozen=True)
class Call(Generic[T]):
    """One HTTP request and how to read its answer's JSON."""

    method: str
    path: str
    read: Callable[[Any], T]
    json: Any = None
    params: Mapping[str, Any] | None = None
    read_media: Callable[[str, bytes], T] | None = None

    @property
    def spends(self) -> bool:
        """Whether sending it may cost credits."""
        return self.method not in ("GET", "HEAD", "OPTIONS")


class Core:
    """The state and the rules of a client. Never shows the key."""

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        *,
        allow_insecure: bool,
        on_server_error: OnServerError,
    ) -> None:
        if on_server_error not in ("hold", "retry"):
            raise ConfigurationError(f"on_server_error: {on_server_error!r} is not 'hold' or 'retry'")
        self.base_url = check_base_url(base_url, allow_insecure=allow_insecure)
        self._key = check_api_key(api_key)
        self._retries_500 = on_server_error == "retry"

    def __repr__(self) -> str:
        return f"Core({self.base_url!r})"

    @property
    def is_loopback(self) -> bool:
        """Whether the service is on this machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    # What to send

    def submission(self, request: GenerationRequest) -> Call[Task]:
        """The POST of a generation."""
        if request.kind == "chat":
            raise InvalidRequestError("kind: a chat has no task; use chat() or chat_stream()", field="kind")
        return Call("POST", request.endpoint, read_submission, json=request.body(), read_media=_direct_result)

    def status(self, task_id: str) -> Call[Task]:
        """The GET of a task."""
        if not isinstance(task_id, str) or not task_id.strip(". \t\r\n"):
            raise InvalidRequestError(f"task_id: {task_id!r} is not the id of a task", field="task_id")
        return Call("GET", f"/tasks/{quote(task_id, safe='')}", lambda payload: read_task(payload, task_id))

    def probe(self) -> Call[Task]:
        """The free request that tells a good key from a bad one."""
        return self.status(_PROBE)

    def chat(self, request: GenerationRequest) -> Call[ChatCompletion]:
        """The POST of a chat, answered whole."""
        return Call("POST", request.endpoint, read_completion, json=_chat_body(request, stream=False))

    def chat_stream(self, request: GenerationRequest) -> Call[ChatChunk]:
        """The POST of a chat, answered as a stream; one chunk where the model answers whole."""
        return Call("POST", request.endpoint, read_chunk, json=_chat_body(request, stream=True))

    def raw(self, method: str, path: str, body: Any, params: Mapping[str, Any] | None) -> Call[Any]:
        """Any request below the base URL, its answer's JSON as it is."""
        if not isinstance(path, str) or "://" in path or path.startswith("//"):
            raise InvalidRequestError(f"path: {path!r} is not a route below {self.base_url}", field="path")
        return Call(method.upper(), "/" + path.lstrip("/"), _as_it_is, json=body, params=params)

    def headers(self) -> dict[str, str]:
        """The headers of every request; the key is in them, and they only ever go to the API's own origin."""
        return {"Authorization": f"Bearer {self._key}", "Accept": "application/json, text/event-stream"}

    def request(self, call: Call[Any], http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The HTTP request."""
        _require_open(http)
        return http.build_request(
            call.method, self.base_url + call.path, json=call.json, params=call.params, headers=self.headers()
        )

    def parts(self, call: Call[Any], http: httpx.AsyncClient) -> tuple[str, bytes | None]:
        """The same as URL and body, for a wire that has the headers already."""
        _require_open(http)
        body = call.json
        if body is not None:
            body = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        return self.base_url + call.path, body

    # How to judge what came back

    def answer(self, call: Call[T], response: Answer) -> T:
        """The result in a read response.

        :raises AioError: as :meth:`judge` decides.
        """
        logger.debug("%s %s: %s", call.method, call.path, response.status_code)
        try:
            media = response.headers.get("content-type", "").split(";")[0].strip().lower()
            if call.read_media and response.is_success and media.split("/")[0] in ("audio", "image", "video"):
                return call.read_media(media, response.content)
            text = self.scrub(response.text)
            if media == "text/event-stream" and call.read is read_completion and response.is_success:
                return join_stream(text)  # type: ignore[return-value]
            return call.read(self._decode(response, text))
        except AioError as error:
            self._raise(call, error)

    @contextmanager
    def guard(self, call: Call[Any]) -> Iterator[None]:
        """Turn what a transport or a stream raises into the exception for the call.

        Any exception at all: after a POST has left, each means that its fate is unknown.
        """
        try:
            yield
        except AioError as error:
            self._raise(call, error)
        except Exception as error:  # noqa: BLE001 - judged and raised anew, never swallowed
            # aiohttp's own exceptions show the request's headers, and so the key, in their repr: not chained.
            known = isinstance(error, httpx.HTTPError | OSError)
            raise self.lost(call, error) from (error if known else None)

    def _raise(self, call: Call[Any], error: AioError) -> NoReturn:
        judged = self.judge(call, error)
        if judged is error:
            raise error
        raise judged from error

    def judge(self, call: Call[Any], error: AioError) -> AioError:
        """The exception to raise: unknown where the call may have been charged, else the error itself."""
        if not call.spends or isinstance(error, ConfigurationError | SubmissionUnknownError):
            return error
        if error.status == 404 and error.type is None and call.path in _documented_paths():
            return ConfigurationError(
                f"{self.base_url} has no {call.path}, so this is not the API's address: check AIO_BASE_URL "
                f"(or base_url); it usually ends in {urlsplit(load_catalog().base_url).path}, as in "
                f"{load_catalog().base_url}. Nothing was charged. It answered {str(error)[:200]}",
                status=404,
            )
        if error.status in REFUSALS or isinstance(error, TransportError):
            return error  # a TransportError of a POST is only made by lost(), when it never left
        if self._retries_500 and isinstance(error, ServerError) and error.status == 500:
            return error
        return unknown(call, str(error), error)

    def lost(self, call: Call[Any], error: Exception) -> AioError:
        """The exception for a request that got no whole answer."""
        shown = error.__cause__ if _is_aiohttp(error.__cause__) else error
        why = self.scrub(f"{type(shown).__name__}: {shown}".rstrip(": "))
        logger.debug("%s %s: %s", call.method, call.path, why)
        if never_sent(error):
            hint = "; nothing listens there: `aio sandbox` starts a service" if self.is_loopback else ""
            return TransportError(f"cannot connect to {self.base_url}: {why}{hint}")
        if call.spends:
            return unknown(call, f"the answer was lost ({why})")
        return TransportError(f"no answer to {call.method} {call.path}: {why}")

    def scrub(self, text: str) -> str:
        """Text without the key, should the service echo it."""
        return text.replace(self._key, "aio_***")

    def _decode(self, response: Answer, text: str) -> Any:
        status = response.status_code
        if 300 <= status < 400:
            where = self.scrub(response.headers.get("location", "nowhere"))[:200]
            message = f"{self.base_url} answers with a redirect ({status}) to {where}, which is not followed"
            if status in _MOVED:
                raise ConfigurationError(f"{message}: give the API's own address as base_url", status=status)
            raise ProtocolError(message, status=status)
        payload: Any
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):
            payload = None
        if not response.is_success:
            wait = read_retry_after(response.headers.get("retry-after"), response.headers.get("date"))
            raise error_for(status, payload, text=text, retry_after=wait)
        if payload is None:
            raise ProtocolError(f"the answer is not JSON: {text[:500]!r}")
        return payload


@lru_cache(maxsize=1)
def _documented_paths() -> frozenset[str]:
    return frozenset(load_catalog().endpoint(kind).path for kind in KINDS)


def _require_open(http: httpx.Client | httpx.AsyncClient) -> None:
    if http.is_closed:
        raise RuntimeError("the client is closed")


def unknown(call: Call[Any], why: str, error: AioError | None = None) -> SubmissionUnknownError:
    """The exception for a POST that may have been charged."""
    return SubmissionUnknownError(
        f"{call.method} {call.path} may have been accepted and charged: {why.rstrip('.')}. "
        "It is not sent again by itself; look at the account's tasks before you do.",
        status=error.status if error else None,
        type=error.type if error else None,
    )


def never_sent(error: Exception) -> bool:
    """Whether a request failed before it left this machine, so that nothing can have been charged."""
    cause = error.__cause__
    if _is_aiohttp(cause):
        # httpx-aiohttp names every lost connection a ConnectTimeout, also one lost after sending.
        aiohttp: Any = sys.modules["aiohttp"]
        return isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return isinstance(
        error,
        httpx.ConnectError
        | httpx.ConnectTimeout
        | httpx.PoolTimeout
        | httpx.ProxyError
        | httpx.UnsupportedProtocol,
    )


def _is_aiohttp(error: BaseException | None) -> bool:
    aiohttp: Any = sys.modules.get("aiohttp")
    return aiohttp is not None and isinstance(error, aiohttp.ClientError)


def check_api_key(value: str | None) -> str:
    """The key to use: the argument, else ``AIO_API_KEY``.

    :raises ConfigurationError: when there is none, or it does not look like ``aio_…``. Never quotes the key.
    """
    key = (value if value is not None else os.environ.get("AIO_API_KEY", "")).strip()
    if not key:
        raise ConfigurationError(
            "no API key: set AIO_API_KEY, or pass api_key (in Airflow: the password of the connection)"
        )
    if not re.fullmatch(r"aio_[A-Za-z0-9._~+/=-]{4,500}", key):
        fix = (
            "leave out the word Bearer"
            if key.lower().startswith("bearer")
            else "copy it again from the dashboard"
        )
        raise ConfigurationError(f"malformed API key: one looks like 'aio_…', in letters and digits; {fix}")
    return key


def check_base_url(value: str | None, *, allow_insecure: bool = False) -> str:
    """The base URL to use, without a slash at its end: the argument, else ``AIO_BASE_URL``, else the service.

    :raises ConfigurationError: when it is malformed, or plain http to another machine.
    """
    url = (value or os.environ.get("AIO_BASE_URL") or load_catalog().base_url).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"base_url: not a valid URL ({error})") from error
    if parts.username or parts.password:
        raise ConfigurationError("base_url: must not hold a user or a password; the key has its own place")
    example = load_catalog().base_url
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.query
        or parts.fragment
        or re.search(r"\s", url)
    ):
        raise ConfigurationError(f"base_url: {url!r} is not a URL such as {example!r}")
    if parts.scheme == "http" and not is_loopback(host) and not allow_insecure:
        raise ConfigurationError(
            f"base_url: {url!r} would send the key unencrypted; use https, or allow_insecure=True if you must"
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether a host's name or address certainly stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _chat_body(request: GenerationRequest, *, stream: bool) -> dict[str, Any]:
    if request.kind != "chat":
        raise InvalidRequestError(f"kind: {request.kind!r} is not a chat; use submit()", field="kind")
    return {**request.body(), "stream": stream}


def _as_it_is(payload: Any) -> Any:
    if isinstance(payload, Mapping):
        raise_for_code(payload)
    return payload


def _direct_result(media: str, content: bytes) -> Task:
    """A task for an answer that is the result itself: undocumented, but seen for speech, and paid for."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    url = f"data:{media};base64,{base64.b64encode(content).decode()}"
    raw = {"content_type": media, "bytes": len(content)}
    return Task(f"direct-{digest}", TaskStatus.SUCCEEDED, raw_status="DIRECT", urls=(url,), raw=raw)
