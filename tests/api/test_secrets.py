"""The key goes to the API's origin, and nowhere else: no repr, log, exception, redirect or other host."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aio_provider.api import errors
from aio_provider.api.client import AioClient, AsyncAioClient
from aio_provider.api.core import Core
from aio_provider.api.requests import GenerationRequest
from tests.api.conftest import KEY, URL, Clients, RawServer, answers

IMAGE = GenerationRequest.image("a cat")


@pytest.fixture
def log() -> Any:
    """Everything that any library logs, at DEBUG."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(before)


def test_no_repr_shows_it() -> None:
    core = Core(KEY, URL, allow_insecure=False, on_server_error="hold")
    for value in (AioClient(KEY, URL), AsyncAioClient(KEY, URL), core):
        assert KEY not in repr(value) and KEY not in str(value)


ECHO = {"error": {"code": 401, "message": f"Invalid API key {KEY}", "type": "authentication_error"}}


def pickled(error: BaseException) -> bytes:
    """As Python itself pickles it, whatever a library (Dask's does) has registered for exceptions."""
    text = io.BytesIO()
    pickler = pickle.Pickler(text)
    pickler.dispatch_table = {}
    pickler.dump(error)
    return text.getvalue()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json=ECHO),
        httpx.Response(200, json=ECHO),
        httpx.Response(500, json=ECHO),
        httpx.Response(502, html=f"<html>{KEY}</html>"),
        httpx.Response(200, text=f"{{ {KEY}"),
        httpx.Response(200, json={"hello": KEY}),
        httpx.Response(302, headers={"location": f"https://elsewhere.test/?key={KEY}"}),
        httpx.Response(308, headers={"location": f"https://elsewhere.test/?key={KEY}"}),
        httpx.ReadTimeout(f"timed out with {KEY}"),
        httpx.ConnectError(f"refused with {KEY}"),
    ],
)
@pytest.mark.parametrize("method", ["submit", "get_task", "check"])
def test_exceptions_and_logs_do_not_hold_it(
    answer: httpx.Response | Exception, method: str, call: Clients, clock: Any, log: io.StringIO
) -> None:
    handler, _ = answers(answer)
    arguments = {"submit": (IMAGE,), "get_task": ("n1",), "check": ()}[method]
    with pytest.raises(errors.AioError) as caught:
        call(handler, method, *arguments, retry=clock.policy(attempts=2))
    error: BaseException | None = caught.value
    assert KEY.encode() not in pickled(error)
    while isinstance(error, errors.AioError):
        assert KEY not in str(error) and KEY not in repr(error) and KEY not in repr(error.__dict__)
        error = error.__cause__
    assert KEY not in log.getvalue()


def test_task_that_echoes_it_is_scrubbed(call: Clients) -> None:
    answer = {
        "code": 200,
        "data": {"task_id": "n1", "status": "FAILED", "error_message": f"key {KEY} has no access"},
    }
    handler, _ = answers(httpx.Response(200, json=answer))
    task = call(handler, "get_task", "n1")
    assert task.error == "key aio_*** has no access"
    assert KEY not in repr(task.raw)


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
def test_traceback_of_a_lost_answer(
    reply: bytes, call: Clients, raw_server: Callable[..., RawServer], log: io.StringIO
) -> None:
    server = raw_server(reply)
    with pytest.raises(errors.SubmissionUnknownError) as caught:
        call(None, "submit", IMAGE, base_url=server.url)
    assert KEY.encode() in server.requests[0]
    chain: BaseException | None = caught.value
    while chain is not None:
        assert KEY not in repr(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in log.getvalue()
    assert "POST" in log.getvalue()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["submit", "get_task"])
def test_redirects_are_not_followed(
    status: int, method: str, call: Clients, raw_server: Callable[..., RawServer]
) -> None:
    thief = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    location = thief.url.encode()
    server = raw_server(b"HTTP/1.1 %d X\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n" % (status, location))
    with pytest.raises(errors.AioError, match="redirect"):
        call(None, method, IMAGE if method == "submit" else "n1", base_url=server.url)
    assert len(server.requests) == 1 and thief.requests == []


@pytest.mark.parametrize(
    "path", ["https://elsewhere.test/x", "//elsewhere.test/x", "http://elsewhere.test", 5]
)
def test_raw_request_stays_at_the_api(path: Any, call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json={}))
    with pytest.raises(errors.InvalidRequestError, match="is not a route below"):
        call(handler, "request", "GET", path)
    assert not seen


@pytest.mark.parametrize("task_id", ["@elsewhere.test", "../../x", "a/b?c=d#e", "n41_x", "ключ"])
def test_task_id_cannot_leave_its_place(task_id: str, call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json={"data": {"status": "SUCCESS"}}))
    call(handler, "get_task", task_id)
    url = seen[0].url
    assert url.host == "api.example.test" and url.query == b"" and url.fragment == ""
    assert url.raw_path.startswith(b"/api/v1/tasks/") and url.raw_path.count(b"/") == 4


@pytest.mark.parametrize("task_id", ["", " ", ".", "..", None, 5])
def test_task_id_that_is_none(task_id: Any, call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json={}))
    with pytest.raises(errors.InvalidRequestError, match=r"^task_id"):
        call(handler, "get_task", task_id)
    assert not seen
