"""Result files that really open: which file a result is, its bytes, sounds and films."""

from __future__ import annotations

import array
import hashlib
import io
import math
import random
import struct
import sys
import wave
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from aio_provider.sandbox import pictures

CONTENT_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp4": "video/mp4",
}

_SAMPLE_RATE = 22_050
#: A pentatonic scale over two octaves (Hz): any order of its notes sounds well.
_NOTES = (220.0, 261.63, 293.66, 329.63, 392.0, 440.0, 523.25, 587.33, 659.25, 783.99)


def extension(kind: str, endpoint: str, body: Mapping[str, Any]) -> str:
    """The file ending of a task's results.

    :param kind: such as ``image``.
    :param endpoint: the path below the base URL; the Suno cover route makes pictures.
    :param body: the submission; its ``output_format`` is honoured.
    """
    if kind in ("video", "remove_video_background"):
        return "mp4"
    if endpoint == "/audio/music/cover/generate":
        return "png"
    if endpoint.startswith("/audio/"):
        return "wav"
    wanted = str(body.get("output_format", "png")).lower()
    return wanted if wanted in ("png", "jpg", "jpeg", "webp") else "png"


def count(kind: str, endpoint: str, body: Mapping[str, Any]) -> int:
    """How many files a task makes: ``num_images`` pictures, two Suno clips or covers, else one."""
    if kind == "image":
        wanted = body.get("num_images", 1)
        return min(int(wanted), 9) if isinstance(wanted, (int, float)) and wanted >= 1 else 1
    return 2 if endpoint.startswith("/audio/music") and body.get("model") != "minimax-music" else 1


def draw(kind: str, endpoint: str, body: Mapping[str, Any], index: int, subject: str) -> bytes:
    """The bytes of one result, the same every time.

    :param index: 1 for a task's first file.
    :param subject: what the input picture shows, for the tools that take one; else unused.
    """
    ending = extension(kind, endpoint, body)
    text = describe(body) or subject
    if ending == "mp4":
        return film(
            str(body.get("aspect_ratio") or body.get("resolution_ratio") or "16:9"), f"{text} #{index}"
        )
    if ending == "wav":
        return tune(f"{text} #{index}", seconds=1.6 if kind == "speech" else 4.0)
    if kind == "remove_background":
        return pictures.cutout(subject)
    if kind == "upscale_image":
        return pictures.picture(subject, "upscaled", size=(1024, 1024), form=ending)
    if kind == "swap_face":
        return pictures.picture(subject, "face swapped", form=ending)
    size = pictures.size_of(str(body.get("aspect_ratio") or body.get("size") or "1:1"))
    return pictures.picture(text, str(body.get("model") or kind), size=size, form=ending, variation=index)


def describe(body: Mapping[str, Any]) -> str:
    """The words of a submission: its prompt, lyrics, dialogue or title."""
    dialogue = body.get("dialogue")
    if isinstance(dialogue, list):
        return " ".join(str(line.get("text", "")) for line in dialogue if isinstance(line, dict))
    for name in ("prompt", "gpt_description_prompt", "text", "title", "style"):
        if body.get(name):
            return str(body[name])
    return ""


def tune(text: str, *, seconds: float) -> bytes:
    """A short, soft melody as 16-bit mono WAV.

    :param text: which melody; the same words always give the same one.
    :param seconds: how long.
    """
    rng = random.Random(f"tune:{text}")
    step = 0.4
    samples = array.array("h", bytes(2 * int(seconds * _SAMPLE_RATE)))
    note = rng.randrange(len(_NOTES))
    for start in range(round(seconds / step)):
        note = max(0, min(len(_NOTES) - 1, note + rng.choice((-2, -1, 1, 2))))
        _add_note(samples, int(start * step * _SAMPLE_RATE), _NOTES[note], step)
    if sys.byteorder == "big":
        samples.byteswap()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def _add_note(samples: array.array[int], start: int, frequency: float, seconds: float) -> None:
    length = min(int(seconds * _SAMPLE_RATE), len(samples) - start)
    turn = 2 * math.pi * frequency / _SAMPLE_RATE
    for i in range(length):
        # A quick attack, a slow decay, and silence at the end of the note: no clicks.
        envelope = min(1.0, i / 300) * math.exp(-3.0 * i / length) * min(1.0, (length - i) / 600)
        tone = math.sin(turn * i) + 0.3 * math.sin(2 * turn * i)
        samples[start + i] = int(9000 * envelope * tone)


def film(aspect_ratio: str, note: str) -> bytes:
    """A two-second H.264 film in the asked orientation.

    :param aspect_ratio: such as ``16:9``.
    :param note: put into a trailing ``free`` box, which players skip, so that tasks give different files.
    """
    width, height = pictures.size_of(aspect_ratio)
    name = "square" if width == height else "landscape" if width > height else "portrait"
    digest = hashlib.sha256(note.encode()).hexdigest().encode()
    return _asset(f"{name}.mp4") + struct.pack(">I4s", 8 + len(digest), b"free") + digest


@cache
def _asset(name: str) -> bytes:
    return (resources.files("aio_provider.sandbox") / "assets" / name).read_bytes()
