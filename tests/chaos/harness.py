"""Kill a real run again and again, and compare what is left: ledger, Parquet and the service's own record.

A case is one call of ``aio.generate`` over a table. It is started in a forked process, killed (``SIGKILL``)
at a seeded moment or at a marked point, started again, killed again …, and at last left to finish. Then what
the sandbox charged is compared with what we know. What is held as ``unknown`` is settled truthfully, as a
person with a look at the dashboard would, and after one more run every job must be there exactly once.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox.process import SandboxProcess
from aio_provider.sandbox.tasks import Submission
from tests.chaos import victim
from tests.chaos.victim import POINTS, Trap

FAULTS = (
    *("429:0.05", "500:0.03:on=submit", "502-html:0.03", "drop-before:0.03", "drop-after:0.03"),
    *("500-after:0.02", "truncated-json:0.03", "404-first-poll:0.1", "failed:0.05"),
)
ROWS = 24
KILLS_A_CASE = 8
#: a run that takes longer hangs
PATIENCE = 120.0


@dataclass
class Tally:
    """What came of it all. ``problems`` is empty when every promise was kept."""

    cases: int = 0
    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    submissions: int = 0
    paid_twice: int = 0
    lost: int = 0
    unknown: int = 0
    book: float = 0.0
    charged: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"kills {self.kills}, paid twice {self.paid_twice}, lost {self.lost}, unknown {self.unknown}, "
            f"reconciled credits {self.book:g} of {self.charged:g} "
            f"({self.cases} cases, {self.submissions} submissions)"
        )


class Case:
    """One call, killed until its share of kills is used up."""

    def __init__(self, sandbox: SandboxProcess, ledger: str, folder: Path, seed: int, tally: Tally) -> None:
        self.random = random.Random(seed)
        self.name = f"case {seed}"
        self.sandbox = sandbox
        self.ledger = ledger
        self.path = folder / "out.parquet"
        self.tally = tally
        self.in_air = mmap(-1, 1)  # shared with the process that is killed
        self.kind = "chat" if seed % 5 == 4 else "image"
        self.faults = seed % 2 == 1
        # All at once, or 80 requests a second: then kills find every stage of the run, not only its start.
        rate = "0" if seed % 3 == 0 else "4800"
        self.limit = {"AIO_REQUESTS_PER_MINUTE": rate, "AIO_LIMITER_URL": "memory://"}
        # Every fourth prompt comes twice: equal rows are variations, and a re-run must find each.
        self.rows = pd.DataFrame(
            {"prompt": [f"lamp {seed}-{index - index % 4 // 3}" for index in range(ROWS)]}
        )

    def moments(self, kills: int) -> list[Trap | float]:
        """So many seeded moments."""
        return [self._moment() for _ in range(kills)]

    def play(self, moments: Sequence[Trap | float]) -> None:
        """Kill the run at each of these moments (until it ends before one), let it finish, and compare."""
        self.sandbox.reset()
        self.sandbox.clear_faults()
        if self.faults:
            self.sandbox.add_fault(*FAULTS)
        all(self._start(moment) for moment in moments)
        self._finish()
        self._compare(settled=False)
        self.sandbox.clear_faults()
        self._settle()
        self._finish()
        self._compare(settled=True)
        self.tally.cases += 1

    def _moment(self) -> Trap | float:
        """Where to kill next: at a point, or so many seconds after the start."""
        if self.random.random() < 0.35:
            return self.random.uniform(0.05, 1.0)
        # The points that can cost money come twice as often, and early enough to be reached by a re-run.
        point = self.random.choice((*POINTS, *POINTS[:4]))
        nth = 1 if "Parquet" in point else self.random.randint(1, ROWS // 4)
        return Trap(point, nth, self.random.uniform(0, 0.01))

    def _start(self, moment: Trap | float | None) -> bool:
        """Run in a forked process; whether it was killed."""
        child = os.fork()
        if child == 0:
            trap = moment if isinstance(moment, Trap) else None
            environment = {**self.sandbox.environment(ledger=self.ledger), **self.limit}
            victim.run(self.rows, self.kind, self.path, environment, trap, self.in_air)
        if isinstance(moment, float):
            time.sleep(moment)  # the very subject of the test: a moment of real time
            os.kill(child, signal.SIGKILL)
        status = _wait(child)
        if status is None:
            self._problem("the run hangs")
            return False
        if not os.WIFSIGNALED(status):
            if os.WEXITSTATUS(status):
                self._problem(f"the run failed with exit status {os.WEXITSTATUS(status)}")
            return False
        self._at_most_in_the_air()
        self.tally.kills += 1
        self.tally.points[moment.point if isinstance(moment, Trap) else "at random"] += 1
        return True

    def _at_most_in_the_air(self) -> None:
        """After a kill only what was in the air can become unknown."""
        with Ledger.open(self.ledger) as ledger:
            intended = sum(1 for _ in ledger.entries(state=JobState.INTENDED))
        if intended > self.in_air[0]:
            self._problem(f"{intended} intents stand, though {self.in_air[0]} submissions were in the air")

    def _finish(self) -> None:
        if self._start(None):
            self._problem("the last run was killed by something else")

    # -- what is left -------------------------------------------------------------------------------

    def _compare(self, *, settled: bool) -> None:
        sent = self.sandbox.submissions
        self._wait_for_tasks(sent)
        sent = self.sandbox.submissions
        charged = self.sandbox.charged
        with Ledger.open(self.ledger) as ledger:
            entries = list(ledger.entries())
            past = list(ledger.past_entries())
        held = [entry for entry in entries if entry.state is JobState.UNKNOWN]
        self._once(sent, {entry.fingerprint for entry in held}, settled)
        # Credits, to the unit: all that was charged is in the book, or belongs to a job that is held.
        book = sum(entry.credits or 0.0 for entry in (*entries, *past))
        known = {entry.task_id for entry in (*entries, *past) if entry.task_id}
        # A chat has no task id: the book knows it by its state.
        strays = [item for item in sent if item.task_id not in known]
        if self.kind == "chat":
            answered = Counter(entry.fingerprint for entry in entries if entry.state is JobState.SUCCEEDED)
            strays = [item for item in sent if not _take(answered, item.fingerprint)]
        loose = Counter(entry.fingerprint for entry in held)
        unheld = [item for item in strays if not _take(loose, item.fingerprint)]
        if unheld:
            self.tally.lost += len(unheld)
            self._problem(f"{len(unheld)} submissions neither on record nor held")
        if abs(book + sum(item.credits for item in strays) - charged) > 1e-6:
            self._problem(f"the book says {book:g}, {len(strays)} are held, {charged:g} were charged")
        self._parquet(sent, len(held))
        if settled:
            self.tally.submissions += len(sent)
            self.tally.book += book + sum(item.credits for item in strays)
            self.tally.charged += charged
        else:
            self.tally.unknown += len(held)

    def _once(self, sent: list[Submission], held: set[str], settled: bool) -> None:
        """Each row's request was sent once: never more, and in the end never less."""
        wanted = Counter(self._fingerprint(prompt) for prompt in self.rows["prompt"])
        counts = Counter(item.fingerprint for item in sent)
        twice = sum((counts - wanted).values())
        missing = sum(n for fingerprint, n in (wanted - counts).items() if settled or fingerprint not in held)
        self.tally.paid_twice += twice
        self.tally.lost += missing
        if twice or missing:
            self._problem(f"{twice} paid twice, {missing} never sent")

    def _parquet(self, sent: list[Submission], held: int) -> None:
        """The file has every row in its place, and each result is that of its own prompt."""
        rows = pq.read_table(self.path, use_threads=False).to_pylist()
        if [row["prompt"] for row in rows] != list(self.rows["prompt"]):
            self._problem("the Parquet file's rows are not the input's")
        states = Counter(row["aio_status"] for row in rows)
        if states["unknown"] != held or set(states) - {"succeeded", "failed", "unknown"}:
            self._problem(f"the Parquet file says {dict(states)}, the ledger holds {held}")
        by_task = {item.task_id: item for item in sent}
        ids = [row["aio_task_id"] for row in rows if row["aio_task_id"]]
        if len(ids) != len(set(ids)):
            self._problem("two rows have one task")
        for row in rows:
            item = by_task.get(row["aio_task_id"])
            if item is None and row["aio_task_id"]:
                self._problem(f"task {row['aio_task_id']} is not the service's")
            elif item is not None and item.fingerprint != self._fingerprint(row["prompt"]):
                self._problem("a row has another row's result")
            elif item is not None and (row["aio_credits"] or 0) != item.credits:
                self._problem(f"row says {row['aio_credits']} credits, the service {item.credits}")

    def _settle(self) -> None:
        """Tell the truth about what is held, from the service's own record."""
        with Ledger.open(self.ledger) as ledger:
            known = {entry.task_id for entry in ledger.entries()}
            loose = [item for item in self.sandbox.submissions if item.task_id not in known]
            answered = Counter(entry.fingerprint for entry in ledger.entries(state=JobState.SUCCEEDED))
            for entry in list(ledger.entries(state=JobState.UNKNOWN)):
                match = next((item for item in loose if item.fingerprint == entry.fingerprint), None)
                if self.kind == "chat":
                    sent = sum(item.fingerprint == entry.fingerprint for item in self.sandbox.submissions)
                    if sent > answered[entry.fingerprint]:
                        answered[entry.fingerprint] += 1
                        continue  # charged, and its answer is gone for good: it stays held
                    match = None
                if match is None:
                    ledger.settle(entry.key, not_submitted=True)
                else:
                    loose.remove(match)
                    ledger.settle(entry.key, task_id=match.task_id)

    def _wait_for_tasks(self, sent: list[Submission]) -> None:
        """Held tasks nobody polls may still run; what they cost is known when they end."""
        deadline = time.monotonic() + 120
        while any(item.status == "IN_PROGRESS" for item in sent) and time.monotonic() < deadline:
            time.sleep(0.02)
            sent = self.sandbox.submissions

    def _fingerprint(self, prompt: str) -> str:
        return GenerationRequest.build(self.kind, prompt=prompt).fingerprint

    def _problem(self, what: str) -> None:
        self.tally.problems.append(f"{self.name} ({self.kind}, faults {self.faults}): {what}")


def _take(counter: Counter[str], key: str) -> bool:
    if counter[key] <= 0:
        return False
    counter[key] -= 1
    return True


def _wait(child: int) -> int | None:
    """The child's exit status; None when it had to be ended because it hung."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
