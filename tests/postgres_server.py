"""PostgreSQL for tests: an empty schema of its own for each, or a skip that says why."""

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
    name = f"aio_test_{secrets.token_hex(6)}"
    try:
        with engine.begin() as conn:
            conn.execute(sa.text(f"CREATE SCHEMA {name}"))
        yield url.set(query={"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        with engine.begin() as conn:
            conn.execute(sa.text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
        engine.dispose()
