"""What a batch hands over, and whether its task has succeeded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from aio_provider.api.amounts import in_credits, in_digits
from aio_provider.api.errors import TaskTimeoutError
from aio_provider.jobs.job import SHORT_KEY
from aio_provider.jobs.ledger import JobState
from aio_provider.operators.settling import LedgerCommand
from aio_provider.triggers.events import FATAL, PASSING

if TYPE_CHECKING:
    from aio_provider.frames.report import Report
    from aio_provider.jobs.job import Job
    from aio_provider.jobs.ledger import Entry, Ledger
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
    """The XCom result: plain JSON.

    ``credits`` is what this attempt was charged, ``reused`` the results that were there before it, which had
    cost ``saved_credits``; ``total_credits`` is what the rows have cost, whenever that was.
    """
    tally = run.state.tally
    counts = {status: report.statuses.get(status, 0) for status in _STATUSES}
    return {
        "output_path": output,
        "rows": report.rows,
        **counts,
        "credits": tally.credits,
        "reused": max(counts["succeeded"] - (tally.succeeded - tally.reused), 0),
        "saved_credits": max(report.credits - tally.credits, 0.0),
        "total_credits": report.credits,
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
    for why in run.state.no_models.values():
        log.warning("%s", why)
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
        ways = "After that, clearing this task" if run.state.final else "A retry"
        raise (AirflowFailException if run.state.final else AirflowException)(
            f"{run.state.stopped} {result['not_submitted']:,} of {result['rows']:,} rows were not submitted"
            f"{_cost_of_the_rest(run)}. What was in flight has been collected. {ways} does the rest and pays "
            f"nothing twice. {where}"
        )
    if most_failures is not None and bad > most_failures:
        raise again(f"{bad:,} of {result['rows']:,} rows failed or are held, more than max_failures. {where}")
    if not result["succeeded"]:
        _raise_for_nothing(run, result, retry_failed=retry_failed, where=where)
    if not strict:
        return
    if result["failed"] + result["expired"]:
        raise again(f"{bad:,} of {result['rows']:,} rows failed or are held. {where}")
    if result["unknown"]:
        raise AirflowFailException(f"{held_message(run, result['unknown'])} {where}")
    if result["pending"]:
        raise TaskTimeoutError(f"{_pending(result)} {where}")


def _pending(result: Mapping[str, Any]) -> str:
    return (
        f"{result['pending']:,} of {result['rows']:,} rows had not ended at their deadline. A retry, or "
        "clearing this task, waits for them again and pays nothing."
    )


def _raise_for_nothing(run: BatchRun, result: Mapping[str, Any], *, retry_failed: bool, where: str) -> None:
    """Fail a task that has no result at all, whatever ``on_failure`` says, where any was tried."""
    tally, none = run.state.tally, f"None of {result['rows']:,} rows succeeded"
    failed = result["failed"] + result["expired"]
    if run.state.no_models:
        raise AirflowFailException(f"{none}. {' '.join(map(_ended, run.state.no_models.values()))} {where}")
    if result["unknown"]:
        raise AirflowFailException(f"{none}. {held_message(run, result['unknown'])}\n{where}")
    if failed:
        # What was refused as it stands is refused again; what failed at the service may succeed.
        may_help = retry_failed and tally.failed > tally.refused
        raise (AirflowException if may_help else AirflowFailException)(
            f"{none}: {failed:,} failed{_first_error(run)}. {where}"
        )
    if result["pending"]:
        raise TaskTimeoutError(f"{none}: {_pending(result)} {where}")


def _first_error(run: BatchRun) -> str:
    for _, entry in _entries(run):
        if entry.error and entry.state in (JobState.FAILED, JobState.EXPIRED):
            return f", the first with: {entry.error.rstrip('.')}"
    return ""


def _cost_of_the_rest(run: BatchRun) -> str:
    """What the rows that were not submitted may cost, where that is known."""
    from aio_provider.jobs.budget import estimate

    rest = (job for job, entry in _jobs(run) if entry is None or entry.state is JobState.PLANNED)
    total = estimate(rest, run.ledger, scope=run.hook.settings.base_url).total
    most = total.high if total.high is not None else total.likely
    return "" if not most else f", which may cost {in_credits(most)}"


def _ended(text: str) -> str:
    return f"{text.rstrip('.')}."


def raise_for_event(event: Mapping[str, Any]) -> None:
    """Fail on what concerns every task; its outcomes so far are on record."""
    if event["status"] == FATAL:
        raise AirflowFailException(
            f"{_ended(event['error'])} What is in flight stays on record: clear this task once that "
            "is mended."
        )
    if event["status"] == PASSING:
        raise AirflowException(
            f"{_ended(event['error'])} What is in flight stays on record: a retry goes on waiting "
            "and pays nothing."
        )


def held_message(run: BatchRun, count: int) -> str:
    """What is held, and how to settle it."""
    named = list(islice(_held(run), _NAMED))
    command = LedgerCommand.of(run.hook)
    lines = [
        f"{count:,} rows may have been charged and are HELD, so that they are not paid twice. Look in the "
        "API in One dashboard whether they were created, settle each with the line that fits, and clear this "
        f"task ({command.where}):"
    ]
    for name, key in named:
        lines.append(f"  {name}: {command.was_created(key)}")
        lines.append(f"  {' ' * len(name)}  {command.was_not_created(key)}")
    if count > len(named):
        lines.append(f"  … ({command.line('show --state unknown')})")
    lines.append(
        "The column aio_error of the output names the job of each. on_unknown='resubmit' submits them "
        "without asking, and may pay twice."
    )
    return "\n".join(lines)


def _held(run: BatchRun) -> Iterator[tuple[str, str]]:
    """Which input row, and its job's key, in the fewest digits that the command takes."""
    for job, entry in _entries(run):
        if entry.state in (JobState.UNKNOWN, JobState.INTENDED):
            yield run.batch.called(job), job.key[:SHORT_KEY]


def _entries(run: BatchRun) -> Iterator[tuple[Job, Entry]]:
    return ((job, entry) for job, entry in _jobs(run) if entry is not None)


def _jobs(run: BatchRun) -> Iterator[tuple[Job, Entry | None]]:
    jobs = iter(run.batch.jobs())
    while chunk := list(islice(jobs, _CHUNK)):
        entries = run.ledger.get([job.key for job in chunk])
        yield from ((job, entries.get(job.key)) for job in chunk)
