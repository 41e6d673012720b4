"""The ledgers that Airflow's connections name, opened to be looked at only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aio_provider.api.errors import AioError, ConfigurationError
from aio_provider.hooks.aio import AioHook
from aio_provider.hooks.connection import read_connection
from aio_provider.plugins.sight import connections_of

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

    from aio_provider.jobs.ledger import Ledger

_VARIABLE = "AIRFLOW_CONN_"
#: how long a page waits for a ledger that somebody has locked, seconds
_PATIENCE = 5.0


class NoLedgerError(AioError):
    """There is no ledger to show; the message is for whoever asked."""


def choices(user: BaseUser) -> list[str]:
    """Ids of the connections with a ledger that the user may read; a secrets backend's are not listed."""
    return sorted(conn_id for conn_id in connections_of(user, _aio_connections()) if _url(conn_id))


@contextmanager
def opened(conn_id: str) -> Iterator[Ledger]:
    """The ledger of a connection. Nothing is created or changed in it.

    :raises NoLedgerError: no such connection, or it names no ledger.
    :raises LedgerError: the ledger cannot be read, or another version of this package has written it.
    """
    from aio_provider.jobs.ledger import Ledger

    url = _url(conn_id)
    if url is None:
        raise NoLedgerError(
            f"No connection {conn_id!r} of type aio with a ledger_url was found. Give it one, a database "
            "that all workers reach: without it, what its tasks spend is noted in files on their machines."
        )
    with Ledger.open(url, readonly=True, busy_seconds=_PATIENCE) as ledger:
        yield ledger


def _url(conn_id: str) -> str | None:
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        connection = AioHook.get_connection(conn_id)
        # Of another type: the same answer as for none at all, so that nobody learns which ids there are.
        return read_connection(connection).ledger if connection.conn_type == AioHook.conn_type else None
    except (AirflowNotFoundException, ConfigurationError):
        return None


def _aio_connections() -> set[str]:
    import sqlalchemy as sa
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        query = sa.select(Connection.conn_id).where(Connection.conn_type == AioHook.conn_type)
        found = set(session.scalars(query))
    named = (name for name, value in os.environ.items() if name.startswith(_VARIABLE) and _is_aio(value))
    return found | {name.removeprefix(_VARIABLE).lower() for name in named}


def _is_aio(value: str) -> bool:
    """Whether the value of a variable is a connection of our type: a URI, or JSON."""
    if not value.startswith("{"):
        return value.startswith(f"{AioHook.conn_type}:")
    try:
        return bool(json.loads(value).get("conn_type") == AioHook.conn_type)
    except ValueError:
        return False
