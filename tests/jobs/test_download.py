"""Fetching a result: whole or not at all, within bounds, and never where a URL has no business."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aio_provider.api.errors import (
    AuthenticationError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    TransportError,
)
from aio_provider.api.retries import RetryPolicy
from aio_provider.jobs.download import Downloaded, download

ONCE = RetryPolicy(attempts=1)
DATA = b"0123456789" * 1000


class Host(ThreadingHTTPServer):
    """A result's host: says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


AnyHost = TypeVar("AnyHost", bound=Host)


@contextmanager
def serving(host: AnyHost) -> Iterator[AnyHost]:
    """The host, answering until the block ends."""
    with host as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def host() -> Iterator[Host]:
    with serving(Host()) as server:
        yield server


def fetch(url: str, target: Path, **arguments: Any) -> Any:
    return download(url, target, **{"allow_private": True, "retry": ONCE, **arguments})


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_writes_the_file_and_its_folder(host: Host, tmp_path: Path) -> None:
    host.answers["/a.png"] = (200, {"Content-Type": "image/png"}, DATA)
    done = fetch(host.url("/a.png"), tmp_path / "new" / "a.png")
    assert (done.size, done.content_type, done.path) == (
        len(DATA),
        "image/png",
        str(tmp_path / "new" / "a.png"),
    )
    assert (tmp_path / "new" / "a.png").read_bytes() == DATA
    [(_, headers)] = host.asked
    assert "Authorization" not in headers
    assert headers["Host"] == f"127.0.0.1:{host.server_port}"


def test_to_an_fsspec_url(host: Host) -> None:
    import fsspec

    host.answers["/a.png"] = (200, {}, DATA)
    download(host.url("/a.png"), "memory://results/a.png", allow_private=True)
    assert fsspec.filesystem("memory").cat("/results/a.png") == DATA


@pytest.mark.parametrize("length", [str(len(DATA)), ""], ids=["announced", "not announced"])
def test_too_large(host: Host, tmp_path: Path, length: str) -> None:
    host.answers["/a.png"] = (200, {"Content-Length": length}, DATA)
    (tmp_path / "a.png").write_text("before")
    with pytest.raises(InvalidRequestError, match="10,000") as error:
        fetch(host.url("/a.png"), tmp_path / "a.png", max_bytes=9_999)
    assert error.value.field == "max_bytes"
    assert left(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_text() == "before"


@pytest.mark.parametrize("media", ["text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_page_is_no_result(host: Host, tmp_path: Path, media: str) -> None:
    host.answers["/a.png"] = (200, {"Content-Type": media}, b"<h1>Sign in</h1>")
    with pytest.raises(InvalidRequestError, match="a page and not a result"):
        download(host.url("/a.png"), tmp_path / "a.png", allow_private=True)
    assert list(tmp_path.iterdir()) == []


def test_cut_off_leaves_nothing(host: Host, tmp_path: Path) -> None:
    host.answers["/a.png"] = (200, {"Content-Length": "20000"}, DATA)
    with pytest.raises(TransportError):
        fetch(host.url("/a.png"), tmp_path / "a.png")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFoundError), (410, NotFoundError), (403, AuthenticationError), (500, ServerError)],
)
def test_refusals(host: Host, tmp_path: Path, status: int, error: type[Exception]) -> None:
    host.answers["/a.png"] = (status, {}, b"a page about it")
    with pytest.raises(error, match=f"HTTP {status}"):
        fetch(host.url("/a.png?signature=hidden").replace("?signature=hidden", ""), tmp_path / "a.png")
    assert left(tmp_path) == []


def test_what_passes_is_tried_again(host: Host, tmp_path: Path) -> None:
    waits: list[float] = []

    def mend(seconds: float) -> None:
        waits.append(seconds)
        host.answers["/a.png"] = (200, {}, DATA)

    host.answers["/a.png"] = (503, {}, b"")
    fetch(host.url("/a.png"), tmp_path / "a.png", retry=RetryPolicy(attempts=2, sleep=mend))
    assert len(waits) == 1 and left(tmp_path) == ["a.png"]


def test_redirects_are_followed_a_few_times(host: Host, tmp_path: Path) -> None:
    for n in range(5):
        host.answers[f"/{n}"] = (302, {"Location": f"/{n + 1}"}, b"")
    host.answers["/5"] = (200, {}, DATA)
    fetch(host.url("/0"), tmp_path / "a.png")
    host.answers["/loop"] = (302, {"Location": "/loop"}, b"")
    with pytest.raises(InvalidRequestError, match="redirects more than 5 times"):
        fetch(host.url("/loop"), tmp_path / "b.png")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "//user:pw@127.0.0.1/a"])
def test_a_redirect_is_judged_like_a_first_request(host: Host, tmp_path: Path, target: str) -> None:
    host.answers["/a"] = (302, {"Location": target}, b"")
    with pytest.raises(InvalidRequestError) as error:
        fetch(host.url("/a"), tmp_path / "a")
    assert error.value.field == "url"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/data/a.png", "a.png", "http://", "http://u:p@example.com/a"]
)
def test_what_is_no_result_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        fetch(url, tmp_path / "a")
    assert error.value.field == "url"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.1",
    ],
)
def test_private_addresses_are_refused(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # One public answer does not make up for a private one.
    answers = [(family, socket.SOCK_STREAM, 6, "", (found, 80)) for found in ("93.184.216.34", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(InvalidRequestError, match="inside this network"):
        download("http://results.example/a.png", tmp_path / "a", retry=ONCE)


def test_a_private_address_is_not_said_to_be_itself(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"not fetched: 169\.254\.169\.254 is inside this network"):
        download("http://169.254.169.254/latest", tmp_path / "a", retry=ONCE)


def test_the_address_judged_is_the_one_connected_to(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up once: a second answer could be another."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(name: str, *arguments: Any, **keywords: Any) -> Any:
        asked.append(str(name))
        return real("127.0.0.1", *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    host.answers["/a"] = (200, {}, DATA)
    fetch(host.url("/a").replace("127.0.0.1", "results.example"), tmp_path / "a")
    assert asked.count("results.example") == 1
    assert host.asked[0][1]["Host"] == f"results.example:{host.server_port}"


def test_result_that_came_with_its_answer(tmp_path: Path) -> None:
    target = tmp_path / "new" / "hello.mp3"
    done = download("data:audio/mpeg;base64,UklGRnh4", target)
    assert (target.read_bytes(), done.size, done.content_type) == (b"RIFFxx", 6, "audio/mpeg")
    with pytest.raises(InvalidRequestError, match="2 are allowed"):
        download("data:audio/mpeg;base64,UklGRnh4", target, max_bytes=2)
    with pytest.raises(InvalidRequestError, match="not a data URL"):
        download("data:nothing", target)
    assert target.read_bytes() == b"RIFFxx"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    from aio_provider.jobs.download import _is_public

    assert _is_public(address) is public


def test_the_digest_is_of_what_was_written(tmp_path: Path) -> None:
    target = tmp_path / "a"
    done = download("data:text/plain;base64,aGVsbG8=", target)
    assert target.read_bytes() == b"hello"
    assert done.sha256 == hashlib.sha256(b"hello").hexdigest()


def test_on_arrival_comes_before_the_file_has_its_place(host: Host, tmp_path: Path) -> None:
    host.answers["/a"] = (200, {}, DATA)
    target = tmp_path / "a.png"
    told: list[tuple[Downloaded, bool]] = []

    def refuse(_: Downloaded) -> None:
        raise OSError("no room for a record")

    for url, content in ((host.url("/a"), DATA), ("data:text/plain;base64,aGVsbG8=", b"hello")):
        done = fetch(url, target, on_arrival=lambda one: told.append((one, target.exists())))
        assert told.pop() == (done, False) and target.read_bytes() == content
        assert done.sha256 == hashlib.sha256(content).hexdigest()
        target.unlink()
        with pytest.raises(OSError, match="no room for a record"):
            fetch(url, target, on_arrival=refuse)
        assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "says"),
    [("file/fox.png", "a file is where its folder would be"), ("folder", "'.*folder' is a folder")],
)
def test_a_place_that_is_taken_is_named(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=says):
        download("data:image/png;base64,iVBORw0KGgo=", tmp_path / target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
