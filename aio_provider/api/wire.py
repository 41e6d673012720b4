"""How the async client's requests travel: without what a general HTTP client does for each, and slowly.

httpx's connection pool looks through all its connections for every request, and its client merges URLs,
headers and cookies that an API does not have. With 64 requests at once that costs ten times the rest.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import httpx

if TYPE_CHECKING:
    from aiohttp import ClientSession


class Answer(Protocol):
    """What is looked at in an answer: an :class:`httpx.Response`, or a :class:`Read`."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...
    @property
    def content(self) -> bytes: ...
    @property
    def text(self) -> str: ...
    @property
    def is_success(self) -> bool: ...


class Read:
    """A whole answer, read and decompressed."""

    __slots__ = ("_charset", "content", "headers", "status_code")

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes, charset: str | None) -> None:
        self.status_code = status
        self.headers = headers
        self.content = content
        self._charset = charset

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300

    @property
    def text(self) -> str:
        """The content as text; what cannot be read is replaced."""
        try:
            return self.content.decode(self._charset or "utf-8", "replace")
        except LookupError:  # a charset that nobody knows
            return self.content.decode("utf-8", "replace")


def ssl_context() -> ssl.SSLContext:
    """One for all clients of the process: reading the certificates takes an event loop's 20 ms."""
    return _ssl_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _ssl_context(*places: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


class FastWire:
    """Whole answers straight from aiohttp (the ``fast`` extra); its errors come as httpx-aiohttp's do.

    :param headers: of every request. They hold the key: this is for the API's own origin only.
    :param timeout: seconds for each of connecting, sending and reading.
    """

    def __init__(self, headers: Mapping[str, str], timeout: float, limits: httpx.Limits) -> None:
        from httpx_aiohttp import AiohttpTransport

        self._headers = headers
        self._timeout = timeout
        self._limits = limits
        self._session: ClientSession | None = None
        #: for answers that are read as they come; closing it closes the connections
        self.transport = AiohttpTransport(verify=ssl_context(), limits=limits, client=self._open)

    def _open(self) -> ClientSession:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limits.max_connections or 0,
                keepalive_timeout=self._limits.keepalive_expiry,
                ssl=self.transport.ssl_context,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(
                connect=self._timeout, sock_connect=self._timeout, sock_read=self._timeout
            ),
        )
        self.transport.client = self._session
        return self._session

    async def send(self, method: str, url: str, body: bytes | None) -> Read:
        """Send a request and read its answer.

        :raises httpx.HTTPError: there is no whole answer.
        """
        from httpx_aiohttp.transport import map_aiohttp_exceptions

        session = self._session or self._open()
        with map_aiohttp_exceptions():
            async with session.request(
                method,
                url,
                data=body,
                headers=_JSON if body is not None else None,
                allow_redirects=False,
            ) as response:
                content = await response.read()
                return Read(response.status, response.headers, content, response.charset)


_JSON = {"Content-Type": "application/json"}


class SpreadTransport(httpx.AsyncBaseTransport):
    """httpx's own transport, many times over with a connection each: no pool to look through.

    :param limits: ``max_connections`` in all.
    """

    def __init__(self, limits: httpx.Limits) -> None:
        self._most = limits.max_connections or 100
        self._each = httpx.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=limits.keepalive_expiry
        )
        self._ssl = ssl_context()
        self._all: list[_Single] = []
        self._free: list[_Single] = []  # the last used on top: its connection is warm
        self._next = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send over a free connection; over a busy one, in its queue, where there are no more."""
        single = self._take()
        try:
            response = await single.transport.handle_async_request(request)
        except BaseException:
            self._release(single)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Released(response.stream, lambda: self._release(single))
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        for single in self._all:
            await single.transport.aclose()

    def _take(self) -> _Single:
        if self._free:
            single = self._free.pop()
        elif len(self._all) < self._most:
            single = _Single(httpx.AsyncHTTPTransport(verify=self._ssl, limits=self._each))
            self._all.append(single)
        else:
            single = self._all[self._next % self._most]
            self._next += 1
        single.users += 1
        return single

    def _release(self, single: _Single) -> None:
        single.users -= 1
        if not single.users:
            self._free.append(single)


class _Single:
    __slots__ = ("transport", "users")

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.users = 0


class _Released(httpx.AsyncByteStream):
    """An answer's content; closing it frees the connection."""

    def __init__(self, stream: httpx.AsyncByteStream, release: Callable[[], None]) -> None:
        self._stream = stream
        self._release: Callable[[], None] | None = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            release, self._release = self._release, None
            if release is not None:
                release()
