"""A chat model writes the prompt, an image model draws it. The answer is kept: a retry does not ask again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from aio_provider.operators.aio import AioChatOperator


@dag(
    schedule=None,
    params={"subject": Param("a lighthouse in a storm", type="string")},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["aio", "example"],
    doc_md=__doc__,
)
def chat_then_picture() -> None:
    """A prompt, then its picture."""
    idea = AioChatOperator(
        task_id="idea",
        model="gemini",
        system_prompt="You write prompts for an image model: one sentence, no preamble.",
        messages="Describe {{ params.subject }} as an oil painting.",
        request_params={"reasoning_effort": "low"},
    )

    @task.aio_image(model="flux-2", request_params={"aspect_ratio": "16:9"})
    def picture(answer: dict[str, Any]) -> str:
        """A model's words are untrusted: what a function returns is never rendered as a template."""
        return answer["text"][:5000]

    picture(idea.output)


chat_then_picture()
