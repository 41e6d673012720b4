"""What a published latency that is wrong costs, and for how long: ten videos at a time, in simulated time.

    python benchmarks/pace_wrong.py [--seeds 20] [--per-minute 60]

Four waves of ten tasks of one model on one plan, each submitted when the last is done. The plan believes 60
to 180 s; in truth it is that times a factor. Beside it the same engine that was told the truth, the oracle,
and fixed intervals: what so many requests can do at all. *Lag* is in shares of the median latency, so that a
tenth of the latency asks for a tenth of the lag.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from typing import Any

import virtual
from pace_sim import Latency, NoLedger, Policy, Service, fixed, oracle, uniform, workload

from aio_provider.jobs.job import Job
from aio_provider.jobs.pacing import MemoryRateBudget, RateBudget
from aio_provider.jobs.polling import PollPlan, catalog_prior
from aio_provider.jobs.runner import Runner

WAVE, WAVES = 10, 4
MEDIAN = 120.0
Waves = list[tuple[float, float]]


def ours(prior_factor: float, seed: int, prime: Callable[[PollPlan], None] = lambda plan: None) -> Policy:
    """The engine, with one plan for all waves."""
    plan = PollPlan(catalog_prior(prior_factor), seed=seed)
    prime(plan)

    async def policy(service: Service, jobs: list[Job], budget: RateBudget) -> None:
        runner = Runner(
            service,  # type: ignore[arg-type]
            NoLedger(),
            budget,
            plan=plan,
            clock=virtual.clock,
            wall=virtual.clock,
        )
        async for _ in runner.run(jobs, total=len(jobs)):
            pass

    return policy


def record(factor: float, seed: int) -> Callable[[PollPlan], None]:
    """What a ledger has of twenty such tasks, each found up to a third of its latency late."""
    draw = random.Random(seed)
    found = [factor * draw.uniform(60.0, 180.0) * draw.uniform(1.0, 1.33) for _ in range(20)]
    return lambda plan: plan.prime("video", workload("videos", 1)[0].request.model, found)


def waves(policy: Policy, latency: Latency, seed: int, per_minute: float) -> Waves:
    """For each wave: mean lag in seconds, and requests a task."""
    found: Waves = []

    async def main() -> None:
        service = Service(latency, seed=seed, per_minute=int(per_minute))
        budget = MemoryRateBudget(per_minute, clock=virtual.clock)
        jobs = workload("videos", WAVE * WAVES, models=1)
        for number in range(WAVES):
            before, known = service.posts + service.gets + service.refused, set(service.found_at)
            await policy(service, jobs[number * WAVE : (number + 1) * WAVE], budget)
            new = set(service.found_at) - known
            lag = statistics.fmean(service.found_at[task] - service.done_at[task] for task in new)
            found.append((lag, (service.posts + service.gets + service.refused - before) / WAVE))

    virtual.run(main())
    return found


def mean(make: Callable[[int], Policy], factor: float, options: Any) -> Waves:
    """The same over all seeds."""
    runs = [waves(make(seed), uniform(factor), seed, options.per_minute) for seed in range(options.seeds)]
    return [
        (statistics.fmean(run[n][0] for run in runs), statistics.fmean(run[n][1] for run in runs))
        for n in range(WAVES)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--per-minute", type=float, default=60)
    options = parser.parse_args()
    for factor in (1.0, 0.1, 10.0):
        print(f"\nlatencies {factor:g} × the published ones; lag as a share of the median, requests a task")
        ways: dict[str, Callable[[int], Policy]] = {
            "ours": lambda seed: ours(1.0, seed),
            "ours, told the truth": lambda seed, f=factor: ours(f, seed),  # type: ignore[misc]
            "ours, from the record": lambda seed, f=factor: ours(1.0, seed, record(f, seed)),  # type: ignore[misc]
            "oracle": lambda seed: oracle(),
            **{
                f"fixed {s * factor:g} s": (lambda seed, s=s * factor: fixed(s))  # type: ignore[misc]
                for s in (5.0, 10.0, 20.0)
            },
        }
        for name, make in ways.items():
            cells = (
                f"{lag / (MEDIAN * factor):7.3f} {requests:5.1f}"
                for lag, requests in mean(make, factor, options)
            )
            print(f"  {name:22}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
