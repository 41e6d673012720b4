"""The lines of a message that settle a held job: they run as they stand, and hold no password."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from aio_provider.hooks.aio import AioHook

_CHECK = "--task-id asks the service, with its key in AIO_API_KEY, unless --no-check is added"


@dataclass(frozen=True)
class LedgerCommand:
    """How ``aio ledger`` is told which ledger.

    :param where: for the text around the lines.
    :param option: what each line ends with.
    :param service: how the service is named to a line that asks it, where that is not the usual one.
    """

    where: str
    option: str = ""
    service: str = ""

    @classmethod
    def of(cls, hook: AioHook) -> LedgerCommand:
        """For the ledger of a connection, or for this machine's file where it names none."""
        service = (
            "" if is_usual(hook.settings.base_url) else f" --base-url {shlex.quote(hook.settings.base_url)}"
        )
        whose, url = f"ledger_url of connection {hook.aio_conn_id!r}", hook.settings.ledger
        where = f"the ledger of connection {hook.aio_conn_id!r}"
        if not url:
            whose, url = "AIO_LEDGER of the worker", os.environ.get("AIO_LEDGER")
            where = "the ledger is the file of the machine that ran this task"
            if not url:
                return cls(f"{where}; {_CHECK}", service=service)
            if "://" not in url:  # a worker's folder is not the one of whoever runs the line
                url = str(Path(url).expanduser().absolute())
            else:
                where = "the ledger is that of AIO_LEDGER on the worker"
        if _may_be_shown(url):
            return cls(f"{where}; {_CHECK}", f" --ledger {shlex.quote(url)}", service)
        return cls(f"with AIO_LEDGER set to the {whose}; {_CHECK}", service=service)

    def line(self, what: str) -> str:
        """A line to type.

        :param what: subcommand and arguments.
        """
        return f"aio ledger {what}{self.option}"

    def was_created(self, key: str) -> str:
        """The line for a job that the service took. It says which service: the key goes to that one alone."""
        return self.line(f"resolve {key} --task-id THE_TASK_ID{self.service}")

    def was_not_created(self, key: str) -> str:
        """The line for a job that the service never took."""
        return self.line(f"resolve {key} --not-submitted")


def is_usual(base_url: str) -> bool:
    """Whether ``aio ledger`` asks this service where nothing else is said."""
    from aio_provider.jobs.job import service_scope
    from aio_provider.jobs.settings import DEFAULT_BASE_URL

    return service_scope(base_url) == service_scope(DEFAULT_BASE_URL)


def _may_be_shown(url: str) -> bool:
    """Neither a password nor a query, which may hold one."""
    parts = urlsplit(url)
    return not (parts.query or ("@" in parts.netloc and ":" in parts.netloc.rpartition("@")[0]))
