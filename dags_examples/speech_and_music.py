"""A jingle and a two-voice dialogue for each language, as TaskFlow tasks, downloaded side by side."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from aio_provider.operators.aio import AioDownloadOperator, AioGenerateMusicOperator

GREETINGS = {"en": ("Good morning!", "What a lovely shop."), "fr": ("Bonjour !", "Quelle jolie boutique.")}


@dag(
    schedule=None,
    params={"output": Param(os.environ.get("AIO_EXAMPLE_OUTPUT", "aio-output"), type="string")},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["aio", "example"],
    doc_md=__doc__,
)
def speech_and_music() -> None:
    """A jingle and greetings, side by side."""

    @task.aio_speech(model="elevenlabs-v3", request_params={"stability": 0.5})
    def greeting(language: str) -> dict[str, Any]:
        """What is returned are fields of the request, sent as they are: braces in a text are no template."""
        first, second = GREETINGS[language]
        lines = [{"text": first, "voice": "Rachel"}, {"text": second, "voice": "Adam"}]
        return {"dialogue": lines, "language_code": language}

    jingle = AioGenerateMusicOperator(
        task_id="jingle",
        model="suno",
        request_params={
            "gpt_description_prompt": "A cheerful ten second jingle for a furniture shop",
            "make_instrumental": True,
        },
    )
    greetings = greeting.expand(language=list(GREETINGS))
    AioDownloadOperator(
        task_id="download",
        source=[jingle.output, greetings],
        output_path="{{ params.output }}/audio/",
        max_bytes=50_000_000,
    )


speech_and_music()
