"""Reads a streamed chat: each server-sent event's data into a chunk, and whether the stream was whole."""

from __future__ import annotations

import json
import re

from aio_provider.api.errors import AioError, ProtocolError
from aio_provider.api.tasks import ChatChunk, ChatCompletion, join_chunks, read_chunk


class StreamReader:
    """Reads the events of one chat stream, and knows whether it came to its end."""

    def __init__(self) -> None:
        self.started = False
        self.ended = False
        self.characters = 0

    def feed(self, data: str) -> ChatChunk | None:
        """The chunk in an event's data; None for an empty one and for ``[DONE]``."""
        if data.strip() in ("", "[DONE]"):
            self.ended = self.ended or bool(data.strip())
            return None
        try:
            chunk = read_chunk(json.loads(data))
        except AioError as error:
            if not self.started:
                raise
            # Whatever it says, an answer had begun, and so a charge.
            raise ProtocolError(f"{error}, after {self.characters} characters of the answer") from error
        except ValueError as error:
            raise ProtocolError(f"an event of the stream is not JSON: {data[:500]!r}") from error
        self.started = True
        self.ended = self.ended or chunk.finish_reason is not None
        self.characters += len(chunk.text)
        return chunk

    def close(self) -> None:
        """Call when the stream has no more events.

        :raises ProtocolError: when it broke off before its end.
        """
        if not self.ended:
            raise ProtocolError(f"the stream broke off after {self.characters} characters, before its end")


def join_stream(text: str) -> ChatCompletion:
    """A whole answer that came as a stream although none was asked for."""
    reader = StreamReader()
    events = [line[5:].strip() for line in re.split(r"\r\n|\r|\n", text) if line.startswith("data:")]
    chunks = [chunk for data in events if (chunk := reader.feed(data))]
    reader.close()
    return join_chunks(chunks)
