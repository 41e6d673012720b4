"""What operators and triggers tell Airflow's metrics: StatsD, Datadog or OpenTelemetry, as Airflow is set up.

The names are documented in ``docs/metrics.md``. Tags are kinds, models and states: never a key, a prompt or a
URL. A metric that cannot be sent is no reason for a task to fail.
"""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from typing import Any

log = logging.getLogger(__name__)

PREFIX = "aio"


def submitted(kind: str, model: str | None) -> None:
    """The service took a submission."""
    _tell("incr", "submissions", 1, kind=kind, model=model)


def ended(kind: str, model: str | None, status: str, credits: float | None) -> None:
    """A job has its end on record.

    :param status: ``succeeded``, ``failed``, ``expired``, or ``refused`` when it was submitted.
    :param credits: what the service charged, if it says.
    """
    if status == "succeeded":
        _tell("incr", "completions", 1, kind=kind, model=model)
    else:
        _tell("incr", "failures", 1, kind=kind, model=model, status=status)
    if credits:
        _tell("incr", "credits", credits, kind=kind, model=model)


def held(kind: str, model: str | None) -> None:
    """A submission may have been charged, and nobody knows."""
    _tell("incr", "unknown_holds", 1, kind=kind, model=model)


def refused(request: str) -> None:
    """The service answered 429.

    :param request: ``submit`` or ``poll``.
    """
    _tell("incr", "rate_limited", 1, request=request)


def polled(late: float) -> None:
    """A poll is sent, so many seconds after one was due."""
    _tell("timing", "poll_lag", timedelta(seconds=late))


def of_poller(step: str, late: float) -> None:
    """An observer for a :class:`~aio_provider.jobs.poller.Poller`."""
    polled(late) if step == "sent" else refused("poll")


def _tell(verb: str, name: str, value: Any, **tags: str | None) -> None:
    try:
        tell = getattr(_stats(), verb)
        tell(f"{PREFIX}.{name}", value, tags={tag: text for tag, text in tags.items() if text})
    except Exception:  # whatever is wrong with the metrics, the job goes on
        log.debug("The metric %s.%s was not sent.", PREFIX, name, exc_info=True)


def _stats() -> Any:
    """Airflow's metrics, as this process has set them up."""
    from airflow.providers.common.compat.sdk import Stats

    # Airflow 3.2 and later have two copies: a worker sets up the SDK's, the triggerer the server's (and the
    # SDK's only by the way, when it first reads a serialized value).
    ours = sys.modules.get(getattr(Stats.incr, "__module__", ""))
    if getattr(ours, "_factory", Stats) is None:
        from airflow.observability.stats import Stats as server

        return server
    return Stats
