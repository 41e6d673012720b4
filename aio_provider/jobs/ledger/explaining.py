"""A database's errors in our words: what is wrong, and how to mend it; never its password."""

from __future__ import annotations

from urllib.parse import quote

from sqlalchemy.engine import URL

_MEANINGS = (
    (
        "database is locked",
        "is locked by another process (waited {busy:g} s): stop that process, or try again",
    ),
    ("readonly", "cannot be written: its file or directory is read-only"),
    ("is full", "cannot be written: its disk is full; free some space and run again"),
    ("disk I/O error", "cannot be written: its disk reports an error or is full"),
    ("unable to open", "cannot be opened: no such directory, or no permission"),
    ("not a database", "is not a {what}: the file is something else, or damaged"),
    ("malformed", "is damaged: restore it from a copy (`sqlite3 ledger.sqlite .recover` may help)"),
    ("authentication failed", "refuses the login: check user and password"),
    ("could not connect", "cannot be reached: is the server up?"),
    ("Connection refused", "cannot be reached: is the server up?"),
    ("permission denied", "is closed to this user: it must own, or be allowed to create, tables named aio_…"),
)


def explain(error: Exception, url: URL, busy_seconds: float, what: str = "ledger") -> str:
    """What an error of this database means, to follow its URL in a sentence.

    :param what: the database should be.
    """
    words = said(error, url)
    for sign, meaning in _MEANINGS:
        if sign in words:
            return f"{meaning.format(busy=busy_seconds, what=what)} ({words})"
    return f"cannot be used: {words}"


def said(error: Exception, url: URL) -> str:
    """What the driver said, on one line, without the password of the URL."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    if url.password:
        secret = str(url.password)
        for form in {secret, quote(secret), quote(secret, safe="")}:
            words = words.replace(form, "***")
    return words[:500]
