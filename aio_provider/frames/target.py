"""Where a streamed result goes: a folder of parts, or one file that is put together from parts at the end."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aio_provider.frames.claims import LASTS, Claim
from aio_provider.frames.output import METADATA_KEY, Output
from aio_provider.frames.partfiles import PartFiles, PartNote, check_partitions, room_for
from aio_provider.frames.parts import Part
from aio_provider.frames.places import is_local, locate, to_disk
from aio_provider.frames.same import is_paid
from aio_provider.frames.scan import Scan
from aio_provider.frames.schema import SCHEMA_VERSION, result_columns, with_results

_ENDED: Final = frozenset({"succeeded", "failed", "expired", "skipped"})


def is_folder(output: str | os.PathLike[str]) -> bool:
    """Whether an output is a folder: it ends in ``/``, is one already, or has no suffix."""
    url = os.fspath(output)
    if url.endswith("/"):
        return True
    fs, path = locate(url)
    return bool(fs.isdir(path)) or not Path(path).suffix


class Target:
    """The output of a streamed call.

    :param url: a folder (see :func:`is_folder`) or a ``.parquet`` file, by path or fsspec URL.
    :param scan: the input.
    :param prefix: of the output columns.
    :param partition_by: columns whose values name folders.
    :raises ConfigurationError: an output or a partition that cannot be.
    """

    def __init__(self, url: object, scan: Scan, prefix: str, partition_by: object = None) -> None:
        if not isinstance(url, str | os.PathLike):
            raise TypeError(f"output must be a path or URL, not {type(url).__name__}.")
        self.url = os.fspath(url)
        self.prefix = prefix
        self._scan = scan
        self.file = None if is_folder(self.url) else Output.at(self.url, prefix=prefix)
        names = check_partitions(partition_by, scan.schema, folder=self.file is None)
        folder = self.url if self.file is None else f"{self.url}.parts"
        self.files = PartFiles(folder, names, called=self.url)
        #: what is in a finished file, by part
        self._old: dict[int, PartNote] = {}
        self._written: set[int] = set()
        self._metadata = _metadata(scan.schema, prefix)

    @property
    def partition_by(self) -> list[str]:
        """The columns whose values name folders."""
        return self.files.partition_by

    def prepare(
        self,
        call: str,
        *,
        overwrite: bool,
        about: Mapping[str, Any] | None = None,
        owner: str | None = None,
    ) -> None:
        """Make sure, before anything is spent, that the result can be written, and begin it.

        :param about: a description of the call, kept beside its fingerprint.
        :param owner: claim the output for this one, or for nobody in particular (``""``): other calls are
            kept away while no row is written yet, for a day or until it is prepared again. ``None``: not.
        :raises FileExistsError: something else is there, or another call has claimed the output.
        :raises OSError: the place cannot be written, or has too little room.
        """
        self._call, self._about = call, dict(about or {})
        room = room_for(self._scan.total, self._scan.size)
        if self.file is not None:
            self._take_note(self.file.present(call, overwrite=overwrite, about=about))
            room *= 2  # the parts, and the file that is made of them
        claim = None if owner is None else Claim(call, owner, self._about, time.time() + LASTS)
        self.files.prepare(call, overwrite=overwrite, room=room, about=about, claim=claim)
        if self.file is not None:
            try:  # whoever had claimed or locked it may have ended since the look above
                self._take_note(self.file.present(call, overwrite=overwrite, about=about))
            except FileExistsError:
                self.files.discard()
                raise

    def _take_note(self, note: Mapping[str, Any] | None) -> None:
        if note is not None and note.get("call") == self._call:
            self._old = {part["number"]: PartNote(**part) for part in note.get("parts", ())}

    def release(self) -> None:
        """Nothing more is written: let another call."""
        self.files.release()

    def known(self, number: int) -> PartNote | None:
        """What is there of a part, finished or not."""
        note = self.files.notes.get(number)
        if note is not None and self.files.are_there(note):
            return note
        return self._old.get(number)

    def finished(self, part: Part, *, again: Sequence[str] = ()) -> PartNote | None:
        """A part's note, if the very same rows are there with an end each.

        :param again: statuses that are not the end, for this call.
        """
        note = self.known(part.number)
        if note is None or note.input != part.digest or note.rows != len(part.results):
            return None
        return note if set(note.statuses) <= _ENDED - set(again) else None

    def write(self, part: Part) -> PartNote:
        """Write a part. One that is there is replaced, unless it has more results.

        :raises OSError: it cannot be written.
        """
        old = self.known(part.number)
        better = old is not None and old.statuses.get("succeeded", 0) > part.statuses()["succeeded"]
        if old is not None and old.input == part.digest and better:
            return old  # a run that was stopped knows less than the one before
        table = with_results(part.rows, part.filled(), self.prefix).replace_schema_metadata(self._metadata)
        note = self.files.write(part, table, part.digest)
        self._written.add(part.number)
        return note

    def complete(self, count: int, totals: Mapping[str, Any]) -> None:
        """The input has ended after ``count`` parts: the file is put together, the manifest says so."""
        if self.file is None:
            self.files.complete(count, totals)
            return
        if self._written or self.files.notes or set(self._old) != set(range(count)):
            self._assemble(count, totals)
        self.files.remove()

    def discard(self) -> bool:
        """Take away what was begun, if no row here or in a finished file has cost anything.

        :returns: whether it was.
        """
        if self._old or any(is_paid(note.statuses, note.credits) for note in self.files.notes.values()):
            return False
        self.files.discard()
        return True

    def pieces(self) -> tuple[Any, list[str]]:
        """The file system of the result and its files, in the order of the input's rows.

        While a single file is not there yet, these are its parts.
        """
        if self.file is not None:
            fs, path = locate(self.url)
            if fs.exists(path):
                return fs, [path]
        return self.files.fs, self.files.paths()

    def schema(self) -> pa.Schema:
        """Of the result, the columns that name folders included."""
        return with_results(self._scan.schema.empty_table(), [], self.prefix).schema.with_metadata(
            self._metadata
        )

    def _assemble(self, count: int, totals: Mapping[str, Any]) -> None:
        """Row groups in the order of the input, under another name, then in place at once."""
        fs, path = locate(self.url)
        notes = [self.files.notes.get(number) or self._old[number] for number in range(count)]
        note = {
            "schema_version": SCHEMA_VERSION,
            "call": self._call,
            "about": self._about,
            "totals": dict(totals),
            "run_id": totals.get("run_id", ""),
            "parts": [{**asdict(one), "files": []} for one in notes],
        }
        schema = self.schema()
        schema = schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: json.dumps(note).encode()})
        with tempfile.TemporaryDirectory() as elsewhere:
            whole = Path(self.files.root if is_local(fs) else elsewhere) / "_whole.tmp"
            with pq.ParquetWriter(whole, schema) as writer:
                for number in range(count):
                    table = self._part(fs, path, number)
                    writer.write_table(table.cast(schema), row_group_size=max(len(table), 1))
            if is_local(fs):
                to_disk(whole)
                whole.replace(path)
            else:
                fs.put_file(str(whole), path)

    def _part(self, fs: Any, path: str, number: int) -> pa.Table:
        """A part's rows, from its own file or from the file of the run before."""
        if number in self.files.notes:
            with self.files.open(number) as file:
                return pq.ParquetFile(file).read()
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).read_row_group(number)


def _metadata(schema: pa.Schema, prefix: str) -> dict[bytes, bytes]:
    """pandas' note for a reader, so that ``pandas.read_parquet`` gives the same types as a call in memory."""
    frame = schema.empty_table().to_pandas()
    made = result_columns([], frame.index, prefix)
    kept = frame.drop(columns=[name for name in made.columns if name in frame.columns])
    table = pa.Table.from_pandas(pd.concat([kept, made], axis="columns"))
    return dict(table.schema.metadata or {})
