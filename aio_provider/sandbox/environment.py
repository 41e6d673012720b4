"""The environment variables that point a client, a notebook or an Airflow connection at a sandbox."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode, urlsplit


def environment(
    base_url: str,
    api_key: str,
    *,
    requests_per_minute: float,
    latency_scale: float = 1.0,
    ledger: str | None = None,
) -> dict[str, str]:
    """Variables by name, the Airflow connection in its JSON form.

    :param base_url: ends in ``/api/v1``.
    :param requests_per_minute: what the clients keep to; 0 is no limit.
    :param latency_scale: how much faster than the service it is: its ``time_scale``.
    :param ledger: path or SQLAlchemy URL of the ledger that notebooks and the connection use.
    """
    extra = _extra(requests_per_minute, latency_scale, ledger)
    variables = {
        "AIO_BASE_URL": base_url,
        "AIO_API_KEY": api_key,
        "AIO_REQUESTS_PER_MINUTE": f"{requests_per_minute:g}",
        "AIO_LATENCY_SCALE": f"{extra['latency_scale']:g}",
    }
    if ledger is not None:
        variables["AIO_LEDGER"] = ledger
    connection = {"conn_type": "aio", "host": base_url, "password": api_key, "extra": extra}
    variables["AIRFLOW_CONN_AIO_DEFAULT"] = json.dumps(connection)
    return variables


def connection_uri(
    base_url: str,
    api_key: str,
    *,
    requests_per_minute: float,
    latency_scale: float = 1.0,
    ledger: str | None = None,
) -> str:
    """The same connection in Airflow's URI form, ``aio://:key@http%3A%2F%2F127.0.0.1%3A8000%2Fapi%2Fv1/?…``."""
    extra = urlencode({"__extra__": json.dumps(_extra(requests_per_minute, latency_scale, ledger))})
    assert urlsplit(base_url).hostname is not None
    return f"aio://:{quote(api_key, safe='')}@{quote(base_url, safe='')}/?{extra}"


def _extra(requests_per_minute: float, latency_scale: float, ledger: str | None) -> dict[str, Any]:
    extra: dict[str, Any] = {
        "requests_per_minute": requests_per_minute,
        "latency_scale": max(latency_scale, 0.001),  # 0 is no scale
    }
    if ledger is not None:
        extra["ledger_url"] = ledger
    return extra
