"""The operator for chat completions, which answer at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from aio_provider.api.errors import InvalidRequestError
from aio_provider.hooks import metrics
from aio_provider.operators.base import AioBaseOperator
from aio_provider.operators.submission import Found

if TYPE_CHECKING:
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.operators.record import Record


class AioChatOperator(AioBaseOperator):
    """
    Ask a chat model (``POST /chat/completions``, not streamed). Answers on the worker, in seconds.

    Returns (XCom) the result of the other operators plus ``text``, ``usage`` and ``tool_calls``; there is no
    task id and there are no URLs. The answer is kept on record: a retry or a cleared task does not ask, or
    pay, again.

    :param messages: one text from the user, or ``[{"role": ..., "content": ...}, ...]`` (templated).
    :param system_prompt: what to tell the model beforehand (templated).
    :param model: such as ``gemini``.
    """

    template_fields: Sequence[str] = ("messages", "system_prompt", *AioBaseOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **AioBaseOperator.template_fields_renderers,
        "messages": "json",
    }
    operator_extra_links = ()  # an answer has no page and no file
    kind = "chat"
    request_fields = ("messages",)

    def __init__(
        self,
        *,
        messages: str | Sequence[Mapping[str, Any]] | None = None,
        system_prompt: str | None = None,
        model: str | None = "gemini",
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self.messages = messages
        self.system_prompt = system_prompt

    def _request_arguments(self) -> dict[str, Any]:
        given = super()._request_arguments()
        messages = given.get("messages")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if self.system_prompt and isinstance(messages, Sequence):
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        if messages is not None:
            given["messages"] = messages
        if given.get("stream"):
            raise InvalidRequestError(
                "stream: an operator hands over whole answers; leave it out", field="stream"
            )
        return given

    def _send(self, record: Record, request: GenerationRequest) -> Found:
        asked_at = time.time()
        answer = self._answer_of(
            record, request, self.hook.chat(request, intend=record.intend, release=record.release)
        )
        metrics.submitted(request.kind, request.model)
        ended = {
            "task_id": None,
            "status": "succeeded",
            "credits": answer.credits,
            "model": answer.model,
            "text": answer.text,
            "usage": dict(answer.usage),
            "tool_calls": [dict(call) for call in answer.tool_calls],
        }
        return Found("", asked_at, ended=ended)
