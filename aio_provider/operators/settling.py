"""The lines of a message that settle a held job: they run as they stand, and hold no password."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from aio_provider.hooks.aio import AioHook

#: digits of a job's key in a message: ``aio ledger`` takes the beginning of one
SHORT_KEY = 12
_CHECK = "--task-id asks the service, with its key in AIO_API_KEY, unless --no-check is added"


@dataclass(frozen=True)
class LedgerCommand:
    """How ``aio ledger`` is told which ledger.

    :param where: for the text around the lines.
    :param option: what each line ends with.
    """

    where: str
    option: str = ""

    @classmethod
    def of(cls, hook: AioHook) -> LedgerCommand:
        """For the ledger of a connection, or for this machine's file where it names none."""
        url = hook.settings.ledger
        if not url:
            return cls(f"the ledger is the file of the machine that ran this task; {_CHECK}")
        if _may_be_shown(url):
            return cls(
                f"the ledger of connection {hook.aio_conn_id!r}; {_CHECK}", f" --ledger {shlex.quote(url)}"
            )
        return cls(f"with AIO_LEDGER set to the ledger_url of connection {hook.aio_conn_id!r}; {_CHECK}")

    def line(self, what: str) -> str:
        """A line to type.

        :param what: subcommand and arguments.
        """
        return f"aio ledger {what}{self.option}"


def _may_be_shown(url: str) -> bool:
    """Neither a password nor a query, which may hold one."""
    parts = urlsplit(url)
    return not (parts.query or ("@" in parts.netloc and ":" in parts.netloc.rpartition("@")[0]))
