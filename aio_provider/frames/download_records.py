"""Which row's download wrote a file, and what it wrote: a record of each file, kept in their folder.

It is written when the file has arrived and before it gets its name: wherever a run is cut short, no file of
ours is without one. It holds the file's size and SHA-256: neither another file under the same name nor one
that was damaged since is taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final

from aio_provider.frames.places import is_local, write_whole
from aio_provider.jobs.download import Downloaded

#: in the folder of the files; a JSON file for each of them
RECORDS: Final = ".aio-downloads"
_VERSION: Final = 1


class DownloadRecords:
    """The records of one folder.

    :param fs: its file system.
    :param root: its path there.
    """

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._folder = f"{root.rstrip('/')}/{RECORDS}"
        self._made = False
        #: paths of files named by their task that were there, and not as they were written
        self.changed: set[str] = set()

    def note(self, owner: Mapping[str, Any], done: Downloaded) -> None:
        """Write down whose a file is that has arrived.

        :raises OSError: it cannot be written.
        """
        self._write(owner, done.path, done.size, done.sha256)

    def find(self, path: str, owner: Mapping[str, Any]) -> tuple[int, str] | None:
        """Size and SHA-256 of a file whose name does not say whose it is; ``None`` when there is none.

        :raises FileExistsError: what is there is not, or no longer, what this owner's download wrote.
        """
        if not self._fs.exists(path):
            return None
        record = self._read(path)
        if record is None:
            raise _in_the_way(path, f"no record in {RECORDS} says that a download wrote it")
        _check_owner(path, record, owner)
        there = read_sum(self._fs, path)
        if there != _written(record):
            raise _in_the_way(path, "it has been changed since it was downloaded")
        return there

    def find_by_task(self, path: str, owner: Mapping[str, Any]) -> tuple[int, str] | None:
        """Size and SHA-256 of a file named by its task; ``None`` when there is none as it was written.

        One without a record, from a version that kept none, is taken as it is unless it is empty, and gets
        one. Of an object in a store, which is there whole or not at all, only the size is looked at.

        :raises FileExistsError: it is on record as another task's.
        """
        try:
            size = self._fs.size(path)
        except FileNotFoundError:
            return None
        record = self._read(path)
        if record is None:
            if size == 0:
                self.changed.add(path)
                return None
            there = read_sum(self._fs, path)
            with suppress(OSError):  # a folder that may only be read
                self._write(owner, path, *there)
            return there
        _check_owner(path, record, owner)
        written = _written(record)
        if size != written[0] or (is_local(self._fs) and read_sum(self._fs, path) != written):
            self.changed.add(path)
            return None
        return written

    def _write(self, owner: Mapping[str, Any], path: str, size: int, sha256: str) -> None:
        if not self._made:
            self._fs.makedirs(self._folder, exist_ok=True)
            self._made = True
        file = {"file": PurePosixPath(path).name, "bytes": size, "sha256": sha256}
        record = {"version": _VERSION, "owner": owner, **file}
        write_whole(self._fs, self._place(path), json.dumps(record).encode())

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._fs.cat_file(self._place(path)))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and isinstance(record.get("owner"), dict) else None

    def _place(self, path: str) -> str:
        # not the name itself: with an ending more it may be too long for a file system
        name = hashlib.sha256(PurePosixPath(path).name.encode()).hexdigest()[:32]
        return f"{self._folder}/{name}.json"


def _written(record: Mapping[str, Any]) -> tuple[int, str]:
    return record.get("bytes", -1), record.get("sha256", "")


def _check_owner(path: str, record: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
    if record["owner"] != owner:
        other = record["owner"].get("task_id")
        raise _in_the_way(path, f"it is another row's result{f', of task {other}' if other else ''}")


def _in_the_way(path: str, why: str) -> FileExistsError:
    return FileExistsError(
        f"{path!r} exists, and {why}. Nothing there is replaced: move it, choose another folder, or pass "
        "overwrite=True to fetch and replace whatever is there."
    )


def read_sum(fs: Any, path: str) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with fs.open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
