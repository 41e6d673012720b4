"""Whose an output is while its rows are made: one call's at a time, from before the first row is sent."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from aio_provider.frames.places import is_local, write_whole

if sys.platform != "win32":
    import fcntl

#: the claim's file in the folder of the parts
CLAIM: Final = "_aio_claim.json"
#: the file in it that the call which writes it has locked
LOCK: Final = "_aio_lock"
#: seconds that a claim stands unless it is renewed: longer than any wait between two waves of a batch
LASTS: Final = 24 * 3600.0
#: seconds within which a claim is written once its file is there
_WRITING: Final = 60.0


@dataclass(frozen=True)
class Claim:
    """A call that writes, or is going to write, an output.

    :param call: its fingerprint.
    :param owner: who calls, where that is known and does one call at a time: it may go on with another one.
    :param about: a description of the call.
    :param until: seconds since 1970; after that it is nobody's.
    """

    call: str
    owner: str = ""
    about: Mapping[str, Any] | None = None
    until: float = 0.0

    def yields_to(self, other: Claim) -> bool:
        """Whether it is no obstacle to that one."""
        same = self.call == other.call or (self.owner != "" and self.owner == other.owner)
        return same or self.until <= time.time()


class Lock:
    """The right to write a folder of a local disk, held by one call of one process while it runs.

    The system takes it back when the process ends, however it ends: no lock outlives whoever held it.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    @classmethod
    def take(cls, root: str, said: str) -> Lock | None:
        """Take the lock of a folder.

        :param said: what the message calls the folder.
        :returns: ``None`` where the system or the disk knows no such locks.
        :raises FileExistsError: another call has it.
        """
        if sys.platform == "win32":
            return None
        path = Path(root) / LOCK
        while True:
            file = path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                who = file.read().decode(errors="replace") or "not known which"
                file.close()
                raise FileExistsError(
                    f"{said} is being written by another call (process {who}). Wait for it, or give another "
                    "name. Nothing was sent."
                ) from error
            except OSError:
                file.close()
                return None
            lock = cls(path, file)
            if lock._is_there():
                file.truncate(0)
                file.write(f"{os.getpid()} on {socket.gethostname()}".encode())
                file.flush()
                return lock
            file.close()  # whoever had it took the file away when it ended

    def release(self) -> None:
        """Let others have it."""
        if self._file.closed:
            return
        if self._is_there():
            self._path.unlink(missing_ok=True)
        if sys.platform != "win32":
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked process may have the file open too
        self._file.close()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False


def standing(fs: Any, root: str, mine: Claim) -> Claim | None:
    """The claim of another call on the output in this folder, if one stands."""
    there = _read(fs, root)
    return None if there is None or there.yields_to(mine) else there


def take(fs: Any, root: str, mine: Claim, *, overwrite: bool) -> Claim | None:
    """Claim the output in this folder, or renew the claim.

    Of two calls in the same moment one gets it, on a disk that all of them share. An object store has no such
    promise for all that fsspec knows: there the claim is read once more after it was written, which leaves
    a gap of the time that one request takes; whoever lost it is refused at its next wave.

    :returns: another call's claim that stands; then nothing was written.
    :raises OSError: it cannot be written.
    """
    there = _read(fs, root)
    data = json.dumps(asdict(mine)).encode()
    if there is None:
        with suppress(FileExistsError):  # somebody was first
            return _create(fs, root, data, mine)
        there = _read(fs, root)
    if there is not None and not overwrite and not there.yields_to(mine):
        return there
    write_whole(fs, f"{root}/{CLAIM}", data)
    return None


def _create(fs: Any, root: str, data: bytes, mine: Claim) -> Claim | None:
    path = f"{root}/{CLAIM}"
    if is_local(fs):
        with Path(path).open("xb", buffering=0) as file:
            file.write(data)
        return None
    fs.pipe_file(path, data)
    return standing(fs, root, mine)


def _read(fs: Any, root: str) -> Claim | None:
    path = f"{root}/{CLAIM}"
    try:
        return Claim(**json.loads(fs.cat_file(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # being written in this moment, or whoever wrote it was killed there
        return Claim("", until=fs.modified(path).timestamp() + _WRITING)
