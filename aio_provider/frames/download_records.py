"""Which row's download wrote a file: a record of each file that was named by its row, kept in their folder.

A file named by its task says itself whose it is; one named ``kettle.png`` does not. Its record is written
when the file has arrived and before it gets its name: wherever a run is cut short, no file of ours is without
one. It holds the file's SHA-256: another file under the same name is never taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from aio_provider.frames.places import write_whole
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

    def note(self, owner: Mapping[str, Any], done: Downloaded) -> None:
        """Write down whose a file is that has arrived.

        :raises OSError: it cannot be written.
        """
        if not self._made:
            self._fs.makedirs(self._folder, exist_ok=True)
            self._made = True
        file = {"file": PurePosixPath(done.path).name, "bytes": done.size, "sha256": done.sha256}
        record = {"version": _VERSION, "owner": owner, **file}
        write_whole(self._fs, self._place(done.path), json.dumps(record).encode())

    def find(self, path: str, owner: Mapping[str, Any]) -> tuple[int, str] | None:
        """Size and SHA-256 of a file that is there; ``None`` when there is none.

        :raises FileExistsError: what is there is not, or no longer, what this owner's download wrote.
        """
        if not self._fs.exists(path):
            return None
        record = self._read(path)
        if record is None:
            why = f"no record in {RECORDS} says that a download wrote it"
        elif record["owner"] != owner:
            other = record["owner"].get("task_id")
            why = f"it is another row's result{f', of task {other}' if other else ''}"
        else:
            there = read_sum(self._fs, path)
            if there == (record.get("bytes"), record.get("sha256")):
                return there
            why = "it has been changed since it was downloaded"
        raise FileExistsError(
            f"{path!r} exists, and {why}. Nothing there is replaced: move it, choose another folder, or pass "
            "overwrite=True to fetch and replace whatever is there."
        )

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


def read_sum(fs: Any, path: str) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with fs.open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
