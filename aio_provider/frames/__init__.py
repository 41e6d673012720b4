"""DataFrames in, DataFrames out: generations over the rows of a table, in notebooks and scripts.

Importing this package loads neither pandas nor pyarrow; using it does.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aio_provider.frames.calls import agenerate, generate
    from aio_provider.frames.columns import col, lit, template
    from aio_provider.frames.downloads import download
    from aio_provider.frames.estimates import FrameEstimate, estimate
    from aio_provider.frames.gallery import show
    from aio_provider.frames.prepared import RowsFailedError

_HOMES = {
    "FrameEstimate": "estimates",
    "RowsFailedError": "prepared",
    "agenerate": "calls",
    "col": "columns",
    "download": "downloads",
    "estimate": "estimates",
    "generate": "calls",
    "lit": "columns",
    "show": "gallery",
    "template": "columns",
}

__all__ = [
    "FrameEstimate",
    "RowsFailedError",
    "agenerate",
    "col",
    "download",
    "estimate",
    "generate",
    "lit",
    "show",
    "template",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if "pandas" in sys.modules:  # this is the first use of the frames: df.aio from here on
        import_module(f"{__name__}.accessor").register()
    return value
