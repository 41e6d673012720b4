"""How an Airflow connection of type ``aio`` is read: its fields in, the settings of the client out.

Pure: no Airflow is imported here, so that every spelling of a connection can be tested as data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.settings import DEFAULT_BASE_URL, Settings

#: path of the API below its host, added where a connection names a host alone
DEFAULT_PATH = "/api/v1"

_EXTRAS = {
    "requests_per_minute": "number",
    "timeout": "number",
    "ledger_url": "text",
    "limiter_url": "text",
    "allow_insecure": "boolean",
    "on_server_error": "text",
    "latency_scale": "number",
    "team": "text",
}
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class ConnectionFields(Protocol):
    """The fields of an Airflow connection that are read here."""

    conn_id: Any
    host: Any
    port: Any
    schema: Any
    password: Any
    extra: Any


def read_connection(conn: ConnectionFields) -> Settings:
    """Settings of the client from a connection.

    ``password`` is the key. ``host`` is a host name (``apiin.one``) or a full URL
    (``https://apiin.one/api/v1``); ``port`` and ``schema`` (the path, as ``aio://:key@apiin.one/api/v1``
    parses) complete it. A loopback host without a scheme is reached over ``http``, any other over ``https``.

    ``extra`` holds ``requests_per_minute``, ``timeout`` (seconds), ``ledger_url``, ``limiter_url``,
    ``allow_insecure``, ``on_server_error``, ``team`` (whose credits are spent) and ``latency_scale`` (how
    much faster than the catalog says a sandbox is); numbers and booleans may be text, as in a URI.

    :raises ConfigurationError: the key is missing or a field cannot be used. No value of the password or of
        the URLs in ``extra`` is part of the message.
    """
    if not conn.password:
        raise ConfigurationError(
            f"Connection {conn.conn_id!r} has no key: put the API in One key (aio_...) into its password."
        )
    extras = _read_extras(conn)
    if _is_relative(extras.get("ledger_url", "")):
        raise ConfigurationError(
            f"Connection {conn.conn_id!r}: ledger_url (extra field) is a relative path. Each worker would "
            "keep a ledger in the folder it was started in, and pay again for what is in another's: give an "
            "absolute path, such as /shared/ledger.sqlite or sqlite:////shared/ledger.sqlite."
        )
    return Settings(
        api_key=conn.password.strip(),
        base_url=base_url(conn),
        ledger=extras.pop("ledger_url", None),
        **extras,
    )


def base_url(conn: ConnectionFields) -> str:
    """Address of the API that a connection names, without a trailing slash.

    :raises ConfigurationError: host, port and schema do not make a URL.
    """
    host = (conn.host or "").strip()
    path = (conn.schema or "").strip()
    scheme = ""
    if path.lower() in ("http", "https"):  # Airflow's own HTTP connections keep the scheme there
        scheme, path = path.lower(), ""
    if not host:
        if conn.port or path:
            raise ConfigurationError(
                f"Connection {conn.conn_id!r} has a port or a schema but no host: "
                f"give the host too, or leave all three empty for {DEFAULT_BASE_URL}."
            )
        return DEFAULT_BASE_URL
    if "://" in host:
        parts = urlsplit(host)
        scheme = parts.scheme.lower()
    else:
        parts = urlsplit(f"//{host}")
    try:
        name, port = parts.hostname or "", parts.port or conn.port
    except ValueError as error:
        raise ConfigurationError(
            f"Connection {conn.conn_id!r}: the port in its host is not a number."
        ) from error
    if parts.username or parts.password or parts.query or parts.fragment or not name:
        raise ConfigurationError(
            f"Connection {conn.conn_id!r}: its host must be a host name or a plain URL such as "
            f"{DEFAULT_BASE_URL}; the key belongs into the password field."
        )
    if not scheme:
        scheme = "http" if is_loopback(name) else "https"
    where = f"[{name}]" if ":" in name else name
    if port:
        where = f"{where}:{port}"
    whole_path = "/".join(piece for piece in (parts.path.strip("/"), path.strip("/")) if piece)
    return f"{scheme}://{where}/{whole_path or DEFAULT_PATH.strip('/')}"


def _is_relative(ledger_url: str) -> bool:
    """Whether this names a file from wherever a process was started."""
    scheme, is_url, rest = ledger_url.partition("://")
    if is_url:
        if scheme.partition("+")[0] != "sqlite" or not rest.startswith("/"):
            return False  # no file, or misspelt: whoever opens it says so
        path = rest[1:].partition("?")[0]
    elif ":" in ledger_url.partition("/")[0]:  # a URL with a slash too few
        return False
    else:
        path = ledger_url
    return path not in ("", ":memory:") and not path.startswith(("/", "~"))


def unknown_extras(conn: ConnectionFields) -> list[str]:
    """Names in ``extra`` that nothing reads: most often a misspelling."""
    return sorted(set(_extra_object(conn)) - set(_EXTRAS))


def _read_extras(conn: ConnectionFields) -> dict[str, Any]:
    raw = _extra_object(conn)
    values: dict[str, Any] = {}
    for name, kind in _EXTRAS.items():
        value = raw.get(name)
        if value is None or value == "":  # an empty form field
            continue
        values[name] = _convert(conn, name, kind, value)
    return values


def _extra_object(conn: ConnectionFields) -> Mapping[str, Any]:
    # Not `extra_dejson`: that calls the supervisor synchronously, which a trigger's event loop must not do.
    if not conn.extra:
        return {}
    try:
        raw = json.loads(conn.extra)
    except ValueError as error:
        raise ConfigurationError(
            f"Connection {conn.conn_id!r}: its extra field is not valid JSON."
        ) from error
    if not isinstance(raw, dict):
        raise ConfigurationError(
            f"Connection {conn.conn_id!r}: its extra field must be a JSON object, not {type(raw).__name__}."
        )
    return raw


def _convert(conn: ConnectionFields, name: str, kind: str, value: Any) -> Any:
    text = str(value).strip()
    if kind == "number" and not isinstance(value, bool):
        try:
            return float(text)
        except ValueError:
            pass
    elif kind == "boolean" and text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    elif kind == "text" and isinstance(value, str):
        return text
    wanted = {"number": "a number", "boolean": "true or false", "text": "text"}[kind]
    # The value is not shown: a misplaced URL may hold a password.
    raise ConfigurationError(
        f"Connection {conn.conn_id!r}: extra field {name!r} must be {wanted}, not {type(value).__name__} "
        f"of {len(text)} characters."
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
