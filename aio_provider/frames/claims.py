"""Whose an output is while its rows are made: one call's at a time, from before the first row is sent."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from aio_provider.frames.places import is_local, write_whole

#: the claim's file in the folder of the parts
CLAIM: Final = "_aio_claim.json"
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
