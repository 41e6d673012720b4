"""What the clients are given: every mistake is found before a request, and no message quotes the key."""

from __future__ import annotations

from typing import Any

import certifi
import httpx
import pytest

import aio_provider
from aio_provider.api import errors, wire
from aio_provider.api.client import AioClient, AsyncAioClient
from tests.api.conftest import KEY, URL, Clients, answers

BOTH = pytest.mark.parametrize("client", [AioClient, AsyncAioClient])


@BOTH
def test_environment_configures_it(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIO_API_KEY", KEY)
    assert client().base_url == "https://apiin.one/api/v1"
    monkeypatch.setenv("AIO_BASE_URL", "http://localhost:8000/api/v1/")
    assert client().base_url == "http://localhost:8000/api/v1"
    assert client(base_url=URL + "/").base_url == URL


@BOTH
@pytest.mark.parametrize("key", [None, "", "   "])
def test_missing_key(client: Any, key: str | None) -> None:
    with pytest.raises(errors.ConfigurationError, match="no API key: set AIO_API_KEY"):
        client(key, URL)


@BOTH
@pytest.mark.parametrize(
    "key", ["sk-12345678", "aio_x", "aio_has space", "aio_line\nbreak", "aio_ключключ", "Bearer aio_12345678"]
)
def test_malformed_key_is_not_quoted(client: Any, key: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="malformed API key") as caught:
        client(key, URL)
    assert key not in str(caught.value)


def test_space_around_a_key_is_dropped(call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json={"data": {"status": "SUCCESS"}}))
    call(handler, "get_task", "n1", api_key=f" {KEY}\n")
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"


@BOTH
@pytest.mark.parametrize(
    "url",
    ["apiin.one", "ftp://apiin.one", "https://", "https:///api", "https://api in.one", "https://a.test:99999",
     "https://a.test:port", "https://a.test/?x=1", "https://a.test/#x", "https://[::1", "://x"],
)  # fmt: skip
def test_malformed_url(client: Any, url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="base_url: "):
        client(KEY, url)


@BOTH
def test_url_with_a_password(client: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="must not hold a user or a password") as caught:
        client(KEY, "https://user:hunter2@a.test")
    assert "hunter2" not in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    "url", ["http://apiin.one/api/v1", "http://10.0.0.1:8000", "http://127.0.0.1.evil.test"]
)
def test_plain_http_elsewhere_is_refused(client: Any, url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="would send the key unencrypted"):
        client(KEY, url)
    assert client(KEY, url, allow_insecure=True).base_url == url


@BOTH
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80", "http://localhost", "http://[::1]:8000", "http://127.9.9.9"]
)
def test_plain_http_to_this_machine_is_fine(client: Any, url: str) -> None:
    assert client(KEY, url).base_url == url


@BOTH
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "60", True, None])
def test_timeout(client: Any, timeout: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="timeout: "):
        client(KEY, URL, timeout=timeout)


@BOTH
def test_on_server_error(client: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="on_server_error: 'always'"):
        client(KEY, URL, on_server_error="always")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404, html="<html>not here</html>"), errors.ConfigurationError),
        (httpx.Response(200, html="<html>welcome</html>"), errors.ConfigurationError),
        (httpx.Response(301, headers={"location": "https://a.test"}), errors.ConfigurationError),
        (httpx.Response(401, json={"error": {"code": 401}}), errors.AuthenticationError),
        (httpx.Response(429, json={"error": {"code": 429}}), errors.RateLimitError),
        (httpx.Response(503, text=""), errors.ServerError),
        (httpx.ConnectError("refused"), errors.TransportError),
    ],
)
def test_check_says_what_is_wrong(
    answer: Any, kind: type[errors.AioError], call: Clients, clock: Any
) -> None:
    handler, seen = answers(answer)
    with pytest.raises(kind):
        call(handler, "check", retry=clock.policy())
    assert len(seen) == 1 and seen[0].method == "GET"


@pytest.mark.parametrize("status", [404, 400, 422, 200])
def test_check_passes(status: int, call: Clients) -> None:
    body = {"data": {"status": "SUCCESS"}} if status == 200 else {"error": {"code": status, "message": "no"}}
    handler, _ = answers(httpx.Response(status, json=body))
    assert call(handler, "check") is None


def test_raw_request(call: Clients) -> None:
    handler, seen = answers(httpx.Response(200, json={"code": 200, "data": [1]}))
    assert call(handler, "request", "get", "audio/music/feed") == {"code": 200, "data": [1]}
    assert str(seen[0].url) == URL + "/audio/music/feed"
    handler, _ = answers(httpx.Response(200, json=[1, 2]))
    assert call(handler, "request", "GET", "/models") == [1, 2]
    with AioClient(KEY, URL, transport=httpx.MockTransport(handler)) as client:
        assert client.request("GET", "/audio/music/feed", params={"task_id": "n7"}) == [1, 2]


def test_public_names() -> None:
    for name in aio_provider.__all__:
        if name not in aio_provider._HOME_OF or "frames" not in aio_provider._HOME_OF[name]:
            assert getattr(aio_provider, name) is not None
    assert set(aio_provider.__all__) <= set(dir(aio_provider))
    assert set(aio_provider.__all__) == {"__version__", *aio_provider._HOME_OF}
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = aio_provider.generat  # type: ignore[attr-defined]


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert aio_provider.__version__ == version("aio-provider")


def test_certificates_are_read_once_and_again_where_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    first = wire.ssl_context()
    assert wire.ssl_context() is first
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert wire.ssl_context() is not first
