"""The published prices, by hand from the model pages."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from aio_provider.api.prices import CreditRange, price, price_key
from aio_provider.api.requests import GenerationRequest

URL = "https://example.com/a.png"


def credits(kind: str, **fields: Any) -> CreditRange:
    if kind in ("image", "video", "music"):
        fields = {"prompt": "a cat", **fields}
    return price(GenerationRequest.build(kind, **fields))


@pytest.mark.parametrize(
    ("kind", "fields", "cost"),
    [
        ("image", {"model": "flux-2"}, 5),
        ("image", {"model": "flux-2", "resolution": "2K"}, 7),
        ("image", {"model": "flux-2", "type": "flex"}, 14),
        ("image", {"model": "flux-2", "type": "flex", "resolution": "2K"}, 24),
        ("image", {"model": "seedream-4-5"}, 12),
        ("image", {"model": "seedream/4.5-edit", "image_urls": [URL]}, 12),
        ("image", {"model": "grok-imagine"}, 5),
        ("image", {"model": "grok-imagine/upscale", "task_id": "n31"}, 12),
        ("image", {"model": "kling-image-o1"}, 6),
        ("image", {"model": "kling-image-o1", "type": "ai-multi-shot"}, 16),
        ("image", {"model": "ideogram-v3"}, 8),
        ("image", {"model": "ideogram-v3-balanced"}, 13),
        ("image", {"model": "ideogram-v3-quality"}, 20),
        ("image", {"model": "ideogram-v4", "rendering_speed": "QUALITY"}, 12),
        ("image", {"model": "imagen4-fast"}, 4),
        ("image", {"model": "imagen-4"}, 8),
        ("image", {"model": "imagen4-ultra"}, 12),
        ("image", {"model": "imagen4-ultra", "num_images": 3}, 36),
        ("image", {"model": "gpt-image-1-5"}, 10),
        ("image", {"model": "gpt-image-1.5-official", "quality": "high"}, 28),
        ("video", {"model": "kling-3"}, 300),
        ("video", {"model": "grok-video"}, 24),
        ("music", {"model": "chirp-v3-5"}, 5),
        ("music", {"model": "chirp-v4-0"}, 8),
        ("music", {"model": "chirp-v4-5"}, 10),
        ("music", {"model": "chirp-v4-5-plus"}, 10),
        ("music", {"model": "chirp-v5"}, 12),
        ("music", {"model": "chirp-v5-5"}, 12),
        ("music", {"model": "minimax-music"}, 30),
        ("remove_background", {"image": URL}, 1),
        ("upscale_image", {"image": URL}, 1),
        ("swap_face", {"image": URL, "face_image": URL}, 4),
        ("remove_video_background", {"video": URL}, 10),
    ],
)
def test_one_published_figure(kind: str, fields: dict[str, Any], cost: float) -> None:
    estimate = credits(kind, **fields)
    assert (estimate.low, estimate.likely, estimate.high, estimate.source) == (cost, cost, cost, "published")


@pytest.mark.parametrize(
    ("kind", "fields", "low", "likely", "high"),
    [
        ("video", {"sound": False}, 120, 200, 1200),
        ("video", {"duration": 10}, 120, 600, 1200),
        ("video", {"mode": "pro", "duration": 15}, 120, 1200, 1200),
        ("video", {"mode": "pro", "sound": False}, 120, None, 1200),
        ("video", {"sound": False, "duration": 3}, 120, 120, 1200),
        ("video", {"model": "seedance-1-5-pro"}, 8, None, 84),
        ("video", {"model": "seedance-1-5-pro", "generateAudio": True}, 16, None, 84),
        ("video", {"model": "pixverse-5-6"}, 70, 90, 300),
        ("video", {"model": "pixverse-5-6", "generate_audio_switch": True}, 140, 180, 600),
        ("video", {"model": "pixverse-5-6", "resolution": "1080p"}, 70, None, 300),
        ("video", {"model": "pixverse-5-6", "generate_audio_switch": True, "duration": 8}, 140, None, 600),
        ("video", {"model": "hailuo-2-3", "image": URL}, 30, 30, 45),
        (
            "video",
            {"model": "hailuo/2-3-image-to-video-standard", "image": URL, "duration": 10},
            30,
            None,
            45,
        ),
        ("video", {"model": "hailuo/2-3-image-to-video-pro", "image": URL}, 45, None, 85),
        ("video", {"model": "wan-2-6"}, 80, 80, None),
        ("image", {"model": "kling-image-o1", "num_images": 4}, 6, 6, 24),
        ("music", {"model": "suno"}, 5, 5, 12),
        ("chat", {"prompt": "Hi"}, 0, 5, None),
    ],
)
def test_published_range(
    kind: str, fields: dict[str, Any], low: float, likely: float | None, high: float | None
) -> None:
    estimate = credits(kind, **fields)
    assert (estimate.low, estimate.likely, estimate.high, estimate.source) == (low, likely, high, "published")
    assert estimate.note


@pytest.mark.parametrize(
    ("characters", "low", "likely", "high"),
    [(1, 0, 1, 28), (500, 14, 14, 28), (1000, 28, 28, 28), (1001, 28, 29, 56)],
)
def test_speech_by_its_characters(characters: int, low: float, likely: float, high: float) -> None:
    half = characters // 2
    lines = [{"text": "x" * (characters - half)}, *([{"text": "x" * half}] if half else [])]
    estimate = price(GenerationRequest.speech(lines))
    assert (estimate.low, estimate.likely, estimate.high) == (low, likely, high)


def test_chat_by_the_length_of_what_is_said() -> None:
    """5 credits first; then by tokens, 168 of which were 2 credits in the documented example."""
    said = "x" * 168 * 4 * 5  # ten times the tokens of that example are ten credits
    parts = [
        {"type": "text", "text": said},
        {"type": "image_url", "image_url": {"url": "https://a.example/b"}},
    ]
    for content, likely in (("Hi", 5), (said, 10), (parts, 10)):
        request = GenerationRequest.chat([{"role": "user", "content": content}])
        assert (price(request).low, price(request).likely, price(request).high) == (0, likely, None)
    short, long = (GenerationRequest.chat([{"role": "user", "content": text}]) for text in ("Hi", said))
    assert price_key(short) == "thousands=1" != price_key(long)


def test_suno_routes() -> None:
    extend = GenerationRequest.custom("/audio/music/extend", origin_task_id="g", extend_audio_index=0)
    assert price(extend).low == 5 and price(extend).high == 12
    lyrics = GenerationRequest.custom("/audio/music/timestamped-lyrics", task_id="g", audio_id="c")
    assert price(lyrics).likely == 2


def test_what_is_not_published_is_unknown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unknown = [
            GenerationRequest.image("a cat", model="flux-9"),
            GenerationRequest.custom("/new/route", a=1),
            GenerationRequest.speech("Hi", model="elevenlabs-turbo-v2-5", voice_id="v"),
        ]
    for request in unknown:
        estimate = price(request)
        assert (estimate.low, estimate.likely, estimate.high, estimate.source) == (0, None, None, "unknown")
