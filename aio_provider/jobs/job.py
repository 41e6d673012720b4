"""A job, its identity, and its outcome: the words every other module of this room speaks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from datetime import datetime

    from aio_provider.api.prices import CreditRange
    from aio_provider.api.requests import GenerationRequest

#: seconds after which a run stops waiting for an accepted task, by kind; the task itself goes on
DEADLINES: Mapping[str, float] = MappingProxyType(
    {
        "image": 900.0,
        "remove_background": 900.0,
        "swap_face": 900.0,
        "upscale_image": 900.0,
        "chat": 900.0,
        "music": 1800.0,
        "speech": 1800.0,
        "video": 7200.0,
        "remove_video_background": 7200.0,
        "custom": 7200.0,
    }
)

#: digits of a key that stand for it in messages and commands: enough to tell a million jobs apart
SHORT_KEY = 12

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Job:
    """One generation to be made (and paid for) once.

    :param key: which job this is, across runs and machines; see :func:`job_key` and :func:`keyed`.
    :param request: what to send.
    :param labels: who asked and where: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``try``, ``user``,
        ``notebook``. Kept in the ledger for accounting; they do not take part in the job's identity.
    :param estimate: credits expected, where the caller has worked them out already.
    """

    key: str
    request: GenerationRequest
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS)
    estimate: CreditRange | None = None


class OutcomeStatus(StrEnum):
    """How a job stood when the run was done with it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: the submission may have been charged; held until settled
    UNKNOWN = "unknown"
    #: accepted by the service, not finished when the run stopped waiting; the next run picks it up
    PENDING = "pending"
    #: never sent: out of credits, over ``max_credits``, key refused, or stopped
    NOT_SUBMITTED = "not_submitted"
    #: the service no longer knows the task
    EXPIRED = "expired"
    #: nothing to do (a null input)
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job.

    ``credits`` is what the service says it charged (``None`` while that is not known); ``reused`` tells
    that the ledger had its result or its task already, so this run did not pay for it.
    """

    job: Job
    status: OutcomeStatus
    task_id: str | None = None
    urls: tuple[str, ...] = ()
    text: str | None = None
    credits: float | None = None
    error: str | None = None
    error_type: str | None = None
    model: str | None = None
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    reused: bool = False

    @property
    def key(self) -> str:
        """The job's key."""
        return self.job.key


@lru_cache(maxsize=64)
def service_scope(base_url: str) -> str:
    """The service a key belongs to: the base URL in one spelling (no user, query or trailing slash)."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    port = parts.port
    default = {"https": 443, "http": 80}.get(parts.scheme.lower())
    where = host if port is None or port == default else f"{host}:{port}"
    return f"{parts.scheme.lower()}://{where}{parts.path.rstrip('/')}"


def job_key(request: GenerationRequest, occurrence: int, *, scope: str) -> str:
    """Key of a job that is told apart by its content alone.

    Ten equal requests are ten variations, so the n-th equal one is a job of its own, and a second run,
    which counts the same way, finds all ten again.

    :param request: the request; its fingerprint is used.
    :param occurrence: how many equal requests came before it in the same input (0 for the first).
    :param scope: base URL of the service: a sandbox's result must never answer for a production job.
    :returns: 64 hex digits.
    """
    # as _digest spells it, whose beginning is the same for a million rows
    mark, number = request.fingerprint, str(occurrence)
    text = f"{_content(scope)}{len(mark)}:{mark}{len(number)}:{number}"
    return hashlib.sha256(text.encode()).hexdigest()


def keyed(value: object, kind: str, *, scope: str, namespace: str = "") -> str:
    """Key of a job that the caller names, by a key column or by an Airflow task.

    :param value: the caller's own key (turned into text).
    :param kind: the kind of generation: the same SKU may have an image and a video.
    :param scope: base URL of the service.
    :param namespace: what else sets these keys apart: a DAG run, a user's project.
    :returns: 64 hex digits.
    """
    return _digest("keyed", service_scope(scope), namespace, kind, str(value))


def jobs_for(
    requests: Iterable[GenerationRequest], *, scope: str, labels: Mapping[str, str] | None = None
) -> Iterator[Job]:
    """Turn requests into jobs by content (:func:`job_key`), counting equal ones as they come.

    :param requests: read lazily; 16 bytes of digest and a count are kept for each different request.
    :param scope: base URL of the service.
    :param labels: the same labels for all.
    """
    seen: dict[bytes, int] = {}
    marks = _NO_LABELS if labels is None else MappingProxyType(dict(labels))
    for request in requests:
        short = bytes.fromhex(request.fingerprint[:32])
        occurrence = seen.get(short, 0)
        seen[short] = occurrence + 1
        yield Job(job_key(request, occurrence, scope=scope), request, marks)


@lru_cache(maxsize=64)
def _content(scope: str) -> str:
    return _spelt("content", service_scope(scope))


def _digest(*parts: str) -> str:
    return hashlib.sha256(_spelt(*parts).encode()).hexdigest()


def _spelt(*parts: str) -> str:
    # Length-prefixed, so that no two different lists of parts can spell the same text.
    return "".join([f"{len(part)}:{part}" for part in parts])
