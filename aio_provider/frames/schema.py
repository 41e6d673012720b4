"""The output columns: their names, their fixed types in Arrow and in pandas, and how results fill them.

The types never depend on the data: an empty frame, or one where every row failed, has the same ones.

=================  =======================  ==================================================
column             Arrow (Parquet)          pandas
=================  =======================  ==================================================
``status``, …      ``string``               ``string[pyarrow]`` (null is ``pd.NA``)
``urls``           ``list<string>``         ``object``: a list of texts, or ``None``
``credits``        ``double``               ``float64`` (null is ``NaN``)
``submitted_at``,  ``timestamp[us, UTC]``   ``datetime64[us, UTC]`` (null is ``NaT``)
``finished_at``
=================  =======================  ==================================================

``urls`` is not an Arrow-backed pandas column on purpose: pandas writes such a list column to Parquet but
cannot read it back (``data type 'list<item: string>[pyarrow]' not understood``, pandas 2.1 to 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from aio_provider.jobs.job import Outcome

SCHEMA_VERSION: Final = 1
DEFAULT_PREFIX: Final = "aio_"

_TEXT = pa.string()
_TIME = pa.timestamp("us", tz="UTC")

#: name without prefix → Arrow type, in the order of the columns
FIELDS: Final[dict[str, pa.DataType]] = {
    "status": _TEXT,
    "url": _TEXT,
    "urls": pa.list_(_TEXT),
    "text": _TEXT,
    "credits": pa.float64(),
    "task_id": _TEXT,
    "error": _TEXT,
    "model": _TEXT,
    "submitted_at": _TIME,
    "finished_at": _TIME,
}


class RowResult(NamedTuple):
    """What one row got. A tuple: a re-run makes a million of them."""

    status: str
    urls: tuple[str, ...] = ()
    text: str | None = None
    credits: float | None = None
    task_id: str | None = None
    error: str | None = None
    model: str | None = None
    submitted_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def url(self) -> str | None:
        """The first result."""
        return self.urls[0] if self.urls else None

    @classmethod
    def of(cls, outcome: Outcome) -> RowResult:
        """The row's view of a job's outcome."""
        return cls(
            status=str(outcome.status),
            urls=outcome.urls,
            text=outcome.text,
            credits=outcome.credits,
            task_id=outcome.task_id,
            error=outcome.error,
            model=outcome.model,
            submitted_at=outcome.submitted_at,
            finished_at=outcome.finished_at,
        )


def column_names(prefix: str = DEFAULT_PREFIX) -> list[str]:
    """The names of the output columns, in order."""
    return [prefix + name for name in FIELDS]


def arrow_schema(prefix: str = DEFAULT_PREFIX) -> pa.Schema:
    """The output columns as Parquet holds them."""
    return pa.schema([pa.field(prefix + name, kind) for name, kind in FIELDS.items()])


def result_columns(
    results: Iterable[RowResult], index: pd.Index[Any], prefix: str = DEFAULT_PREFIX
) -> pd.DataFrame:
    """The results as the output columns.

    :param results: one for each row, in order.
    :param index: of the frame they belong to.
    """
    values = _columns(results)
    columns = {prefix + name: _series(values[name], name, index) for name in FIELDS}
    return pd.DataFrame(columns, index=index)


def fix_types(table: pa.Table, prefix: str = DEFAULT_PREFIX) -> pa.Table:
    """Give the output columns of an Arrow table their fixed types, whatever was inferred from the data.

    pandas' own note in the table's metadata stays, so that ``pandas.read_parquet`` gives the frame back.
    """
    metadata = table.schema.metadata
    for field in arrow_schema(prefix):
        position = table.schema.get_field_index(field.name)
        table = table.set_column(position, field, table.column(position).cast(field.type))
    return table.replace_schema_metadata(metadata)


def with_results(table: pa.Table, results: Iterable[RowResult], prefix: str = DEFAULT_PREFIX) -> pa.Table:
    """An Arrow table of input rows with the output columns; any of the same names are replaced.

    :param results: one for each row, in order.
    """
    columns = _columns(results)
    names = set(column_names(prefix))
    out = table.select([name for name in table.schema.names if name not in names])
    for field in arrow_schema(prefix):
        out = out.append_column(field, pa.array(columns[field.name[len(prefix) :]], field.type))
    return out


def _columns(results: Iterable[RowResult]) -> dict[str, list[Any]]:
    """The results' values by field."""
    cells = list(zip(*results, strict=True)) or [()] * len(RowResult._fields)
    columns = {name: list(values) for name, values in zip(RowResult._fields, cells, strict=True)}
    columns["url"] = [urls[0] if urls else None for urls in columns["urls"]]
    columns["urls"] = [urls or None for urls in columns["urls"]]
    return columns


def _series(values: list[Any], name: str, index: pd.Index[Any]) -> pd.Series[Any]:
    kind = FIELDS[name]
    if name == "urls":
        lists = [list(value) if value else None for value in values]
        return pd.Series(lists, index=index, dtype=object)
    if kind is _TEXT:
        return pd.Series(pd.array(values, dtype=pd.StringDtype("pyarrow")), index=index)
    if kind is _TIME:
        # through Arrow, which takes any mix of times and None; the unit must not hang on the data
        times: pd.Series[Any] = pa.array(values, kind).to_pandas()
        return times.astype("datetime64[us, UTC]").set_axis(index)
    return pd.Series(values, index=index, dtype="float64")
