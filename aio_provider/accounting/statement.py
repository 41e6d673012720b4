"""A usage statement of the service, as CSV: encoding, delimiter, columns, numbers, times, found or told."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aio_provider.api.errors import ConfigurationError

#: what columns are called, the likeliest first; compared without case, spaces and underscores
GUESSES: Final = {
    "task_id": ("task_id", "taskid", "task", "job_id", "generation_id", "request_id", "görev_id", "id"),
    "credits": ("consumed_credits", "credits_consumed", "credits", "credit", "kredi", "cost", "amount"),
    "time": ("created_at", "time", "timestamp", "date", "created", "tarih"),
    "model": ("model", "model_name"),
}
_DELIMITERS: Final = ",;\t|"
_DAY_FIRST: Final = re.compile(r"(\d{1,2})[./](\d{1,2})[./](\d{4})(?:[ T](\d{1,2}:\d{2}(?::\d{2})?))?")


class Line(NamedTuple):
    """One line: its number in the file, and what it says."""

    number: int
    task_id: str
    credits: float
    time: datetime | None
    model: str | None
    whole: tuple[str, ...]


@dataclass(frozen=True)
class Statement:
    """A statement as it was read.

    :param columns: field -> the column it was read from.
    :param said: how it was read, in words: what was guessed can be wrong.
    """

    lines: Sequence[Line]
    columns: dict[str, str]
    said: str


def read_statement(
    path: str | Path,
    *,
    columns: dict[str, str | None],
    encoding: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    timezone: str = "UTC",
) -> Statement:
    """Read a statement.

    :param columns: of ``task_id``, ``credits``, ``time`` and ``model``; None: guessed.
    :raises ConfigurationError: the file, a column, a number or a time cannot be read: which, and what to do.
    """
    if decimal not in (None, ".", ","):
        raise ConfigurationError(f"decimal={decimal!r}: it is '.' or ','.")
    try:
        zone: tzinfo = UTC if timezone.upper() == "UTC" else ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigurationError(
            f"timezone={timezone!r} is unknown: give a name such as Europe/Istanbul."
        ) from error
    text, used = _decoded(Path(path), encoding)
    separator = delimiter or _sniffed(text)
    if len(separator) != 1:
        raise ConfigurationError(f"delimiter={separator!r}: it is one character, such as ',' or ';'.")
    try:
        rows = [(n, row) for n, row in _numbered(text, separator) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ConfigurationError(f"{path} is not CSV: {error}.") from error
    if not rows:
        raise ConfigurationError(f"{path} is empty: it must have a header and a line for each task.")
    header = [cell.strip() for cell in rows[0][1]]
    found = {field: _column(field, name, header, separator) for field, name in columns.items()}
    places = {field: header.index(name) for field, name in found.items() if name is not None}
    short = next((n for n, row in rows[1:] if len(row) <= max(places.values())), None)
    if short is not None:
        raise ConfigurationError(f"{path}, line {short}: it has fewer columns than the header.")
    sums = [row[places["credits"]].strip() for _, row in rows[1:]]
    mark = decimal or _decimal_mark(sums, found["credits"] or "")
    lines = []
    for number, row in rows[1:]:

        def cell(field: str, row: Sequence[str] = row) -> str:
            return row[places[field]].strip() if field in places else ""

        credits = _number(cell("credits"), mark, f"{path}, line {number}, column {found['credits']!r}")
        when = cell("time")
        where = f"{path}, line {number}, column {found['time']!r}"
        lines.append(
            Line(
                number,
                cell("task_id"),
                credits,
                _time(when, zone, where) if when else None,
                cell("model") or None,
                tuple(row),
            )
        )
    names = ", ".join(f"{field} from {name!r}" for field, name in found.items() if name)
    mark_said = "comma" if mark == "," else "dot"
    said = f"{len(lines):,} lines, {used}, delimiter {separator!r}, decimal {mark_said}; {names}"
    return Statement(lines, {field: name for field, name in found.items() if name}, said)


def _decoded(path: Path, encoding: str | None) -> tuple[str, str]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error
    if encoding is None:
        utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if utf16 else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except LookupError as error:
        raise ConfigurationError(
            f"encoding={encoding!r} is unknown: such as utf-8, cp1254, latin-1."
        ) from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f"{path}, line {line}, is not {'UTF-8' if encoding == 'utf-8-sig' else encoding}: "
            "give its encoding, such as cp1254 (Windows, Turkish), cp1252 or latin-1."
        ) from error
    return text.removeprefix("\ufeff"), "UTF-8" if encoding == "utf-8-sig" else encoding


def _sniffed(text: str) -> str:
    head = text.split("\n", 1)[0]
    counts = {mark: next(csv.reader([head], delimiter=mark), []) for mark in _DELIMITERS}
    return max(_DELIMITERS, key=lambda mark: len(counts[mark]))


def _numbered(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    for row in reader:
        rows.append((reader.line_num, row))
    return rows


def _column(field: str, given: str | None, header: Sequence[str], separator: str) -> str | None:
    plain = {_plain(name): name for name in reversed(header)}
    for name in (given,) if given else GUESSES[field]:
        if _plain(name) in plain:
            return plain[_plain(name)]
    there = ", ".join(repr(name) for name in header)
    if given:
        raise ConfigurationError(
            f"There is no column {given!r}; there are {there} (delimiter {separator!r})."
        )
    if field in ("time", "model"):
        return None
    raise ConfigurationError(
        f"No column looks like the {field.replace('_', ' ')}; say which one it is ({field}_column=…, "
        f"--{field.replace('_', '-')}-column). There are {there} (delimiter {separator!r})."
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _decimal_mark(values: Sequence[str], column: str) -> str:
    """The mark before the decimals, where the numbers themselves leave no doubt."""
    commas = [value for value in values if "," in value]
    if not commas:
        return "."
    if any(value.rfind(",") < value.rfind(".") for value in commas):
        return "."  # 1,234.50
    if any("." in value or not re.search(r",\d{3}$", value) for value in commas):
        return ","  # 1.234,50 or 12,5
    raise ConfigurationError(
        f"Column {column!r}: {commas[0]!r} may be a thousand and more, or have decimals; say which "
        "(decimal='.' or ',', --decimal)."
    )


def _number(text: str, mark: str, where: str) -> float:
    other = "," if mark == "." else "."
    plain = text.replace("\u00a0", "").replace(" ", "").replace(other, "").replace(mark, ".")
    if not re.fullmatch(r"[+-]?\d+(\.\d*)?", plain):
        raise ConfigurationError(f"{where}: {text[:40]!r} is no number of credits.")
    return float(plain)


def _time(text: str, zone: tzinfo, where: str) -> datetime:
    if re.fullmatch(r"\d{10}(\d{3})?", text):
        return datetime.fromtimestamp(int(text) / (1000 if len(text) == 13 else 1), UTC)
    day_first = _DAY_FIRST.fullmatch(text)
    if day_first:
        day, month, year, clock = day_first.groups()
        text = f"{year}-{month:0>2}-{day:0>2}T{(clock or '00:00').rjust(5, '0')}"
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: {text[:40]!r} is no time: ISO 8601, DD.MM.YYYY HH:MM or seconds since 1970."
        ) from error
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
