"""A result in parts: Parquet files in a folder, with a manifest that says what each part holds.

Every file appears whole. The manifest is written after the files it names, so a crash at any moment leaves
parts that can be read, and a re-run that knows which of them are finished.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames.claims import CLAIM, Claim, Lock, standing, take
from aio_provider.frames.parts import Part
from aio_provider.frames.places import is_local, locate, write_whole
from aio_provider.frames.same import is_paid, refusal
from aio_provider.frames.schema import SCHEMA_VERSION
from aio_provider.frames.words import words

MANIFEST: Final = "_aio_manifest.json"
#: as Hive and every reader of its folders names a null
NULL: Final = "__HIVE_DEFAULT_PARTITION__"
_OURS = re.compile(r"(^|/)part-\d{5,}\.parquet$")
#: bytes that a row's results take in a file, on the safe side
_ROW_BYTES = 300


@dataclass(frozen=True)
class PartNote:
    """What the manifest says of one part.

    :param number: counted from 0; ``start``: rows before it.
    :param input: digest of the input rows.
    :param statuses: rows by status.
    :param credits: what its rows cost, whenever that was.
    :param files: path below the folder, rows, bytes and SHA-256 of each file.
    """

    number: int
    start: int
    rows: int
    input: str
    statuses: Mapping[str, int]
    credits: float
    files: Sequence[Mapping[str, Any]] = field(default_factory=list)


class PartFiles:
    """The folder of a result.

    :param url: path or fsspec URL of the folder.
    :param partition_by: columns whose values name folders (``country=de/part-00000.parquet``); the files
        leave them out.
    :param called: what the user calls it, where that is not its own name.
    """

    def __init__(self, url: str, partition_by: Sequence[str] = (), *, called: str | None = None) -> None:
        self.url = url.rstrip("/") or url
        self._called = self.url if called is None else called
        self._made_root = False
        self._lock: Lock | None = None
        self._before: dict[str, Any] | None = None
        self._about: dict[str, Any] = {}
        self.partition_by = list(partition_by)
        self.notes: dict[int, PartNote] = {}
        self._call = ""
        self.fs, self.root = locate(self.url)
        self._made: set[str] = set()

    def prepare(
        self,
        call: str,
        *,
        overwrite: bool,
        room: int = 0,
        about: Mapping[str, Any] | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Make sure, before anything is spent, that the result can be written here, and begin it.

        :param call: the call's fingerprint; a folder with the same one is a re-run's.
        :param overwrite: take the place of another call's result. Files of others are never touched.
        :param room: bytes that will be needed, about.
        :param about: a description of the call, kept beside its fingerprint.
        :param claim: keep other calls away from now on, while nothing is written yet.
        :raises FileExistsError: there are files that are not this call's, and something in them is paid for;
            or another call has claimed the place, or writes there in this moment.
        :raises OSError: the place cannot be written, or has too little room.
        """
        self._call, self._about = call, dict(about or {})
        found = self._look(overwrite)
        if not overwrite:
            self._refuse(standing(self.fs, self.root, claim or Claim(call)))
        if is_local(self.fs):
            parent = Path(self.root).parent
            if not parent.is_dir():
                raise FileNotFoundError(
                    f"{self._said}: the folder {str(parent)!r} does not exist; make it first."
                )
            require_room(parent, self._said, room)
        try:
            self._made_root = not self.fs.exists(self.root)
            self.fs.makedirs(self.root, exist_ok=True)
            if claim is None and is_local(self.fs):
                self._lock = Lock.take(self.root, self._said)
            other = None if claim is None else take(self.fs, self.root, claim, overwrite=overwrite)
        except FileExistsError:
            raise
        except OSError as error:
            raise type(error)(f"{self._said} cannot be written: {error}") from error
        self._refuse(other)
        if claim is not None or self._lock is not None:
            found = self._look_again(overwrite)
        if found is not None and found.get("call") == call:
            self.notes = {note["number"]: PartNote(**note) for note in found.get("parts", ())}
        else:
            self._before = found
        try:
            self.save({}, complete=False)
        except OSError as error:
            self.release()
            raise type(error)(f"{self._said} cannot be written: {error}") from error

    @property
    def _said(self) -> str:
        return words.get().argument("output", self._called)

    def _look(self, overwrite: bool) -> dict[str, Any] | None:
        """The manifest that is there."""
        if self.fs.isfile(self.root):
            raise FileExistsError(f"{self._said} is a file; give a folder's name.")
        names = self._names()
        found = self._manifest()
        foreign = [
            name for name in names if not name.startswith(("_", ".")) and not (found and _OURS.search(name))
        ]
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise FileExistsError(
                f"{self._said} has files that are not a result of aio.generate "
                f"({foreign[0]!r}{more}); give another folder."
            )
        others = found is not None and found.get("call") != self._call
        if found is not None and others and not overwrite and _is_paid(found):
            raise FileExistsError(refusal(self._called, found.get("about"), self._about))
        return found

    def _look_again(self, overwrite: bool) -> dict[str, Any] | None:
        """Whoever had it may have ended between the first look and this call's claim or lock."""
        try:
            return self._look(overwrite)
        except FileExistsError:
            if self._lock is None:
                self._remove([CLAIM])
            self.release()
            raise

    def release(self) -> None:
        """Let another call write here."""
        if self._lock is not None:
            self._lock.release()

    def _refuse(self, other: Claim | None) -> None:
        if other is not None:
            raise FileExistsError(refusal(self._called, other.about, self._about, until=other.until))

    def write(self, part: Part, table: pa.Table, digest: str) -> PartNote:
        """Write a part's files, then say so in the manifest."""
        files = []
        for folder, piece in self._split(table):
            name = f"{folder}part-{part.number:05d}.parquet"
            sink = pa.BufferOutputStream()
            pq.write_table(piece, sink, row_group_size=max(len(piece), 1))
            data = sink.getvalue().to_pybytes()
            self._make(folder)
            write_whole(self.fs, f"{self.root}/{name}", data)
            files.append(
                {
                    "path": name,
                    "rows": len(piece),
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
            )
        old = self.notes.get(part.number)
        results = part.filled()
        note = PartNote(
            part.number,
            part.start,
            len(part.results),
            digest,
            dict(part.statuses()),
            sum(one.credits or 0.0 for one in results),
            files,
        )
        self.notes[part.number] = note
        self.save({}, complete=False)
        kept = {file["path"] for file in files}
        self._remove([file["path"] for file in (old.files if old else ()) if file["path"] not in kept])
        return note

    def save(self, totals: Mapping[str, Any], *, complete: bool) -> None:
        """Write the manifest.

        :param complete: every row of the input is in a part.
        """
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "call": self._call,
            "about": self._about,
            "complete": complete,
            "totals": dict(totals),
            "parts": [asdict(note) for _, note in sorted(self.notes.items())],
        }
        write_whole(self.fs, f"{self.root}/{MANIFEST}", json.dumps(manifest).encode())

    def complete(self, count: int, totals: Mapping[str, Any]) -> None:
        """The input has ended after ``count`` parts: drop what an earlier, longer one left."""
        self.notes = {number: note for number, note in self.notes.items() if number < count}
        self.save(totals, complete=True)
        self._remove([CLAIM])
        ours = {file["path"] for note in self.notes.values() for file in note.files}
        self._remove([name for name in self._names() if _OURS.search(name) and name not in ours])

    def paths(self) -> list[str]:
        """The files, in the order of the input's rows, as URLs or paths."""
        return [
            f"{self.root}/{file['path']}" for _, note in sorted(self.notes.items()) for file in note.files
        ]

    def remove(self) -> None:
        """Take the folder away."""
        self.fs.rm(self.root, recursive=True)
        self.release()

    def discard(self) -> None:
        """Take away what :meth:`prepare` and :meth:`write` made; a result that was to be replaced is kept."""
        written = [file["path"] for note in self.notes.values() for file in note.files]
        self.notes.clear()
        if self._made_root:
            self.remove()
        elif self._before is not None and _is_paid(self._before):
            kept = {file["path"] for part in self._before["parts"] for file in part["files"]}
            self._remove([CLAIM, *(name for name in written if name not in kept)])
            write_whole(self.fs, f"{self.root}/{MANIFEST}", json.dumps(self._before).encode())
        else:
            self._remove([*(name for name in self._names() if _OURS.search(name)), MANIFEST, CLAIM])
        self.release()

    def open(self, number: int) -> Any:
        """The one file of a part that is not partitioned, to be read."""
        return self.fs.open(f"{self.root}/{self.notes[number].files[0]['path']}", "rb")

    def are_there(self, note: PartNote) -> bool:
        """Whether a part's files are as they were written, by their sizes."""
        try:
            return all(self._sizes().get(file["path"]) == file["bytes"] for file in note.files)
        except OSError:
            return False

    def _sizes(self) -> dict[str, int]:
        if not hasattr(self, "_known_sizes"):
            found = self.fs.find(self.root, detail=True)
            self._known_sizes = {self._relative(path): int(info["size"]) for path, info in found.items()}
        return self._known_sizes

    def _manifest(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.fs.cat_file(f"{self.root}/{MANIFEST}"))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise FileExistsError(f"{self._said}: its {MANIFEST} cannot be read; give another folder.")
        return found

    def _names(self) -> list[str]:
        if not self.fs.exists(self.root):
            return []
        self.fs.invalidate_cache(self.root)
        return sorted(self._relative(path) for path in self.fs.find(self.root))

    def _relative(self, path: str) -> str:
        return path[len(self.root) :].lstrip("/")

    def _make(self, folder: str) -> None:
        if folder and folder not in self._made:
            self.fs.makedirs(f"{self.root}/{folder}", exist_ok=True)
            self._made.add(folder)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self.fs.rm_file(f"{self.root}/{name}")

    def _split(self, table: pa.Table) -> list[tuple[str, pa.Table]]:
        """The table by its folders, each without the columns that the folder's name tells."""
        if not self.partition_by:
            return [("", table)]
        pieces = []
        for values in table.group_by(self.partition_by).aggregate([]).to_pylist():
            mask = None
            for name, value in values.items():
                column = table.column(name)
                same = (
                    pc.is_null(column) if value is None else pc.equal(column, pa.scalar(value, column.type))
                )
                mask = same if mask is None else pc.and_(mask, same)
            folder = "".join(f"{quote(name)}={_folder(value)}/" for name, value in values.items())
            pieces.append((folder, table.filter(mask).drop_columns(self.partition_by)))
        return sorted(pieces, key=lambda piece: piece[0])


def _folder(value: object) -> str:
    return NULL if value is None else quote(str(value), safe="")


def check_partitions(partition_by: object, schema: pa.Schema, *, folder: bool) -> list[str]:
    """The columns to partition by.

    :raises ConfigurationError: not a column of the input, or the output is one file.
    """
    if partition_by is None:
        return []
    names = [partition_by] if isinstance(partition_by, str) else list(partition_by)  # type: ignore[call-overload]
    for name in names:
        if name not in schema.names:
            raise ConfigurationError(f"partition_by: there is no column {name!r}.")
        if pa.types.is_nested(schema.field(name).type) or pa.types.is_floating(schema.field(name).type):
            raise ConfigurationError(
                f"partition_by: column {name!r} is {schema.field(name).type}; a folder's name is a text, a "
                "whole number, a date or true and false."
            )
    if names and not folder:
        raise ConfigurationError("partition_by needs a folder as output, such as 'out/'.")
    if set(names) == set(schema.names):
        raise ConfigurationError("partition_by names every column of the input; leave one for the files.")
    return names


def room_for(rows: int | None, size: int) -> int:
    """Bytes that a result takes, about."""
    return size + _ROW_BYTES * (rows or 0)


def _is_paid(manifest: Mapping[str, Any]) -> bool:
    parts = manifest.get("parts", ())
    return any(is_paid(part["statuses"], part["credits"]) for part in parts)


def require_room(path: Path, output: str, room: int) -> None:
    """Refuse to begin what a local disk cannot hold.

    :param output: what the message calls it.
    :raises OSError: with how much is missing.
    """
    free = shutil.disk_usage(path).free
    if free < room:
        raise OSError(
            f"{output} needs about {room / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB left; "
            "free some space or give another place. Nothing was sent."
        )
