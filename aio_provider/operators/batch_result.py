"""What a batch hands over, and whether its task has succeeded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from aio_provider.api.amounts import in_credits, in_digits
from aio_provider.api.errors import TaskTimeoutError
from aio_provider.jobs.ledger import JobState
from aio_provider.triggers.events import FATAL, PASSING

if TYPE_CHECKING:
    from aio_provider.frames.report import Report
    from aio_provider.jobs.ledger import Ledger
    from aio_provider.operators.batch_run import BatchRun

log = logging.getLogger(__name__)

_STATUSES = ("succeeded", "failed", "expired", "unknown", "pending", "not_submitted", "skipped")
_CHUNK = 500
#: held jobs that a message names
_NAMED = 5


def write(run: BatchRun) -> Report:
    """Write the output from the record, which is complete first: other machines may have sent waves."""
    if run.keeper is not None:
        jobs = iter(run.batch.jobs())
        while chunk := list(islice(jobs, _CHUNK)):
            run.keeper.restore(chunk)
    return run.batch.write(run.ledger)


def charged(ledger: Ledger, labels: Mapping[str, str]) -> float:
    """Credits that the service has charged for the jobs with these labels, past attempts included."""
    return sum(
        credits for past in (False, True) for _, credits in ledger.counts(past=past, labels=labels).values()
    )


def result_of_batch(run: BatchRun, report: Report, *, output: str, model: Any) -> dict[str, Any]:
    """The XCom result: plain JSON."""
    own, _ = run.ledger.counts(labels=run.labels).get(JobState.SUCCEEDED, (0, 0.0))
    credits = charged(run.ledger, run.labels)
    counts = {status: report.statuses.get(status, 0) for status in _STATUSES}
    return {
        "output_path": output,
        "rows": report.rows,
        **counts,
        "credits": credits,
        "reused": max(counts["succeeded"] - own, 0),
        "saved_credits": max(report.credits + report.saved - credits, 0.0),
        "kind": run.kind,
        "model": model if isinstance(model, str) else None,
    }


def tell(run: BatchRun, result: Mapping[str, Any]) -> None:
    """The figures, and what is left to do, in the task log."""
    figures = [f"{result[status]:,} {status.replace('_', ' ')}" for status in _STATUSES if result[status]]
    log.info(
        "%s: %s rows: %s; %s, %s results reused (%s saved).",
        result["output_path"],
        f"{result['rows']:,}",
        ", ".join(figures),
        in_credits(result["credits"]),
        f"{result['reused']:,}",
        in_credits(result["saved_credits"]),
    )
    if run.state.tally.over_limit:
        log.warning(
            "max_credits=%s: %d rows were not submitted, since they might have gone past it. With more, "
            "clearing this task does the rest; what is done costs nothing again.",
            in_digits(run.max_credits),
            run.state.tally.over_limit,
        )
    if result["unknown"]:
        log.warning("%s", held_message(run, result["unknown"]))
    if result["pending"]:
        log.warning(
            "%d rows had not ended at their deadline. Clearing this task collects them, and pays nothing.",
            result["pending"],
        )


def raise_for_result(
    run: BatchRun, result: Mapping[str, Any], *, most_failures: float | None, strict: bool, retry_failed: bool
) -> None:
    """Fail the task, where what has come of its rows is no success.

    :param most_failures: more failed or held rows than this are too many.
    :param strict: any is.
    """
    bad = result["failed"] + result["expired"] + result["unknown"]
    again = AirflowException if retry_failed else AirflowFailException
    where = f"All rows, with their errors, are in {result['output_path']}."
    if run.state.stopped is not None and result["not_submitted"]:
        raise AirflowException(
            f"{run.state.stopped} {result['not_submitted']:,} of {result['rows']:,} rows were not submitted. "
            f"What was in flight has been collected. A retry does the rest and pays nothing twice. {where}"
        )
    if most_failures is not None and bad > most_failures:
        raise again(f"{bad:,} of {result['rows']:,} rows failed or are held, more than max_failures. {where}")
    if not strict:
        return
    if result["failed"] + result["expired"]:
        raise again(f"{bad:,} of {result['rows']:,} rows failed or are held. {where}")
    if result["unknown"]:
        raise AirflowFailException(f"{held_message(run, result['unknown'])} {where}")
    if result["pending"]:
        raise TaskTimeoutError(
            f"{result['pending']:,} of {result['rows']:,} rows had not ended at their deadline. A retry, or "
            f"clearing this task, waits for them again and pays nothing. {where}"
        )


def raise_for_event(event: Mapping[str, Any]) -> None:
    """Fail on what concerns every task; its outcomes so far are on record."""
    if event["status"] == FATAL:
        raise AirflowFailException(
            f"{event['error']} What is in flight stays on record: clear this task once that is mended."
        )
    if event["status"] == PASSING:
        raise AirflowException(
            f"{event['error']} What is in flight stays on record: a retry goes on waiting and pays nothing."
        )


def held_message(run: BatchRun, count: int) -> str:
    """What is held, and how to settle it."""
    url = run.ledger.url
    keys = list(islice(_held(run), _NAMED))
    lines = [
        f"{count:,} rows may have been charged and are held, so that they are not paid twice. Look in the "
        "API in One dashboard whether they were created, settle each, and clear this task (the ledger is "
        f"{url}):"
    ]
    lines += [f"  aio ledger resolve {key} --task-id THE_TASK_ID   # or --not-submitted" for key in keys]
    if count > len(keys):
        lines.append("  … (aio ledger show --state unknown)")
    lines.append("on_unknown='resubmit' submits them without asking, and may pay twice.")
    return "\n".join(lines)


def _held(run: BatchRun) -> Iterator[str]:
    jobs = iter(run.batch.jobs())
    while chunk := list(islice(jobs, _CHUNK)):
        for key, entry in run.ledger.get([job.key for job in chunk]).items():
            if entry.state in (JobState.UNKNOWN, JobState.INTENDED):
                yield key
