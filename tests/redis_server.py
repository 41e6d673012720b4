"""Redis for tests: the URL of a server, or a skip that says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

DEFAULT = "redis://127.0.0.1:6379/9"


@contextmanager
def url() -> Iterator[str]:
    """``AIO_TEST_REDIS_URL``, else a local server.

    Skips where there is no server; fails there when ``AIO_TEST_REQUIRE_SERVICES=1``.
    """
    redis = pytest.importorskip("redis")
    server = os.environ.get("AIO_TEST_REDIS_URL") or DEFAULT
    try:
        redis.Redis.from_url(server, socket_connect_timeout=2).ping()
    except redis.RedisError as error:
        if os.environ.get("AIO_TEST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no Redis (AIO_TEST_REDIS_URL, else 127.0.0.1:6379): {type(error).__name__}")
    yield server
