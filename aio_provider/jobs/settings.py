"""Where key, address, ledger and limit come from outside Airflow: arguments, then the environment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.job import service_scope

DEFAULT_BASE_URL = "https://apiin.one/api/v1"
#: the documented limit of a key
DEFAULT_REQUESTS_PER_MINUTE = 60.0
#: seconds for one HTTP request
DEFAULT_TIMEOUT = 60.0


@dataclass(frozen=True)
class Settings:
    """How to reach the service and where to keep the record.

    :param api_key: the key; never shown by ``repr``.
    :param base_url: address of the API.
    :param ledger: path or SQLAlchemy URL; ``None``: a file per user in the platform's data folder.
    :param requests_per_minute: the key's limit, polls included; 0: no limit.
    :param limiter_url: ``redis://…`` or ``postgresql://…`` when several machines share the key,
        ``memory://`` to share with nobody; ``None``: a file shared by the processes of this machine.
    :param timeout: seconds for one HTTP request.
    :param allow_insecure: permit plain ``http://`` to a host that is not loopback.
    :param on_server_error: ``"hold"`` a submission answered by a 5xx, since it may have been charged, or
        ``"retry"`` it as the service's documentation advises.
    :param latency_scale: factor on the catalog's latencies, from which the first polls are planned: 1 for the
        service, less for a sandbox that runs faster.
    :param team: whose credits are spent, for budgets and reports.
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: str = DEFAULT_BASE_URL
    ledger: str | None = field(default=None, repr=False)
    requests_per_minute: float = DEFAULT_REQUESTS_PER_MINUTE
    limiter_url: str | None = field(default=None, repr=False)
    timeout: float = DEFAULT_TIMEOUT
    allow_insecure: bool = False
    on_server_error: Literal["hold", "retry"] = "hold"
    latency_scale: float = 1.0
    team: str | None = None

    def __post_init__(self) -> None:
        for name in ("api_key", "base_url", "ledger", "limiter_url", "team"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):  # never quoted: it may be the key
                raise ConfigurationError(f"{name} must be text (a string), not {type(value).__name__}.")
        _positive("requests_per_minute", self.requests_per_minute, zero=True)
        _positive("timeout", self.timeout, zero=False)
        _positive("latency_scale", self.latency_scale, zero=False)
        if self.on_server_error not in ("hold", "retry"):
            raise ConfigurationError(
                f"on_server_error is {self.on_server_error!r}; it must be 'hold' (the default) or 'retry'."
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Settings from ``AIO_API_KEY``, ``AIO_BASE_URL``, ``AIO_LEDGER``, ``AIO_REQUESTS_PER_MINUTE``,
        ``AIO_LIMITER_URL``, ``AIO_LATENCY_SCALE`` and ``AIO_TEAM``.

        :param env: the environment to read; the process's own by default.
        :param overrides: any field by name; ``None`` means "not given".
        :raises ConfigurationError: an unknown name, or a value that cannot be used.
        """
        env = os.environ if env is None else env
        unknown = sorted(set(overrides) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigurationError(f"Unknown setting {unknown[0]!r}.")
        values: dict[str, Any] = {}
        for name, variable in _VARIABLES.items():
            text = env.get(variable, "").strip()
            if text:
                values[name] = _number(variable, text) if name in _NUMBERS else text
        values.update({name: value for name, value in overrides.items() if value is not None})
        if isinstance(values.get("ledger"), os.PathLike):
            values["ledger"] = os.fspath(values["ledger"])
        return cls(**values)

    @property
    def key_id(self) -> str:
        """A name for (service, key) from which the key cannot be told: what a shared limit is filed under."""
        return key_id(self.api_key, self.base_url)


def key_id(api_key: str | None, base_url: str) -> str:
    """16 hex digits that name this key at this service, the same in every process."""
    text = f"{service_scope(base_url)}\0{api_key or ''}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_VARIABLES = {
    "api_key": "AIO_API_KEY",
    "base_url": "AIO_BASE_URL",
    "ledger": "AIO_LEDGER",
    "requests_per_minute": "AIO_REQUESTS_PER_MINUTE",
    "limiter_url": "AIO_LIMITER_URL",
    "latency_scale": "AIO_LATENCY_SCALE",
    "team": "AIO_TEAM",
}
_NUMBERS = ("requests_per_minute", "latency_scale")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} is {text!r}; it must be a number.") from error


def _positive(name: str, value: object, *, zero: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name} must be a number, not {type(value).__name__}.")
    if not (value > 0 or (zero and value == 0)) or value == float("inf"):
        wanted = "a finite number, 0 or more (0: no limit)" if zero else "a finite number above 0"
        raise ConfigurationError(f"{name} is {value!r}; it must be {wanted}.")
