"""Files written whole or not at all, on a local disk or in an object store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def locate(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it (absolute on a local disk)."""
    fs, path = fsspec.core.url_to_fs(url)
    return fs, str(Path(path).absolute()) if is_local(fs) else path


def is_local(fs: Any) -> bool:
    """Whether it is a disk of this machine: there a rename is atomic and cheap."""
    return isinstance(fs, LocalFileSystem)


def write_whole(fs: Any, path: str, data: bytes) -> None:
    """A file that appears at once with all of its bytes; one that is there is replaced.

    :raises OSError: it cannot be written; what was there stays.
    """
    if not is_local(fs):
        fs.pipe_file(path, data)  # one object, there once it is all there
        return
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")  # the same each time: what a crash leaves is replaced
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_disk(path: str | Path) -> None:
    """Without this a power cut after a rename can leave the new name with nothing in it."""
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
