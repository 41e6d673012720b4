"""The ledger: the durable record that keeps any generation from being paid for twice.

:class:`Ledger` is the synchronous book over SQLite or PostgreSQL, :class:`AsyncLedger` the same verbs awaited
one job at a time. The states and what each verb may do are in :mod:`aio_provider.jobs.ledger.model`.
"""

from __future__ import annotations

from aio_provider.jobs.ledger.book import Ledger
from aio_provider.jobs.ledger.budgets import Budget, BudgetEvent, BudgetUse
from aio_provider.jobs.ledger.errors import (
    JobConflictError,
    LedgerError,
    LedgerStateError,
    LedgerUnavailableError,
    LedgerVersionError,
)
from aio_provider.jobs.ledger.group import AsyncLedger
from aio_provider.jobs.ledger.model import ENDED, OPEN, Ending, Entry, Finished, JobState
from aio_provider.jobs.ledger.owners import new_owner

__all__ = [
    "ENDED",
    "OPEN",
    "AsyncLedger",
    "Budget",
    "BudgetEvent",
    "BudgetUse",
    "Ending",
    "Entry",
    "Finished",
    "JobConflictError",
    "JobState",
    "Ledger",
    "LedgerError",
    "LedgerStateError",
    "LedgerUnavailableError",
    "LedgerVersionError",
    "new_owner",
]
