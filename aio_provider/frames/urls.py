"""The URLs of a row, as frames hold them: a list, or what CSV made of one."""

from __future__ import annotations

import re
from typing import Any, Final

_TEXT = r"'[^'\\]*'" + r'|"[^"\\]*"'
_QUOTED: Final = re.compile(_TEXT)
#: a list of texts, as JSON, Python or numpy write it
_LIST: Final = re.compile(rf"\[[\s,]*(?:(?:{_TEXT})[\s,]*)*\]")


def read_urls(cell: Any) -> tuple[str, ...]:
    """The URLs in one cell of a column of them, which is a list, null or text.

    :raises ValueError: a list as text that cannot be read.
    """
    if not isinstance(cell, str):
        return tuple(cell or ())
    text = cell.strip()
    if not text.startswith("["):
        return (text,) if text else ()
    if not _LIST.fullmatch(text):
        raise ValueError(f"no list that can be read: {text[:80]!r}")
    return tuple(one[1:-1] for one in _QUOTED.findall(text))
