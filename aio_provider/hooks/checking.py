"""What *Test connection* says: whether tasks could use a connection's key, ledger and limiter."""

from __future__ import annotations

from collections.abc import Callable

from aio_provider.api.errors import AioError, ConfigurationError
from aio_provider.hooks.connection import ConnectionFields, read_connection, unknown_extras
from aio_provider.jobs.settings import Settings


def check(conn: ConnectionFields, ask_service: Callable[[Settings], str]) -> tuple[bool, str]:
    """Look at all that a connection names; nothing is spent, counted or made.

    :param ask_service: asks the service whether the key works, and says so.
    :returns: whether all of it works, and one line for the user: first what is wrong, then what was found.
    """
    try:
        settings = read_connection(conn)
    except ConfigurationError as error:
        return False, str(error)
    found: list[str] = []
    wrong: list[str] = []
    for look in (ask_service, _ledger, _limiter):
        try:
            found.append(look(settings))
        except AioError as error:
            wrong.append(str(error))
    if unknown := unknown_extras(conn):
        found.append(f"Extra fields that nothing reads: {', '.join(unknown)}")
    line = " ".join(f"{' '.join(said.split()).rstrip('.')}." for said in (*wrong, *found))
    return not wrong, line


def _ledger(settings: Settings) -> str:
    from aio_provider.jobs.looking import look_at_ledger

    if settings.ledger is None:
        return "No ledger_url: each machine notes for itself what was paid"
    return f"Ledger: {_of_field('ledger_url', look_at_ledger, settings.ledger)}"


def _limiter(settings: Settings) -> str:
    from aio_provider.jobs.looking import look_at_limiter

    if not settings.requests_per_minute:
        return "No limit of requests"
    if settings.limiter_url is None:
        return "No limiter_url: the processes of one machine share the limit"
    return f"Limiter: {_of_field('limiter_url', look_at_limiter, settings.limiter_url)}"


def _of_field(name: str, look: Callable[[str], str], url: str) -> str:
    try:
        return look(url)
    except ConfigurationError as error:
        what = str(error).removeprefix("ledger: ").removeprefix("limiter_url: ")
        raise ConfigurationError(f"{name} (extra field): {what}") from error
