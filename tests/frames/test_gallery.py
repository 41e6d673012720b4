from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.frames.gallery import show
from aio_provider.frames.schema import RowResult, result_columns

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def frame(*results: RowResult, kind: str = "image", **columns: Any) -> pd.DataFrame:
    own = pd.DataFrame(columns or {"name": [f"thing {n}" for n in range(len(results))]})
    out = pd.concat([own, result_columns(results, own.index)], axis=1)
    out.attrs["aio"] = {"kind": kind}
    return out


def done(*urls: str, **more: Any) -> RowResult:
    return RowResult("succeeded", urls=urls, **more)


@pytest.mark.parametrize(
    ("url", "kind", "tag"),
    [
        ("https://x.test/a.png", "image", "<img"),
        ("https://x.test/a", "image", "<img"),
        ("https://x.test/a.mp4?sig=1", "video", "<video"),
        ("https://x.test/a", "remove_video_background", "<video"),
        ("https://x.test/a.mp3", "music", "<audio"),
        ("https://x.test/a", "speech", "<audio"),
        ("https://x.test/a", "", "<a href"),
        (PIXEL, "image", "<img"),
    ],
)
def test_each_kind_of_result_has_its_element(url: str, kind: str, tag: str) -> None:
    assert tag in show(frame(done(url), kind=kind)).html


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:text/html;base64,PHNjcmlwdD4=",
        "//x.test/a.png",
        "JaVaScRiPt:x",
    ],
)
def test_only_http_and_inline_media_become_sources(url: str) -> None:
    html = show(frame(done(url))).html
    assert "src=" not in html
    assert "href=" not in html


def test_everything_is_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    html = show(
        frame(
            done(f"https://x.test/{evil}.png"),
            RowResult("failed", error=evil),
            RowResult("succeeded", text=evil),
            name=[evil, evil, evil],
        )
    ).html
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 6


def test_failed_and_skipped_rows_say_why() -> None:
    html = show(frame(RowResult("failed", error="blocked"), RowResult("not_submitted"))).html
    assert "failed: blocked" in html
    assert "not submitted" in html


def test_it_shows_the_first_rows_and_counts_the_rest() -> None:
    gallery = show(frame(*[done("https://x.test/a.png")] * 20), rows=3)
    assert gallery.html.count("<img") == 3
    assert "and 17 more rows" in gallery.html
    assert gallery._repr_html_() == str(gallery)
    assert "<img" not in repr(gallery)


def test_several_results_of_one_row() -> None:
    assert (
        show(frame(done("https://x.test/a.mp3", "https://x.test/b.mp3"), kind="music")).html.count("<audio")
        == 2
    )


def test_a_frame_read_back_from_parquet(tmp_path: Any) -> None:
    frame(done("https://x.test/a.png"), RowResult("skipped")).to_parquet(tmp_path / "a.parquet")
    assert "<img" in show(pd.read_parquet(tmp_path / "a.parquet")).html


@pytest.mark.parametrize("text", [None, "[unreadable", "[]"])
def test_a_frame_read_back_from_csv(tmp_path: Any, text: str | None) -> None:
    """Its lists are texts: they are read, or the first result is shown."""
    rows = frame(done("https://x.test/a.mp3", "https://x.test/b.mp3"), kind="music")
    if text is not None:
        rows["aio_urls"] = text
    rows.to_csv(tmp_path / "rows.csv", index=False)
    html = show(pd.read_csv(tmp_path / "rows.csv")).html
    assert "https://x.test/a.mp3" in html and ("https://x.test/b.mp3" in html) == (text is None)
    assert html.count("<audio") == (2 if text is None else 1)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="DataFrame"):
        show([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="aio_status"):
        show(pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="caption"):
        show(frame(done("https://x.test/a.png")), caption="nope")
    with pytest.raises(ValueError, match="rows"):
        show(frame(done("https://x.test/a.png")), rows=-1)


def test_results_of_the_sandbox_are_put_into_the_page(aio_sandbox_env: Any) -> None:
    frame = pd.DataFrame({"name": ["a red chair"]})
    pictures = aio.generate(frame, "image", prompt="name", progress=False)
    html = show(pictures).html
    assert 'src="data:image/' in html
    assert len(html) < 60_000
    assert "http://127.0.0.1" in show(pictures, embed=False).html
    video = aio.generate(frame, "video", prompt="name", progress=False)
    assert 'src="data:video/mp4' in show(video).html


def test_a_file_that_cannot_be_had_stays_a_link() -> None:
    assert 'src="http://127.0.0.1:9/a.png"' in show(frame(done("http://127.0.0.1:9/a.png"))).html
