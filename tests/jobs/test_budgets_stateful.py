"""Whatever the verbs do in whatever order, no budget goes past its limit and no figure below zero."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aio_provider.api.errors import BudgetExceededError
from aio_provider.api.requests import GenerationRequest
from aio_provider.jobs.job import Job
from aio_provider.jobs.ledger import ENDED, Finished, JobState, Ledger
from tests.jobs.ledger_helpers import HandClock

KEYS = st.sampled_from("abcdef")
OWNERS = st.sampled_from(["p1", "p2", "p3"])
DAGS = st.sampled_from(["x", "y"])
#: a fixed price (5), one by its count (12 each), a range (120 to 1200)
REQUESTS = st.sampled_from(
    [
        GenerationRequest.image("a lamp"),
        GenerationRequest.image("a lamp", model="imagen4-ultra", num_images=3),
        GenerationRequest.video("a lamp", model="kling-3", sound=False),
    ]
)
SHARES = st.sampled_from([0.0, 0.3, 1.0])


class BudgetMachine(RuleBasedStateMachine):
    """Several processes at one ledger with budgets; charges are at most what was reserved for them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.ledger = Ledger.open(":memory:", clock=self.clock, lease_seconds=60)
        self.tasks = 0

    @initialize(total=st.sampled_from([12.0, 50.0, 1300.0]), dag=st.sampled_from([0.0, 18.0, 1250.0]))
    def budgets(self, total: float, dag: float) -> None:
        self.ledger.plan(
            [Job(key, GenerationRequest.image("a lamp"), {"dag_id": "x"}) for key in "abc"], owner="p1"
        )
        self.ledger.set_budget("total", credits=total)
        self.ledger.set_budget("dag", "x", credits=dag, month=None)

    @rule(key=KEYS, dag=DAGS, request=REQUESTS, again=st.booleans(), owner=OWNERS)
    def plan(self, key: str, dag: str, request: GenerationRequest, again: bool, owner: str) -> None:
        known = self.ledger.get([key]).get(key)
        if known is not None and known.state not in ENDED and known.fingerprint != request.fingerprint:
            return
        self.ledger.plan(
            [Job(key, request, {"dag_id": dag})],
            owner=owner,
            retry_failed=again,
            on_unknown="resubmit" if again else "hold",
        )

    @rule(keys=st.lists(KEYS, unique=True, min_size=1), owner=OWNERS)
    def intend(self, keys: list[str], owner: str) -> None:
        known = self.ledger.get(keys)
        if not known:
            return
        before = {key for key, entry in known.items() if entry.state is JobState.PLANNED}
        try:
            won = self.ledger.intend(known, owner=owner)
        except BudgetExceededError as error:
            won = set(error.won)
            assert set(error.keys) == before - won
        after = self.ledger.get(keys)
        assert {key for key in before if after[key].state is JobState.INTENDED} == won

    @rule(key=KEYS)
    def accept(self, key: str) -> None:
        if (entry := self._in(key, JobState.INTENDED, JobState.UNKNOWN)) is not None:
            self.tasks += 1
            self.ledger.accept([(key, f"t{self.tasks}")], owner=entry.owner)

    @rule(key=KEYS)
    def release(self, key: str) -> None:
        if (entry := self._in(key, JobState.INTENDED)) is not None:
            self.ledger.release([key], owner=entry.owner)

    @rule(key=KEYS)
    def hold(self, key: str) -> None:
        if (entry := self._in(key, JobState.INTENDED)) is not None:
            self.ledger.hold([(key, "no answer")], owner=entry.owner)

    @rule(key=KEYS, share=SHARES, state=st.sampled_from(sorted(ENDED)), told=st.booleans())
    def finish(self, key: str, share: float, state: JobState, told: bool) -> None:
        if (entry := self._in(key, JobState.ACCEPTED)) is not None:
            assert entry.reserved is not None
            credits = share * entry.reserved if told else None
            self.ledger.finish([Finished(key, state, credits=credits, task_id=entry.task_id)])

    @rule(key=KEYS, taken=st.booleans())
    def settle(self, key: str, taken: bool) -> None:
        if self._in(key, JobState.UNKNOWN) is not None:
            self.tasks += 1
            task = {"task_id": f"t{self.tasks}"} if taken else {"not_submitted": True}
            self.ledger.settle(key, **task)  # type: ignore[arg-type]

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.ledger.forget([key], force=True)

    @rule(seconds=st.sampled_from([1, 61, 86400 * 31]))
    def time_passes(self, seconds: int) -> None:
        self.clock.forward(seconds)
        self.ledger.sweep()

    @invariant()
    def no_budget_is_past_its_limit(self) -> None:
        for budget in self.ledger.budgets():
            for month in (None, "2026-11", "2026-12") if budget.month else (None,):
                use = self.ledger.budget_use(budget, month=month)
                assert use.charged >= 0
                assert use.reserved >= 0
                assert use.charged + use.reserved <= budget.credits + 1e-6

    def _in(self, key: str, *states: JobState) -> Any:
        entry = self.ledger.get([key]).get(key)
        return entry if entry is not None and entry.state in states else None

    def teardown(self) -> None:
        self.ledger.close()


TestBudgets = BudgetMachine.TestCase
TestBudgets.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
