"""How near to two requests a task: our engine, the peers' policies and an oracle, in one run.

    python benchmarks/pace.py               the table
    python benchmarks/pace.py --plot FILE   also as a plot

The physical limit is 2N/R: one POST and one GET a task at R requests a minute. Everything runs in simulated
time, so hours take seconds; ours is the real engine (runner, poller, plan, rate budget) on a clock that jumps.
All peers share our limiter, a courtesy: in life they have none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from pace_sim import PEERS, Latency, Result, Service, engine, oracle, simulate, skewed, uniform, workload

PER_MINUTE = 60
SHAPES: dict[str, Callable[[], Latency]] = {"uniform": uniform, "skewed": skewed}


def case(kind: str, number: int, shape: str, seed: int, *, peers: bool = True) -> list[Result]:
    """All policies on one workload."""
    jobs = workload(kind, number)
    floor = 2 * number * 60 / PER_MINUTE
    policies = {
        "oracle": oracle(),
        "ours": engine(seed=seed),
        "ours, prefer=finish": engine("finish", seed=seed),
    }
    if peers:
        policies.update({name: make() for name, make in PEERS.items()})
    results = [
        simulate(name, policy, Service(SHAPES[shape](), seed=seed), jobs, PER_MINUTE)
        for name, policy in policies.items()
    ]
    best = min((r.lag for r in results if r.policy.startswith("fixed")), default=float("nan"))
    print(f"\n{number} {kind}, {shape} latencies, seed {seed}; floor {floor:.0f} s")
    head = (
        "policy",
        "makespan",
        "/floor",
        "/oracle",
        "tasks/min",
        "req/task",
        "429",
        "lag",
        "p95",
        "/best fixed",
    )
    print("{:26}{:>10}{:>8}{:>8}{:>10}{:>9}{:>5}{:>9}{:>9}{:>12}".format(*head))
    for r in results:
        print(
            f"{r.policy:26}{r.makespan:>9.0f}s{r.makespan / floor:>8.3f}{r.makespan / results[0].makespan:>8.3f}"
            f"{60 * number / r.makespan:>10.1f}{r.requests:>9.3f}{r.refused:>5}{r.lag:>8.1f}s{r.lag_p95:>8.1f}s"
            f"{r.lag / best:>12.3f}"
        )
    return results


def main() -> None:
    """Print all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="*", default=["images", "videos", "mix"])
    parser.add_argument("--numbers", nargs="*", type=int, default=[10, 60, 600])
    parser.add_argument("--shapes", nargs="*", default=["uniform"], choices=list(SHAPES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    started = time.perf_counter()
    for shape in options.shapes:
        for kind in options.kinds:
            for number in options.numbers:
                for seed in options.seeds:
                    case(kind, number, shape, seed, peers=not options.no_peers)
    print(f"\nsimulated in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
