"""When to send a request again, on tenacity: a GET on anything passing, a POST only when it was never taken.

What may be sent again is decided by which exception the client raises: for a POST, a lost or unreadable
answer and any 5xx arrive here as :class:`SubmissionUnknownError`, which is never retried.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import tenacity

from aio_provider.api.errors import AioError, ProtocolError, RateLimitError, ServerError, TransportError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long. All times are seconds.

    :param attempts: requests in all, the first one included.
    :param first_wait: the wait before the second one; it doubles each time, with up to a quarter of jitter.
    :param rate_limit_wait: the same after a 429 that names no ``Retry-After``.
    :param longest_wait: no wait is longer; a ``Retry-After`` beyond it ends the retries instead.
    :param sleep: how to wait; replace it to drive the clock in a test.
    :param async_sleep: the same for the async client.
    """

    attempts: int = 5
    first_wait: float = 1.0
    rate_limit_wait: float = 5.0
    longest_wait: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def retrying(self) -> tenacity.Retrying:
        """The loop for the sync client."""
        return tenacity.Retrying(sleep=self.sleep, **self._settings())

    def async_retrying(self) -> tenacity.AsyncRetrying:
        """The loop for the async client."""
        return tenacity.AsyncRetrying(sleep=self.async_sleep, **self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "stop": tenacity.stop_after_attempt(self.attempts),
            "retry": tenacity.retry_if_exception(self.is_passing),
            "wait": self._wait,
            "before_sleep": _log,
            "reraise": True,
        }

    def is_passing(self, error: BaseException) -> bool:
        """Whether the same request may do better a little later."""
        if isinstance(error, RateLimitError | ServerError):
            return error.retry_after is None or error.retry_after <= self.longest_wait
        return isinstance(error, TransportError | ProtocolError)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RateLimitError | ServerError) and error.retry_after is not None:
            return error.retry_after
        first = self.rate_limit_wait if isinstance(error, RateLimitError) else self.first_wait
        wait: float = min(first * 2 ** (state.attempt_number - 1), self.longest_wait)
        return wait * (1 - random.random() / 4)


DEFAULT_RETRY = RetryPolicy()


def read_retry_after(value: str | None, now: str | None = None) -> float | None:
    """Seconds to wait out of a ``Retry-After`` header, given in seconds or as an HTTP date; None if
    unreadable.

    :param now: the answer's own ``Date`` header, so that a wrong clock here does not matter.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None
    try:
        present = parsedate_to_datetime(now or "").timestamp()
    except (ValueError, TypeError):
        present = time.time()
    return max(0.0, moment - present)


def _log(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    kind = type(error).__name__ if isinstance(error, AioError) else "error"
    logger.info("attempt %d: %s (%s); trying again in %.1f s", state.attempt_number, kind, error, wait)
