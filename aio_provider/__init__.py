"""API in One generations from Airflow DAGs and dataframes: never paid twice, paced, accounted for.

>>> import pandas as pd, aio_provider as aio
>>> out = aio.generate(df, "image", model="flux-2", prompt="caption")

Every name loads its module on first use, so that a DAG file which imports this package parses at once.
"""

from __future__ import annotations

import sys

from aio_provider._version import __version__

TYPE_CHECKING = False  # as type checkers read it; typing itself would be half of the import's time

_HOMES = {
    "aio_provider.frames": (
        "agenerate",
        "col",
        "download",
        "estimate",
        "generate",
        "lit",
        "show",
        "template",
    ),
    "aio_provider.frames.udf": ("BatchFunction",),
    "aio_provider.accounting": ("credits", "reconcile"),
    "aio_provider.api.client": ("AioClient", "AsyncAioClient"),
    "aio_provider.api.requests": ("GenerationRequest",),
    "aio_provider.api.errors": (
        "AioError",
        "AuthenticationError",
        "BudgetExceededError",
        "ConfigurationError",
        "InsufficientCreditsError",
        "InvalidRequestError",
        "NotFoundError",
        "ProtocolError",
        "RateLimitError",
        "ServerError",
        "SubmissionUnknownError",
        "TaskFailedError",
        "TaskTimeoutError",
        "TransportError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AioClient",
    "AioError",
    "AsyncAioClient",
    "AuthenticationError",
    "BatchFunction",
    "BudgetExceededError",
    "ConfigurationError",
    "GenerationRequest",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "NotFoundError",
    "ProtocolError",
    "RateLimitError",
    "ServerError",
    "SubmissionUnknownError",
    "TaskFailedError",
    "TaskTimeoutError",
    "TransportError",
    "__version__",
    "agenerate",
    "col",
    "credits",
    "download",
    "estimate",
    "generate",
    "lit",
    "reconcile",
    "show",
    "template",
]

if TYPE_CHECKING:
    from typing import Any

    from aio_provider.accounting import credits, reconcile
    from aio_provider.api.client import AioClient, AsyncAioClient
    from aio_provider.api.errors import (
        AioError,
        AuthenticationError,
        BudgetExceededError,
        ConfigurationError,
        InsufficientCreditsError,
        InvalidRequestError,
        NotFoundError,
        ProtocolError,
        RateLimitError,
        ServerError,
        SubmissionUnknownError,
        TaskFailedError,
        TaskTimeoutError,
        TransportError,
    )
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.frames import agenerate, col, download, estimate, generate, lit, show, template
    from aio_provider.frames.udf import BatchFunction


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# df.aio is there at once where pandas is; where it is not yet, the first use of the frames brings it.
if "pandas" in sys.modules:
    from aio_provider.frames.accessor import register

    register()
