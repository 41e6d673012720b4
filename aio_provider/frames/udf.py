"""The same generations as a picklable batch function, for engines that spread a table over many workers.

>>> picture = BatchFunction("image", model="flux-2", prompt="caption", key="sku")     # doctest: +SKIP
>>> spark_df.mapInPandas(picture.batches, picture.spark_schema(spark_df.schema))      # Spark
>>> dataset.map_batches(picture, batch_format="pyarrow")                              # Ray
>>> dask_df.map_partitions(picture, meta=picture(dask_df._meta))                      # Dask

Every worker takes its key from ``AIO_API_KEY`` and must share one ledger (``ledger="postgresql://…"`` or
``AIO_LEDGER``) and one limit (``limiter_url=``). Then a task that the engine runs twice, because it was slow
or its worker died, finds its jobs in the ledger and pays for nothing twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from aio_provider.api.errors import ConfigurationError
from aio_provider.frames.arguments import check_prefix
from aio_provider.frames.calls import generate
from aio_provider.frames.schema import DEFAULT_PREFIX, FIELDS, arrow_schema, column_names, fix_types
from aio_provider.frames.spec import make_spec

Batch = TypeVar("Batch", pd.DataFrame, pa.Table)

#: arguments of ``generate`` that make no sense on a worker, and why
_NOT_HERE = {
    "source": "the engine gives the rows",
    "output": "the engine writes the result",
    "overwrite": "the engine writes the result",
    "partition_by": "the engine writes the result",
    "max_rows_per_part": "the engine writes the result",
    "progress": "workers have nobody to show it to",
    "gallery": "workers have nobody to show it to",
    "max_credits": "each batch would count for itself; set a budget in the ledger that the workers share "
    "(`aio budget set CREDITS --team NAME`) and pass labels={'team': NAME}",
    "on_budget_event": "it would be called on whichever worker; the ledger keeps the events",
    "api_key": "it would travel with the plan of the job; set AIO_API_KEY on the workers",
}
_SPARK = {"status": "string", "urls": "array<string>", "credits": "double"}


class BatchFunction:
    """A batch in, the same rows with the output columns out: a DataFrame or an Arrow table, as was given.

    Equal rows in different batches are one job, since no batch knows of the others; give ``key=`` to tell
    rows apart by a column.

    :param kind: as in :func:`aio_provider.generate`, like all other arguments.
    :raises ConfigurationError: an argument that has no place on a worker, ``api_key`` among them.
    """

    def __init__(self, kind: str, **arguments: Any) -> None:
        for name in arguments:
            if name in _NOT_HERE:
                raise ConfigurationError(f"{name}: not in a batch function: {_NOT_HERE[name]}.")
        own = set(inspect.signature(generate).parameters)
        fields = {name: value for name, value in arguments.items() if name not in own}
        make_spec(kind, model=arguments.get("model"), params=arguments.get("params"), fields=fields)
        self.kind = kind
        self.arguments = arguments
        self.prefix = check_prefix(arguments.get("prefix", DEFAULT_PREFIX))

    def __repr__(self) -> str:
        # without the values: a ledger's URL may hold a password
        return f"BatchFunction({self.kind!r}, {', '.join(f'{name}=…' for name in self.arguments)})"

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the output columns.

        :param batch: a DataFrame or a ``pyarrow.Table``. An empty one needs no key, so engines can ask for
            types.
        """
        if isinstance(batch, pa.Table):
            out = self._generate(batch.to_pandas())
            table: Batch = fix_types(_with_schema(out, batch.schema, self.prefix), self.prefix)
            return table
        if not isinstance(batch, pd.DataFrame):
            kind = type(batch).__name__
            raise TypeError(
                f'A batch is a {kind}; ask for DataFrames or Arrow tables (Ray: batch_format="pyarrow").'
            )
        return self._generate(batch)

    def batches(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """What Spark's ``mapInPandas`` calls: an iterator of DataFrames to another."""
        for frame in frames:
            yield self(frame)

    def spark_schema(self, schema: Any) -> str:
        """The schema of the result, as Spark's DDL.

        :param schema: of the Spark DataFrame (``df.schema``).
        """
        given = [f"`{field.name}` {field.dataType.simpleString()}" for field in schema.fields]
        made = {name: _SPARK.get(name, "timestamp" if name.endswith("_at") else "string") for name in FIELDS}
        return ", ".join([*given, *(f"`{self.prefix}{name}` {kind}" for name, kind in made.items())])

    def arrow_schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of the result, for a writer that cannot infer it (Dask's ``to_parquet(schema=)``).

        :param schema: of the input.
        """
        made = arrow_schema(self.prefix)
        kept = [field for field in schema if field.name not in made.names]
        return pa.schema([*kept, *made])

    def _generate(self, frame: pd.DataFrame) -> pd.DataFrame:
        out: pd.DataFrame = generate(frame, self.kind, progress=False, gallery=False, **self.arguments)
        return out


def _with_schema(out: pd.DataFrame, given: pa.Schema, prefix: str) -> pa.Table:
    """The frame as Arrow with the input's columns in the types they came in."""
    made = set(column_names(prefix))
    kept = pa.schema([field for field in given if field.name not in made])
    left = pa.Table.from_pandas(out[kept.names], schema=kept, preserve_index=False)
    right = pa.Table.from_pandas(out[column_names(prefix)], preserve_index=False)
    for position, field in enumerate(right.schema):
        left = left.append_column(field, right.column(position))
    return left
