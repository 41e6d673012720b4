"""Send one submission in its turn: paced with everything else the key does, and never twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from aio_provider.api.errors import AioError, RateLimitError, ServerError, TransportError

if TYPE_CHECKING:
    from aio_provider.jobs.pacing import RateBudget

T = TypeVar("T")

#: seconds for which a submission is tried that the service certainly did not take
PATIENCE = 600.0
#: seconds to wait after a connection that was never made: at first, doubled each time, and at most
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
#: a client raises ServerError for a submission under on_server_error="retry" only; each try may be charged
_SERVER_ERRORS = 4


async def send_in_turn(
    send: Callable[[], Awaitable[T]],
    budget: RateBudget,
    *,
    intend: Callable[[], None],
    release: Callable[[], None],
    refused: Callable[[], None] = lambda: None,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Wait for a turn, write the intent, send; again after a 429, a connection that was never made, or a 500
    where the connection's ``on_server_error`` is ``"retry"``.

    The intent is written when the turn has come, not before: who is killed while it waits has sent nothing.

    :param send: sends the request once. Its client must not retry by itself: each try needs a turn.
    :param intend: called before each try; when it raises, nothing is sent.
    :param release: called when the service certainly did not take it and another try follows.
    :param refused: told of each 429.
    :param patience: seconds after which the last refusal is raised.
    :raises AioError: what the last try raised, which the caller has to release or hold.
    """
    give_up = clock() + patience
    pause, server_errors = _FIRST_PAUSE, 0
    while True:
        async with budget.request() as turn:
            try:
                intend()
            except BaseException:
                turn.withdraw()
                raise
            try:
                return await send()
            except RateLimitError as error:
                refusal: AioError = error
                refused()
                budget.close_for(error.retry_after)
            except TransportError as error:
                refusal = error
                turn.withdraw()
            except ServerError as error:
                refusal = error
                server_errors += 1
                if server_errors > _SERVER_ERRORS:
                    raise
        wait = refusal.retry_after or 0.0 if isinstance(refusal, RateLimitError) else pause
        if clock() + wait >= give_up:
            raise refusal
        release()
        if not isinstance(refusal, RateLimitError):
            await sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)
