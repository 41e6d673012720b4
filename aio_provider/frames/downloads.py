"""Brings the files behind a frame's result URLs home, before they expire."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, overload
from urllib.parse import urlsplit

import fsspec
import pandas as pd

from aio_provider.api.client import AioClient
from aio_provider.api.core import is_loopback
from aio_provider.api.errors import AioError, AuthenticationError, ConfigurationError, NotFoundError
from aio_provider.frames.accessor import register
from aio_provider.frames.arguments import check_settings
from aio_provider.frames.columns import plain
from aio_provider.frames.download_records import DownloadRecords
from aio_provider.frames.progress import View, make_view
from aio_provider.frames.result import StreamResult
from aio_provider.frames.rewriting import ARROW, Downloads, Rewriting
from aio_provider.frames.schema import DEFAULT_PREFIX
from aio_provider.frames.urls import read_urls
from aio_provider.jobs.download import MAX_BYTES
from aio_provider.jobs.download import download as fetch
from aio_provider.jobs.settings import Settings

#: name without prefix → pandas dtype
COLUMNS: Final = {
    "file": "string",
    "files": "object",
    "bytes": "Int64",
    "sha256": "object",
    "file_error": "string",
}
_ENDINGS = {"video": ".mp4", "remove_video_background": ".mp4", "music": ".mp3", "speech": ".mp3"}


@overload
def download(source: pd.DataFrame, folder: str | os.PathLike[str], **arguments: Any) -> pd.DataFrame: ...
@overload
def download(
    source: str | os.PathLike[str] | StreamResult, folder: str | os.PathLike[str], **arguments: Any
) -> Downloads: ...
def download(  # type: ignore[misc]  # the arguments are those below, for each of the two
    source: pd.DataFrame | str | os.PathLike[str] | StreamResult,
    folder: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    names: Hashable | None = None,
    overwrite: bool = False,
    prefix: str = DEFAULT_PREFIX,
    max_bytes: int = MAX_BYTES,
    allow_private: bool | None = None,
    concurrency: int = 8,
    progress: bool | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
) -> pd.DataFrame | Downloads:
    """Fetch every result that :func:`aio_provider.generate` gave, and say where the files are.

    A DataFrame in, a DataFrame out. A file or folder of rows, or what a streamed call gave, is gone through a
    thousand rows at a time, and the rows with their files are written to ``output``.

    Each file is streamed and appears whole or not at all. A file that is there already, from an earlier run
    or from one cut short, is kept and not fetched again. The folder has a record of each file's size and
    SHA-256, in ``.aio-downloads``: a file that is no longer what was written is fetched again, with a
    warning (on an object store only the size is compared). A URL that has expired is asked for again at the
    service, which is free, where a key is set.

    :param source: the DataFrame or :class:`~.result.StreamResult`, or the path, glob or URL of its Parquet.
    :param folder: a local folder (made if need be) or any fsspec URL, such as ``s3://bucket/pictures``.
    :param output: the ``.parquet`` file for the rows of a streamed source; a DataFrame needs none. One that
        is there is refused unless it is this same download's (a re-run), or ``overwrite``.
    :param names: a column to name the files by; each value must be there and occur once. By default a file is
        named by its task and number. With it, a file that is there is kept if this row's download wrote it
        (the task and the SHA-256 on record are its own). Any other, a changed one too, is refused before
        anything is fetched, unless ``overwrite``.
    :param overwrite: fetch and replace what is there.
    :param prefix: of the frame's output columns.
    :param max_bytes: the most that one file may hold.
    :param allow_private: permit hosts with private addresses; ``None``: only loopback ones, and those only
        when the service itself is on loopback (the sandbox).
    :param concurrency: files at once.
    :param progress: as in :func:`aio_provider.generate`.
    :returns: for a DataFrame, the frame with ``aio_file`` (the first), ``aio_files``, ``aio_bytes``
        (together), ``aio_sha256`` (one for each of ``aio_files``) and ``aio_file_error``. A file that cannot
        be had is an error in its row only. For anything else, the figures.
    :raises ValueError: a frame without results, names that are null or not unique.
    :raises FileExistsError: see ``names``.
    :raises OSError: the folder cannot be written.
    """
    register()
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency!r}; it must be a whole number above 0.")
    settings = Settings.from_env(**check_settings({"api_key": api_key, "base_url": base_url}))
    where = os.fspath(folder)
    if not isinstance(source, str | os.PathLike | StreamResult):
        if output is not None:
            raise ConfigurationError("output: for a streamed source; of a DataFrame, write what is returned.")
        rows = list(_rows(source, names, prefix, {}))
        target = _Target(where, settings, max_bytes, allow_private, named=names is not None)
        if names is not None and not overwrite:
            target.look(rows, concurrency)
        view = make_view(sum(bool(row.urls) for row in rows), "download", progress)
        fetched = _fetch_all(target, rows, view, concurrency, overwrite=overwrite)
        view.close()
        target.tell()
        return _with_files(source, fetched, prefix)
    rewriting = Rewriting(source, output, [where, names, prefix], overwrite=overwrite)
    target = _Target(where, settings, max_bytes, allow_private, named=names is not None)
    #: by name in the folder, whose it is: the value and the row
    seen: dict[str, tuple[object, object]] = {}
    if names is not None and not overwrite:
        for frame in rewriting.frames():
            target.look(list(_rows(frame, names, prefix, seen)), concurrency)
        seen = {}
    view = make_view(rewriting.total, "download", progress)
    for frame in rewriting.frames():
        rows = list(_rows(frame, names, prefix, seen))
        fetched = _fetch_all(target, rows, view, concurrency, overwrite=overwrite)
        rewriting.write(_with_files(frame, fetched, prefix), {prefix + name: ARROW[name] for name in COLUMNS})
    view.close()
    target.tell()
    return rewriting.finish()


def _fetch_all(
    target: _Target, rows: list[_Row], view: View, concurrency: int, *, overwrite: bool
) -> list[_Fetched | None]:
    """The rows' files, several at a time; None for rows that have none."""
    results: list[_Fetched | None] = [None] * len(rows)
    counts = Counter(view.state.counts)
    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        waiting = {pool.submit(target.fetch_row, row, overwrite): row.position for row in rows if row.urls}
        try:
            for done in as_completed(waiting):
                result = results[waiting[done]] = done.result()
                counts["failed" if result.error is not None else "succeeded"] += 1
                view.update(counts)
                view.draw()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    stem: str
    urls: tuple[str, ...]
    task_id: str | None
    ending: str

    def owner(self, number: int) -> dict[str, Any]:
        """What tells the download of the row's file of this number (from 1) from all others."""
        if self.task_id is not None:
            return {"task_id": self.task_id, "number": number}
        return {"url_sha256": hashlib.sha256(self.urls[number - 1].encode()).hexdigest(), "number": number}


@dataclass(frozen=True, slots=True)
class _Fetched:
    files: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    sums: tuple[str, ...] = ()
    error: str | None = None


class _Target:
    """Where files go, and how they are fetched.

    :param named: the files' names do not say whose they are.
    """

    def __init__(
        self, folder: str, settings: Settings, max_bytes: int, allow_private: bool | None, *, named: bool
    ) -> None:
        self._folder = folder.rstrip("/") or folder
        self._settings = settings
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._fs, path = fsspec.core.url_to_fs(self._folder)
        _make_folder(self._fs, path)
        self._records = DownloadRecords(self._fs, path)
        self._named = named
        #: by path, what was there before anything was fetched
        self._found: dict[str, tuple[int, str]] = {}

    def look(self, rows: list[_Row], concurrency: int) -> None:
        """Find the named files that are there already.

        :raises FileExistsError: one is not what its row's download wrote.
        """
        wanted = [
            (path, row.owner(number)) for row in rows for number, path in enumerate(self._paths(row), start=1)
        ]
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            found = pool.map(lambda one: self._records.find(*one), wanted)
            self._found |= {path: there for (path, _), there in zip(wanted, found, strict=True) if there}

    def fetch_row(self, row: _Row, overwrite: bool) -> _Fetched:
        try:
            return self._fetch_all(row, overwrite)
        except (NotFoundError, AuthenticationError) as gone:
            try:
                fresh = self._ask_again(row)
                if fresh is None:
                    raise gone
                return self._fetch_all(fresh, overwrite)
            except AioError as error:
                return _Fetched(error=f"{type(error).__name__}: {error}")
        except AioError as error:
            return _Fetched(error=f"{type(error).__name__}: {error}")

    def _fetch_all(self, row: _Row, overwrite: bool) -> _Fetched:
        paths = self._paths(row)
        found = [
            self._fetch(url, path, row.owner(number), overwrite)
            for number, (url, path) in enumerate(zip(row.urls, paths, strict=True), start=1)
        ]
        return _Fetched(tuple(paths), tuple(size for size, _ in found), tuple(digest for _, digest in found))

    def _fetch(self, url: str, path: str, owner: dict[str, Any], overwrite: bool) -> tuple[int, str]:
        """Size and SHA-256 of the file, fetched unless it is there."""
        there = None if overwrite else self._there(path, owner)
        if there is not None:
            return there
        done = fetch(
            url,
            path,
            max_bytes=self._max_bytes,
            allow_private=self._may_be_private(url),
            on_arrival=partial(self._records.note, owner),
        )
        return done.size, done.sha256

    def _there(self, path: str, owner: dict[str, Any]) -> tuple[int, str] | None:
        if self._named:
            # not found before: its row had another URL then, or it has come since
            return self._found.get(path) or self._records.find(path, owner)
        return self._records.find_by_task(path, owner)

    def tell(self) -> None:
        """Say what was there and was not what had been written."""
        changed = self._records.changed
        if changed:
            warnings.warn(
                f"Files in {self._folder!r} that were changed or damaged since the download, and are fetched "
                f"again: {len(changed)}, such as {PurePosixPath(min(changed)).name!r}. Keep what you change "
                "in another folder.",
                stacklevel=3,
            )

    def _ask_again(self, row: _Row) -> _Row | None:
        """The row with the URLs that the service gives now; ``None`` when it cannot be asked."""
        if row.task_id is None or self._settings.api_key is None:
            return None
        settings = self._settings
        with AioClient(settings.api_key, settings.base_url, allow_insecure=settings.allow_insecure) as client:
            urls = client.get_task(row.task_id).urls
        return replace(row, urls=urls) if urls and urls != row.urls else None

    def _may_be_private(self, url: str) -> bool:
        if self._allow_private is not None:
            return self._allow_private
        return all(is_loopback(urlsplit(one).hostname or "") for one in (self._settings.base_url, url))

    def _paths(self, row: _Row) -> list[str]:
        paths = []
        for number, url in enumerate(row.urls, start=1):
            suffix = PurePosixPath(urlsplit(url).path).suffix if not url.startswith("data:") else ""
            ending = suffix if re.fullmatch(r"\.\w{1,5}", suffix) else row.ending
            extra = f"-{number}" if len(row.urls) > 1 else ""
            paths.append(f"{self._folder}/{row.stem}{extra}{ending}")
        return paths


def _make_folder(fs: Any, path: str) -> None:
    try:
        fs.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        parts = PurePosixPath(path)
        file = next((str(one) for one in (parts, *parts.parents) if fs.isfile(str(one))), path)
        raise type(error)(
            f"folder: {file!r} is a file. aio.download puts each result into a folder of its own files; "
            "name a folder, which is made if need be."
        ) from error


def _rows(
    frame: pd.DataFrame, names: Hashable | None, prefix: str, seen: dict[str, tuple[object, object]]
) -> Iterator[_Row]:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"download takes the DataFrame that aio.generate returned, not {type(frame).__name__}."
        )
    for needed in (f"{prefix}urls", f"{prefix}task_id"):
        if needed not in frame.columns:
            raise ValueError(
                f"There is no column {needed!r}: download takes a frame that aio.generate returned."
            )
    if names is not None and names not in frame.columns:
        raise ValueError(f"names: there is no column {names!r}.")
    ending = _ENDINGS.get(str(frame.attrs.get("aio", {}).get("kind", "")), ".png")
    ids = [plain(value) for value in frame[f"{prefix}task_id"].tolist()]
    stems = ids if names is None else [plain(value) for value in frame[names].tolist()]
    for position, (cell, task_id, stem) in enumerate(zip(frame[f"{prefix}urls"], ids, stems, strict=True)):
        label = plain(frame.index[position])
        try:
            urls = read_urls(plain(cell))
        except ValueError as error:
            raise ValueError(
                f"Column '{prefix}urls' holds text in place of lists, and that of row {label!r} is {error}. "
                "Parquet keeps lists as they are; CSV does not."
            ) from error
        if not urls:
            yield _Row(position, "", (), None, ending)
            continue
        if stem is None and names is not None:
            raise ValueError(f"names: column {names!r} is null in row {label!r}.")
        # a name is anybody's text: no folders, no dots at its start; where there is none, the URL gives one
        other = f"result-{hashlib.sha256(urls[0].encode()).hexdigest()[:16]}"
        safe = re.sub(r"[^\w.-]+", "_", str(stem or other)).lstrip(".")[:120] or other
        if names is not None and safe.casefold() in seen:
            other_stem, other_label = seen[safe.casefold()]
            raise ValueError(
                f"names: row {other_label!r} ({other_stem!r}) and row {label!r} ({stem!r}) would both be "
                f"named {safe!r}; "
                "names must differ, in more than the case of letters."
            )
        if names is not None:
            seen[safe.casefold()] = stem, label
        yield _Row(position, safe, urls, task_id, ending)


def _with_files(frame: pd.DataFrame, results: list[_Fetched | None], prefix: str) -> pd.DataFrame:
    rows = [
        (one.files[0], list(one.files), sum(one.sizes), list(one.sums), None)
        if one is not None and one.files
        else (None, None, None, None, None if one is None else one.error)
        for one in results
    ]
    columns = {
        prefix + name: pd.Series([row[n] for row in rows], index=frame.index, dtype=dtype)
        for n, (name, dtype) in enumerate(COLUMNS.items())
    }
    kept = frame.drop(columns=[name for name in columns if name in frame.columns])
    out = pd.concat([kept, pd.DataFrame(columns, index=frame.index)], axis="columns")
    out.attrs = dict(frame.attrs)
    return out
