"""The last minute's requests of a key, counted for several processes: in a file, PostgreSQL, or Redis.

The rule is pyrate-limiter's sliding window, here too. Two counts are kept: of requests sent, which spaces the
processes' requests between them, and of requests answered, which is the limit itself. A process that dies
leaves nothing locked: its requests count for a minute and are gone.

All calls block for about a millisecond and are made in a thread.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger.location import locate
from aio_provider.jobs.redis_window import RedisWindow
from aio_provider.jobs.sql_window import SqlWindow


def shared_window(limiter_url: str | None, key_id: str, per_minute: float) -> SqlWindow | RedisWindow:
    """The window that ``limiter_url`` names.

    :raises ConfigurationError: an address that is not understood or cannot be used.
    """
    if limiter_url is None:
        return SqlWindow(f"sqlite:///{_own_file(key_id)}", key_id, per_minute)
    scheme = urlsplit(limiter_url).scheme.partition("+")[0]
    if scheme in ("redis", "rediss", "unix"):
        return RedisWindow(limiter_url, key_id, per_minute)
    if scheme in ("postgresql", "postgres"):
        try:
            url = locate(limiter_url)
        except ConfigurationError as error:
            raise ConfigurationError(f"limiter_url: {str(error).removeprefix('ledger: ')}") from None
        return SqlWindow(url.render_as_string(hide_password=False), key_id, per_minute)
    if scheme in ("sqlite", "file"):
        path = file_of(limiter_url)
        path.parent.mkdir(parents=True, exist_ok=True)
        return SqlWindow(f"sqlite:///{path}", key_id, per_minute)
    raise ConfigurationError(
        f"limiter_url begins with {scheme or '(nothing)'!r}; it must be redis://, rediss://, postgresql://, "
        "file:// (a path on this machine) or memory://."
    )


def file_of(limiter_url: str) -> Path:
    """The file that ``file://PATH`` names, or ``sqlite:///PATH`` as SQLAlchemy and the ledger read it."""
    scheme, _, path = limiter_url.partition("://")
    return Path(path.removeprefix("/") if scheme.startswith("sqlite") else path)


def _own_file(key_id: str) -> Path:
    import platformdirs

    folder = platformdirs.user_data_path("aio-provider") / "limits"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{key_id or 'any'}.sqlite"
