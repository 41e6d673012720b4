"""How near to two requests a task: our engine, the peers' policies and an oracle, in one run.

    python benchmarks/pace.py                 the table, in simulated time
    python benchmarks/pace.py --sandbox 0.02  the same over real HTTP, against a sandbox 50 times as fast
    python benchmarks/pace.py --plot FILE     also as a plot (SVG)
    python benchmarks/pace.py --slower 3      a service that slows down in the tenth minute

The physical limit is 2N/R: one POST and one GET a task at R requests a minute. In simulated time hours take
seconds; ours is the real engine (runner, poller, plan, rate budget) on a clock that jumps. All peers share
our limiter, a courtesy: in life they have none. The oracle knows when each task ends, and is paced as we are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pace_sim import (
    PEERS,
    Latency,
    Policy,
    Result,
    Service,
    engine,
    oracle,
    peers,
    simulate,
    skewed,
    uniform,
    workload,
)

PER_MINUTE = 60
SHAPES: dict[str, Callable[[], Latency]] = {"uniform": uniform, "skewed": skewed}
COLUMNS = ("makespan", "/floor", "/oracle", "tasks/min", "req/task", "429s", "lag", "p95", "/best fixed")


def policies(seed: int, scale: float, *, with_peers: bool) -> dict[str, Policy]:
    """All of them by name. ``scale`` shortens what they wait for and what they believe."""
    real = scale != 1.0
    ours = partial(engine, prior_factor=scale, seed=seed, real_time=real)
    return {
        "oracle": oracle(),
        "ours": ours(),
        "ours, prefer=finish": ours("finish"),
        **(peers(scale) if with_peers else {}),
    }


def case(
    kind: str, number: int, shape: str, seed: int, scale: float, *, with_peers: bool, slower: float = 1.0
) -> list[Result]:
    """All policies on one workload."""
    jobs = workload(kind, number)

    def speed(now: float) -> float:
        return slower if now > 600 else 1.0

    results = []
    for name, policy in policies(seed, scale, with_peers=with_peers).items():
        if scale == 1.0:
            service = Service(SHAPES[shape](), seed=seed, speed=speed)
            results.append(simulate(name, policy, service, jobs, PER_MINUTE))
        else:
            from pace_wire import drive

            results.append(drive(name, policy, jobs, scale, PER_MINUTE))
    show(f"{number} {kind}, {shape} latencies, seed {seed}", number, results)
    return results


def show(title: str, number: int, results: list[Result]) -> None:
    """Print one case."""
    floor = 2 * number * 60 / PER_MINUTE
    best = min((r.lag for r in results if r.policy.startswith("fixed")), default=float("nan"))
    print(f"\n{title}; floor {floor:.0f} s")
    print(f"{'policy':26}" + "".join(f"{column:>12}" for column in COLUMNS))
    for r in results:
        cells = (
            f"{r.makespan:.0f} s",
            f"{r.makespan / floor:.3f}",
            f"{r.makespan / results[0].makespan:.3f}",
            f"{60 * number / r.makespan:.1f}",
            f"{r.requests:.3f}",
            f"{r.refused}",
            f"{r.lag:.1f} s",
            f"{r.lag_p95:.1f} s",
            f"{r.lag / best:.3f}",
        )
        print(f"{r.policy:26}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def main() -> None:
    """Print all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="*", default=["images", "videos", "mix"])
    parser.add_argument("--numbers", nargs="*", type=int, default=[10, 60, 600])
    parser.add_argument("--shapes", nargs="*", default=["uniform"], choices=list(SHAPES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--sandbox", type=float, metavar="SCALE", help="over HTTP, with this time scale")
    parser.add_argument(
        "--slower", type=float, default=1.0, metavar="FACTOR", help="from the tenth minute on"
    )
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.sandbox and options.slower != 1.0:
        parser.error("--slower is for simulated time only")
    started = time.perf_counter()
    scale = options.sandbox or 1.0
    found: dict[str, list[Result]] = {}
    for shape in options.shapes:
        for kind in options.kinds:
            for number in options.numbers:
                for seed in options.seeds:
                    peers_too = not options.no_peers
                    results = case(
                        kind, number, shape, seed, scale, with_peers=peers_too, slower=options.slower
                    )
                    found.setdefault(f"{number} {kind}", results)
    if options.plot:
        from pace_plot import plot

        options.plot.write_text(plot(found), encoding="utf-8")
    print(f"\n{len(PEERS)} peers; taken in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
