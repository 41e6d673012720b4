"""Chat streams: events however they are cut, thoughts, errors in the middle, and streams that break off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from aio_provider.api import errors
from aio_provider.api.client import AioClient
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.tasks import ChatChunk, join_chunks
from tests.api.conftest import KEY, URL, Clients, RawServer, answers

CHAT = GenerationRequest.chat("Hi")
SSE = {"content-type": "text/event-stream; charset=utf-8"}


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in these pieces, and may end in an exception."""

    def __init__(self, pieces: list[bytes], end: Exception | None = None) -> None:
        self.pieces, self.end, self.closed = pieces, end, False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.end:
            raise self.end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def event(text: str = "", **fields: Any) -> bytes:
    choice: dict[str, Any] = {
        "delta": {"content": text, **fields.pop("delta", {})},
        **fields.pop("choice", {}),
    }
    return (
        b"data: "
        + json.dumps({"id": "c1", "choices": [choice], **fields}, ensure_ascii=False).encode()
        + b"\n\n"
    )


END = event(choice={"finish_reason": "stop"}, usage={"total_tokens": 9}, credits_consumed=2)
DONE = b"data: [DONE]\n\n"


def stream(call: Clients, body: Pieces | bytes, **settings: Any) -> list[ChatChunk]:
    body = body if isinstance(body, Pieces) else Pieces([body])
    handler, _ = answers(httpx.Response(200, headers=SSE, stream=body))
    try:
        chunks: list[ChatChunk] = call(handler, "chat_stream", CHAT, **settings)
    finally:
        assert body.closed
    return chunks


def test_asks_for_a_stream(call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, headers=SSE, content=event("Hi") + END + DONE))
    call(handler, "chat_stream", CHAT)
    assert json.loads(seen[0].content)["stream"] is True


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_split_anywhere(size: int, newline: bytes, call: Clients) -> None:
    whole = (
        b": a comment\n\n" + event("Grüße, ") + b"event: message\n" + event("Welt\u2028!") + END + DONE
    ).replace(b"\n", newline)
    chunks = stream(call, Pieces([whole[i : i + size] for i in range(0, len(whole), size)]))
    completion = join_chunks(chunks)
    assert completion.text == "Grüße, Welt\u2028!"
    assert (completion.id, completion.credits, completion.finish_reason) == ("c1", 2.0, "stop")
    assert completion.usage == {"total_tokens": 9}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thoughts"])
def test_thoughts_come_apart_from_the_text(field: str, call: Clients) -> None:
    chunks = stream(call, event(delta={field: "Hm. "}) + event(delta={field: "Well."}) + event("Yes.") + END)
    assert [chunk.thoughts for chunk in chunks[:3]] == ["Hm. ", "Well.", None]
    assert (join_chunks(chunks).text, join_chunks(chunks).thoughts) == ("Yes.", "Hm. Well.")


@pytest.mark.parametrize("end", [END, DONE, END + DONE], ids=["finish_reason", "DONE", "both"])
def test_either_end_will_do(end: bytes, call: Clients) -> None:
    assert join_chunks(stream(call, event("Hi") + end)).text == "Hi"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(Pieces([event("Hi")]), id="clean end"),
        pytest.param(Pieces([event("Hi"), b'data: {"id": "c1", "cho']), id="in an event"),
        pytest.param(Pieces([event("Hi"), b'data: {"id": "c1", "cho\n\n']), id="cut event"),
        pytest.param(Pieces([event("Hi")], httpx.ReadError("reset")), id="reset"),
        pytest.param(Pieces([event("Hi")], httpx.ReadTimeout("slow")), id="timeout"),
        pytest.param(Pieces([event("Hi")], httpx.RemoteProtocolError("incomplete chunked read")), id="chunk"),
        pytest.param(Pieces([]), id="nothing"),
    ],
)
def test_stream_that_breaks_off_is_unknown(body: Pieces, call: Clients, clock: Any) -> None:
    body = Pieces(body.pieces, body.end)
    with pytest.raises(errors.SubmissionUnknownError):
        stream(call, body, retry=clock.policy())
    assert not clock.waits


def test_chunks_before_the_break_are_given() -> None:
    handler, _ = answers(
        httpx.Response(200, headers=SSE, stream=Pieces([event("Hi")], httpx.ReadError("reset")))
    )
    got = []
    client = AioClient(KEY, URL, transport=httpx.MockTransport(handler))
    with client, pytest.raises(errors.SubmissionUnknownError):
        for chunk in client.chat_stream(CHAT):
            got.append(chunk.text)
    assert got == ["Hi"]


@pytest.mark.parametrize(
    ("status", "first", "kind"),
    [
        (402, True, errors.InsufficientCreditsError),
        (429, True, errors.RateLimitError),
        (500, True, errors.SubmissionUnknownError),
        (402, False, errors.SubmissionUnknownError),
        (500, False, errors.SubmissionUnknownError),
    ],
)
def test_error_in_the_stream(status: int, first: bool, kind: type[errors.AioError], call: Clients) -> None:
    error = (
        b"data: "
        + json.dumps({"error": {"code": status, "message": "no more", "type": "t"}}).encode()
        + b"\n\n"
    )
    with pytest.raises(kind, match="no more") as caught:
        stream(call, error if first else event("Hi") + error)
    assert type(caught.value) is kind


def test_whole_answer_to_a_stream_request_is_one_chunk(call: Clients) -> None:
    answer = {
        "id": "c1",
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "credits_consumed": 2,
    }
    handler, _ = answers(httpx.Response(200, json=answer))
    (chunk,) = call(handler, "chat_stream", CHAT)
    assert (chunk.text, chunk.credits) == ("Hi", 2.0)


def test_stream_to_a_whole_request_is_joined(call: Clients) -> None:
    handler, _ = answers(httpx.Response(200, headers=SSE, content=event("Hi ") + event("you") + END + DONE))
    completion = call(handler, "chat", CHAT)
    assert (completion.text, completion.credits) == ("Hi you", 2.0)
    handler, _ = answers(httpx.Response(200, headers=SSE, content=event("Hi ")))
    with pytest.raises(errors.SubmissionUnknownError, match="broke off"):
        call(handler, "chat", CHAT)


def test_leaving_early_closes_the_connection() -> None:
    body = Pieces([event("a"), event("b"), END])
    handler, _ = answers(httpx.Response(200, headers=SSE, stream=body))
    with AioClient(KEY, URL, transport=httpx.MockTransport(handler)) as client:
        chunks = client.chat_stream(CHAT)
        assert next(chunks).text == "a"
        chunks.close()  # type: ignore[attr-defined]
        assert body.closed


@pytest.mark.parametrize("fast", [True, False], ids=["aiohttp", "httpx"])
def test_cut_over_a_socket(fast: bool, raw_server: Callable[..., RawServer]) -> None:
    body = event("Hi")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    server = raw_server(head + b"%x\r\n" % len(body) + body + b"\r\n")
    transport = None if fast else httpx.AsyncHTTPTransport()
    with pytest.raises(errors.SubmissionUnknownError):
        Clients("async")(None, "chat_stream", CHAT, base_url=server.url, transport=transport)
    assert len(server.requests) == 1


def test_cancelled_stream_is_closed() -> None:
    body = Pieces([event("a")])

    async def run() -> None:
        from aio_provider.api.client import AsyncAioClient

        handler, _ = answers(httpx.Response(200, headers=SSE, stream=body))
        async with AsyncAioClient(KEY, URL, transport=httpx.MockTransport(handler)) as client:
            chunks = client.chat_stream(CHAT)
            await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())
    assert body.closed
