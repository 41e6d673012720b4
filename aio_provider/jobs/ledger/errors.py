"""What can go wrong with the ledger. Each of these stops a run *before* it spends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aio_provider.api.errors import AioError


class LedgerError(AioError):
    """The ledger could not do what was asked.

    :param message: what happened and what to do about it.
    :param keys: the jobs concerned, if any.
    """

    def __init__(self, message: str, *, keys: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.keys: tuple[str, ...] = tuple(keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), str(self), self.keys))


def _rebuild(cls: type[LedgerError], message: str, keys: tuple[str, ...]) -> LedgerError:
    return cls(message, keys=keys)


class LedgerUnavailableError(LedgerError):
    """The database cannot be read or written: unreachable, locked, full, read-only or damaged."""


class LedgerStateError(LedgerError):
    """A step that the job's state does not allow (say, an id for a job that was never intended)."""


class JobConflictError(LedgerError):
    """The same key came with a different request while its job is still open."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer version of this package."""
