"""Pictures drawn from words: a scene with its prompt, a product photo, a cut-out with transparency."""

from __future__ import annotations

import colorsys
import hashlib
import io
import random
import textwrap

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from aio_provider.sandbox.shapes import SUBJECTS, subject_of

Colour = tuple[int, int, int]

_LONG_SIDE = 640
_FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
#: Shapes are drawn this much larger and then shrunk, for smooth edges.
_OVERSAMPLING = 2

_WOOD = 0.08
#: Hue, saturation, value of products: terracotta, ochre, sand, forest, teal, slate, navy, plum, rose, grey.
_TONES = (
    (0.04, 0.58, 0.74),
    (0.11, 0.62, 0.80),
    (0.10, 0.30, 0.80),
    (0.40, 0.42, 0.48),
    (0.49, 0.48, 0.60),
    (0.57, 0.28, 0.58),
    (0.61, 0.55, 0.52),
    (0.85, 0.36, 0.52),
    (0.98, 0.36, 0.78),
    (0.66, 0.10, 0.38),
)


def size_of(aspect_ratio: str) -> tuple[int, int]:
    """Width and height in pixels for a ratio such as ``16:9``; anything else gives a square."""
    left, _, right = aspect_ratio.partition(":")
    if not (left.isdigit() and right.isdigit() and int(left) and int(right)):
        return _LONG_SIDE, _LONG_SIDE
    width, height = int(left), int(right)
    scale = _LONG_SIDE / max(width, height)
    return max(64, round(width * scale)), max(64, round(height * scale))


def picture(
    text: str,
    label: str,
    *,
    size: tuple[int, int] = (_LONG_SIDE, _LONG_SIDE),
    form: str = "png",
    variation: int = 1,
) -> bytes:
    """A scene for a prompt, with the prompt written under it.

    :param text: the prompt; equal words give an equal picture.
    :param label: a few words in the corner, such as the model.
    :param size: width and height in pixels.
    :param form: ``png``, ``jpg``, ``jpeg`` or ``webp``.
    :param variation: 1 for the first picture of a task; others differ in colour.
    """
    rng = _random("picture", text, str(variation))
    image = _stage(size, rng.random(), rng)
    _place(image, text)
    _caption(image, text, label)
    return _encode(image, form)


def photo(name: str, form: str = "jpg") -> bytes:
    """A product photo on a plain backdrop, the same for the same name.

    :param name: a SKU or product name; a word such as ``mug`` in it picks the shape.
    :param form: as for :func:`picture`.
    """
    rng = _random("photo", name)
    image = _stage((_LONG_SIDE, _LONG_SIDE), rng.random(), rng, pale=True)
    _place(image, name)
    return _encode(image, form)


def cutout(name: str) -> bytes:
    """The subject of :func:`photo` alone, on a transparent background, as PNG."""
    image = Image.new("RGBA", (_LONG_SIDE, _LONG_SIDE), (0, 0, 0, 0))
    subject = _subject(name, round(_LONG_SIDE * 0.8))
    image.alpha_composite(subject, (round(_LONG_SIDE * 0.1), round(_LONG_SIDE * 0.1)))
    return _encode(image, "png")


def _random(*parts: str) -> random.Random:
    return random.Random(hashlib.sha256("\0".join(parts).encode()).digest())


def _stage(size: tuple[int, int], hue: float, rng: random.Random, *, pale: bool = False) -> Image.Image:
    """A lit wall and a table."""
    width, height = size
    wall = _gradient(
        size, _colour(hue, 0.06 if pale else 0.13, 0.97), _colour(hue + 0.06, 0.13 if pale else 0.32, 0.80)
    )
    horizon = round(height * 0.68)
    table = _gradient(
        (width, height - horizon),
        _colour(_WOOD, 0.14 if pale else 0.34, 0.90),
        _colour(_WOOD, 0.22 if pale else 0.44, 0.64),
    )
    wall.paste(table, (0, horizon))
    glow = Image.new("L", (width // 4, height // 4), 0)
    x, y, r = rng.uniform(0.2, 0.8) * width / 4, 0.28 * height / 4, 0.34 * min(size) / 4
    ImageDraw.Draw(glow).ellipse((x - r, y - r, x + r, y + r), fill=110)
    glow = glow.filter(ImageFilter.GaussianBlur(max(2, min(size) // 24))).resize(size)
    wall.paste(Image.new("RGB", size, (255, 250, 235)), (0, 0), glow)
    return wall.convert("RGBA")


def _place(image: Image.Image, text: str) -> None:
    """Stand the subject on the table, with a soft shadow."""
    width, height = image.size
    side = round(min(width, height) * 0.62)
    left, top = (width - side) // 2, round(height * 0.80) - round(side * 0.92)
    shadow = Image.new("L", image.size, 0)
    foot = round(height * 0.80)
    box = (left + side * 0.12, foot - side * 0.06, left + side * 0.92, foot + side * 0.06)
    ImageDraw.Draw(shadow).ellipse(box, fill=120)
    shadow = shadow.filter(ImageFilter.GaussianBlur(max(2, side // 28)))
    image.paste(Image.new("RGBA", image.size, (20, 20, 30, 255)), (0, 0), shadow)
    image.alpha_composite(_subject(text, side), (left, max(0, top)))


def _subject(text: str, side: int) -> Image.Image:
    """A product on a transparent square; equal words give the same one in a scene, a photo and a cut-out."""
    tone = _random("subject", text).choice(_TONES)
    big = side * _OVERSAMPLING
    image = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    for shape, unit, brightness in SUBJECTS[subject_of(text)][1]:
        _part(draw, shape, [c * big for c in unit], _colour(*tone, brightness), big)
    # One light from the left: the right-hand side of every part is a little darker.
    shade = Image.linear_gradient("L").rotate(90).resize((big, big)).point(lambda v: round(v * 0.35))
    dark = Image.new("RGBA", (big, big), (10, 10, 25, 255))
    shaded = Image.composite(dark, image, shade)
    shaded.putalpha(image.getchannel("A"))
    return shaded.resize((side, side), Image.Resampling.LANCZOS)


def _part(draw: ImageDraw.ImageDraw, shape: str, at: list[float], colour: Colour, big: int) -> None:
    if shape == "ellipse":
        draw.ellipse(at, fill=colour)
    elif shape == "round":
        draw.rounded_rectangle(at, radius=min(big * 0.05, (at[2] - at[0]) / 2), fill=colour)
    elif shape == "polygon":
        draw.polygon(at, fill=colour)
    elif shape == "ring":
        draw.ellipse(at, outline=colour, width=round(big * 0.045))
    elif shape == "pie":
        draw.pieslice(at, 0, 180, fill=colour)
    elif shape == "line":
        draw.line(at, fill=colour, width=round(big * 0.022))
    else:  # a leaf, from its root to its tip
        (x0, y0, x1, y1), bow = at, big * 0.07
        draw.polygon(
            [x0, y0, (x0 + x1) / 2 - bow, (y0 + y1) / 2, x1, y1, (x0 + x1) / 2 + bow, (y0 + y1) / 2],
            fill=colour,
        )


def _caption(image: Image.Image, text: str, label: str) -> None:
    """The words on a dark band at the foot, and the label in the corner above them."""
    width, height = image.size
    size = max(12, width // 32)
    font, small = ImageFont.load_default(size), ImageFont.load_default(max(10, width // 44))
    lines = textwrap.wrap(" ".join(text.split()), width=max(12, round(width / (size * 0.52))))
    if len(lines) > 3:
        lines = [*lines[:2], lines[2][:-1] + "…"]
    line_height = round(size * 1.3)
    band = line_height * max(1, len(lines)) + line_height // 2
    veil = Image.new("RGBA", (width, band), (18, 20, 32, 205))
    image.alpha_composite(veil, (0, height - band))
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text(
            (width // 40, height - band + line_height // 4 + row * line_height), line, font=font, fill="white"
        )
    draw.text((width // 40, width // 40), f"{label} · sandbox", font=small, fill=(30, 32, 48))


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    mask = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), mask)


def _colour(hue: float, saturation: float, value: float, brightness: float = 1.0) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(1.0, saturation), min(1.0, value * brightness))
    return round(red * 255), round(green * 255), round(blue * 255)


def _encode(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    if form in ("jpg", "jpeg"):
        image = image.convert("RGB")
    image.save(buffer, _FORMATS[form])
    return buffer.getvalue()
