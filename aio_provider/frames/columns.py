"""How one request field gets its value for each row: from a column, a text template, or a constant."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from string import Formatter
from typing import Any

from aio_provider.frames.words import words

#: what a text holds that cannot be written in any encoding
HALF = "half of a character (a lone surrogate)"

Getter = Callable[[Hashable], Any]
"""Gives the value of one column in the current row, as a plain Python value (``None`` for null)."""


@dataclass(frozen=True, slots=True)
class Col:
    """The value of a column, row by row; made by :func:`col`."""

    name: Hashable

    def columns(self) -> Iterator[Hashable]:
        """The columns this reads."""
        yield self.name

    def value(self, get: Getter) -> Any:
        """The value in the current row."""
        return get(self.name)

    def describe(self) -> Any:
        """A JSON form that tells two different expressions apart."""
        return {"col": _label(self.name)}


@dataclass(frozen=True, slots=True)
class Lit:
    """The same value in every row; made by :func:`lit`."""

    constant: Any

    def columns(self) -> Iterator[Hashable]:
        """None: a constant reads no column."""
        return iter(())

    def value(self, get: Getter) -> Any:
        """The constant."""
        return self.constant

    def describe(self) -> Any:
        """A JSON form that tells two different expressions apart."""
        return {"lit": self.constant}


@dataclass(frozen=True, slots=True)
class Template:
    """Text with column values put in; made by :func:`template`."""

    text: str
    names: tuple[str, ...]

    def columns(self) -> Iterator[Hashable]:
        """The columns this reads."""
        yield from self.names

    def value(self, get: Getter) -> str | None:
        """The text for the current row; ``None`` when a column it needs is null there."""
        parts: list[str] = []
        for literal, name, spec, conversion in Formatter().parse(self.text):
            parts.append(literal)
            if name is None:
                continue
            value = get(name)
            if value is None:
                return None
            parts.append(format(_CONVERSIONS[conversion](value), spec or ""))
        return "".join(parts)

    def describe(self) -> Any:
        """A JSON form that tells two different expressions apart."""
        return {"template": self.text}


Expression = Col | Lit | Template

_CONVERSIONS: dict[str | None, Callable[[Any], Any]] = {None: lambda v: v, "s": str, "r": repr, "a": ascii}


def col(name: Hashable) -> Col:
    """Take a field's value from a column, row by row.

    Needed inside ``params=`` and for ``model=``, where a plain value is a constant.

    :param name: the column's name.
    :raises TypeError: the name cannot be a column's name.

    >>> col("seed")
    Col(name='seed')
    """
    if name is None or not isinstance(name, Hashable):
        raise TypeError(f"aio.col takes one column name, not {type(name).__name__}.")
    return Col(name)


def lit(value: Any) -> Lit:
    """Give a field the same value in every row.

    Needed where a plain text would be taken for a column name: ``prompt=aio.lit("A red chair")``.

    :param value: anything JSON can hold.
    :raises TypeError: JSON cannot hold the value.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"aio.lit takes a value that JSON can hold, not {value!r}: {error}.") from error
    return Lit(value)


def template(text: str) -> Template:
    """Write a text that quotes columns by name in braces, as ``str.format`` does.

    ``{price:.2f}`` formats a value and ``{{`` is a brace. A row where one of the columns is null has no
    text at all: it is skipped when the field is the prompt, and the field is left out when it is optional.

    :param text: for example ``"A photo of {product} on {surface}"``. What stands before ``:`` or ``!`` in
        the braces is a column's name as it is: dots and brackets are part of the name.
    :raises TypeError: not a text.
    :raises ValueError: unbalanced braces, an unnamed ``{}``, or no column at all.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"aio.template takes a text such as 'A photo of {{product}}', not {type(text).__name__}."
        )
    what = words.get().quoting(text)
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{what}: {error}. Write {{{{ and }}}} for literal braces.") from error
    names: list[str] = []
    for _, name, spec, conversion in pieces:
        if name is None:
            continue
        if not name:
            raise ValueError(f"{what}: a pair of braces is empty; name a column, as in {{product}}.")
        if spec and "{" in spec:
            raise ValueError(f"{what}: the format of {name!r} cannot quote another column.")
        if conversion not in _CONVERSIONS:
            raise ValueError(f"{what}: unknown conversion !{conversion} of {name!r}.")
        if name not in names:
            names.append(name)
    if not names:
        raise ValueError(f"{what} quotes no column; for a constant text use {words.get().text}.")
    return Template(text, tuple(names))


def nested_columns(value: Any) -> Iterator[Hashable]:
    """The columns read by the expressions anywhere inside a JSON-like value."""
    if isinstance(value, Expression):
        yield from value.columns()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from nested_columns(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from nested_columns(item)


def nested_value(value: Any, get: Getter) -> Any:
    """The value with every expression inside it worked out; a null one leaves its entry out."""
    if isinstance(value, Expression):
        return value.value(get)
    if isinstance(value, Mapping):
        pairs = ((name, nested_value(item, get)) for name, item in value.items())
        return {name: item for name, item in pairs if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [item for item in (nested_value(one, get) for one in value) if item is not None]
    return value


def nested_description(value: Any) -> Any:
    """The value as JSON, expressions told apart from constants."""
    if isinstance(value, Expression):
        return value.describe()
    if isinstance(value, Mapping):
        return {str(name): nested_description(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [nested_description(item) for item in value]
    return value


def plain(value: Any) -> Any:
    """A cell as the plain Python value that goes into a request; ``None`` for every kind of null.

    A whole float becomes an int: pandas turns a column of whole numbers into floats as soon as one of
    them is null, and 5 and 5.0 must not be two different requests.
    """
    if type(value) is str or value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)  # numpy's own texts and floats are subclasses; a plain one goes on
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Decimal):
        return plain(float(value))
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and scalars; what they give is plain
        return plain(value.tolist())
    return None if _is_null_scalar(value) else value


def is_broken(value: Any) -> bool:
    """Whether a text in this value holds half of a character: no file or request can."""
    if isinstance(value, str):
        if value.isascii():
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if value is None or isinstance(value, int | float):
        return False
    if isinstance(value, Lit):
        return is_broken(value.constant)
    if isinstance(value, Template):
        return is_broken(value.text)
    if isinstance(value, Mapping):
        return any(is_broken(name) or is_broken(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return any(map(is_broken, value))
    return hasattr(value, "tolist") and is_broken(value.tolist())


def _is_null_scalar(value: Any) -> bool:
    # pandas' NA and NaT, without importing pandas: both are singletons of types with these names, and
    # neither equals itself as a boolean would.
    return type(value).__name__ in ("NAType", "NaTType")


def _label(name: Hashable) -> Any:
    return name if isinstance(name, str | int | float | bool) else repr(name)
