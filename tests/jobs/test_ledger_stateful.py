"""Any order of steps, by several processes, crashes between any two of them, against a simple model.

The model knows what the service really did (which POSTs were sent, what each cost). After every step the
book must agree with it: no job is sent twice unless someone chose so, no id and no credit leaves the book.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aio_provider.jobs.ledger import (
    ENDED,
    Entry,
    Finished,
    JobConflictError,
    JobState,
    Ledger,
    LedgerStateError,
)
from tests.jobs.ledger_helpers import HandClock, job, request

KEYS = st.sampled_from(["a", "b"])
PROMPTS = st.sampled_from(["a lamp", "a lamp", "a lamp", "a chair"])
OWNERS = st.sampled_from(["left", "right"])
#: how far a run gets with a job before something else happens
DEPTHS = st.sampled_from(["plan", "claim", "send", "send and tell", "send and lose", "claim and release"])
EVENTS = st.sampled_from(
    ["crash", "crash", "renew", "sweep", "a second", "a minute", "a lease", "a lease", "an hour back"]
)
LEASE = 120.0


@dataclass
class Sent:
    """A POST that the service took: it costs credits whatever we know of it."""

    key: str
    owner: str
    task_id: str
    told: bool = False  # whether the ledger has been given the id
    ended: JobState | None = None


@dataclass
class Process:
    """What a process remembers; a crash forgets it."""

    #: claims it has won and not answered for, with whether the service took the POST
    claims: dict[str, Sent | None] = field(default_factory=dict)
    planned: dict[str, Entry] = field(default_factory=dict)


class LedgerMachine(RuleBasedStateMachine):
    """Two processes with a connection each, and one service."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = HandClock()
        self.ledgers = {owner: self._open() for owner in ("left", "right")}
        self.processes = {"left": Process(), "right": Process()}
        self.lives = {"left": 0, "right": 0}
        self.sent: list[Sent] = []
        #: how often each key may be sent: once, and once more for each time someone chose so
        self.allowed = dict.fromkeys("ab", 1)

    def _open(self) -> Ledger:
        return Ledger.open(self.folder / "ledger.sqlite", clock=self.clock, lease_seconds=LEASE)

    def teardown(self) -> None:
        if hasattr(self, "ledgers"):
            for ledger in self.ledgers.values():
                ledger.close()
            shutil.rmtree(self.folder)

    def _name(self, owner: str) -> str:
        return f"{owner}-{self.lives[owner]}"

    def _entry(self, key: str) -> Entry | None:
        return self.ledgers["left"].get([key]).get(key)

    # -- what processes do --------------------------------------------------------------------------

    @rule(
        owner=OWNERS,
        key=KEYS,
        prompt=PROMPTS,
        retry=st.booleans(),
        resubmit=st.booleans(),
        depth=st.sampled_from(
            ["plan", "claim", "send", "send and tell", "send and lose", "claim and release"]
        ),
    )
    def run(self, owner: str, key: str, prompt: str, retry: bool, resubmit: bool, depth: str) -> None:
        """A run comes across a job, and gets so far with it before something else happens."""
        self._plan(owner, key, prompt, retry, resubmit)
        if depth == "plan" or not self._claim(owner, key):
            return
        if "send" in depth:
            self._send(owner, key)
        if depth in {"send and tell", "claim and release"}:
            self._answer(owner, key)
        elif depth == "send and lose":
            self._lose(owner, key)

    @precondition(lambda self: self._claims())
    @rule(data=st.data(), what=st.sampled_from(["send", "answer", "lose", "send and answer"]))
    def go_on(self, data: st.DataObject, what: str) -> None:
        """A run goes on with a claim it has; meanwhile anything may have happened to it."""
        owner, key = data.draw(st.sampled_from(self._claims()))
        if "send" in what and self.processes[owner].claims[key] is None:
            self._send(owner, key)
        if "answer" in what:
            self._answer(owner, key)
        elif what == "lose":
            self._lose(owner, key)

    @precondition(lambda self: self._known())
    @rule(data=st.data(), with_entry=st.booleans())
    def claim_later(self, data: st.DataObject, with_entry: bool) -> None:
        """A claim long after the plan: the job may have changed, ended, gone."""
        owner, key = data.draw(st.sampled_from(self._known()))
        self._claim(owner, key, with_entry)

    def _claims(self) -> list[tuple[str, str]]:
        return [(owner, key) for owner, process in self.processes.items() for key in sorted(process.claims)]

    def _known(self) -> list[tuple[str, str]]:
        return [
            (owner, key)
            for owner, process in self.processes.items()
            for key in sorted(process.planned)
            if key not in process.claims
        ]

    def _plan(self, owner: str, key: str, prompt: str, retry: bool, resubmit: bool) -> None:
        before = self._entry(key)
        try:
            [entry] = self.ledgers[owner].plan(
                [job(key, prompt)],
                owner=self._name(owner),
                retry_failed=retry,
                on_unknown="resubmit" if resubmit else "hold",
            )
        except JobConflictError:
            assert before is not None and before.state not in {*ENDED, JobState.PLANNED}
            assert before.fingerprint != request(prompt).fingerprint
            assert self._entry(key) == before
            return
        self.processes[owner].planned[key] = entry
        if before is None or entry.attempt == before.attempt:
            return
        # A new attempt: only for one of the three reasons, each of them somebody's choice.
        assert entry.state is JobState.PLANNED and entry.attempt == before.attempt + 1
        changed = before.fingerprint != entry.fingerprint
        assert (
            (before.state is JobState.FAILED and retry)
            or (before.state in ENDED and changed)
            or (before.state in {JobState.UNKNOWN, JobState.INTENDED} and resubmit)
        )
        self.allowed[key] += 1

    def _claim(self, owner: str, key: str, with_entry: bool = True) -> bool:
        process = self.processes[owner]
        known = process.planned.get(key)
        if known is None or key in process.claims:
            return False
        before = self._entry(key)
        try:
            won = self.ledgers[owner].intend([known if with_entry else key], owner=self._name(owner))
        except LedgerStateError:
            assert before is None
            return False
        if won:
            assert before is not None and before.state is JobState.PLANNED
            process.claims[key] = None
        return bool(won)

    def _send(self, owner: str, key: str) -> None:
        """The service takes it; nobody knows yet."""
        sent = Sent(key, self._name(owner), f"task-{len(self.sent)}")
        self.sent.append(sent)
        self.processes[owner].claims[key] = sent

    def _answer(self, owner: str, key: str) -> None:
        """The answer is written down: an id where it was sent, a release where it was not."""
        sent = self.processes[owner].claims.pop(key)
        if sent is not None:
            sent.told = True
            self.ledgers[owner].accept([(key, sent.task_id)], owner=self._name(owner))
        else:
            self.ledgers[owner].release([key], owner=self._name(owner))

    def _lose(self, owner: str, key: str) -> None:
        self.processes[owner].claims.pop(key)
        self.ledgers[owner].hold([(key, TimeoutError("no answer"))], owner=self._name(owner))

    @precondition(lambda self: any(sent.told for sent in self.sent))
    @rule(owner=OWNERS, data=st.data(), end=st.sampled_from(sorted(ENDED)))
    def finish(self, owner: str, data: st.DataObject, end: JobState) -> None:
        """Anyone may poll a task whose id is on record."""
        told = [sent for sent in self.sent if sent.told]
        sent = data.draw(st.sampled_from(told))
        sent.ended = sent.ended or end
        credits = 5.0 if sent.ended is JobState.SUCCEEDED else 0.0
        self.ledgers[owner].finish(
            [Finished(sent.key, sent.ended, task_id=sent.task_id, credits=credits)], owner=self._name(owner)
        )

    @rule(owner=OWNERS, what=EVENTS)
    def meanwhile(self, owner: str, what: str) -> None:
        """The world goes on."""
        if what == "crash":  # all that a process had in memory is gone; a new one opens the same file
            self.ledgers[owner].close()
            self.ledgers[owner] = self._open()
            self.processes[owner] = Process()
            self.lives[owner] += 1
        elif what == "renew":
            self.ledgers[owner].renew(self._name(owner))
        elif what == "sweep":
            self.ledgers[owner].sweep()
        else:
            self.clock.forward(
                {"a second": 1, "a minute": 60, "a lease": LEASE + 1, "an hour back": -3600}[what]
            )

    # -- what people do -----------------------------------------------------------------------------

    @precondition(lambda self: self._all())
    @rule(data=st.data(), what=st.sampled_from(["settle", "settle", "forget", "forget by force"]))
    def someone(self, data: st.DataObject, what: str) -> None:
        """A person settles what is held (truthfully), or forgets a job."""
        entry = data.draw(st.sampled_from(self._all()))
        if what == "settle":
            self._settle(entry)
        else:
            self._forget(entry, force=what == "forget by force")

    def _settle(self, entry: Entry) -> None:
        key = entry.key
        if entry.state is not JobState.UNKNOWN:
            return
        if any(key in process.claims for process in self.processes.values()):
            return  # its process is only slow: not for a person to say
        theirs = [sent for sent in self.sent if sent.key == key and sent.owner == entry.owner]
        sent = next((sent for sent in theirs if not sent.told), None)
        if sent is not None:
            sent.told = True
            self.ledgers["left"].settle(key, task_id=sent.task_id)
        elif not theirs:
            self.ledgers["left"].settle(key, not_submitted=True)

    def _forget(self, entry: Entry, *, force: bool) -> None:
        may_cost = {JobState.INTENDED, JobState.ACCEPTED, JobState.UNKNOWN}
        try:
            self.ledgers["right"].forget([entry.key], force=force)
        except LedgerStateError:
            assert not force and entry.state in may_cost
            return
        assert force or entry.state not in may_cost
        if entry.state is not JobState.PLANNED:
            self.allowed[entry.key] += 1

    # -- what must always hold ----------------------------------------------------------------------

    def _all(self) -> list[Entry]:
        return list(self.ledgers["left"].entries()) if hasattr(self, "ledgers") else []

    @invariant()
    def the_book_agrees_with_the_service(self) -> None:
        if not hasattr(self, "sent"):
            return
        ledger = self.ledgers["right"]
        book = [*ledger.entries(), *ledger.past_entries()]
        for key in "ab":
            times = sum(sent.key == key for sent in self.sent)
            assert times <= self.allowed[key], "nothing is sent twice unless someone chose so"
        told = sorted(sent.task_id for sent in self.sent if sent.told)
        ids = sorted(entry.task_id for entry in book if entry.task_id)
        assert ids == told, "every id that was told is in the book, once"
        charged = 5.0 * sum(sent.ended is JobState.SUCCEEDED for sent in self.sent)
        assert sum(entry.credits or 0.0 for entry in book) == charged, "and so is every credit"
        waiting = {JobState.INTENDED, JobState.UNKNOWN}
        held = {(entry.key, entry.owner) for entry in book if entry.state in waiting}
        for sent in self.sent:
            # what may have cost credits is never taken for new
            assert sent.told or (sent.key, sent.owner) in held, sent


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestLedger = pytest.mark.timeout(300)(LedgerMachine.TestCase)
