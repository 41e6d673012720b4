"""Which files a path, a glob or a folder means, and how each kind of them is read a stretch at a time."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath
from typing import IO, Any, Final, Literal

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from aio_provider.frames.columns import HALF, is_broken
from aio_provider.frames.words import words

SUFFIXES: Final = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
}
#: rows read from a text file at once
_ROWS = 5_000

#: schema, number of rows, and a function that reads them
Read = tuple[pa.Schema, int, Callable[[], Iterator[pa.Table]]]


@dataclass(frozen=True)
class Csv:
    """How CSV files are written, and read, where that is not as usual."""

    encoding: str = "utf-8"
    delimiter: str = ","
    #: ``"str"``: every column is text
    dtype: Literal["str"] | None = None


AS_USUAL: Final = Csv()


@dataclass(frozen=True)
class Files:
    """Files of one kind in one file system, in their order.

    :param root: the folder they were found in, whose ``key=value`` names are columns.
    :param identity: what was asked for, in one spelling.
    :param csv: how CSV files are written and read.
    """

    name: str
    fs: Any
    paths: list[str] = field(default_factory=list)
    kind: str = ""
    root: str | None = None
    identity: str = ""
    csv: Csv = AS_USUAL

    @property
    def size(self) -> int:
        """Bytes, all together."""
        return sum(int(self.fs.size(path) or 0) for path in self.paths)

    def dataset(self) -> ds.Dataset:
        """Parquet files as a dataset with the columns of the first, read in pieces however large they are.

        :raises ValueError: the first is damaged.
        """
        options = ds.ParquetFragmentScanOptions(
            pre_buffer=False, use_buffered_stream=True, buffer_size=1 << 20
        )
        fs = None if isinstance(self.fs, LocalFileSystem) else self.fs
        try:
            return ds.dataset(
                self.paths,
                filesystem=fs,
                format=ds.ParquetFileFormat(default_fragment_scan_options=options),
                partitioning=None if self.root is None else "hive",
            )
        except (pa.ArrowException, OSError) as error:
            raise file_error(self.paths[0], self.kind, error) from error


def kind_of(path: str) -> str:
    """The kind of a file by its name.

    :raises ValueError: none that is read.
    """
    suffix = PurePath(path.split("?", 1)[0]).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"Cannot tell what kind of file {path!r} is: its name must end in {', '.join(SUFFIXES)}. "
            f"{words.get().other_input}"
        )
    return SUFFIXES[suffix]


def is_several(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a glob or a folder."""
    fs, inner = fsspec.core.url_to_fs(path)
    return bool(fs.isdir(inner) or (has_magic(inner) and not fs.exists(inner)))


def find_files(sources: Sequence[str | os.PathLike[str]], csv: Csv = AS_USUAL) -> Files:
    """The files that paths, globs and folders mean; those of a glob or folder in the order of their names.

    In a folder, names that begin with ``_`` or ``.`` are left out, as other tools do.

    :raises FileNotFoundError: nothing there.
    :raises ValueError: more than one kind of file, or more than one file system.
    """
    fs: Any = None
    paths: list[str] = []
    asked: list[str] = []
    root: str | None = None
    for source in sources:
        url = os.fspath(source)
        if not isinstance(url, str):
            raise TypeError("The path is bytes; give it as text.")
        this, path = fsspec.core.url_to_fs(url)
        if fs is not None and type(this) is not type(fs):
            raise ValueError("The inputs are in different file systems; give those of one at a time.")
        fs = this
        asked.append(str(fs.unstrip_protocol(path)))
        found, folder = _expand(fs, url, path)
        paths += found
        root = folder if len(sources) == 1 else None
    kinds = {kind_of(path) for path in paths}
    name = repr(os.fspath(sources[0])) + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
    if len(kinds) > 1:
        raise ValueError(f"{name} has files of several kinds ({', '.join(sorted(kinds))}); give one kind.")
    kind = kinds.pop()
    check_csv(csv, kind, name)
    return Files(name, fs, paths, kind, root, "\n".join(asked), csv)


def check_csv(csv: Csv, kind: str, name: str) -> None:
    """Raise ``ValueError`` where it was said how CSV is written or read, of files that are none."""
    if csv != AS_USUAL and kind != "CSV":
        raise ValueError(f"{name}: encoding, delimiter and dtype are for CSV files, and this is {kind}.")


def _expand(fs: Any, url: str, path: str) -> tuple[list[str], str | None]:
    if has_magic(path) and not fs.exists(path):
        found = sorted(one for one in fs.glob(path) if not fs.isdir(one))
        if not found:
            raise FileNotFoundError(f"{url!r} matches no file.")
        return found, None
    if not fs.isdir(path):
        kind_of(url)
        if not fs.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        return [path], None
    root = path.rstrip("/")
    found = sorted(one for one in fs.find(root) if not _hidden(one[len(root) :]))
    if not found:
        raise FileNotFoundError(f"The folder {url!r} has no files to read.")
    return found, root


def _hidden(path: str) -> bool:
    return any(name.startswith(("_", ".")) for name in path.strip("/").split("/"))


def file_error(path: str, kind: str, error: Exception) -> Exception:
    """An error about a file that names it; one about the way to it keeps its type."""
    # pyarrow reports a broken file as an OSError too; one with an errno is about the path
    if isinstance(error, OSError) and (
        error.errno is not None or isinstance(error, FileNotFoundError | PermissionError)
    ):
        return type(error)(error.errno, f"{error.strerror or error}", path)
    if isinstance(error, UnicodeDecodeError) and kind == "CSV":
        byte = error.object[error.start]
        return ValueError(
            f"{path!r} is not written in {error.encoding} (byte 0x{byte:02x}); say in which encoding it is, "
            f"such as {words.get().argument('encoding', 'cp1252')}."
        )
    return ValueError(f"{path!r} cannot be read as {kind}: {error}")


# -- text files ------------------------------------------------------------------------------------------


def read_json_lines(files: Files) -> Read:
    """JSON-lines files: a first pass finds all fields and their types; values stay as they are written."""
    schema: pa.Schema | None = None
    total = 0
    for path in files.paths:
        for records in _json_chunks(files, path):
            total += len(records)
            try:
                found = pa.Table.from_pylist(records, schema=_names_first(records)).schema
                schema = (
                    found
                    if schema is None
                    else pa.unify_schemas([schema, found], promote_options="permissive")
                )
            except (pa.ArrowException, TypeError) as error:
                raise ValueError(f"{path!r}: a field changes its type: {error}. Nothing was sent.") from error
    known = pa.schema([]) if schema is None else schema

    def batches() -> Iterator[pa.Table]:
        for path in files.paths:
            for records in _json_chunks(files, path):
                yield pa.Table.from_pylist(records, schema=known)

    return known, total, batches


def _names_first(records: list[dict[str, Any]]) -> pa.Schema:
    """All fields of these records: pyarrow looks for names in the first record only."""
    names = dict.fromkeys(name for record in records for name in record)
    return pa.schema([pa.field(n, pa.array([r.get(n) for r in records]).type) for n in names])


def json_records(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, one a line; empty lines do not count.

    :raises ValueError: a line that is no JSON object, by its number.
    """
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: a JSON object is needed, not {type(record).__name__}")
        if b"\\ud" in line.lower():  # how a text's half can be written here
            for name, value in record.items():
                if is_broken(name) or is_broken(value):
                    raise ValueError(f"line {number}: the field {name!r} holds {HALF}; mend the text")
        yield record


def _json_chunks(files: Files, path: str) -> Iterator[list[dict[str, Any]]]:
    try:
        with files.fs.open(path, "rb") as file:
            records = json_records(file)
            while chunk := list(islice(records, _ROWS)):
                yield chunk
    except (ValueError, OSError) as error:
        raise file_error(path, "JSON lines", error) from error
