"""Fetch a result file. Result URLs come from the service's answers and are untrusted.

No key is sent. Every hop's host is resolved and checked, and the connection goes to the very address that was
checked, so that a name cannot point elsewhere a moment later. What arrives is counted, hashed, and put in
place only when it is whole.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import ipaddress
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from aio_provider.api.errors import AioError

#: bytes
DEFAULT_MAX_BYTES = 2 * 1024**3
_CHUNK = 1 << 16
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(AioError):
    """A result could not be fetched or stored. ``status`` is the HTTP status, where there was one."""


class UnsafeURLError(DownloadError, ValueError):
    """The URL, or one it redirects to, must not be fetched: a private address, another scheme, no host."""


class Opens(Protocol):
    """A target that opens itself, such as Airflow's ObjectStoragePath or a :class:`pathlib.Path`."""

    def open(self, mode: str) -> Any: ...


@dataclass(frozen=True)
class Downloaded:
    """A file that was stored.

    :param target: where, as text.
    :param size: bytes.
    :param sha256: hex digits.
    :param content_type: as the host says, without parameters; ``None`` when it does not.
    """

    target: str
    size: int
    sha256: str
    content_type: str | None


def download(
    url: str,
    target: str | os.PathLike[str] | Opens,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    allow_private: bool = False,
    content_types: tuple[str, ...] = (),
    timeout: float = 60.0,
    max_redirects: int = 5,
    attempts: int = 3,
    transport: httpx.BaseTransport | None = None,
    storage_options: dict[str, Any] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Downloaded:
    """Fetch a file and put it in place, whole or not at all.

    :param url: ``http``, ``https``, or ``data`` (the form in which direct answers are kept).
    :param target: a path, any fsspec URL (``s3://…``), or an object with ``open``.
    :param max_bytes: refuse more than this.
    :param allow_private: permit private and loopback addresses (the sandbox, a proxy of your own).
    :param content_types: accepted beginnings, such as ``("image/", "video/")``; any by default.
    :param timeout: seconds for each network step.
    :param max_redirects: hops; each is checked like the first.
    :param attempts: tries in all, for what is passing (no connection, 429, 5xx).
    :param storage_options: arguments for the fsspec filesystem.
    :raises UnsafeURLError: before anything is sent to it.
    :raises DownloadError: the host refused, the file is too large or of another type, or it did not arrive
        whole.
    :raises OSError: the target cannot be written.
    """
    if url[:5].lower() == "data:":
        content_type, content = _data(url)
        _accept(content_type, content_types)
        if len(content) > max_bytes:
            raise DownloadError(f"The file has {len(content)} bytes; max_bytes is {max_bytes}.")
        with _place(target, storage_options) as (out, name):
            out.write(content)
        return Downloaded(name, len(content), hashlib.sha256(content).hexdigest(), content_type)
    for attempt in range(1, attempts + 1):
        try:
            with httpx.Client(
                timeout=timeout,
                follow_redirects=False,
                transport=transport,
                headers={"Accept-Encoding": "identity"},
            ) as client:
                return _fetch(
                    client,
                    url,
                    target,
                    max_bytes,
                    allow_private,
                    content_types,
                    max_redirects,
                    storage_options,
                )
        except httpx.TransportError as error:
            if attempt == attempts:
                raise DownloadError(
                    f"{_shown(url)} could not be fetched: {type(error).__name__}: {error}"
                ) from error
        except DownloadError as error:
            if attempt == attempts or error.status not in _RETRIED:
                raise
        sleep(min(2.0 ** (attempt - 1), 30.0))
    raise AssertionError("attempts is 1 or more")


def _fetch(
    client: httpx.Client,
    url: str,
    target: str | os.PathLike[str] | Opens,
    max_bytes: int,
    allow_private: bool,
    content_types: tuple[str, ...],
    max_redirects: int,
    storage_options: dict[str, Any] | None,
) -> Downloaded:
    for _ in range(max_redirects + 1):
        request = _request(client, url, allow_private)
        response = client.send(request, stream=True)
        try:
            if response.is_redirect:
                url = str(httpx.URL(url).join(response.headers.get("location", "")))
                continue
            if response.status_code != 200:
                raise DownloadError(
                    f"{_shown(url)} answered {response.status_code}.", status=response.status_code
                )
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower() or None
            _accept(content_type, content_types)
            announced = response.headers.get("content-length", "")
            if announced.isdigit() and int(announced) > max_bytes:
                raise DownloadError(f"The file has {announced} bytes; max_bytes is {max_bytes}.")
            with _place(target, storage_options) as (out, name):
                size, digest = 0, hashlib.sha256()
                for chunk in response.iter_bytes(_CHUNK):
                    size += len(chunk)
                    if size > max_bytes:
                        raise DownloadError(f"The file has more than {max_bytes} bytes (max_bytes).")
                    digest.update(chunk)
                    out.write(chunk)
                if (
                    announced.isdigit()
                    and "content-encoding" not in response.headers
                    and size != int(announced)
                ):
                    raise httpx.ReadError(f"{size} of {announced} bytes arrived")
            return Downloaded(name, size, digest.hexdigest(), content_type)
        finally:
            response.close()
    raise DownloadError(f"{_shown(url)} redirects more than {max_redirects} times.")


# -- the URL


def _request(client: httpx.Client, url: str, allow_private: bool) -> httpx.Request:
    """A request to a checked address of the URL's host."""
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UnsafeURLError(f"{_shown(url)} is not an http(s) URL; it is not fetched.")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    address = _checked_address(parsed.host, port, allow_private)
    host = parsed.netloc.decode("ascii").rpartition("@")[2]
    # No user name or password that an answer smuggled into the URL.
    pinned = parsed.copy_with(host=address, username=None, password=None)
    request = client.build_request("GET", pinned, headers={"Host": host})
    request.headers.pop("authorization", None)
    request.extensions["sni_hostname"] = parsed.raw_host.decode("ascii")
    return request


def _checked_address(host: str, port: int, allow_private: bool) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{host} cannot be resolved: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private:
        # All of them: a name with one private address is up to something.
        for address in addresses:
            if not _is_public(address):
                raise UnsafeURLError(
                    f"{host} is at {address}, which is not a public address; it is not fetched. "
                    "allow_private=True permits it."
                )
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _shown(url: str) -> str:
    """A URL for people: without user, password, query and fragment, which may hold secrets."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return repr(url[:50])
    return f"{parts.scheme}://{host}{port}{parts.path}"[:200]


def _data(url: str) -> tuple[str | None, bytes]:
    head, comma, body = url[5:].partition(",")
    if not comma:
        raise UnsafeURLError("This data: URL has no content.")
    content_type = head.partition(";")[0].strip().lower() or None
    raw = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            raw = base64.b64decode(raw, validate=True)
        except binascii.Error as error:
            raise DownloadError(f"This data: URL cannot be decoded: {error}") from error
    return content_type, raw


def _accept(content_type: str | None, wanted: tuple[str, ...]) -> None:
    if wanted and not (content_type or "").startswith(wanted):
        raise DownloadError(
            f"The file is {content_type or 'of no stated type'}; wanted: {', '.join(wanted)}."
        )


# -- the target


@contextmanager
def _place(
    target: str | os.PathLike[str] | Opens, storage_options: dict[str, Any] | None
) -> Iterator[tuple[Any, str]]:
    """A file to write to, put in place when the block ends well and gone when it does not."""
    fs, path, name = _where(target, storage_options)
    if fs is None:
        with _beside(Path(path)) as out:
            yield out, name
        return
    parent = fs._parent(path)
    if parent:
        # Object stores have no folders, and some let nobody create a bucket.
        with contextlib.suppress(FileExistsError, PermissionError, NotImplementedError):
            fs.makedirs(parent, exist_ok=True)
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with fs.open(part, "wb") as out:
            yield out, name
        fs.mv(part, path)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm(part)
        raise


@contextmanager
def _beside(path: Path) -> Iterator[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _where(
    target: str | os.PathLike[str] | Opens, storage_options: dict[str, Any] | None
) -> tuple[Any, str, str]:
    """``(filesystem, path on it, name for people)``; no filesystem: this machine's own."""
    fs, path = getattr(target, "fs", None), getattr(target, "path", None)
    if fs is not None and isinstance(path, str):  # universal paths, such as Airflow's ObjectStoragePath
        local = "file" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))
        return (None if local else fs), path, str(target)
    if isinstance(target, os.PathLike):
        return None, os.fspath(target), os.fspath(target)
    if not isinstance(target, str):
        raise TypeError(f"target must be a path, a URL, or a path object, not {type(target).__name__}.")
    if "://" not in target and "::" not in target:
        return None, target, target
    import fsspec

    fs, path = fsspec.core.url_to_fs(target, **(storage_options or {}))
    local = "file" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))
    return (None if local else fs), path, target
