"""The arguments of a call that say how to run it, checked by :mod:`aio_provider.frames.arguments`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import BudgetEvent

Reuse = Literal["always", "run", "never"]


@dataclass(frozen=True)
class Options:
    """The arguments of a call that say how to run it; each is described at :func:`generate`."""

    key: Any = None
    prefix: str = "aio_"
    max_credits: float | None = None
    on_unknown: Literal["hold", "resubmit"] = "hold"
    retry_failed: bool = False
    refresh_urls: bool = False
    reuse: Reuse = "always"
    run_id: str = ""
    deadline: float | None = None
    on_budget_event: Callable[[BudgetEvent], object] | None = None
    #: of a batch that ends in a file, only its end counts
    prefer: Literal["results", "finish"] = "results"
    labels: Mapping[str, str] = field(default_factory=dict)
