"""Several processes and one key: how much of the limit they get together, and how often they meet a 429.

    python benchmarks/pace_processes.py [--limiter URL] [--alone] [--per-minute 1200] [--seconds 30]

Each process only sends GETs for a task that does not exist, as fast as its budget lets it; the sandbox keeps
the limit in any 60 seconds. The first minute is a full window for free, so the rate is taken over the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time


def work(
    base_url: str, key: str, per_minute: float, limiter: str | None, begin: float, until: float, out: object
) -> None:
    """One process."""
    from aio_provider.api.client import AsyncAioClient
    from aio_provider.api.errors import NotFoundError, RateLimitError
    from aio_provider.jobs.limiter import rate_budget
    from aio_provider.jobs.pacing import Priority

    async def main() -> tuple[int, int]:
        sent = refused = 0
        async with AsyncAioClient(key, base_url, retry=None) as client:
            budget = rate_budget(per_minute, limiter, "benchmark")

            async def one() -> None:
                nonlocal sent, refused
                while time.time() < until:
                    async with budget.request(Priority.SUBMIT):
                        if time.time() >= until:
                            return
                        try:
                            await client.get_task("n0_none")
                        except NotFoundError:
                            sent += 1
                        except RateLimitError as error:
                            refused += 1
                            budget.close_for(error.retry_after)

            await asyncio.sleep(begin - time.time())
            await asyncio.gather(*(one() for _ in range(16)))
            budget.close()
        return sent, refused

    out.put(asyncio.run(main()))  # type: ignore[attr-defined]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limiter", help="limiter_url; by default the file of this machine")
    parser.add_argument("--alone", action="store_true", help="each process believes it is alone")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--per-minute", type=float, default=1200)
    parser.add_argument("--seconds", type=float, default=180)
    options = parser.parse_args()
    from aio_provider.sandbox import Sandbox

    os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp()
    limiter = "memory://" if options.alone else options.limiter
    with Sandbox(requests_per_minute=int(options.per_minute)) as sandbox:
        context = multiprocessing.get_context("spawn")
        out = context.Queue()
        begin = time.time() + 6.0  # all have started by then
        until = begin + options.seconds
        arguments = (sandbox.base_url, sandbox.api_key, options.per_minute, limiter, begin, until, out)
        workers = [context.Process(target=work, args=arguments) for _ in range(options.processes)]
        for worker in workers:
            worker.start()
        results = [out.get() for _ in workers]
        for worker in workers:
            worker.join()
    sent, refused = sum(r[0] for r in results), sum(r[1] for r in results)
    floor = options.per_minute / 60 * options.seconds
    shared = "each alone" if options.alone else limiter or "file"
    print(f"{options.processes} processes, {shared}, {options.per_minute:g}/min")
    print(f"  together {sent / floor:.3f} of the floor rate, 429s {refused / max(sent + refused, 1):.2%}")
    print("  by process:", ", ".join(f"{s} (+{r} refused)" for s, r in results))


if __name__ == "__main__":
    main()
