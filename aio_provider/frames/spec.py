"""Which column feeds which request field: a call's arguments, checked once, then applied to every row."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from aio_provider.api.catalog import KINDS, load_catalog
from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.series import Series
from aio_provider.api.validation import resolve_model, warned
from aio_provider.frames.columns import (
    HALF,
    Col,
    Expression,
    Lit,
    is_broken,
    nested_columns,
    nested_description,
    nested_value,
    plain,
)
from aio_provider.frames.words import words

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: fields that say what to make; a row where they are null has nothing to do
_PROMPTS: Final = frozenset({"prompt", "text", "dialogue", "messages", "gpt_description_prompt", "lyrics"})


@dataclass(frozen=True, slots=True)
class Nothing:
    """A row that asks for nothing: skipped at no cost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """A row whose request would be refused: failed at no cost."""

    error: InvalidRequestError


@dataclass(frozen=True)
class RequestSpec:
    """How the rows of a frame become requests. Make one with :func:`make_spec`.

    :param kind: one of :data:`aio_provider.api.catalog.KINDS`.
    :param fields: request field → expression or constant (with expressions nested inside, from ``params``).
    :param model: expression or constant; ``None`` for the endpoint's default.
    """

    kind: str
    fields: Mapping[str, Any]
    model: Expression | str | None = None
    #: warnings that were given already: one each for a call, not one a row
    warned: set[str] = field(default_factory=set, compare=False, repr=False)

    @cached_property
    def columns(self) -> tuple[Hashable, ...]:
        """Every column that is read, once each."""
        names = [
            *nested_columns(self.model),
            *(n for value in self.fields.values() for n in nested_columns(value)),
        ]
        return tuple(dict.fromkeys(names))

    def describe(self) -> dict[str, Any]:
        """A JSON form of the call: two calls that would send different requests differ in it."""
        fields = {name: nested_description(value) for name, value in sorted(self.fields.items())}
        model = self.model
        if model is None and self.kind != "custom":  # the same requests as with the usual model named
            model = load_catalog().endpoint(self.kind).default_model
        return {"kind": self.kind, "model": nested_description(model), "fields": fields}

    def check_columns(self, available: Sequence[Hashable]) -> None:
        """Make sure that every column exists.

        :raises InvalidRequestError: names the field, the nearest columns, and how to pass a constant.
        """
        known = set(available)
        for name, value in [("model", self.model), *self.fields.items()]:
            for column in nested_columns(value):
                if _column(column, known) not in known:
                    raise InvalidRequestError(no_column(name, value, column, available), field=name)

    def check_constants(self, frame: pd.DataFrame) -> None:
        """Find a constant that no row could be sent with, before the rows are gone through.

        :raises InvalidRequestError: as the rows would have failed, each of them.
        """
        first = next((item for item in self.requests(frame) if not isinstance(item, Nothing)), None)
        if isinstance(first, Invalid) and first.error.field is not None:
            name = re.split(r"[.\[]", first.error.field)[0]
            if name in self.fields and _is_constant(self.fields[name]) and _is_constant(self.model):
                raise first.error

    def check_rows(self, parts: Iterable[pd.DataFrame | pa.Table]) -> None:
        """Build every row's request, for ``errors="raise"``.

        :raises InvalidRequestError: the first bad row's, saying how many there are.
        """
        bad, rows = 0, 0
        first: tuple[object, Invalid] | None = None
        for part in parts:
            for position, item in enumerate(self.requests(part)):
                if isinstance(item, Invalid):
                    bad += 1
                    label = part.index[position] if hasattr(part, "index") else rows + position
                    first = first or (label, item)
            rows += len(part)
        if first is not None:
            label, item = first
            raise InvalidRequestError(
                f"{bad:,} of {rows:,} rows cannot be sent and nothing was; the first is row "
                f"{label!r}: {item.error}",
                field=item.error.field,
            ) from item.error

    def requests(self, rows: pd.DataFrame | pa.Table) -> Iterator[GenerationRequest | Nothing | Invalid]:
        """One item for each row, in order; built as they are asked for."""
        columns = {name: cells(rows, name) for name in self.columns}
        broken = {
            position: name
            for name, values in reversed(columns.items())
            for position, value in enumerate(values)
            if is_broken(value)
        }
        series: Series | None = None
        plainly = self._plainly(columns)
        for position in range(len(rows)):
            if position in broken:
                yield self._broken(broken[position])
                continue
            if series is not None and plainly:  # most of a million rows
                cell = {name: values[position] for name, values in plainly.items()}
                if all(type(text) is str for text in cell.values()):
                    yield _another(series, cell)
                    continue
            row = {name: plain(values[position]) for name, values in columns.items()}
            texts = self._texts(row)
            if texts is None:
                yield self._request(row)
            elif series is not None:
                yield _another(series, texts)
            else:
                item = self._request(row)
                if isinstance(item, GenerationRequest):
                    series = Series.of(item, list(texts))
                yield item

    def _plainly(self, columns: Mapping[Hashable, list[Any]]) -> dict[str, list[Any]]:
        """The values of the fields that differ from row to row, where each is a column as it is."""
        varying = self._varying or []
        if not all(isinstance(value, Col) for _, value in varying):
            return {}
        return {name: columns[value.name] for name, value in varying if isinstance(value, Col)}

    def _texts(self, row: Mapping[Hashable, Any]) -> dict[str, str] | None:
        """The fields that differ from row to row, where they are nothing but texts, and all there."""
        if self._varying is None:
            return None
        texts: dict[str, Any] = {name: value.value(row.__getitem__) for name, value in self._varying}
        return texts if all(type(text) is str for text in texts.values()) else None

    @cached_property
    def _varying(self) -> list[tuple[str, Expression]] | None:
        """The fields that read columns; ``None`` where the model does, or a list or an object around them."""
        if not _is_constant(self.model):
            return None
        fields = [(name, value) for name, value in self.fields.items() if not _is_constant(value)]
        return fields if all(isinstance(value, Expression) for _, value in fields) else None

    def _request(self, row: Mapping[Hashable, Any]) -> GenerationRequest | Nothing | Invalid:
        nothing = self._nothing(row)
        if nothing is not None:
            return nothing
        model = nested_value(self.model, row.__getitem__)
        told = warned.set(self.warned)
        try:
            if model is None and self.model is not None:
                raise InvalidRequestError(f"model: null in this row ({_source(self.model)}).", field="model")
            if model is not None and not isinstance(model, str):
                raise InvalidRequestError(
                    f"model: must be text, got {type(model).__name__} {model!r}.", field="model"
                )
            return GenerationRequest.build(self.kind, model=model, **self._params(row))
        except InvalidRequestError as error:
            return Invalid(error)
        finally:
            warned.reset(told)

    def _broken(self, column: Hashable) -> Invalid:
        given = [("model", self.model), *self.fields.items()]
        name = next(name for name, value in given if column in nested_columns(value))
        why = f"{name}: the text in column {column!r} of this row holds {HALF}"
        return Invalid(InvalidRequestError(f"{why}; mend the text.", field=name))

    def _nothing(self, row: Mapping[Hashable, Any]) -> Nothing | None:
        """Why this row has nothing to do, if so: its prompt, or a picture it needs, is null."""
        absent = {name for name, columns in self._inputs.items() if any(row[c] is None for c in columns)}
        if not absent:
            return None
        needed = absent - _PROMPTS
        prompts = [name for name in self._inputs if name in _PROMPTS]
        # Some music models take either of two prompts: there it takes all of them to be null.
        if prompts and absent.issuperset(prompts):
            needed |= set(prompts)
        if not needed:
            return None
        name = next(name for name in self._inputs if name in needed)
        return Nothing(f"{name} is null in this row ({_source(self.fields[name])}); nothing was sent.")

    @cached_property
    def _inputs(self) -> dict[str, tuple[Hashable, ...]]:
        """The fields that a row cannot do without, with the columns they read."""
        params = load_catalog().endpoint(self.kind).params
        needed = _PROMPTS | {name for name, param in params.items() if param.required}
        return {name: tuple(nested_columns(value)) for name, value in self.fields.items() if name in needed}

    def _params(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        pairs = ((name, nested_value(value, row.__getitem__)) for name, value in self.fields.items())
        return {name: value for name, value in pairs if value is not None}


def _another(series: Series, texts: Mapping[str, str]) -> GenerationRequest | Invalid:
    try:
        return series.request(texts)
    except InvalidRequestError as error:
        return Invalid(error)


def cells(rows: pd.DataFrame | pa.Table, name: Hashable) -> list[Any]:
    """A column's values as Python has them."""
    column: Any = rows[_column(name, rows.columns)] if hasattr(rows, "iloc") else rows[name]
    values: list[Any] = column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()
    return values


def _column(name: Hashable, available: Any) -> Hashable:
    """The column of this name; ``"0"``, as a template writes it, is also the whole number 0."""
    if isinstance(name, str) and re.fullmatch("0|[1-9][0-9]{0,8}", name) and name not in available:
        return int(name) if int(name) in available else name
    return name


def make_spec(
    kind: object, *, model: object = None, params: object = None, fields: Mapping[str, object] | None = None
) -> RequestSpec:
    """Check the arguments of a call that say what to send.

    :param kind: one of :data:`aio_provider.api.catalog.KINDS`.
    :param model: a model's name, or an expression.
    :param params: constants and expressions, by request field.
    :param fields: the call's own keywords: column names and expressions, by request field.
    :raises InvalidRequestError: an unknown kind, a field given twice, or a needed one not at all.
    :raises TypeError: an argument of the wrong type, or a keyword that is no request field.
    """
    kind = _check_kind(kind)
    fields = dict(fields or {})
    known = known_fields(kind)
    for name in fields:
        if name not in known:
            raise TypeError(_no_keyword(name, kind, known))
    resolved = {name: _expression(name, value) for name, value in fields.items() if value is not None}
    for name, value in _check_params(params).items():
        if name in resolved:
            raise InvalidRequestError(
                f"{name}: given both as a keyword and in params; give it once.", field=name
            )
        if name == "model":
            raise InvalidRequestError("model: give it as model=..., not in params.", field="model")
        if value is not None:
            resolved[name] = value
    for name, value in [("model", model), *resolved.items()]:
        if is_broken(value):
            raise InvalidRequestError(f"{name}: the text holds {HALF}; mend it.", field=name)
    seen: set[str] = set()
    told = warned.set(seen)
    try:
        spec = RequestSpec(kind, resolved, _check_model(kind, model), seen)
    finally:
        warned.reset(told)
    _check_needed(spec)
    return spec


def known_fields(kind: str) -> list[str]:
    """The request fields of a kind: its endpoint's, and those of its models."""
    catalog = load_catalog()
    names = dict.fromkeys(catalog.endpoint(kind).params)
    for model in catalog.models(kind):
        names.update(dict.fromkeys(model.params))
    if kind in ("speech", "chat"):
        names["prompt"] = None  # one dialogue line, one user message
    if kind == "speech":
        names["voice"] = None  # of that one line
    names.pop("model", None)
    return list(names)


def _check_kind(kind: object) -> str:
    if not isinstance(kind, str):
        raise TypeError(f"kind must be one of {', '.join(KINDS)}, not {type(kind).__name__}.")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind.lower(), KINDS, 1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidRequestError(f"kind: {kind!r} is none of {', '.join(KINDS)}.{guess}", field="kind")
    return kind


def _check_model(kind: str, model: object) -> Expression | str | None:
    if model is None or isinstance(model, Expression):
        return model
    if isinstance(model, str):
        resolve_model(kind, model, {})  # a model of another kind would fail every row
        return model
    raise TypeError(f"model must be a model's name or aio.col(...), not {type(model).__name__}.")


def _check_params(params: object) -> Mapping[str, Any]:
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of request fields, not {type(params).__name__}.")
    for name in params:
        if not isinstance(name, str):
            raise TypeError(f"params: a request field's name is text, not {type(name).__name__} {name!r}.")
    return params


def _expression(name: str, value: object) -> Expression:
    if isinstance(value, Expression):
        return value
    if isinstance(value, str | int | float | tuple) and not isinstance(value, bool):
        return Col(value)
    raise TypeError(
        f"{name} must name a column, or be aio.template(...) or aio.lit(...), not {type(value).__name__}; "
        f"for a constant write {name}=aio.lit({value!r}) or params={{{name!r}: {value!r}}}."
    )


def _check_needed(spec: RequestSpec) -> None:
    if spec.kind in ("image", "video", "music", "speech", "chat"):
        if not any(name in _PROMPTS for name in spec.fields):
            raise InvalidRequestError(
                f"prompt: not given; name its column ({words.get().column('prompt', 'caption')}) "
                f"or write a text about columns ({words.get().template('prompt', 'A photo of {product}')}).",
                field="prompt",
            )
        return
    for name, param in load_catalog().endpoint(spec.kind).params.items():
        if param.required and name not in spec.fields:
            raise InvalidRequestError(
                f"{name}: not given; {spec.kind} needs it. Name the column of URLs "
                f"({words.get().column(name, 'photo_url')}).",
                field=name,
            )


def _no_keyword(name: str, kind: str, known: Iterable[str]) -> str:
    from aio_provider.frames.calls import generate  # which needs this module

    neither = f"{name!r} is neither an argument nor a known request field of {kind}"
    arguments = [one for one in inspect.signature(generate).parameters if one not in ("source", "fields")]
    near = difflib.get_close_matches(name, [*arguments, *known], 1)
    if near and near[0] in arguments:
        # as a field it would be sent to the service, and a limit that was meant would not hold
        return f"{neither}: did you mean {near[0]!r}?"
    guess = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{neither}: {guess}A field this version does not know goes into params={{{name!r}: aio.col(...)}}."
    )


def no_column(name: str, value: object, column: Hashable, available: Sequence[Hashable]) -> str:
    """The message for a column that is not there: the nearest one, and how to pass a constant."""
    for one, mark in itertools.product(available, ";\t|"):
        if isinstance(one, str) and mark in one and str(column) in one.split(mark):
            fix = words.get().argument("delimiter", mark)
            return f"{name}: there is no column {column!r}, but one {one!r}: read the CSV file with {fix}."
    names = {str(one): one for one in available}
    near = difflib.get_close_matches(str(column), names, 1, cutoff=0.5)
    shown = ", ".join(repr(one) for one in list(available)[:12]) + (", …" if len(available) > 12 else "")
    guess = f" Did you mean {names[near[0]]!r}?" if near else f" The columns are: {shown or 'none'}."
    constant = ""
    if isinstance(value, Col) and name != "model":
        constant = f" For a constant, write {words.get().constant(name, column)}."
    return f"{name}: there is no column {column!r}.{guess}{constant}"


def _is_constant(value: object) -> bool:
    return next(nested_columns(value), None) is None


def _source(expression: object) -> str:
    names = ", ".join(repr(name) for name in dict.fromkeys(nested_columns(expression)))
    return f"from column {names}" if not isinstance(expression, Lit) and names else "a constant"
