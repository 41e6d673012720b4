"""What several commands share: an open ledger, a span of time, a number of things in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from aio_provider.api.errors import AioError

if TYPE_CHECKING:
    from aio_provider.jobs.ledger import Ledger

#: packages of cloud storage, whose errors are no OSError
_STORAGE = frozenset({"adlfs", "aiobotocore", "azure", "botocore", "gcsfs", "google"})
#: seconds by unit
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def age(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    """A span of time, as a click callback: ``90d``, ``12h``, ``30m``, ``45s``."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r}: give a number and a unit, such as 90d, 12h or 30m")
    try:
        return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError:
        raise click.BadParameter(f"{value!r} is too long a time") from None


class StorageError(click.ClickException):
    """A store of files cannot be used, in one line."""


@contextmanager
def storage_errors(*places: object) -> Iterator[None]:
    """Turn an error of a cloud's own library, most often missing credentials, into one line.

    :param places: where was read and written; those that are URLs are named.
    :raises StorageError: for such an error; any other goes on.
    """
    try:
        yield
    except Exception as error:
        # by name: none of them need be installed
        modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
        if not modules & _STORAGE:
            raise
        urls = ", ".join(str(place) for place in places if "://" in str(place))
        said = " ".join(str(error).split()).rstrip(".")
        more = ""
        if "credential" in f"{type(error).__name__} {said}".lower():
            more = " Credentials of s3:// are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        raise StorageError(f"{urls or 'the storage'} cannot be reached: {said}.{more}") from error


def many(count: int, thing: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


@contextmanager
def opened(target: str | None, *, new: bool = False) -> Iterator[Ledger]:
    """The ledger of a command; what a user can mend becomes one line and exit code 1.

    :param target: as the user named it; ``None``: his usual one, which may not have been begun yet.
    :param new: one that he names is made where there is none.
    """
    from aio_provider.jobs.ledger import Ledger
    from aio_provider.jobs.ledger.location import require

    try:
        if target is not None and not new:
            require(target)
        with Ledger.open(target) as ledger:
            yield ledger
    except BrokenPipeError:  # `… | head` has seen enough: click ends quietly
        raise
    except (AioError, OSError) as error:
        raise click.ClickException(str(error)) from error
