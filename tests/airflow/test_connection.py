"""Every spelling of a connection, read through Airflow's own parser, gives the same settings, or a clear
error.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from aio_provider.api.errors import ConfigurationError
from aio_provider.hooks.aio import AioHook
from aio_provider.hooks.connection import read_connection
from aio_provider.jobs.settings import Settings

KEY = "aio_secret_0123456789"
PUBLIC = "https://apiin.one/api/v1"


def settings_of(monkeypatch: pytest.MonkeyPatch, value: str) -> Settings:
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", value)
    return AioHook().settings


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        (f"aio://:{KEY}@", PUBLIC),
        (f"aio://:{KEY}@apiin.one", PUBLIC),
        (f"aio://:{KEY}@apiin.one/api/v1", PUBLIC),
        (f"aio://:{KEY}@apiin.one/api%2Fv1", PUBLIC),
        (f"aio://:{KEY}@apiin.one/api/v1/", PUBLIC),
        (f"aio://:{KEY}@https%3A%2F%2Fapiin.one%2Fapi%2Fv1", PUBLIC),
        (f"aio://https://:{KEY}@apiin.one/api/v1", PUBLIC),
        (f"aio://:{KEY}@127.0.0.1:8080/api/v1", "http://127.0.0.1:8080/api/v1"),
        (f"aio://:{KEY}@localhost:8080/api/v1", "http://localhost:8080/api/v1"),
        (f"aio://http://:{KEY}@127.0.0.1:8080/api/v1", "http://127.0.0.1:8080/api/v1"),
        (f"aio://:{KEY}@http%3A%2F%2F127.0.0.1%3A8080%2Fapi%2Fv1/", "http://127.0.0.1:8080/api/v1"),
        (f"aio://:{KEY}@gateway.example:8443/aio", "https://gateway.example:8443/aio"),
        (f"aio://:{KEY}@apiin.one/https", PUBLIC),
    ],
)
def test_uri(monkeypatch: pytest.MonkeyPatch, uri: str, base_url: str) -> None:
    settings = settings_of(monkeypatch, uri)
    assert (settings.base_url, settings.api_key) == (base_url, KEY)


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, PUBLIC),
        ({"host": "apiin.one"}, PUBLIC),
        ({"host": "apiin.one", "schema": "api/v1"}, PUBLIC),
        ({"host": "apiin.one", "schema": "/api/v1/"}, PUBLIC),
        ({"host": PUBLIC}, PUBLIC),
        ({"host": PUBLIC + "/"}, PUBLIC),
        ({"host": "https://apiin.one", "schema": "api/v1"}, PUBLIC),
        ({"host": "http://127.0.0.1:8080/api/v1"}, "http://127.0.0.1:8080/api/v1"),
        ({"host": "http://127.0.0.1", "port": 8080}, "http://127.0.0.1:8080/api/v1"),
        ({"host": "::1", "port": 8080}, None),
        ({"host": "[::1]", "port": 8080}, "http://[::1]:8080/api/v1"),
    ],
)
def test_json(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], base_url: str | None) -> None:
    value = json.dumps({"conn_type": "aio", "password": KEY, **fields})
    if base_url is None:
        with pytest.raises(ConfigurationError, match="host"):
            settings_of(monkeypatch, value)
    else:
        settings = settings_of(monkeypatch, value)
        assert (settings.base_url, settings.api_key) == (base_url, KEY)


def test_survives_airflows_uri_form() -> None:
    """Airflow turns a connection into a URI and back, to cache it."""
    for host in (None, "apiin.one", PUBLIC, "http://127.0.0.1:8080/api/v1"):
        before = Connection(
            conn_id="c", conn_type="aio", host=host, password="aio_p@ss/w:rd?#%", extra='{"timeout": 5}'
        )
        after = Connection(conn_id="c", uri=before.get_uri())
        assert read_connection(after) == read_connection(before)
        assert read_connection(after).api_key == "aio_p@ss/w:rd?#%"


def test_extras_of_a_uri_are_text_and_of_json_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    query = (
        "requests_per_minute=120&timeout=30&ledger_url=postgresql%3A%2F%2Fdb%2Faio&limiter_url=redis%3A%2F%2Fr"
        "&allow_insecure=true&on_server_error=retry&latency_scale=0.5"
    )
    from_uri = settings_of(monkeypatch, f"aio://:{KEY}@apiin.one/api/v1?{query}")
    extra = {
        "requests_per_minute": 120,
        "timeout": 30,
        "ledger_url": "postgresql://db/aio",
        "limiter_url": "redis://r",
        "allow_insecure": True,
        "on_server_error": "retry",
        "latency_scale": 0.5,
    }
    from_json = settings_of(monkeypatch, json.dumps({"conn_type": "aio", "password": KEY, "extra": extra}))
    assert from_uri == from_json
    assert from_json == Settings(
        api_key=KEY,
        base_url=PUBLIC,
        ledger="postgresql://db/aio",
        requests_per_minute=120.0,
        limiter_url="redis://r",
        timeout=30.0,
        allow_insecure=True,
        on_server_error="retry",
        latency_scale=0.5,
    )


def test_empty_form_fields_mean_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = dict.fromkeys(("requests_per_minute", "ledger_url", "limiter_url", "on_server_error"), "")
    settings = settings_of(monkeypatch, json.dumps({"conn_type": "aio", "password": KEY, "extra": extra}))
    assert settings == Settings(api_key=KEY, base_url=PUBLIC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"password": ""}, "no key"),
        ({"password": None}, "no key"),
        ({"schema": "api/v1"}, "no host"),
        ({"port": 80}, "no host"),
        ({"host": "https://user:hidden@apiin.one"}, "plain URL"),
        ({"host": "https://apiin.one/api/v1?key=hidden"}, "plain URL"),
        ({"host": "https://apiin.one:hidden/"}, "not a number"),
        ({"extra": '{"timeout": '}, "not valid JSON"),
        ({"extra": "[1]"}, "JSON object"),
        ({"extra": '{"timeout": "hidden"}'}, "'timeout' must be a number"),
        ({"extra": '{"timeout": 0}'}, "timeout"),
        ({"extra": '{"requests_per_minute": -1}'}, "requests_per_minute"),
        ({"extra": '{"requests_per_minute": true}'}, "'requests_per_minute' must be a number"),
        ({"extra": '{"allow_insecure": "perhaps hidden"}'}, "'allow_insecure' must be true or false"),
        ({"extra": '{"ledger_url": 5}'}, "'ledger_url' must be text"),
        ({"extra": '{"ledger_url": "hidden.sqlite"}'}, "relative path.*absolute"),
        ({"extra": '{"ledger_url": "shared/hidden.sqlite"}'}, "relative path"),
        ({"extra": '{"ledger_url": "sqlite:///shared/hidden.sqlite"}'}, "relative path"),
        ({"extra": '{"on_server_error": "ignore"}'}, "on_server_error"),
    ],
)
@pytest.mark.filterwarnings("ignore:Encountered")
def test_bad_fields_are_named_and_never_shown(fields: dict[str, Any], message: str) -> None:
    conn = Connection(**{"conn_id": "mine", "conn_type": "aio", "password": KEY, **fields})
    with pytest.raises(ConfigurationError, match=message) as error:
        read_connection(conn)
    assert KEY not in str(error.value) and "hidden" not in str(error.value)


@pytest.mark.parametrize("url", ["/l.db", "~/l.db", "sqlite:////l.db?timeout=3", "postgresql://db/aio"])
def test_a_ledger_that_every_worker_finds(url: str) -> None:
    conn = Connection(conn_id="mine", conn_type="aio", password=KEY, extra=json.dumps({"ledger_url": url}))
    assert read_connection(conn).ledger == url


def test_a_misspelled_extra_is_pointed_out(monkeypatch: pytest.MonkeyPatch, caplog: Any, capsys: Any) -> None:
    settings_of(monkeypatch, f"aio://:{KEY}@apiin.one/api/v1?request_per_minute=120")
    assert "request_per_minute" in caplog.text + capsys.readouterr().out
