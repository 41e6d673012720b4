"""Which book is read: opened for a report, named in it, with what was moved out of it to archive files."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from aio_provider.accounting.sql import NEEDED, archived_table
from aio_provider.api.amounts import in_credits
from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.ledger import Ledger, LedgerUnavailableError
from aio_provider.jobs.ledger.archive import partial_of
from aio_provider.jobs.ledger.location import require
from aio_provider.jobs.ledger.schema import archives

_BATCH = 10_000


@contextmanager
def opened(ledger: Ledger | str | Path | None) -> Iterator[Ledger]:
    """The ledger to report on; one that is given open stays open.

    :raises ConfigurationError: there is no such file. A report makes no ledger.
    :raises LedgerUnavailableError, LedgerVersionError: it cannot be read.
    """
    if isinstance(ledger, Ledger):
        yield ledger
        return
    if ledger is not None and not isinstance(ledger, (str, Path)):
        raise ConfigurationError(f"ledger must be a path, a URL or a Ledger, not {type(ledger).__name__}.")
    require(ledger)
    with Ledger.open(ledger) as book:
        yield book


def described(book: Ledger) -> dict[str, str]:
    """Which book this is, for people: a team's database, or the file of one machine."""
    if book.is_shared:
        what = "the database of everyone who uses it"
        return {"url": book.url, "kind": "database", "machine": "", "what": what}
    machine = socket.gethostname()
    what = f"one file on {machine}: what other machines spent is only here if they use this same file"
    return {"url": book.url, "kind": "file", "machine": machine, "what": what}


@dataclass(frozen=True)
class Archived:
    """Rows that a prune has moved to files.

    :param included: whether they are in the figures; ``missing`` files never are.
    """

    rows: int = 0
    credits: float = 0.0
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    missing_rows: int = 0
    missing_credits: float = 0.0
    included: bool = True

    def told(self) -> str:
        """One sentence, or nothing where nothing was archived."""
        if not self.files:
            return ""
        moved = "was moved to an archive file" if self.rows == 1 else "were moved to archive files"
        whole = f"{_rows(self.rows)} ({in_credits(self.credits)}, all time) {moved}"
        if not self.included:
            return f"{whole}, not in these figures."
        if not self.missing:
            return f"{whole}, included in these figures."
        return f"{whole}; {self.lacking()}: they are not in these figures."

    def lacking(self) -> str:
        """What is not on this machine, to be followed by what that means; where there are missing files."""
        files, count = len(self.files), len(self.missing)
        which = (
            "the file is" if files == 1 else f"{count:,} of {files:,} files {'is' if count == 1 else 'are'}"
        )
        return (
            f"{which} not on this machine ({self.missing[0]}{', …' if count > 1 else ''}), with "
            f"{_rows(self.missing_rows)} ({in_credits(self.missing_credits)})"
        )

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows": self.rows,
            "credits": self.credits,
            "files": len(self.files),
            "missing": list(self.missing),
            "included": self.included,
            "told": self.told(),
        }


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def archived(conn: Connection, *, include: bool) -> Archived:
    """What the book says was moved to archive files."""
    noted = conn.execute(sa.select(archives.c.path, archives.c.rows, archives.c.credits)).all()
    missing = [row for row in noted if _where(row.path) is None] if include else []
    return Archived(
        rows=sum(row.rows for row in noted),
        credits=float(sum(row.credits for row in noted)),
        files=tuple(row.path for row in noted),
        missing=tuple(row.path for row in missing),
        missing_rows=sum(row.rows for row in missing),
        missing_credits=float(sum(row.credits for row in missing)),
        included=include,
    )


@contextmanager
def archived_rows(
    conn: Connection, moved: Archived, *, columns: Sequence[str] = NEEDED
) -> Iterator[sa.Table | None]:
    """Those rows as a table of this connection, for as long as the block runs; memory stays flat."""
    present = [path for path in moved.files if path not in moved.missing] if moved.included else []
    if not present:
        yield None
        return
    table = archived_table(columns)
    table.create(conn)
    try:
        for path in present:
            for rows in _read(path, columns):
                conn.execute(sa.insert(table), rows)
        yield table
    finally:
        if conn.dialect.name == "sqlite":  # PostgreSQL drops it with the transaction
            table.drop(conn)


def _read(path: str, columns: Sequence[str]) -> Iterator[Sequence[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(_where(path)) as file:
            there = set(file.schema_arrow.names)
            names = [name for name in (*columns, "superseded_at") if name in there]
            # a file that an older version has written
            absent = dict.fromkeys(name for name in columns if name not in there)
            for batch in file.iter_batches(_BATCH, columns=names):
                rows = batch.to_pylist()
                for row in rows:
                    if row.get("other_labels") is not None:  # JSON in the file, and in the table
                        row["other_labels"] = json.loads(row["other_labels"])
                    row["superseded"] = int(row.pop("superseded_at", None) is not None)
                    row.update(absent)
                yield rows
    except (pa.ArrowException, OSError) as error:
        raise LedgerUnavailableError(
            f"archive {path}: it is damaged or only half written ({' '.join(str(error).split())[:200]}): "
            "restore it from a copy, or leave archived rows out (archived=False)"
        ) from error


def _where(path: str) -> Path | None:
    # A prune commits first and gives the file its name right after.
    return next((p for p in (Path(path), partial_of(Path(path))) if p.exists()), None)
