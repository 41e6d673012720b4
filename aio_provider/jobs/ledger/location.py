"""Where the ledger is: from what the user gave, the environment, or the platform's data folder, to a URL."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger.errors import LedgerUnavailableError

#: a URL that lost one of its slashes, which would be taken for a path, password and all
_NEARLY_A_URL = re.compile(r"(postgres|postgresql|sqlite|mysql|redis)(\+\w+)?:", re.IGNORECASE)


def locate(target: str | Path | None) -> URL:
    """The database's URL: what was given, else ``$AIO_LEDGER``, else one file per user in the data folder.

    :raises ConfigurationError: when it is neither a path nor the URL of SQLite or PostgreSQL.
    """
    target = target or os.environ.get("AIO_LEDGER") or None
    if target is None:
        target = _own_folder() / "ledger.sqlite"
    if isinstance(target, Path) or "://" not in target:
        if str(target) == ":memory:":
            return URL.create("sqlite")
        if isinstance(target, str) and _NEARLY_A_URL.match(target):
            raise ConfigurationError(
                f"ledger: a URL needs two slashes after {target.partition(':')[0]}: give a path, "
                "sqlite:///path or postgresql://user:password@host/database"
            )
        return URL.create("sqlite", database=str(Path(target).expanduser().absolute()))
    scheme, _, rest = target.partition("://")
    backend, _, driver = scheme.partition("+")
    if backend in {"postgres", "postgresql"}:
        # SQLAlchemy 2.1 changed its default driver; ours is the one that runs on all its versions.
        target = f"postgresql+{driver or 'psycopg2'}://{rest}"
    elif backend != "sqlite":
        raise ConfigurationError(
            f"ledger: {scheme}:// is not supported: give a path, sqlite:///path or "
            "postgresql://user:password@host/database"
        )
    try:
        url = make_url(target)
    except (sa.exc.ArgumentError, ValueError):
        # from None: the parser's message repeats the URL, password and all
        raise ConfigurationError(
            "ledger: malformed database URL: give a path, sqlite:///path or "
            "postgresql://user:password@host/database (percent-encode special characters of the password)"
        ) from None
    if backend == "sqlite" and url.host:
        # Taken as it is, this would be another file, or one in memory that forgets what was paid.
        raise ConfigurationError(
            "ledger: sqlite:// with two slashes names no file: give sqlite:///relative/path or "
            "sqlite:////absolute/path"
        )
    if backend == "sqlite" and not in_memory(url):
        return url.set(database=str(Path(str(url.database)).expanduser().absolute()))
    return url


def require(target: str | Path | None) -> None:
    """Make sure that there is a ledger to read: whoever only looks makes none.

    :raises ConfigurationError: there is no such file.
    """
    url = locate(target)
    if url.get_backend_name() == "sqlite" and not in_memory(url) and not Path(str(url.database)).exists():
        raise ConfigurationError(
            f"There is no ledger at {public(url)}: nothing has been run with it yet, or it is elsewhere "
            "(give its path or URL, or set AIO_LEDGER)."
        )


def require_folder(url: URL) -> None:
    """Make sure that the folder of a ledger's file is there; only the one that is ours is made.

    :raises LedgerUnavailableError: it is not: a mistyped path must not begin a ledger that knows nothing.
    """
    if url.get_backend_name() != "sqlite" or in_memory(url):
        return
    folder = Path(str(url.database)).parent
    try:
        folder.stat()
    except FileNotFoundError as error:
        if folder == _own_folder().absolute():
            return
        raise LedgerUnavailableError(
            f"ledger {str(url.database)!r}: the folder {str(folder)!r} does not exist. Mend the path "
            "(AIO_LEDGER, ledger or ledger_url), or make the folder first: a new ledger does not know what "
            "was paid for. Nothing was submitted."
        ) from error
    except OSError:  # whoever opens the file says what it is
        return


def is_new(target: str | Path | None) -> bool:
    """Whether this is a file that was named by somebody and is not there yet."""
    if not target and not os.environ.get("AIO_LEDGER"):
        return False
    url = locate(target)
    named = url.get_backend_name() == "sqlite" and not in_memory(url)
    return named and not Path(str(url.database)).exists()


def _own_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("aio-provider")


def in_memory(url: URL) -> bool:
    """Whether this SQLite database has no file."""
    return url.database in (None, "", ":memory:")


def public(url: URL) -> str:
    """The URL as it may be shown: without password and query."""
    if url.get_backend_name() == "sqlite":
        return "sqlite://" if in_memory(url) else f"sqlite:///{url.database}"
    url = URL.create(url.get_backend_name(), url.username, None, url.host, url.port, url.database)
    return str(url.render_as_string(hide_password=True))
