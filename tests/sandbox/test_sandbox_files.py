"""Result files: they open, they are what was asked for, and they can be fetched in parts."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable, Iterator

import httpx
import pytest
from PIL import Image

from aio_provider.sandbox import ManualClock, Sandbox
from aio_provider.sandbox.shapes import SUBJECTS, subject_of

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]
Make = Callable[..., list[str]]

PHOTO = "https://example.com/photo.jpg"


@pytest.fixture
def make(shared: Sandbox, connect: Connect) -> Make:
    """Submit, wait, and return the URLs of the results."""
    client = connect(shared)

    def run(path: str, body: dict) -> list[str]:
        answer = client.post(path, json=body).json()
        shared.settings.clock.advance(1000)
        return client.get(f"/tasks/{answer['data']['task_id']}").json()["data"]["response"]

    return run


@pytest.fixture
def get(connect: Connect, shared: Sandbox) -> Callable[..., httpx.Response]:
    return connect(shared, "no key is needed").get


def opened(answer: httpx.Response) -> Image.Image:
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    return image


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The boxes of an MP4 file, or of a box."""
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at
        yield name.decode(), data[at + 8 : at + size]
        at += size


@pytest.mark.parametrize(
    ("ratio", "size"), [("16:9", (640, 360)), ("9:16", (360, 640)), ("1:1", (640, 640)), ("auto", (640, 640))]
)
def test_pictures_open_in_the_asked_shape(make: Make, get: Callable, ratio: str, size: tuple) -> None:
    model = "kling-image-o1" if ratio == "auto" else "flux-2"
    (url,) = make("/images/generations", {"model": model, "prompt": "A mug " * 80, "aspect_ratio": ratio})

    answer = get(url)

    assert answer.headers["content-type"] == "image/png"
    image = opened(answer)
    assert (image.format, image.size) == ("PNG", size)
    assert len(image.convert("RGB").getcolors(1 << 20)) > 500  # a picture, not a plain card


def test_pictures_depend_on_the_prompt_and_on_nothing_else(make: Make, get: Callable) -> None:
    body = {"model": "flux-2", "prompt": "A mug on oak"}

    first, again, other = (
        get(make("/images/generations", b)[0]).content for b in (body, body, {**body, "prompt": "A lamp"})
    )

    assert first == again
    assert first != other


@pytest.mark.parametrize("prompt", ["一只杯子", "🫖🫖🫖", "123", "word" * 200, "a\nb\tc", "İstanbul'da çay"])
def test_any_prompt_can_be_drawn(make: Make, get: Callable, prompt: str) -> None:
    (url,) = make("/images/generations", {"model": "flux-2", "prompt": prompt})

    assert opened(get(url)).size == (640, 640)


def test_num_images_gives_different_pictures(make: Make, get: Callable) -> None:
    urls = make("/images/generations", {"model": "imagen4", "prompt": "A mug", "num_images": 3})

    assert len({get(url).content for url in urls}) == 3


@pytest.mark.parametrize(("ending", "form"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_output_format_is_honoured(make: Make, get: Callable, ending: str, form: str) -> None:
    body = {"image": PHOTO, "face_image": PHOTO, "output_format": ending}

    (url,) = make("/images/tools/face-swap", body)

    assert url.endswith(f".{ending}")
    answer = get(url)
    assert answer.headers["content-type"] == f"image/{ending}"
    assert opened(answer).format == form


def test_a_removed_background_is_transparent_and_keeps_the_subject(
    make: Make, get: Callable, shared: Sandbox
) -> None:
    photo = f"{shared.origin}/photos/mug.jpg"
    (url,) = make("/images/tools/remove-bg", {"image": photo})

    cutout, original = opened(get(url)), opened(get(photo))

    assert cutout.mode == "RGBA"
    alpha = cutout.getchannel("A")
    assert alpha.getpixel((5, 5)) == 0
    assert alpha.getextrema() == (0, 255)
    middle = (320, 400)
    assert alpha.getpixel(middle) == 255
    # The same mug, in the same colour, as in the photo.
    difference = [
        abs(a - b) for a, b in zip(cutout.getpixel(middle), original.getpixel((320, 380)), strict=False)
    ]
    assert max(difference) < 40


def test_the_background_of_a_result_can_be_removed(make: Make, get: Callable) -> None:
    (picture,) = make("/images/generations", {"model": "flux-2", "prompt": "A lamp on oak"})
    (cutout,) = make("/images/tools/remove-bg", {"image": picture})
    (upscaled,) = make("/images/tools/upscale", {"image": cutout})

    assert opened(get(cutout)).mode == "RGBA"
    assert opened(get(upscaled)).size == (1024, 1024)


@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        ("/audio/speech", {"model": "elevenlabs-v3", "dialogue": [{"text": "Hello"}]}, 1),
        ("/audio/music", {"model": "suno", "gpt_description_prompt": "A summer song"}, 2),
        ("/audio/music", {"model": "minimax-music", "prompt": "jazz"}, 1),
    ],
)
def test_sounds_open_as_wav(make: Make, get: Callable, path: str, body: dict, count: int) -> None:
    urls = make(path, body)
    assert len(urls) == count
    for url in urls:
        answer = get(url)
        assert answer.headers["content-type"] == "audio/wav"
        with wave.open(io.BytesIO(answer.content)) as file:
            assert file.getnframes() / file.getframerate() > 1
            frames = memoryview(file.readframes(file.getnframes())).cast("h")
            assert 4000 < max(frames) < 32_000  # to be heard, and not clipped


@pytest.mark.parametrize(("ratio", "size"), [("16:9", (320, 180)), ("9:16", (180, 320)), ("1:1", (240, 240))])
def test_films_are_h264_in_the_asked_shape(make: Make, get: Callable, ratio: str, size: tuple) -> None:
    (url,) = make("/videos/generations", {"model": "kling-3", "prompt": "dog", "aspect_ratio": ratio})

    answer = get(url)

    assert answer.headers["content-type"] == "video/mp4"
    top = dict(boxes(answer.content))
    assert list(top)[:2] == ["ftyp", "moov"]  # the index first, so that a player can begin at once
    assert {"mdat", "free"} <= set(top)
    movie = dict(boxes(top["moov"]))
    timescale, duration = struct.unpack_from(">II", movie["mvhd"], 12)
    assert duration / timescale == pytest.approx(2.0)
    media = dict(boxes(dict(boxes(movie["trak"]))["mdia"]))
    table = dict(boxes(dict(boxes(media["minf"]))["stbl"]))
    name, entry = next(boxes(table["stsd"][8:]))
    assert name == "avc1"
    assert struct.unpack_from(">HH", entry, 24) == size


def test_films_of_different_tasks_differ(make: Make, get: Callable) -> None:
    bodies = [{"model": "kling-3", "prompt": prompt} for prompt in ("dog", "cat")]

    first, second = (get(make("/videos/generations", body)[0]).content for body in bodies)

    assert first != second


def test_a_file_is_there_once_its_task_has_succeeded(
    serve: Serve, connect: Connect, clock: ManualClock
) -> None:
    sandbox = serve(faults=["failed@2"])
    client = connect(sandbox)
    ids = [
        client.post("/images/generations", json={"model": "flux-2", "prompt": "mug"}).json()["data"][
            "task_id"
        ]
        for _ in range(2)
    ]
    urls = [f"{sandbox.origin}/files/{task_id}-1.png" for task_id in ids]

    before = [client.get(url).status_code for url in urls]
    clock.advance(8)
    after = [client.get(url).status_code for url in urls]

    assert (before, after) == ([404, 404], [200, 404])
    for name in (f"{ids[0]}-2.png", f"{ids[0]}-0.png", f"{ids[0]}-1.jpg", "nothing-1.png", "..%2Fapp.py"):
        assert client.get(f"{sandbox.origin}/files/{name}").status_code == 404


def test_head_and_ranges(make: Make, connect: Connect, shared: Sandbox) -> None:
    (url,) = make("/videos/generations", {"model": "kling-3", "prompt": "dog"})
    client = connect(shared)
    whole = client.get(url).content
    size = len(whole)

    head = client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(size)
    assert head.headers["accept-ranges"] == "bytes"
    for asked, first, last in [
        ("bytes=0-99", 0, 99),
        ("bytes=100-", 100, size - 1),
        ("bytes=-50", size - 50, size - 1),
        (f"bytes=10-{size * 2}", 10, size - 1),
    ]:
        part = client.get(url, headers={"Range": asked})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == whole[first : last + 1]
    beyond = client.get(url, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for unusable in ("bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=9-2"):
        assert client.get(url, headers={"Range": unusable}).status_code in (200, 416)


@pytest.mark.parametrize(("ending", "form"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_product_photos_are_drawn_for_any_name(
    get: Callable, shared: Sandbox, ending: str, form: str
) -> None:
    mug, same, other = (get(f"{shared.origin}/photos/{n}.{ending}") for n in ("MUG-1", "MUG-1", "SKU%202"))

    assert opened(mug).format == form
    assert mug.content == same.content != other.content
    assert get(f"{shared.origin}/photos/mug.gif").status_code == 404


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        ("LMP-014", "lamp"),
        ("Alder desk lamp, a slim oak lamp", "lamp"),
        ("a shelf speaker on a table", "speaker"),
        ("Two MUGS", "mug"),
    ],
)
def test_words_name_the_subject(words: str, subject: str) -> None:
    assert subject_of(words) == subject


def test_every_subject_can_be_drawn(get: Callable, shared: Sandbox) -> None:
    photos = {name: get(f"{shared.origin}/photos/{name}.png").content for name in SUBJECTS}

    assert len(set(photos.values())) == len(SUBJECTS)
    assert [subject_of(name) for name in SUBJECTS] == list(SUBJECTS)
