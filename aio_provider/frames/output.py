"""The Parquet file of a run: checked before anything is spent, written whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames.columns import HALF, is_broken, plain
from aio_provider.frames.places import is_local, locate, to_disk
from aio_provider.frames.same import is_paid, refusal
from aio_provider.frames.schema import SCHEMA_VERSION, fix_types
from aio_provider.frames.words import words

#: where in the file's key-value metadata the note of the run is
METADATA_KEY: Final = b"aio_provider"
_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class Output:
    """A Parquet file to be.

    :param url: path or fsspec URL.
    :param prefix: of the output columns.
    """

    url: str
    prefix: str

    @classmethod
    def at(cls, target: object, *, prefix: str) -> Output:
        """Check the argument ``output=`` by itself.

        :raises TypeError: not a path.
        :raises ConfigurationError: not a Parquet file's name.
        """
        if not isinstance(target, str | os.PathLike):
            raise TypeError(f"output must be a path or URL of a .parquet file, not {type(target).__name__}.")
        url = os.fspath(target)
        if not isinstance(url, str):
            raise TypeError("output is bytes; give the path as text.")
        if not url.lower().endswith(_SUFFIXES):
            raise ConfigurationError(
                f"{words.get().argument('output', url)}: the result is written as Parquet, so the name must "
                f"end in .parquet. {words.get().other_format}"
            )
        return cls(url, prefix)

    def prepare(
        self, frame: pd.DataFrame, call: str, *, overwrite: bool, about: Mapping[str, Any] | None = None
    ) -> None:
        """Make sure, before anything is spent, that the result can be written here.

        :param frame: the input: its columns must fit into Parquet too.
        :param call: the call's fingerprint; an existing file with the same one is a re-run's.
        :param overwrite: replace whatever is there.
        :param about: a description of the call, for the message about another one's file.
        :raises FileExistsError: there is a file, and it is not this same call's.
        :raises FileNotFoundError, PermissionError, OSError: the place cannot be written.
        :raises ConfigurationError: a column that Parquet cannot hold.
        """
        arrow_input(frame)
        self.present(call, overwrite=overwrite, about=about)
        fs, path = locate(self.url)
        parent = fs._parent(path)
        if is_local(fs) and not Path(parent).is_dir():
            raise FileNotFoundError(f"{self._said}: the folder {parent!r} does not exist; make it first.")
        probe = self._temporary(path)
        try:
            fs.touch(probe)
            fs.rm_file(probe)
        except OSError as error:
            raise type(error)(f"{self._said} cannot be written: {error}") from error

    @property
    def _said(self) -> str:
        return words.get().argument("output", self.url)

    def present(
        self, call: str, *, overwrite: bool, about: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The note of the file that is there; ``None`` where there is none, or not one of ours.

        :raises FileExistsError: there is a file, it is not this same call's, something in it is paid for, and
            ``overwrite`` is not given.
        """
        fs, path = locate(self.url)
        if fs.isdir(path):
            raise IsADirectoryError(f"{self._said} is a folder; give a file's name.")
        if not fs.exists(path):
            return None
        found = self._note(fs, path)
        if overwrite:
            return found
        if found is None:
            raise FileExistsError(
                f"{self._said} exists and is not a result of aio.generate. "
                f"Pass {words.get().argument('overwrite', True)} to replace it, or give another name."
            )
        if found.get("call") != call and _is_paid(found):
            raise FileExistsError(refusal(self.url, found.get("about"), about, begins="exists and "))
        return found

    def write(self, frame: pd.DataFrame, note: Mapping[str, Any]) -> None:
        """Write the frame under a temporary name, then rename: a reader finds the old file or the new one.

        :param frame: input and output columns.
        :param note: about the run; kept as JSON under :data:`METADATA_KEY`.
        """
        table = fix_types(arrow_input(frame), self.prefix)
        text = json.dumps({"schema_version": SCHEMA_VERSION, **note}, sort_keys=True)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: text.encode()})
        fs, path = locate(self.url)
        temporary = self._temporary(path)
        try:
            with fs.open(temporary, "wb") as file:
                pq.write_table(table, file)
            if is_local(fs):
                to_disk(temporary)
                Path(temporary).replace(path)
            else:
                fs.mv(temporary, path)
        except BaseException:
            if fs.exists(temporary):
                fs.rm_file(temporary)
            raise

    def succeeded(self) -> int:
        """How many rows of the file that is there have their result, by its own note."""
        fs, path = locate(self.url)
        note = self._note(fs, path) if fs.exists(path) else None
        return int((note or {}).get("totals", {}).get("statuses", {}).get("succeeded", 0))

    def _note(self, fs: Any, path: str) -> dict[str, Any] | None:
        try:
            with fs.open(path, "rb") as file:
                return read_note(file)
        except (pa.ArrowException, OSError, ValueError):
            return None  # not a Parquet file, so not ours

    def _temporary(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return f"{folder}/.{name}.{uuid.uuid4().hex[:12]}.tmp"


def _is_paid(note: Mapping[str, Any]) -> bool:
    """Whether anything in a file has cost credits, by its note; one that does not say counts as paid."""
    totals = note.get("totals") or {}
    if "statuses" not in totals:
        return True
    return is_paid(totals["statuses"], totals.get("credits", 0), totals.get("saved_credits", 0))


def arrow_input(frame: pd.DataFrame) -> pa.Table:
    """The frame as an Arrow table.

    :raises ConfigurationError: a column mixes types, so that Parquet cannot hold it.
    """
    try:
        return pa.Table.from_pandas(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The input cannot be written as Parquet: {why_not_arrow(frame, error)}, or drop it, or leave "
            "output out. Nothing was sent."
        ) from error


def why_not_arrow(frame: pd.DataFrame, error: Exception) -> str:
    """Which column stands in the way, and what mends it: pyarrow's own words often name neither."""
    for name in frame.columns:
        try:
            pa.Array.from_pandas(frame[name])
        except (pa.ArrowException, TypeError, ValueError) as found:
            values, column = frame[name].tolist(), f"df[{name!r}]"
            for label, value in zip(frame.index, values, strict=True):
                if is_broken(value):
                    mended = f"{column} = {column}.str.encode('utf-8', 'replace').str.decode('utf-8')"
                    where = f"column {name!r} holds {HALF} in row {label!r}"
                    return f"{where}. Mend the text (for example {mended})"
            kinds = sorted({type(value).__name__ for value in values if plain(value) is not None})
            what = f"holds values of several kinds ({', '.join(kinds)})" if len(kinds) > 1 else f": {found}"
            return f"column {name!r} {what}. Convert it (for example {column} = {column}.astype(str))"
    return f"{' '.join(map(str, error.args)) or error}. Convert what it names"


def read_note(file: Any) -> dict[str, Any] | None:
    """The note of the run in a Parquet file's metadata; ``None`` in a file that is not ours.

    :param file: a path or an open file.
    """
    text = (pq.read_schema(file).metadata or {}).get(METADATA_KEY)
    note = None if text is None else json.loads(text)
    return note if isinstance(note, dict) else None
