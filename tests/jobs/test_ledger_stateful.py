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

KEYS = st.sampled_from(["a", "b", "c"])
PROMPTS = st.sampled_from(["a lamp", "a chair"])
OWNERS = st.sampled_from(["left", "right"])
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
        self.allowed = dict.fromkeys("abc", 1)

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

    @rule(owner=OWNERS, key=KEYS, prompt=PROMPTS, retry=st.booleans(), resubmit=st.booleans())
    def plan(self, owner: str, key: str, prompt: str, retry: bool, resubmit: bool) -> None:
        before = self._entry(key)
        ledger = self.ledgers[owner]
        try:
            [entry] = ledger.plan(
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

    @rule(owner=OWNERS, key=KEYS, with_entry=st.booleans())
    def intend(self, owner: str, key: str, with_entry: bool) -> None:
        process = self.processes[owner]
        known = process.planned.get(key)
        if known is None or key in process.claims:
            return
        before = self._entry(key)
        try:
            won = self.ledgers[owner].intend([known if with_entry else key], owner=self._name(owner))
        except LedgerStateError:
            assert before is None
            return
        assert before is not None
        if won:
            assert before.state is JobState.PLANNED
            process.claims[key] = None

    @rule(owner=OWNERS, key=KEYS)
    def post(self, owner: str, key: str) -> None:
        """The service takes it; nobody knows yet."""
        claims = self.processes[owner].claims
        if key in claims and claims[key] is None:
            sent = Sent(key, self._name(owner), f"task-{len(self.sent)}")
            self.sent.append(sent)
            claims[key] = sent

    @rule(owner=OWNERS, key=KEYS)
    def answer(self, owner: str, key: str) -> None:
        """The answer is written down: an id where it was sent, a release where it was not."""
        claims = self.processes[owner].claims
        if key not in claims:
            return
        sent = claims.pop(key)
        ledger = self.ledgers[owner]
        if sent is not None:
            sent.told = True
            ledger.accept([(key, sent.task_id)], owner=self._name(owner))
        else:
            ledger.release([key], owner=self._name(owner))

    @rule(owner=OWNERS, key=KEYS)
    def lose_the_answer(self, owner: str, key: str) -> None:
        claims = self.processes[owner].claims
        if key in claims:
            claims.pop(key)
            self.ledgers[owner].hold([(key, TimeoutError("no answer"))], owner=self._name(owner))

    @rule(owner=OWNERS, data=st.data(), end=st.sampled_from(sorted(ENDED)))
    def finish(self, owner: str, data: st.DataObject, end: JobState) -> None:
        """Anyone may poll a task whose id is on record."""
        told = [sent for sent in self.sent if sent.told]
        if not told:
            return
        sent = data.draw(st.sampled_from(told))
        sent.ended = sent.ended or end
        credits = 5.0 if sent.ended is JobState.SUCCEEDED else 0.0
        self.ledgers[owner].finish(
            [Finished(sent.key, sent.ended, task_id=sent.task_id, credits=credits)], owner=self._name(owner)
        )

    @rule(owner=OWNERS)
    def crash(self, owner: str) -> None:
        """All that a process had in memory is gone; a new one opens the same file."""
        self.ledgers[owner].close()
        self.ledgers[owner] = self._open()
        self.processes[owner] = Process()
        self.lives[owner] += 1

    @rule(seconds=st.sampled_from([1.0, 50.0, LEASE + 1, -3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        self.ledgers[owner].renew(self._name(owner))

    @rule(owner=OWNERS)
    def sweep(self, owner: str) -> None:
        self.ledgers[owner].sweep()

    # -- what people do -----------------------------------------------------------------------------

    @precondition(lambda self: any(entry.state is JobState.UNKNOWN for entry in self._all()))
    @rule(data=st.data())
    def settle_truthfully(self, data: st.DataObject) -> None:
        held = [entry.key for entry in self._all() if entry.state is JobState.UNKNOWN]
        key = data.draw(st.sampled_from(held))
        entry = self._entry(key)
        assert entry is not None
        theirs = [sent for sent in self.sent if sent.key == key and sent.owner == entry.owner]
        sent = next((sent for sent in theirs if not sent.told), None)
        posting = any(key in process.claims for process in self.processes.values())
        if posting:
            return  # its process is only slow: not for a person to say
        if sent is not None:
            sent.told = True
            self.ledgers["left"].settle(key, task_id=sent.task_id)
        elif not theirs:
            self.ledgers["left"].settle(key, not_submitted=True)

    @rule(key=KEYS, force=st.booleans())
    def forget(self, key: str, force: bool) -> None:
        before = self._entry(key)
        try:
            self.ledgers["right"].forget([key], force=force)
        except LedgerStateError:
            assert not force and before is not None
            assert before.state in {JobState.INTENDED, JobState.ACCEPTED, JobState.UNKNOWN}
            return
        if before is not None and before.state is not JobState.PLANNED:
            self.allowed[key] += 1

    # -- what must always hold ----------------------------------------------------------------------

    def _all(self) -> list[Entry]:
        return list(self.ledgers["left"].entries()) if hasattr(self, "ledgers") else []

    @invariant()
    def nothing_is_sent_twice_unless_someone_chose_so(self) -> None:
        if hasattr(self, "sent"):
            for key in "abc":
                assert len([sent for sent in self.sent if sent.key == key]) <= self.allowed[key]

    @invariant()
    def every_id_that_was_told_is_in_the_book_once(self) -> None:
        if hasattr(self, "sent"):
            ledger = self.ledgers["right"]
            book = [entry.task_id for entry in (*ledger.entries(), *ledger.past_entries()) if entry.task_id]
            told = [sent.task_id for sent in self.sent if sent.told]
            assert sorted(book) == sorted(told)

    @invariant()
    def credits_in_the_book_are_the_credits_charged(self) -> None:
        if hasattr(self, "sent"):
            ledger = self.ledgers["left"]
            book = sum(entry.credits or 0 for entry in (*ledger.entries(), *ledger.past_entries()))
            assert book == 5.0 * sum(sent.ended is JobState.SUCCEEDED for sent in self.sent)

    @invariant()
    def what_was_sent_and_not_told_is_held_or_in_the_air(self) -> None:
        """Nothing that may cost credits is ever taken for new."""
        if not hasattr(self, "sent"):
            return
        ledger = self.ledgers["left"]
        book = [*ledger.entries(), *ledger.past_entries()]
        for sent in self.sent:
            if not sent.told:
                assert any(
                    entry.key == sent.key
                    and entry.owner == sent.owner
                    and entry.state in {JobState.INTENDED, JobState.UNKNOWN}
                    for entry in book
                ), sent


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
