"""What was spent, by whom, on what: the ledger as figures, pages and files. Knows pandas, not Airflow.

Importing this package loads neither pandas nor pyarrow; using it does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aio_provider.accounting.export import export_ledger
    from aio_provider.accounting.figures import credits
    from aio_provider.accounting.page import render
    from aio_provider.accounting.reconciling import reconcile
    from aio_provider.accounting.reporting import report
    from aio_provider.accounting.results import union_results

_HOMES = {
    "credits": "figures",
    "export_ledger": "export",
    "reconcile": "reconciling",
    "render": "page",
    "report": "reporting",
    "union_results": "results",
}

__all__ = ["credits", "export_ledger", "reconcile", "render", "report", "union_results"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
