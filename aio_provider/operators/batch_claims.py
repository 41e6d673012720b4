"""One output, one task instance: what mapped tasks may not share, and when a claim on it is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

if TYPE_CHECKING:
    from aio_provider.operators.batch_run import BatchRun

_GIVE_A_FOLDER = (
    "Mapped tasks share an output_path only where it is a folder that ends with '/': each then writes a file "
    "of its own there. Or give output_path to expand_kwargs(), one a task."
)


def refuse_one_file_for_all(operator: Any, map_index: int) -> None:
    """Refuse what was given to ``partial`` as one output of all mapped tasks.

    On the worker, the DAG still has the mapped operator, with what was given before anything was rendered.

    :raises AirflowFailException: a path that is the same for each and no folder.
    """
    if map_index < 0 or not operator.has_dag():
        return
    mapped = operator.dag.task_dict.get(operator.task_id)
    given = getattr(mapped, "partial_kwargs", {}).get("output_path")
    if given is None:
        return
    text = str(given)
    if not text.endswith("/") and "{{" not in text and "{%" not in text:
        raise AirflowFailException(
            f"Nothing was sent. output_path={text!r} is one output for all mapped tasks. {_GIVE_A_FOLDER}"
        )


def with_advice(error: AirflowFailException, map_index: int) -> AirflowFailException:
    """The refusal of an output, for a mapped task with what to give instead."""
    if map_index < 0 or not isinstance(error.__cause__, FileExistsError):
        return error
    advised = AirflowFailException(f"{error} {_GIVE_A_FOLDER}")
    advised.__cause__ = error.__cause__
    return advised


def give_up_unless_paid(run: BatchRun) -> None:
    """After a failure: where nothing of this task instance was ever sent, leave its output to others."""
    from aio_provider.jobs.ledger import JobState

    if run.state.flights or run.state.tally.done:
        return
    free = (JobState.PLANNED, JobState.FAILED)
    for past in (False, True):
        counts = run.ledger.counts(past=past, labels=run.labels)
        if any(credits or state not in free for state, (_, credits) in counts.items()):
            return
    run.batch.release()
