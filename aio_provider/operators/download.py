"""The operator that brings results home before their URLs expire."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from aio_provider.api.errors import AuthenticationError, NotFoundError
from aio_provider.hooks.aio import AioHook
from aio_provider.hooks.connection import is_loopback
from aio_provider.hooks.results import openlineage, tell_assets

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from fsspec import AbstractFileSystem

#: bytes of one file; a generated video is a few tens of megabytes
MAX_BYTES = 1_000_000_000
_AT_ONCE = 4


class Wanted(NamedTuple):
    """One URL to fetch: the n-th of its task's results, where it came with a task."""

    url: str
    task_id: str | None = None
    place: int = 0


class AioDownloadOperator(BaseOperator):
    """
    Download results to a file, a folder or an object store, and return where they are.

    Streams, keeps to a size limit, and writes each file whole or not at all. No key is sent to the host of a
    result; addresses inside your network are refused. A URL that is gone is asked for again at the service,
    which is free.

    Returns (XCom) ``[{"url", "path", "bytes", "task_id"}, ...]`` in the order of ``source``.

    :param source: a URL, the result of another operator of this provider, or a list of these, which may be
        nested (templated). Mapped tasks' outputs can be given as they are.
    :param output_path: a folder when it ends with ``/``, else the path of one file; local, or any URL that
        Airflow's ObjectStoragePath knows, such as ``s3://my_conn@bucket/pictures/`` (templated). In a folder,
        files are named by task id and number.
    :param max_bytes: the most that one file may hold.
    :param allow_private: allow hosts with private addresses. A service on loopback (the sandbox) needs no
        leave.
    :param aio_conn_id: connection that may be asked again.
    """

    template_fields: Sequence[str] = ("source", "output_path", "aio_conn_id")
    ui_color = "#e6f4f1"

    def __init__(
        self,
        *,
        source: Any,
        output_path: str,
        max_bytes: int = MAX_BYTES,
        allow_private: bool = False,
        aio_conn_id: str = AioHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.output_path = output_path
        self.max_bytes = max_bytes
        self.allow_private = allow_private
        self.aio_conn_id = aio_conn_id
        self._files: list[dict[str, Any]] = []

    @cached_property
    def hook(self) -> AioHook:
        """The hook of ``aio_conn_id``."""
        return AioHook(self.aio_conn_id)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Fetch everything; the first file that cannot be had fails the task."""
        wanted = list(_wanted(self.source))
        if not str(self.output_path).endswith("/") and len(wanted) != 1:
            raise AirflowFailException(
                f"output_path {self.output_path!r} names one file, and source holds {len(wanted)} URLs; "
                "end it with / to name a folder."
            )
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            self._files = list(pool.map(self._fetch, wanted))
        tell_assets(context, rows=len(self._files), credits=0, failures=0)
        self.log.info("Downloaded %d files to %s.", len(self._files), self.output_path)
        return self._files

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """URLs in, files out, for OpenLineage."""
        return openlineage(
            inputs=[file["url"] for file in self._files], outputs=[file["path"] for file in self._files]
        )

    def _fetch(self, wanted: Wanted) -> dict[str, Any]:
        try:
            return self._save(wanted)
        except (NotFoundError, AuthenticationError):
            # Results expire, nobody says when. Their task may know a fresh address; asking is free.
            fresh = self._ask_again(wanted)
            if fresh is None or fresh == wanted.url:
                raise
            return {**self._save(wanted._replace(url=fresh)), "url": wanted.url}

    def _save(self, wanted: Wanted) -> dict[str, Any]:
        from aio_provider.jobs.download import download

        path = str(self.output_path)
        if path.endswith("/"):
            path += _name_of(wanted)
        target, fs = storage_of(path)
        done = download(
            wanted.url,
            target,
            fs=fs,
            max_bytes=self.max_bytes,
            allow_private=self.allow_private or self._service_is_local,
        )
        return {"url": wanted.url, "path": path, "bytes": done.size, "task_id": wanted.task_id}

    def _ask_again(self, wanted: Wanted) -> str | None:
        if wanted.task_id is None:
            return None
        with self.hook.get_conn() as client:
            urls = client.get_task(wanted.task_id).urls
        return urls[wanted.place] if wanted.place < len(urls) else None

    @cached_property
    def _service_is_local(self) -> bool:
        return is_loopback(urlsplit(self.hook.settings.base_url).hostname or "")


def storage_of(path: str) -> tuple[str, AbstractFileSystem | None]:
    """A target and its file system: Airflow's, with the credentials of its connections, where it has one."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.providers.common.compat.sdk import io as storage  # type: ignore[attr-defined]

    scheme = urlsplit(path).scheme
    if scheme and not storage.has_fs(scheme):
        return path, None  # fsspec finds it, with its own credentials
    target = ObjectStoragePath(path)
    return target.path, target.fs


def _wanted(source: Any) -> Iterator[Wanted]:
    if isinstance(source, str):
        yield Wanted(source)
    elif isinstance(source, Mapping):
        urls = source.get("urls")
        if not urls:
            raise AirflowFailException(
                "source: it must hold URLs, or results of operators with theirs in 'urls'; "
                f"got a dict of {', '.join(map(repr, list(source)[:5])) or 'nothing'}."
            )
        for place, url in enumerate(urls):
            yield Wanted(url, source.get("task_id"), place)
    elif isinstance(source, Iterable):
        for item in source:
            yield from _wanted(item)
    else:
        raise AirflowFailException(
            f"source: it must be a URL, a result of an operator, or a list of these, not "
            f"{type(source).__name__}."
        )


def _name_of(wanted: Wanted) -> str:
    # Nothing of a URL is taken over but a plain ending: it is untrusted, and would be part of a path.
    stem = wanted.task_id or hashlib.sha256(wanted.url.encode()).hexdigest()[:16]
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", stem)[:100]
    ending = PurePosixPath(urlsplit(wanted.url).path).suffix
    return f"{stem}-{wanted.place + 1}{ending if re.fullmatch(r'[.][A-Za-z0-9]{1,5}', ending) else ''}"
