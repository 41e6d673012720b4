"""What a batch needs before anything is sent: good arguments, its record, and its rows as a checked call."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException

from aio_provider.api.errors import AioError, ConfigurationError
from aio_provider.operators.arguments import at_least_zero
from aio_provider.operators.batch_files import make_folder, plain_url
from aio_provider.operators.recording import BudgetCallback, budget_callback

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from aio_provider.frames.batch import Batch
    from aio_provider.hooks.aio import AioHook
    from aio_provider.jobs.ledger import Ledger

log = logging.getLogger(__name__)


def count_or_share(max_failures: float | None) -> float | None:
    """Check ``max_failures`` when the DAG file is parsed: a count, or a share below 1.

    :raises ValueError: neither.
    """
    if isinstance(max_failures, float) and max_failures >= 1:
        raise ValueError(
            f"max_failures={max_failures!r}: a share is below 1; give a count as a whole number."
        )
    return at_least_zero("max_failures", max_failures)


def open_ledger(
    context: Context,
    hook: AioHook,
    *,
    reuse: Literal["run", "always"],
    on_budget_event: BudgetCallback | Sequence[BudgetCallback] | None,
) -> Ledger:
    """The connection's ledger, else this machine's file, which the task state store then backs.

    :raises AirflowFailException: it cannot be opened, or is not there for ``reuse="always"``.
    """
    if not hook.settings.ledger:
        if reuse == "always":
            raise AirflowFailException(
                f"reuse='always' needs a ledger: give the connection {hook.aio_conn_id!r} a ledger_url "
                "(extra field). Nothing was sent."
            )
        if context.get("task_state_store") is None:
            log.warning(
                "The record is in a file of this machine; a wave or a retry on another may pay again "
                "(give the connection a ledger_url, or run Airflow 3.3 or later, to close this gap)."
            )
    try:
        ledger = hook.ledger()
    except ConfigurationError as error:
        raise AirflowFailException(f"Nothing was sent. {error}") from error
    ledger.on_budget_event = budget_callback(on_budget_event, context)
    return ledger


def check_spelling(kind: str, request_params: object) -> None:
    """A field that is nearly a known one would be sent with every row, and paid for, without its effect.

    :raises AirflowFailException: there is one.
    """
    from aio_provider.frames.spelling import near_miss

    missed = near_miss(kind, request_params) if isinstance(request_params, Mapping) else None
    if missed is not None:
        raise AirflowFailException(
            f"Nothing was sent. request_params: {missed.message} With as_written=True it is sent all the "
            "same."
        )


def open_batch(input_path: Any, kind: str, *, output_path: str, fields: Any, **arguments: Any) -> Batch:
    """The call over these rows, checked; nothing has been sent when it fails.

    :param output_path: of this task instance; its folder is made on this machine's disk.
    :param fields: as the operator takes them, rendered.
    :param arguments: the others, by the names of :class:`~aio_provider.frames.batch.Batch`.
    :raises FileNotFoundError: no such input; it may be there for the retry.
    :raises AirflowFailException: anything else that cannot be.
    """
    from aio_provider.frames.batch import Batch
    from aio_provider.frames.words import OPERATOR, words

    output = plain_url(output_path)
    try:
        make_folder(output)
    except OSError as error:
        raise AirflowFailException(
            f"Nothing was sent. output_path={output!r}: its folder cannot be made "
            f"({type(error).__name__}: {error})."
        ) from error
    before = words.set(OPERATOR)
    try:
        return Batch(plain_url(input_path), kind, output=output, **arguments, **_expressions(fields))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT,
            f"Nothing was sent. input_path: {_what(error)}. A retry looks again",
            str(input_path),
        ) from error
    except (AioError, TypeError, ValueError, FileExistsError, PermissionError) as error:
        raise AirflowFailException(f"Nothing was sent. {type(error).__name__}: {error}") from error
    finally:
        words.reset(before)


def _expressions(fields: object) -> dict[str, Any]:
    """The columns, templates and constants of ``fields``; a text with braces is a template."""
    from aio_provider.frames.columns import template

    if not isinstance(fields, Mapping):
        raise TypeError(
            f"fields must be a dict such as {{'prompt': 'caption'}}, not {type(fields).__name__}."
        )
    return {
        name: template(value) if isinstance(value, str) and "{" in value else value
        for name, value in fields.items()
    }


def _what(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".")
