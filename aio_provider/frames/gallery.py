"""Shows results as they are: pictures, players and texts, in one block of HTML for notebooks."""

from __future__ import annotations

import base64
import io
import mimetypes
import re
import tempfile
from collections.abc import Hashable
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

import pandas as pd

from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import AioError
from aio_provider.api.retries import RetryPolicy
from aio_provider.frames.columns import plain
from aio_provider.frames.progress import in_notebook
from aio_provider.frames.schema import DEFAULT_PREFIX
from aio_provider.frames.urls import read_urls
from aio_provider.jobs.download import download

DEFAULT_ROWS: Final = 8
#: a picture that does not come at once is not worth waiting for
_ONCE: Final = RetryPolicy(attempts=1)
#: a file larger than this is linked rather than put into the page
EMBED_BYTES: Final = 2_000_000
#: pixels of a picture put into the page
THUMBNAIL: Final = (360, 360)

_IMAGES = {"image", "remove_background", "swap_face", "upscale_image"}
_VIDEOS = {"video", "remove_video_background"}
_AUDIO = {"music", "speech"}


@dataclass(frozen=True)
class Gallery:
    """A block of HTML that a notebook shows by itself; ``str()`` gives the HTML."""

    html: str

    def __str__(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<Gallery, {len(self.html):,} characters of HTML>"

    def _repr_html_(self) -> str:
        return self.html


def show(
    frame: pd.DataFrame,
    *,
    rows: int = DEFAULT_ROWS,
    caption: Hashable | None = None,
    prefix: str = DEFAULT_PREFIX,
    embed: bool | None = None,
) -> Gallery:
    """The first results of a frame that :func:`aio_provider.generate` gave, as pictures, players and texts.

    :param rows: how many rows to show.
    :param caption: the column whose text stands under each result; by default the first column of texts.
    :param prefix: of the output columns.
    :param embed: put the files into the page, so that a saved notebook keeps them; ``None``: only those on
        this machine's own loopback (the sandbox), which a reader elsewhere could not reach. What is larger
        than 2 MB stays a link.
    :raises TypeError: not a DataFrame.
    :raises ValueError: a frame without output columns, an unknown caption, a negative number of rows.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"show takes the DataFrame that aio.generate returned, not {type(frame).__name__}.")
    if f"{prefix}status" not in frame.columns:
        raise ValueError(
            f"There is no column {prefix + 'status'!r}: show takes a frame that aio.generate returned."
        )
    if caption is not None and caption not in frame.columns:
        raise ValueError(f"There is no column {caption!r} for the caption.")
    if rows < 0:
        raise ValueError(f"rows={rows}; it must be 0 or more.")
    chosen = caption if caption is not None else _caption_column(frame, prefix)
    kind = str(frame.attrs.get("aio", {}).get("kind", ""))
    cards = [_card(row, chosen, prefix, kind, embed) for row in frame.head(rows).to_dict("records")]
    left = len(frame) - len(cards)
    more = f'<p style="opacity:.7">and {left:,} more rows</p>' if left > 0 else ""
    return Gallery(f'<div style="{_GRID}">{"".join(cards)}</div>{more}')


def display_result(frame: pd.DataFrame, *, rows: int, prefix: str, kind: str) -> None:
    """Show a gallery under the running notebook cell; elsewhere do nothing."""
    if in_notebook() and len(frame):
        from IPython.display import display

        display(show(frame, rows=rows, prefix=prefix))  # type: ignore[no-untyped-call]


def _caption_column(frame: pd.DataFrame, prefix: str) -> Hashable | None:
    own = [name for name in frame.columns if not str(name).startswith(prefix)]
    texts = [name for name in own if pd.api.types.is_string_dtype(frame[name].dtype)]
    named = [name for name in texts if str(name).lower() in ("name", "title", "product", "caption")]
    return next(iter([*named, *texts, *own]), None)


def _card(row: dict[Any, Any], caption: Hashable | None, prefix: str, kind: str, embed: bool | None) -> str:
    values = {
        name: plain(row.get(prefix + name)) for name in ("status", "url", "urls", "text", "credits", "error")
    }
    status = str(values["status"])
    if status == "succeeded":
        body = _media(values, kind, embed)
    else:
        reason = f"{status.replace('_', ' ')}: {_short(values['error'])}"
        body = f'<div style="{_NOTE}">{escape(reason)}</div>'
    title = "" if caption is None else escape(_short(plain(row.get(caption)), 90))
    credits = "" if values["credits"] is None else in_credits(values["credits"])
    foot = f'<div style="opacity:.7;font-size:85%">{credits}</div>' if credits else ""
    return f'<div style="{_CARD}">{body}<div style="margin-top:.4em">{title}</div>{foot}</div>'


def _media(values: dict[str, Any], kind: str, embed: bool | None) -> str:
    if values["text"] is not None:
        return f'<div style="{_NOTE};white-space:pre-wrap">{escape(_short(values["text"], 600))}</div>'
    try:
        urls = read_urls(values["urls"])
    except ValueError:  # a text that is no list: what is shown is the first result
        urls = ()
    urls = urls or ((values["url"],) if values["url"] else ())
    return (
        "".join(_element(url, kind, embed) for url in urls if isinstance(url, str))
        or f'<div style="{_NOTE}">no result</div>'
    )


def _element(url: str, kind: str, embed: bool | None) -> str:
    """One result. Its address comes from the service, so it is treated as anybody's text."""
    parts = urlsplit(url)
    inline = re.match(r"data:(image|video|audio)/[\w.+-]+;base64,", url)
    if parts.scheme not in ("http", "https") and inline is None:
        # javascript:, file:, data:text/html and their like have no place in a page
        return f'<div style="{_NOTE}">{escape(_short(url))}</div>'
    what = inline[1] if inline else _what(url, kind)
    source = url
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if embed or (embed is None and local):
        source = _embedded(url, allow_private=local) or url
    quoted = escape(source, quote=True)
    if what == "image":
        return f'<img src="{quoted}" loading="lazy" {_PRIVATE} alt="result" style="{_PICTURE}">'
    if what == "video":
        return f'<video src="{quoted}" controls preload="metadata" style="{_PICTURE}"></video>'
    if what == "audio":
        return f'<audio src="{quoted}" controls preload="none" style="width:100%"></audio>'
    shown = escape(_short(url, 60))
    return f'<a href="{escape(url, quote=True)}" rel="noopener noreferrer" target="_blank">{shown}</a>'


def _what(url: str, kind: str) -> str:
    guess = (mimetypes.guess_type(PurePosixPath(urlsplit(url).path).name)[0] or "").split("/")[0]
    if guess in ("image", "video", "audio"):
        return guess
    return (
        "image" if kind in _IMAGES else "video" if kind in _VIDEOS else "audio" if kind in _AUDIO else "link"
    )


def _embedded(url: str, *, allow_private: bool) -> str | None:
    """The file as a ``data:`` URL; ``None`` when it is too large or cannot be had (then it stays a link)."""
    mime = mimetypes.guess_type(urlsplit(url).path)[0] or ""
    if not mime.startswith(("image/", "video/", "audio/")):
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result"
        try:
            download(url, target, max_bytes=EMBED_BYTES, allow_private=allow_private, retry=_ONCE)
        except AioError:
            return None
        data = target.read_bytes()
    if mime.startswith("image/"):
        data, mime = _thumbnail(data, mime)
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _thumbnail(data: bytes, mime: str) -> tuple[bytes, str]:
    """A smaller picture where Pillow is installed and can read it, so that saved notebooks stay small."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return data, mime
    small = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.thumbnail(THUMBNAIL)
            picture.save(small, "WEBP", quality=80)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return data, mime
    return (small.getvalue(), "image/webp") if small.tell() < len(data) else (data, mime)


def _short(value: object, limit: int = 200) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


#: the result's host need not learn which notebook showed it
_PRIVATE = 'referrerpolicy="no-referrer"'
# Colours are left to the notebook's theme, so that the block reads well on light and dark.
_GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:12px;max-width:960px"
_CARD = "border:1px solid rgba(128,128,128,.35);border-radius:8px;padding:8px;overflow:hidden"
_PICTURE = "width:100%;border-radius:4px;display:block"
_NOTE = "padding:.6em;border-radius:4px;background:rgba(128,128,128,.12);overflow-wrap:anywhere;font-size:90%"
