"""Both clients over scripted answers: on httpx's mock transport, or over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aio_provider.api.client import AioClient, AsyncAioClient
from aio_provider.api.retries import RetryPolicy

KEY = "aio_secret_0123456789"
URL = "https://api.example.test/api/v1"
Handler = Callable[[httpx.Request], httpx.Response]
DOCUMENTED = json.loads((Path(__file__).parent / "data" / "documented.json").read_text())


class Clients:
    """Calls a method of the sync or of the async client; a stream comes back as a list."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def __call__(self, handler: Handler | None, name: str, *args: Any, **settings: Any) -> Any:
        if handler is not None:
            settings.setdefault("transport", httpx.MockTransport(handler))
        settings.setdefault("retry", None)
        settings.setdefault("base_url", URL)
        settings.setdefault("api_key", KEY)
        if self.flavour == "sync":
            with AioClient(**settings) as client:
                result = getattr(client, name)(*args)
                return list(result) if name == "chat_stream" else result
        return asyncio.run(self._async(name, args, settings))

    async def _async(self, name: str, args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        async with AsyncAioClient(**settings) as client:
            result = getattr(client, name)(*args)
            return [chunk async for chunk in result] if name == "chat_stream" else await result


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Clients:
    """``call(handler, method, *args, **client_settings)`` on each client in turn."""
    return Clients(request.param)


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def policy(self, **settings: Any) -> RetryPolicy:
        """A retry policy on this clock."""

        async def async_sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return RetryPolicy(sleep=self.waits.append, async_sleep=async_sleep, **settings)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answers(*responses: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    """A handler that gives these answers in turn (the last one again and again), and the requests it got."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        answer = responses[min(len(seen), len(responses) - 1)]
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        if not answer.is_closed:
            return answer  # a stream, read once
        # A copy: a response that was sent once is bound to the sync or the async client that read it.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    return handler, seen


class RawServer:
    """A TCP server that reads one request a connection (or none), writes these bytes, and hangs up."""

    def __init__(self, reply: bytes, *, read: bool = True, hang: bool = False) -> None:
        self.requests: list[bytes] = []
        self._reply = reply
        self._read = read
        self._hang = hang
        self._released = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/api/v1"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                if self._read:
                    self.requests.append(_read_request(connection))
                connection.sendall(self._reply)
                if self._hang:
                    self._released.wait(120)
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def close(self) -> None:
        self._released.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length and (more := connection.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    """Start raw servers that end with the test."""
    servers: list[RawServer] = []

    def start(reply: bytes, **settings: Any) -> RawServer:
        servers.append(RawServer(reply, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
