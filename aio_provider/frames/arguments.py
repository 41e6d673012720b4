"""The arguments of a call that say how to run it, checked before anything else happens."""

from __future__ import annotations

import codecs
import contextlib
import getpass
import math
import os
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from aio_provider.api.errors import ConfigurationError, InvalidRequestError
from aio_provider.frames.columns import plain
from aio_provider.frames.files import Csv
from aio_provider.frames.gallery import DEFAULT_ROWS
from aio_provider.frames.options import Options
from aio_provider.frames.schema import DEFAULT_PREFIX, column_names
from aio_provider.frames.spec import no_column
from aio_provider.frames.words import words

#: label → where it can be read: Jupyter names the notebook, Airflow the task instance (this imports neither)
_CONTEXT = {
    "notebook": "JPY_SESSION_NAME",
    "dag_id": "AIRFLOW_CTX_DAG_ID",
    "run_id": "AIRFLOW_CTX_DAG_RUN_ID",
    "task_id": "AIRFLOW_CTX_TASK_ID",
    "try": "AIRFLOW_CTX_TRY_NUMBER",
    "team": "AIO_TEAM",
}


#: arguments that are settings too
SETTINGS = (
    "api_key",
    "base_url",
    "ledger",
    "requests_per_minute",
    "limiter_url",
    "timeout",
    "allow_insecure",
    "on_server_error",
)


def check_options(frame: pd.DataFrame, given: Mapping[str, Any]) -> Options:
    """The arguments that say how to run a call, checked; what is not given has its default."""
    values = {name: given[name] for name in Options.__dataclass_fields__ if name in given}
    key = values.get("key")
    if not isinstance(key, Hashable):
        raise TypeError(f"key must be one column's name, not {type(key).__name__}.")
    if key is not None and key not in frame.columns:
        raise InvalidRequestError(no_column("key", None, key, list(frame.columns)), field="key")
    check_choice("on_unknown", values.get("on_unknown", "hold"), ("hold", "resubmit"))
    check_choice("reuse", values.get("reuse", "always"), ("always", "run", "never"))
    check_type("retry_failed", values.get("retry_failed", False), bool)
    check_type("refresh_urls", values.get("refresh_urls", False), bool)
    values["prefix"] = check_prefix(values.get("prefix", DEFAULT_PREFIX))
    told = values.get("on_budget_event")
    if told is not None and not callable(told):
        raise TypeError(f"on_budget_event must be callable with a BudgetEvent, not {type(told).__name__}.")
    values["max_credits"] = _check_credits(values.get("max_credits"))
    values["deadline"] = _check_deadline(values.get("deadline"))
    values["run_id"] = _check_text("run_id", values.get("run_id"))
    values["labels"] = _labels(values.get("labels"))
    if values.get("reuse") == "run" and not values["run_id"]:
        reuse, run_id = words.get().argument("reuse", "run"), words.get().argument("run_id", "...")
        raise ConfigurationError(f"{reuse} needs {run_id}: it names the run whose results count.")
    if values.get("prefer") is None:
        values["prefer"] = "results" if given.get("output") is None else "finish"
    check_choice("prefer", values["prefer"], ("results", "finish"))
    return Options(**values)


def check_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that stand in for environment variables, by setting; their values are checked later."""
    for name in ("api_key", "base_url", "limiter_url"):
        check_type(name, given.get(name), str, none=True)
    if given.get("ledger") is not None and not isinstance(given["ledger"], str | os.PathLike):
        raise TypeError(f"ledger must be a path or URL, not {type(given['ledger']).__name__}.")
    check_type("allow_insecure", given.get("allow_insecure"), bool, none=True)
    settings = {name: given.get(name) for name in SETTINGS}
    for name in ("requests_per_minute", "timeout"):
        _refuse_null(name, settings[name])
        settings[name] = plain(settings[name])
    return settings


def _refuse_null(name: str, value: object) -> None:
    """A NaN that came out of a cell is no number, and must not mean "not given": that may lift a limit."""
    if value is not None and plain(value) is None:
        said = words.get().argument(name, value)
        raise ConfigurationError(f"{said}: this is no number; give one, or leave {name} out.")


def check_csv(given: Mapping[str, Any]) -> Csv:
    """How CSV files are written and read: the arguments ``encoding``, ``delimiter`` and ``dtype``."""
    encoding, delimiter, dtype = given.get("encoding"), given.get("delimiter"), given.get("dtype")
    check_type("encoding", encoding, str, none=True)
    check_type("delimiter", delimiter, str, none=True)
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            said = words.get().argument("encoding", encoding)
            raise ConfigurationError(f"{said}: no such encoding; usual are utf-8, cp1252, utf-16.") from error
    if delimiter is not None and len(delimiter) != 1:
        said = words.get().argument("delimiter", delimiter)
        raise ConfigurationError(f"{said}: it must be one character, such as ';' or a tab.")
    if dtype is str:
        dtype = "str"
    check_type("dtype", dtype, str, none=True)
    if dtype not in (None, "str"):
        said = words.get().argument("dtype", dtype)
        raise ConfigurationError(f"{said}: it must be 'str', which reads every column as text, or left out.")
    return Csv(encoding or "utf-8", delimiter or ",", dtype)


def check_type(name: str, value: object, kind: type, *, none: bool = False) -> None:
    """Raise ``TypeError`` unless the argument is of this type, or ``None`` where that is allowed."""
    if not isinstance(value, kind) and not (none and value is None):
        # without the value: it may be a key
        raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__}.")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ``ConfigurationError`` unless the argument is one of these words."""
    if value not in allowed:
        said = words.get().argument(name, value)
        raise ConfigurationError(f"{said}; it must be one of {', '.join(map(repr, allowed))}.")


def _check_text(name: str, value: object) -> str:
    if value is None:
        return ""
    check_type(name, value, str)
    return str(value)


def check_prefix(prefix: object) -> str:
    """The output columns' prefix: a text that is not empty."""
    check_type("prefix", prefix, str)
    if not prefix:
        raise ConfigurationError("prefix is empty; the output columns need one, such as 'aio_' or 'cutout_'.")
    return str(prefix)


def check_clash(frame: pd.DataFrame, prefix: str) -> None:
    """Raise ``ConfigurationError`` when the input has columns that the result would overwrite."""
    clash = [name for name in column_names(prefix) if name in frame.columns]
    if clash:
        argument = words.get().argument
        raise ConfigurationError(
            f"The input already has the column{'s' if len(clash) > 1 else ''} {', '.join(clash)}, and the "
            f"result would replace them. Pass {argument('overwrite_columns', True)} to allow it (a re-run), "
            f"or {argument('prefix', 'cutout_')} to keep both."
        )


def _check_credits(value: object) -> float | None:
    _refuse_null("max_credits", value)
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"max_credits must be a number of credits, not {type(value).__name__}.")
    if value < 0:
        raise ConfigurationError(f"{words.get().argument('max_credits', value)}; it must be 0 or more.")
    if math.isinf(value):
        said = words.get().argument("max_credits", value)
        raise ConfigurationError(f"{said}; it must be finite: for no limit, leave max_credits out.")
    return float(value)


def _check_deadline(value: object) -> float | None:
    _refuse_null("deadline", value)
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"deadline must be a number of seconds, not {type(value).__name__}.")
    if not value > 0 or math.isinf(value):
        said = words.get().argument("deadline", value)
        raise ConfigurationError(f"{said}; it must be a number of seconds above 0.")
    return float(value)


def check_gallery(value: object) -> int:
    """How many results to show: ``True`` and ``None`` mean the usual number."""
    if value is None or value is True:
        return DEFAULT_ROWS
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"gallery must be True, False or a number of results, not {value!r}.")
    return int(value)


def _labels(given: object) -> dict[str, str]:
    """Who asks and where, for the book: the user, the notebook or Airflow task, then what the caller adds."""
    labels: dict[str, str] = {}
    if isinstance(given, Mapping) and "dag_id" in given:  # whoever runs the worker did not ask
        return _checked(given)
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container without a name for its user
        labels["user"] = getpass.getuser()
    for name, variable in _CONTEXT.items():
        if os.environ.get(variable):
            labels[name] = os.environ[variable]
    return labels if given is None else {**labels, **_checked(given)}


def _checked(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(x, str) for pair in given.items() for x in pair):
        raise TypeError("labels must be a dict of text to text.")
    return dict(given)
