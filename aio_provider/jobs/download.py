"""Fetch one result: streamed, bounded, whole or not at all, and with no trust in its URL.

A result's URL comes from the service, which got it from somewhere else. So no key goes there, only ``http``
and ``https`` are followed, each redirect is judged like a first request, and addresses inside one's own
network are refused: the address that was judged is the one connected to, so that a second DNS answer cannot
change it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import DataHandler, Request

import httpx

from aio_provider.api.errors import AioError, InvalidRequestError, TransportError, error_for
from aio_provider.api.retries import RetryPolicy

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: bytes of one file, unless the caller says otherwise
MAX_BYTES = 1_000_000_000
_REDIRECTS = 5
_CHUNK = 1 << 18
#: what a host sends in place of a result, with a 200
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_MOVED = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was fetched.

    :param url: where it was asked for.
    :param path: where it is now, as the caller named it.
    :param size: bytes.
    :param content_type: as the host says; ``None`` when it does not.
    :param sha256: of the bytes that were written, in hex.
    """

    url: str
    path: str
    size: int
    content_type: str | None
    sha256: str = ""


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    allow_private: bool = False,
    fs: AbstractFileSystem | None = None,
    timeout: float = 60.0,
    retry: RetryPolicy | None = None,
    on_arrival: Callable[[Downloaded], None] | None = None,
) -> Downloaded:
    """Fetch a URL into a file. Folders are made; a file that is there is replaced once the new one is whole.

    :param url: an ``http`` or ``https`` URL; or the ``data:`` URL of a result that came with the submission's
        own answer.
    :param target: a local path or any fsspec URL (``s3://bucket/name.png``).
    :param max_bytes: the most that is taken.
    :param allow_private: permit loopback, private and link-local addresses (a sandbox on this machine).
    :param fs: the file system of ``target``, where it needs credentials of its own; ``target`` is then a path
        in it.
    :param timeout: seconds for each wait on the network.
    :param retry: how often to try again what may pass (no connection, a cut answer, 429, 5xx).
    :param on_arrival: called when all bytes are here and before the file gets its place. What it raises is
        raised, and leaves no file.
    :raises InvalidRequestError: the URL is not one that is fetched, its host's address is private, a web page
        came instead of a file, or the file is larger than ``max_bytes``. ``field`` says which: ``url`` or
        ``max_bytes``.
    :raises NotFoundError: 404 or 410: the result is gone.
    :raises AuthenticationError: 401 or 403: its URL has expired.
    :raises TransportError: the host cannot be reached, or broke off each time.
    :raises OSError: it cannot be written: its folder is a file, it is a folder itself, the disk is full.
    """
    if url.startswith("data:"):
        return _inline(url, target, max_bytes, fs, on_arrival)
    policy = retry or RetryPolicy(attempts=4)
    for attempt in policy.retrying():
        with attempt:
            return _once(url, target, max_bytes, allow_private, fs, timeout, on_arrival)
    raise AssertionError("tenacity raises the last error")


def _once(
    url: str,
    target: str | os.PathLike[str],
    max_bytes: int,
    allow_private: bool,
    fs: AbstractFileSystem | None,
    timeout: float,
    on_arrival: Callable[[Downloaded], None] | None,
) -> Downloaded:
    try:
        # One for each file: its connections are to addresses, and must not serve another host of the same.
        with (
            httpx.Client(timeout=timeout, verify=_authorities()) as client,
            _follow(client, url, allow_private) as response,
        ):
            _judge(response, max_bytes)
            with _destination(target, fs) as file:
                size, digest = 0, hashlib.sha256()
                for chunk in response.iter_bytes(_CHUNK):
                    size += len(chunk)
                    if size > max_bytes:
                        raise _too_large(size, max_bytes)
                    digest.update(chunk)
                    file.write(chunk)
                media = response.headers.get("content-type")
                done = Downloaded(url, os.fspath(target), size, media, digest.hexdigest())
                if on_arrival is not None:
                    on_arrival(done)
            return done
    except httpx.InvalidURL as error:
        raise _refused(url, f"it is not a URL ({error})") from error
    except httpx.HTTPError as error:
        # The URL is left out: its query may be a signature.
        raise TransportError(f"download from {_host(url)}: {type(error).__name__}: {error}") from error


@cache
def _authorities() -> ssl.SSLContext:
    """Whom to trust, read once: that takes longer than most files do."""
    return httpx.create_ssl_context()


def _inline(
    url: str,
    target: str | os.PathLike[str],
    max_bytes: int,
    fs: AbstractFileSystem | None,
    on_arrival: Callable[[Downloaded], None] | None,
) -> Downloaded:
    """The content of a ``data:`` URL into a file."""
    try:
        with DataHandler().data_open(Request(url)) as response:
            content = response.read()
            media = response.headers.get_content_type()
    except ValueError as error:
        raise _refused(url[:60], f"it is not a data URL that can be read ({error})") from error
    if len(content) > max_bytes:
        raise _too_large(len(content), max_bytes)
    done = Downloaded(url, os.fspath(target), len(content), media, hashlib.sha256(content).hexdigest())
    with _destination(target, fs) as file:
        file.write(content)
        if on_arrival is not None:
            on_arrival(done)
    return done


@contextmanager
def _follow(client: httpx.Client, url: str, allow_private: bool) -> Iterator[httpx.Response]:
    """The answer, after at most five redirects, each of them judged."""
    current = httpx.URL(url)
    for _ in range(_REDIRECTS + 1):
        request = _request(client, current, allow_private)
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            location = response.headers.get("location")
            if response.status_code not in _MOVED or location is None:
                yield response
                return
        finally:
            response.close()
        following = current.join(location)
        if current.scheme == "https" and following.scheme != "https":
            raise _refused(url, "it redirects from https to something else")
        current = following
    raise _refused(url, f"it redirects more than {_REDIRECTS} times")


def _request(client: httpx.Client, url: httpx.URL, allow_private: bool) -> httpx.Request:
    """A GET to an address that was looked at, in the name of the host."""
    if url.scheme not in ("http", "https") or not url.host:
        raise _refused(str(url), "only http and https URLs are, not paths or other schemes")
    if url.userinfo:
        raise _refused(str(url), "it holds a user name or password")
    address = _address(url, allow_private)
    host = url.netloc.decode("ascii")
    return client.build_request(
        "GET",
        url.copy_with(host=address),
        headers={"Host": host, "Accept": "*/*", "Accept-Encoding": "identity"},
        extensions={"sni_hostname": url.host},
    )


def _address(url: httpx.URL, allow_private: bool) -> str:
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransportError(f"download from {url.host}: its name cannot be resolved ({error})") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private:
        for address in addresses:
            # One private answer among public ones is a trick, not a configuration.
            if not _is_public(address):
                where = f"{url.host} is" if url.host == address else f"{url.host} is {address},"
                raise _refused(str(url), f"{where} inside this network; allow_private=True permits that")
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in one of its IPv6 forms is still that address.
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _judge(response: httpx.Response, max_bytes: int) -> None:
    status = response.status_code
    if status == 410:
        status = 404  # both say that it is gone
    if status != 200:
        error: AioError = error_for(status, text="")
        raise type(error)(f"download from {response.url.host}: HTTP {response.status_code}", status=status)
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media in _PAGES:
        raise InvalidRequestError(
            f"url: {response.url.host} answered with {media}, a page and not a result; nothing was written",
            field="url",
        )
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(int(length), max_bytes)


@contextmanager
def _destination(target: str | os.PathLike[str], fs: AbstractFileSystem | None) -> Iterator[Any]:
    """A file to write to that becomes ``target`` when the block ends well, and is gone when it does not."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if fs is None:
        fs, path = url_to_fs(os.fspath(target))
    else:
        path = fs._strip_protocol(os.fspath(target))
    if isinstance(fs, LocalFileSystem):
        final = Path(path)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise type(error)(f"{os.fspath(target)!r}: a file is where its folder would be.") from error
        if final.is_dir():
            raise IsADirectoryError(f"{os.fspath(target)!r} is a folder; this names one file.")
        part = final.with_name(f".{final.name[:100]}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                yield file
            part.replace(final)
        finally:
            part.unlink(missing_ok=True)
        return
    # Elsewhere a rename may be a copy. One upload of a whole file appears at once or not at all.
    with tempfile.NamedTemporaryFile(prefix="aio-download-") as file:
        yield file
        file.flush()
        with suppress(NotImplementedError, FileExistsError):
            fs.makedirs(fs._parent(path), exist_ok=True)
        fs.put_file(file.name, path)


def _refused(url: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"url: {url[:200]!r} is not fetched: {why}", field="url")


def _too_large(size: int, max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"max_bytes: the file has {size:,} bytes or more, and {max_bytes:,} are allowed; nothing was written",
        field="max_bytes",
    )


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host
    except httpx.InvalidURL:
        return "?"
