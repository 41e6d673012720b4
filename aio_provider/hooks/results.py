"""What operators and the sensor hand over: the XCom result, and what assets and OpenLineage are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from aio_provider.jobs.ledger import Entry


def result_of(
    task: Mapping[str, Any], *, kind: str, model: str | None, submitted_at: float | None
) -> dict[str, Any]:
    """The XCom result of a task that ended: plain JSON.

    :param task: :meth:`aio_provider.api.tasks.Task.to_dict`.
    :param submitted_at: seconds since 1970.
    """
    chat = {name: task[name] for name in ("text", "usage", "tool_calls") if name in task}
    return {
        **chat,
        "task_id": task["task_id"],
        "status": task["status"],
        "urls": list(task.get("urls") or ()),
        "credits": task.get("credits"),
        "model": model or task.get("model"),
        "kind": kind,
        "submitted_at": iso(submitted_at),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "error": task.get("error"),
        "reused": False,
    }


def result_of_entry(entry: Entry) -> dict[str, Any]:
    """The XCom result of a job that the ledger knows as finished."""
    result: dict[str, Any] = {
        "task_id": entry.task_id,
        "status": entry.state.value,
        "urls": list(entry.urls),
        "credits": entry.credits,
        "model": entry.model,
        "kind": entry.kind,
        "submitted_at": entry.submitted_at.isoformat(timespec="seconds") if entry.submitted_at else None,
        "finished_at": entry.finished_at.isoformat(timespec="seconds") if entry.finished_at else None,
        "error": entry.error,
        "reused": False,
    }
    if entry.text is not None:
        result["text"] = entry.text
    return result


def iso(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def seconds_between(began: str | None, ended: str | None) -> float | None:
    """Seconds from one time to another, both as :func:`iso` gives them."""
    if began is None or ended is None:
        return None
    return max((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds(), 0.0)


def tell_assets(
    context: Context,
    *,
    rows: int,
    credits: float | None,
    failures: int,
    reused: int = 0,
    budget_events: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    **more: int,
) -> None:
    """Put rows, credits and failures on the asset events of the task's outlets.

    :param rows: results that are there.
    :param credits: what they cost, by the service's own account; ``None`` where it does not say.
    :param failures: rows without a result.
    :param reused: rows that were paid for earlier.
    :param budget_events: looks up which budgets of the ledger have reached 80 or 100 percent; asked only
        where there is an outlet to tell.
    :param more: further counts.
    """
    outlets = getattr(context.get("task"), "outlets", None) or ()
    events: Any = context.get("outlet_events")
    if events is None:
        return
    named = [outlet for outlet in outlets if hasattr(outlet, "uri")]  # an alias has none yet
    if not named:
        return
    figures: dict[str, Any] = {
        "rows": rows,
        "credits": credits,
        "failures": failures,
        "reused": reused,
        **more,
    }
    if told := list(budget_events() if budget_events is not None else ()):
        figures["budget_events"] = told
    for outlet in named:
        events[outlet].extra = dict(figures)


def openlineage(inputs: Iterable[str], outputs: Iterable[str]) -> Any:
    """URLs as OpenLineage datasets: origin and path, without the query, which may hold a signature.

    A path of this machine is one of the origin ``file``.
    """
    from urllib.parse import urlsplit

    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.openlineage.extractors import OperatorLineage  # type: ignore[import-not-found]

    def datasets(urls: Iterable[str]) -> list[Dataset]:
        parts = [urlsplit(url) for url in urls]
        return [
            Dataset(
                namespace="file"
                if p.scheme in ("", "file")
                else f"{p.scheme}://{p.netloc.rpartition('@')[2]}",
                name=p.path or "/",
            )
            for p in parts
        ]

    return OperatorLineage(inputs=datasets(inputs), outputs=datasets(outputs))
