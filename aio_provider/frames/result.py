"""What a streamed call gives back: where its rows are and how it went, not the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from aio_provider.frames.places import is_local

if TYPE_CHECKING:
    from aio_provider.frames.report import Report
    from aio_provider.frames.target import Target


class StreamResult:
    """The output of a streamed call.

    :ivar output: the folder or file, as it was given.
    :ivar report: the figures: ``rows``, ``statuses``, ``credits``, ``reused``, ``saved``, ``seconds``.
    """

    def __init__(self, target: Target, report: Report) -> None:
        self.output = target.url
        self.report = report
        self._target = target

    @property
    def files(self) -> list[str]:
        """The Parquet files, in the order of the input's rows."""
        return self._target.pieces()[1]

    @property
    def schema(self) -> pa.Schema:
        """The columns with their Arrow types."""
        return self._target.schema()

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows as a DataFrame: in the order of the input, or, of a partitioned output, part by part.

        :param columns: only these; all by default.
        """
        table = self.dataset().to_table(columns=None if columns is None else list(columns))
        return self._frame(table)

    def dataset(self) -> ds.Dataset:
        """The output as a ``pyarrow.dataset.Dataset``, for what is too large to read."""
        fs, paths = self._target.pieces()
        if not paths:  # a call that was stopped before anything was paid for
            return ds.dataset(self.schema.empty_table())
        names = self._target.partition_by
        partitioning = None
        if names:
            kinds = pa.schema([self.schema.field(name) for name in names])
            partitioning = ds.partitioning(kinds, flavor="hive")
        return ds.dataset(
            paths,
            schema=self.schema,
            format="parquet",
            filesystem=None if is_local(fs) else fs,
            partitioning=partitioning,
        )

    def head(self, rows: int = 5) -> pd.DataFrame:
        """The first rows as a DataFrame."""
        return self._frame(self.dataset().head(rows))

    def __len__(self) -> int:
        return self.report.rows

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("A streamed result is not gone through row by row; use .read() or .dataset().")

    def __repr__(self) -> str:
        return f"<StreamResult {self.output}: {self.report.summary()}>"

    def _repr_html_(self) -> str:
        # to_html escapes what is in the cells
        table = self.head().to_html(border=0, na_rep="–")
        return f"<p>{escape(self.output)}: {escape(self.report.summary())}</p>{table}"

    def _frame(self, table: pa.Table) -> pd.DataFrame:
        frame: pd.DataFrame = table.to_pandas()
        frame.attrs = {"aio": self.report.to_dict()}
        return frame
