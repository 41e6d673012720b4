"""The two clients: the same calls, sync and async, over one core that builds requests and judges answers.

>>> with AioClient() as client:  # key from AIO_API_KEY
...     task = client.submit(GenerationRequest.image("a lighthouse at dusk"))
...     client.get_task(task.id).urls
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from aio_provider._version import __version__
from aio_provider.api.core import Call, Core, OnServerError, unknown
from aio_provider.api.errors import (
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    ProtocolError,
    ServerError,
)
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.retries import DEFAULT_RETRY, RetryPolicy
from aio_provider.api.streams import StreamReader
from aio_provider.api.tasks import ChatChunk, ChatCompletion, Task
from aio_provider.api.wire import Answer, FastWire, SpreadTransport

T = TypeVar("T")

# A connection is closed after 3 idle seconds, before the usual server (5 s and more) closes it: the fate of a
# POST
# sent into a connection that is just being closed is unknown.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=3.0)


class AioClient:
    """The sync client. Use it in a ``with`` block, or :meth:`close` it.

    The constructor checks its arguments and sends nothing.

    :param api_key: the key (``aio_…``); None takes ``AIO_API_KEY``.
    :param base_url: None takes ``AIO_BASE_URL``, else ``https://apiin.one/api/v1``.
    :param timeout: seconds for each of connecting, sending and reading.
    :param transport: an httpx transport, for tests and special networks.
    :param allow_insecure: allow plain http to another machine.
    :param on_server_error: ``hold``: a 500 to a POST is a :class:`SubmissionUnknownError`, since a charge may
        stand behind it. ``retry``: it is tried again, as the documentation advises, and may pay twice; with
        ``retry=None`` it is raised as :class:`ServerError`.
    :param retry: when to send again; None never does (for callers that count each request).
    :raises ConfigurationError: for a missing or malformed key, a malformed URL, or plain http elsewhere.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        allow_insecure: bool = False,
        on_server_error: OnServerError = "hold",
        retry: RetryPolicy | None = DEFAULT_RETRY,
    ) -> None:
        self._core = Core(api_key, base_url, allow_insecure=allow_insecure, on_server_error=on_server_error)
        self._retry = retry
        self._http = httpx.Client(transport=transport, **_settings(self._core, timeout))

    @property
    def base_url(self) -> str:
        """Where requests go, without a slash at its end."""
        return self._core.base_url

    def submit(self, request: GenerationRequest) -> Task:
        """Start a generation; this is what costs credits.

        :returns: the accepted task, usually still running. A service that answers with the result itself
            gives a task that is done (id ``direct-…``, a ``data:`` URL).
        :raises SubmissionUnknownError: when it may have been accepted although no good answer came.
        :raises TransportError: when the connection was never made; nothing was charged.
        :raises AioError: one of the documented refusals; nothing was charged.
        """
        return self._send(self._core.submission(request))

    def get_task(self, task_id: str) -> Task:
        """How a task stands; free of credits, but one of the requests a minute.

        :raises NotFoundError: for an id that the service does not know, or does not know yet.
        """
        return self._send(self._core.status(task_id))

    def chat(self, request: GenerationRequest) -> ChatCompletion:
        """A whole chat answer (``stream`` false).

        :raises SubmissionUnknownError: when it may have been charged although no good answer came.
        """
        return self._send(self._core.chat(request))

    def chat_stream(self, request: GenerationRequest) -> Iterator[ChatChunk]:
        """A chat answer as it is made; the request is sent when the iteration begins.

        :raises SubmissionUnknownError: when the stream breaks off, after the chunks that came.
        """
        call = self._core.chat_stream(request)
        response = self._retrying(call, lambda: self._open(call))
        with contextlib.closing(response):
            if not _is_stream(response):
                yield self._core.answer(call, response)
                return
            from httpx_sse import EventSource

            reader = StreamReader()
            with self._core.guard(call):
                for event in EventSource(response).iter_sse():
                    chunk = reader.feed(self._core.scrub(event.data))
                    if chunk is not None:
                        yield chunk
                reader.close()

    def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Any route below the base URL, such as Suno's: the decoded JSON of its answer, with its errors
        raised.

        Every method but GET is taken to cost credits, and is sent again as rarely as :meth:`submit`.
        """
        return self._send(self._core.raw(method, path, json, params))

    def check(self) -> None:
        """Test the key for free: ask for a task that cannot exist, which earns a good key a 404.

        :raises AuthenticationError: when the service refuses the key.
        :raises ConfigurationError: when what answers is not the API.
        """
        with _probing(self.base_url):
            self._send_once(self._core.probe())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AioClient(base_url={self.base_url!r})"

    def _send(self, call: Call[T]) -> T:
        return self._retrying(call, lambda: self._send_once(call))

    def _retrying(self, call: Call[Any], send: Callable[[], T]) -> T:
        if self._retry is None:
            return send()
        with _giving_up(call):
            return self._retry.retrying()(send)

    def _send_once(self, call: Call[T]) -> T:
        request = self._core.request(call, self._http)
        with self._core.guard(call):
            response = self._http.send(request)
        return self._core.answer(call, response)

    def _open(self, call: Call[Any]) -> httpx.Response:
        request = self._core.request(call, self._http)
        with self._core.guard(call):
            response = self._http.send(request, stream=True)
            if not _is_stream(response):
                with contextlib.closing(response):
                    response.read()
        if not response.is_success:
            self._core.answer(call, response)  # raises
        return response


class AsyncAioClient:
    """The async client: the arguments and calls of :class:`AioClient`, awaited. For one event loop.

    Sends through aiohttp where the ``fast`` extra is installed, else over httpx connections of its own, since
    httpx's connection pool is slow under concurrency; not where the environment names a proxy, which only
    httpx's own transport honours. See :mod:`aio_provider.api.wire`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
        allow_insecure: bool = False,
        on_server_error: OnServerError = "hold",
        retry: RetryPolicy | None = DEFAULT_RETRY,
    ) -> None:
        self._core = Core(api_key, base_url, allow_insecure=allow_insecure, on_server_error=on_server_error)
        self._retry = retry
        settings = _settings(self._core, timeout)
        self._wire: FastWire | None = None
        if transport is None and not _has_proxy(self._core):
            if importlib.util.find_spec("httpx_aiohttp") is not None:
                self._wire = FastWire({**settings["headers"], **self._core.headers()}, timeout, _LIMITS)
                transport = self._wire.transport
            else:
                transport = SpreadTransport(_LIMITS)
        self._http = httpx.AsyncClient(transport=transport, **settings)

    @property
    def base_url(self) -> str:
        """Where requests go, without a slash at its end."""
        return self._core.base_url

    async def submit(self, request: GenerationRequest) -> Task:
        """Start a generation, as :meth:`AioClient.submit`."""
        return await self._send(self._core.submission(request))

    async def get_task(self, task_id: str) -> Task:
        """How a task stands, as :meth:`AioClient.get_task`."""
        return await self._send(self._core.status(task_id))

    async def chat(self, request: GenerationRequest) -> ChatCompletion:
        """A whole chat answer, as :meth:`AioClient.chat`."""
        return await self._send(self._core.chat(request))

    async def chat_stream(self, request: GenerationRequest) -> AsyncIterator[ChatChunk]:
        """A chat answer as it is made, as :meth:`AioClient.chat_stream`."""
        call = self._core.chat_stream(request)
        response = await self._retrying(call, lambda: self._open(call))
        async with contextlib.aclosing(response):
            if not _is_stream(response):
                yield self._core.answer(call, response)
                return
            from httpx_sse import EventSource

            reader = StreamReader()
            with self._core.guard(call):
                async for event in EventSource(response).aiter_sse():
                    chunk = reader.feed(self._core.scrub(event.data))
                    if chunk is not None:
                        yield chunk
                reader.close()

    async def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Any route below the base URL, as :meth:`AioClient.request`."""
        return await self._send(self._core.raw(method, path, json, params))

    async def check(self) -> None:
        """Test the key for free, as :meth:`AioClient.check`."""
        with _probing(self.base_url):
            await self._send_once(self._core.probe())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncAioClient(base_url={self.base_url!r})"

    async def _send(self, call: Call[T]) -> T:
        return await self._retrying(call, lambda: self._send_once(call))

    async def _retrying(self, call: Call[Any], send: Callable[[], Awaitable[T]]) -> T:
        if self._retry is None:
            return await send()

        async def attempt() -> T:  # tenacity awaits a coroutine function only, not a lambda that makes one
            return await send()

        with _giving_up(call):
            return await self._retry.async_retrying()(attempt)

    async def _send_once(self, call: Call[T]) -> T:
        response: Answer
        if self._wire is not None and call.params is None:
            url, body = self._core.parts(call, self._http)
            with self._core.guard(call):
                response = await self._wire.send(call.method, url, body)
        else:
            request = self._core.request(call, self._http)
            with self._core.guard(call):
                response = await self._http.send(request)
        return self._core.answer(call, response)

    async def _open(self, call: Call[Any]) -> httpx.Response:
        request = self._core.request(call, self._http)
        with self._core.guard(call):
            response = await self._http.send(request, stream=True)
            if not _is_stream(response):
                async with contextlib.aclosing(response):
                    await response.aread()
        if not response.is_success:
            self._core.answer(call, response)  # raises
        return response


def _settings(core: Core, timeout: float) -> dict[str, Any]:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout: {timeout!r} is not a number of seconds above 0")
    return {
        "timeout": timeout,
        "limits": _LIMITS,
        "follow_redirects": False,  # the key goes to the API's origin only
        "trust_env": not core.is_loopback,  # no proxy between us and this machine
        "headers": {"User-Agent": f"aio-provider/{__version__}"},
    }


def _has_proxy(core: Core) -> bool:
    """Whether the environment names a proxy for the service."""
    return not core.is_loopback and bool({"http", "https", "all"} & urllib.request.getproxies().keys())


def _is_stream(response: httpx.Response) -> bool:
    media = response.headers.get("content-type", "").split(";")[0].strip().lower()
    return response.is_success and media == "text/event-stream"


@contextlib.contextmanager
def _giving_up(call: Call[Any]) -> Iterator[None]:
    """A POST answered 500 to its last retry (``on_server_error="retry"``) still has an unknown fate."""
    try:
        yield
    except ServerError as error:
        if not call.spends:
            raise
        raise unknown(call, str(error), error) from error


@contextlib.contextmanager
def _probing(base_url: str) -> Iterator[None]:
    """Reads the answer to a key test: that the task does not exist is the good one."""
    try:
        yield
    except NotFoundError as error:
        if error.type is None:
            raise ConfigurationError(f"{base_url} answers, but not as the API does: {error}") from error
    except InvalidRequestError:
        return  # an API that checks ids first has still let the key in
    except ProtocolError as error:
        raise ConfigurationError(f"{base_url} answers, but not as the API does: {error}") from error
