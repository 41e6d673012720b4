"""The ledger's tables, and the conversions between a row and an :class:`~.model.Entry`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from aio_provider.jobs.ledger.model import Ending, Entry, JobState

#: 2 added ``estimate_source`` and the table of archives; 3 ``conn_id``, ``price_key``, ``reserved``, the
#: budgets and an index for reports.
SCHEMA_VERSION = 3


class _SqliteTime(sa.types.UserDefinedType[str]):
    """ISO text: SQLite has no type for a time, and reading it SQLAlchemy's way costs more than the rest."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "DATETIME"


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC datetimes: ``timestamptz`` on PostgreSQL, text (as SQLAlchemy writes it) on SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.engine.Dialect) -> Any:
        return dialect.type_descriptor(
            _SqliteTime() if dialect.name == "sqlite" else sa.DateTime(timezone=True)
        )

    def process_bind_param(self, value: datetime | None, dialect: sa.engine.Dialect) -> Any:
        if value is None:
            return None
        value = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=None).isoformat(" ", "microseconds")

    def result_processor(self, dialect: sa.engine.Dialect, coltype: object) -> Any:
        # A re-run reads a hundred thousand times: straight from the text, without a call in between.
        return _time_of if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    def process_result_value(self, value: Any, dialect: sa.engine.Dialect) -> datetime | None:
        if value is None:
            return None
        utc: datetime = value.astimezone(UTC)
        return utc


def _time_of(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(f"{text}+00:00")


#: Labels with a column of their own -> that column, in the columns' order.
#: (``user`` unquoted is a function in PostgreSQL.)
LABEL_COLUMNS: Mapping[str, str] = {
    "dag_id": "dag_id",
    "run_id": "run_id",
    "task_id": "task_id",
    "map_index": "map_index",
    "try_number": "try_number",
    "user": "user_name",
    "notebook": "notebook",
    "team": "team",
    "label": "label",
    "conn_id": "conn_id",
}
_NUMBERS = ("map_index", "try_number")


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        # what was asked
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("request", sa.JSON(none_as_null=True)),
        # by whom: Airflow's ids, or a person and a notebook
        sa.Column("dag_id", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("map_index", sa.Integer),
        sa.Column("try_number", sa.Integer),
        sa.Column("user_name", sa.Text),
        sa.Column("notebook", sa.Text),
        sa.Column("team", sa.Text),
        sa.Column("label", sa.Text),
        sa.Column("conn_id", sa.Text),
        sa.Column("other_labels", sa.JSON(none_as_null=True)),
        # what it costs
        sa.Column("estimate_low", sa.Float),
        sa.Column("estimate_likely", sa.Float),
        sa.Column("estimate_high", sa.Float),
        sa.Column("estimate_source", sa.String(16)),
        # the settings its price depends on, and what budgets set aside for it
        sa.Column("price_key", sa.Text),
        sa.Column("reserved", sa.Float),
        sa.Column("credits", sa.Float),
        # what became of it; service_task_id is the service's, task_id above is Airflow's
        sa.Column("service_task_id", sa.Text),
        sa.Column("urls", sa.JSON(none_as_null=True)),
        sa.Column("text", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("error_type", sa.Text),
        # who is at it
        sa.Column("owner", sa.String(200)),
        sa.Column("lease_until", UtcDateTime),
        # when
        sa.Column("planned_at", UtcDateTime, nullable=False),
        sa.Column("intended_at", UtcDateTime),
        sa.Column("accepted_at", UtcDateTime),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("updated_at", UtcDateTime, nullable=False),
    ]


metadata = sa.MetaData()

#: One row a job. The primary key is what makes a race for a job end with one submission.
jobs = sa.Table("aio_jobs", metadata, sa.Column("key", sa.String(200), primary_key=True), *_columns())
sa.Index("aio_jobs_state", jobs.c.state)
sa.Index("aio_jobs_owner", jobs.c.owner, jobs.c.lease_until)

#: Attempts that a newer one took the place of. They may have cost credits, so they stay in the book.
past_attempts = sa.Table(
    "aio_past_attempts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(200), nullable=False),
    *_columns(),
    sa.Column("superseded_at", UtcDateTime, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
sa.Index("aio_past_attempts_key", past_attempts.c.key)

#: Files that old rows were moved to: what left the tables, and what it had cost.
archives = sa.Table(
    "aio_archives",
    metadata,
    sa.Column("path", sa.String(1000), primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("credits", sa.Float, nullable=False),
    sa.Column("oldest", UtcDateTime),
    sa.Column("newest", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

#: What the rows of those files count for in budgets: whose credits, and in which month they were submitted.
archived_use = sa.Table(
    "aio_archived_use",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("path", sa.String(1000), nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("conn_id", sa.Text),
    sa.Column("dag_id", sa.Text),
    sa.Column("team", sa.Text),
    sa.Column("credits", sa.Float, nullable=False),
)

#: What may be spent. ``month`` is "" (without end), "each" (calendar month, UTC) or one such as "2026-11".
budgets = sa.Table(
    "aio_budgets",
    metadata,
    sa.Column("scope", sa.String(16), primary_key=True),
    sa.Column("value", sa.String(250), primary_key=True),
    sa.Column("month", sa.String(8), primary_key=True),
    sa.Column("credits", sa.Float, nullable=False),
    sa.Column("set_by", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

#: A budget that reached 80 or 100 percent: once for each of its periods ("" or a month) and limits.
budget_events = sa.Table(
    "aio_budget_events",
    metadata,
    sa.Column("scope", sa.String(16), primary_key=True),
    sa.Column("value", sa.String(250), primary_key=True),
    sa.Column("period", sa.String(8), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("credits_limit", sa.Float, primary_key=True),
    sa.Column("charged", sa.Float, nullable=False),
    sa.Column("reserved", sa.Float, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)

meta = sa.Table(
    "aio_meta",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

#: What budgets sum up: the rows of a month are two ranges of this index. Jobs that were never submitted are
#: not in it.
_SPENT = (
    *("finished_at", "intended_at", "dag_id", "team", "conn_id", "state"),
    *("credits", "reserved", "estimate_high", "estimate_likely"),
)

#: What SQLite groups reports by, in an order that spares it sorting a million rows by DAG, model and day.
#: Ended rows alone, so that a job writes to it once.
REPORT = (
    *("dag_id", "model", "substr(coalesce(intended_at, accepted_at), 1, 10)", "state", "kind", "conn_id"),
    *("team", "user_name", "credits", "reserved", "estimate_likely", "estimate_high"),
    *("intended_at", "accepted_at", "finished_at"),
)


def create_indexes(conn: sa.engine.Connection) -> None:
    """The indexes that differ by database, where they are not there.

    SQLite reads a summary from an index that holds all it needs, many times faster than from rows with texts
    and URLs. PostgreSQL limits what fits into an entry of an index, and reads whole tables fast.
    """
    names = _SPENT if conn.dialect.name == "sqlite" else _SPENT[:2]
    for table in (jobs, past_attempts):
        _create_index(conn, f"{table.name}_spent", table, names, "WHERE intended_at IS NOT NULL")
    charged = "WHERE state = 'succeeded' AND credits IS NOT NULL"
    price = ("scope", "kind", "model", "price_key", "finished_at", "credits", "estimate_likely")
    _create_index(conn, "aio_jobs_price", jobs, price, charged)
    if conn.dialect.name == "sqlite":
        _create_index(conn, "aio_jobs_report", jobs, REPORT, "WHERE finished_at IS NOT NULL")


def _create_index(
    conn: sa.engine.Connection, name: str, table: sa.Table, columns: Sequence[str], only: str = ""
) -> None:
    conn.execute(sa.text(f"CREATE INDEX IF NOT EXISTS {name} ON {table.name} ({', '.join(columns)}) {only}"))


#: What an :class:`Ending` is made of, in its order.
ENDING = (
    *(jobs.c.key, jobs.c.fingerprint, jobs.c.state, jobs.c.service_task_id, jobs.c.urls, jobs.c.text),
    *(jobs.c.credits, jobs.c.error, jobs.c.error_type, jobs.c.model),
    sa.func.coalesce(jobs.c.accepted_at, jobs.c.intended_at),
    jobs.c.finished_at,
)


def ending_of(row: Sequence[Any]) -> Ending:
    """The :class:`Ending` of a row of :data:`ENDING` columns."""
    key, fingerprint, state, task_id, urls, *rest = row
    return Ending(key, fingerprint, _STATES[state], task_id, tuple(urls or ()), *rest)


#: The columns that both tables of attempts have.
SHARED = tuple(column.name for column in jobs.columns)
#: What :func:`entry_of` reads, in its order.
PRESENT = tuple(jobs.c[name] for name in SHARED)
PAST = tuple(past_attempts.c[name] for name in (*SHARED, "superseded_at", "reason", "id"))


def label_columns(labels: Mapping[str, object]) -> dict[str, Any]:
    """A job's labels as column values; labels without a column of their own go into ``other_labels``.

    Without blanks around them: ``" growth"`` would be another team than ``"growth"``, with no budget.
    """
    values: dict[str, Any] = dict.fromkeys(LABEL_COLUMNS.values())
    other: dict[str, str] = {}
    for name, value in labels.items():
        name = "try_number" if name == "try" else name
        value = "" if value is None else str(value).strip()
        if not value:
            continue
        if name in _NUMBERS:
            try:
                values[name] = int(value)
            except ValueError:
                other[name] = value
        elif name in LABEL_COLUMNS:
            values[LABEL_COLUMNS[name]] = value
        else:
            other[name] = value
    values["other_labels"] = other or None
    return values


_STATES: Mapping[str, JobState] = {state.value: state for state in JobState}


def entry_of(row: Sequence[Any]) -> Entry:
    """The :class:`Entry` of a row of :data:`PRESENT` or :data:`PAST` columns.

    By position, not by name: a re-run reads a hundred thousand rows.
    """
    key, fingerprint, state, attempt, scope, kind, endpoint, model, request = row[:9]
    labels = dict(row[19] or ())
    for name, value in zip(LABEL_COLUMNS, row[9:19], strict=True):
        if value is not None:
            labels[name] = str(value)
    low, likely, high, source, price_key, reserved, credits = row[20:27]
    task_id, urls, text, error, error_type = row[27:32]
    owner, lease_until, planned_at, intended_at, accepted_at, finished_at, updated_at = row[32:39]
    superseded_at, superseded_for = row[39:41] or (None, None)
    return Entry(
        key=key,
        fingerprint=fingerprint,
        state=_STATES[state],
        attempt=attempt,
        scope=scope,
        kind=kind,
        endpoint=endpoint,
        model=model,
        task_id=task_id,
        urls=tuple(urls or ()),
        text=text,
        credits=credits,
        estimate_low=low,
        estimate_likely=likely,
        estimate_high=high,
        estimate_source=source,
        price_key=price_key,
        reserved=reserved,
        error=error,
        error_type=error_type,
        labels=labels,
        owner=owner,
        lease_until=lease_until,
        planned_at=planned_at,
        intended_at=intended_at,
        accepted_at=accepted_at,
        finished_at=finished_at,
        updated_at=updated_at,
        request=request,
        superseded_at=superseded_at,
        superseded_for=superseded_for,
    )
