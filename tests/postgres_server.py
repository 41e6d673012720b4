"""PostgreSQL for tests: an empty schema or database of its own for each, or a skip that says why."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

DEFAULT = "postgresql://postgres@127.0.0.1:5432/postgres"


@contextmanager
def schema() -> Iterator[str]:
    """The URL of an empty schema on ``AIO_TEST_POSTGRES_URL``, else on a local server; dropped at the end.

    Skips where there is no server; fails there when ``AIO_TEST_REQUIRE_SERVICES=1``.
    """
    engine = _server()
    name = f"aio_test_{secrets.token_hex(6)}"
    try:
        with engine.begin() as conn:
            conn.execute(sa.text(f"CREATE SCHEMA {name}"))
        options = {"options": f"-csearch_path={name}"}
        yield engine.url.set(query=options).render_as_string(hide_password=False)
    finally:
        with engine.begin() as conn:
            conn.execute(sa.text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
        engine.dispose()


@contextmanager
def database() -> Iterator[str]:
    """The URL of an empty database on that server, for what needs one to itself; dropped at the end.

    Skips and fails as :func:`schema` does.
    """
    engine = _server().execution_options(isolation_level="AUTOCOMMIT")
    name = f"aio_test_{secrets.token_hex(6)}"
    try:
        with engine.connect() as conn:
            conn.execute(sa.text(f"CREATE DATABASE {name}"))
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as conn:
            conn.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


def _server() -> sa.engine.Engine:
    server = os.environ.get("AIO_TEST_POSTGRES_URL") or DEFAULT
    url = sa.engine.make_url(server).set(drivername="postgresql+psycopg2")
    try:
        engine = sa.create_engine(url, future=True, connect_args={"connect_timeout": 3})
        with engine.connect():
            pass
    except (sa.exc.OperationalError, ImportError) as error:
        if os.environ.get("AIO_TEST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL (AIO_TEST_POSTGRES_URL, else 127.0.0.1:5432): {type(error).__name__}")
    return engine
