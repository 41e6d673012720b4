"""The fate of a POST: refused, never sent, or unknown because it may have been charged."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aio_provider.api import errors
from aio_provider.api.client import AsyncAioClient
from aio_provider.api.core import never_sent
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.wire import SpreadTransport
from aio_provider.sandbox import Sandbox
from tests.api.conftest import KEY, Clients, RawServer, answers

IMAGE = GenerationRequest.image("a cat")
CHAT = GenerationRequest.chat("Hi")
HTML = "<html><title>502 Bad Gateway</title></html>"
POSTS = [("submit", (IMAGE,)), ("chat", (CHAT,)), ("chat_stream", (CHAT,)), ("request", ("POST", "/x"))]
GOOD = {"code": 200, "message": "success", "data": {"task_id": "n1", "status": "IN_PROGRESS"}}


def envelope(status: int, *, http: int | None = None, wrapped: bool = True) -> httpx.Response:
    error = {"code": status, "message": "said", "type": "t"}
    return httpx.Response(
        http or status, json={"error": error} if wrapped else {"code": status, "message": "said"}
    )


@pytest.fixture(params=POSTS, ids=[name for name, _ in POSTS])
def post(request: pytest.FixtureRequest) -> tuple[str, tuple[Any, ...]]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        (401, errors.AuthenticationError),
        (402, errors.InsufficientCreditsError),
        (404, errors.NotFoundError),
        (422, errors.InvalidRequestError),
        (429, errors.RateLimitError),
    ],
)
@pytest.mark.parametrize("form", ["http", "http 200", "http 200, bare code"])
def test_refusal_is_final(
    status: int, kind: type[errors.AioError], form: str, call: Clients, post: tuple[str, tuple[Any, ...]]
) -> None:
    http = status if form == "http" else 200
    handler, seen = answers(envelope(status, http=http, wrapped=form != "http 200, bare code"))
    with pytest.raises(kind, match="said") as caught:
        call(handler, post[0], *post[1])
    assert type(caught.value) is kind and caught.value.status == status
    assert len(seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(envelope(500), id="500"),
        pytest.param(envelope(503), id="503"),
        pytest.param(envelope(500, http=200), id="500 in 200"),
        pytest.param(envelope(500, http=200, wrapped=False), id="code 500 in 200"),
        pytest.param(envelope(1001, http=200, wrapped=False), id="code 1001 in 200"),
        pytest.param(httpx.Response(502, html=HTML), id="502 page"),
        pytest.param(httpx.Response(504, text=""), id="504 empty"),
        pytest.param(httpx.Response(200, html=HTML), id="200 page"),
        pytest.param(httpx.Response(200, text=""), id="200 empty"),
        pytest.param(httpx.Response(200, text='{"code": 200, "data": {"task_'), id="cut JSON"),
        pytest.param(httpx.Response(200, text="[" * 100_000), id="deep JSON"),
        pytest.param(httpx.Response(409, json={"message": "conflict"}), id="409"),
        pytest.param(httpx.Response(408, text=""), id="408"),
        pytest.param(httpx.Response(303, headers={"location": "https://elsewhere.test/"}), id="303"),
        pytest.param(httpx.ReadTimeout("slow"), id="read timeout"),
        pytest.param(httpx.ReadError("reset"), id="read error"),
        pytest.param(httpx.WriteError("reset"), id="write error"),
        pytest.param(httpx.RemoteProtocolError("no answer"), id="disconnected"),
        pytest.param(OSError("odd"), id="odd OSError"),
        pytest.param(KeyError("odd"), id="a transport's bug"),
    ],
)
def test_everything_else_may_have_been_charged(
    answer: httpx.Response | Exception, call: Clients, post: tuple[str, tuple[Any, ...]], clock: Any
) -> None:
    handler, seen = answers(answer)
    with pytest.raises(errors.SubmissionUnknownError, match="may have been accepted and charged"):
        call(handler, post[0], *post[1], retry=clock.policy())
    assert len(seen) == 1 and clock.waits == []


@pytest.mark.parametrize("method", ["submit", "chat"])
def test_answer_without_what_was_asked_for_is_unknown(method: str, call: Clients) -> None:
    handler, _ = answers(httpx.Response(200, json={"code": 200, "data": {"hello": "x" * 900}}))
    with pytest.raises(errors.SubmissionUnknownError) as caught:
        call(handler, method, IMAGE if method == "submit" else CHAT)
    assert isinstance(caught.value.__cause__, errors.ProtocolError)
    assert 450 < str(caught.value).count("x") < 510


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.PoolTimeout("busy"),
        httpx.ProxyError("no"),
        httpx.UnsupportedProtocol("ftp"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_connection_never_made_is_a_transport_error(
    error: httpx.HTTPError, call: Clients, post: tuple[str, tuple[Any, ...]]
) -> None:
    handler, _ = answers(error)
    with pytest.raises(errors.TransportError, match="cannot connect") as caught:
        call(handler, post[0], *post[1])
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (envelope(500), errors.ServerError),
        (httpx.Response(502, html=HTML), errors.ServerError),
        (httpx.Response(200, html=HTML), errors.ProtocolError),
        (httpx.Response(200, text="{"), errors.ProtocolError),
        (httpx.Response(302, headers={"location": "https://elsewhere.test/"}), errors.ProtocolError),
        (httpx.ReadTimeout("slow"), errors.TransportError),
        (httpx.RemoteProtocolError("gone"), errors.TransportError),
    ],
)
def test_get_keeps_the_error_of_its_cause(
    answer: httpx.Response | Exception, kind: type[errors.AioError], call: Clients
) -> None:
    handler, _ = answers(answer)
    with pytest.raises(kind) as caught:
        call(handler, "get_task", "n1")
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [301, 307, 308])
def test_moved_api_is_a_setting_to_mend(status: int, call: Clients) -> None:
    handler, seen = answers(httpx.Response(status, headers={"location": "https://www.example.test/api/v1/x"}))
    with pytest.raises(errors.ConfigurationError, match=r"redirect \(\d+\) to https://www.example.test"):
        call(handler, "submit", IMAGE)
    assert len(seen) == 1


def test_on_server_error_retry_without_retries_raises_server_error(call: Clients) -> None:
    for answer in (envelope(500), envelope(500, http=200)):
        handler, _ = answers(answer)
        with pytest.raises(errors.ServerError):
            call(handler, "submit", IMAGE, on_server_error="retry")
    for answer in (httpx.Response(502, html=HTML), httpx.ReadTimeout("slow"), httpx.Response(200, text="{")):
        handler, _ = answers(answer)
        with pytest.raises(errors.SubmissionUnknownError):
            call(handler, "submit", IMAGE, on_server_error="retry")


def test_audio_itself_is_a_task_that_is_done(call: Clients) -> None:
    handler, _ = answers(httpx.Response(200, content=b"RIFFxx", headers={"content-type": "audio/mpeg"}))
    task = call(handler, "submit", GenerationRequest.speech("Hello"))
    assert task.done and task.id.startswith("direct-")
    assert task.urls == ("data:audio/mpeg;base64,UklGRnh4",)
    assert task.raw == {"content_type": "audio/mpeg", "bytes": 6}
    json.dumps(task.to_dict())


# Over real sockets, where httpx's own transports and httpx-aiohttp differ in what they raise


def submit(flavour: str, url: str, **settings: Any) -> Any:
    if flavour == "sync":
        return Clients("sync")(None, "submit", IMAGE, base_url=url, **settings)
    transports = {"httpx": httpx.AsyncHTTPTransport, "spread": lambda: SpreadTransport(httpx.Limits())}
    transport = transports.get(flavour, lambda: None)()
    return Clients("async")(None, "submit", IMAGE, base_url=url, transport=transport, **settings)


@pytest.fixture(params=["sync", "httpx", "spread", "aiohttp"])
def flavour(request: pytest.FixtureRequest) -> str:
    if request.param == "aiohttp":
        pytest.importorskip("httpx_aiohttp", reason="the 'fast' extra is not installed")
    return str(request.param)


BODY = json.dumps(GOOD).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="no answer"),
        pytest.param(b"HTTP/1.1 200", id="half a status line"),
        pytest.param(HEAD, id="headers cut off"),
        pytest.param(HEAD + b"content-length: 500\r\n\r\n" + BODY[:20], id="body cut off"),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\n", id="chunks cut off"
        ),
        pytest.param(b"nonsense\r\n\r\n", id="not HTTP"),
        pytest.param(
            HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd", id="not the gzip it says it is"
        ),
    ],
)
def test_lost_answer(reply: bytes, flavour: str, raw_server: Callable[..., RawServer]) -> None:
    server = raw_server(reply)
    with pytest.raises(errors.SubmissionUnknownError, match="may have been accepted") as caught:
        submit(flavour, server.url)
    assert len(server.requests) == 1
    assert KEY.encode() in server.requests[0] and KEY not in repr(
        caught.getrepr(chain=True, showlocals=False)
    )


def test_timed_out_answer(flavour: str, raw_server: Callable[..., RawServer]) -> None:
    server = raw_server(b"", hang=True)
    with pytest.raises(errors.SubmissionUnknownError):
        submit(flavour, server.url, timeout=1)
    assert len(server.requests) == 1


def test_good_answer_over_a_socket(flavour: str, raw_server: Callable[..., RawServer]) -> None:
    server = raw_server(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    assert submit(flavour, server.url).id == "n1"


def test_refused_connection(flavour: str, deaf_port: int) -> None:
    with pytest.raises(errors.TransportError, match="cannot connect"):
        submit(flavour, f"http://127.0.0.1:{deaf_port}/api/v1")


def test_server_that_speaks_no_tls(flavour: str, raw_server: Callable[..., RawServer]) -> None:
    server = raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n", read=False)
    with pytest.raises(errors.TransportError, match="cannot connect"):
        submit(flavour, server.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "fault", ["drop-before", "drop-after", "500", "500-after", "502-html", "200-error", "truncated-json"]
)
def test_sandbox_faults_are_unknown(fault: str, flavour: str) -> None:
    with Sandbox(time_scale=0, requests_per_minute=0, faults=[f"{fault}:on=submit"]) as sandbox:
        with pytest.raises(errors.SubmissionUnknownError):
            submit(flavour, sandbox.base_url, api_key=sandbox.api_key)
        accepted = fault in ("drop-after", "500-after", "200-error", "truncated-json")
        assert len(sandbox.submissions) == accepted


def test_fast_transport_is_used_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = pytest.importorskip("httpx_aiohttp").AiohttpTransport

    def kind(url: str) -> type:
        return type(AsyncAioClient(KEY, url)._http._transport)

    assert kind("https://api.example.test/api/v1") is transport
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    assert kind("https://api.example.test/api/v1") is httpx.AsyncHTTPTransport
    assert kind("http://127.0.0.1:8000/api/v1") is transport
    monkeypatch.setitem(sys.modules, "httpx_aiohttp", None)  # the extra is not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kind("http://127.0.0.1:8000/api/v1") is SpreadTransport
    assert kind("https://api.example.test/api/v1") is httpx.AsyncHTTPTransport


@pytest.mark.parametrize("most", [100, 3])
def test_connections_are_used_again_and_bounded(most: int) -> None:
    """Each of many requests at once has its answer, over as many connections as there may be, and no more."""

    async def main(url: str, key: str) -> tuple[int, int]:
        transport = SpreadTransport(httpx.Limits(max_connections=most))
        async with AsyncAioClient(key, url, transport=transport, retry=None) as client:
            for _ in range(3):
                found = await asyncio.gather(
                    *(client.get_task("none") for _ in range(8)), return_exceptions=True
                )
                assert all(isinstance(error, errors.NotFoundError) for error in found)
            return len(transport._all), len(transport._free)

    with Sandbox(requests_per_minute=0) as sandbox:
        made, free = asyncio.run(main(sandbox.base_url, sandbox.api_key))
    assert made == free == min(most, 8)


def test_never_sent_without_a_cause() -> None:
    assert never_sent(httpx.ConnectTimeout("slow"))
    assert not never_sent(httpx.ReadTimeout("slow"))
    assert not never_sent(RuntimeError("odd"))


def test_closed_client_is_a_mistake_of_the_caller(call: Clients) -> None:
    async def reuse() -> None:
        client = AsyncAioClient(KEY, "https://api.example.test", transport=httpx.MockTransport(answers()[0]))
        await client.aclose()
        await client.submit(IMAGE)

    with pytest.raises(RuntimeError, match="the client is closed"):
        asyncio.run(reuse())


def test_wrong_method_for_the_kind(call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json=GOOD))
    with pytest.raises(errors.InvalidRequestError, match=r"use chat\(\)"):
        call(handler, "submit", CHAT)
    for method in ("chat", "chat_stream"):
        with pytest.raises(errors.InvalidRequestError, match=r"use submit\(\)"):
            call(handler, method, IMAGE)
    assert not seen


def test_no_proxy_stands_between_us_and_this_machine(
    flavour: str, raw_server: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    server = raw_server(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    assert submit(flavour, server.url).id == "n1"
