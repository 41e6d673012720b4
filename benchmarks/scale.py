"""Many rows: memory, speed beside a loop that keeps no record, and how fast a finished run is run again.

    python benchmarks/scale.py [--rows 1000000] [--case memory]

Each measurement is a process of its own and prints its peak memory (RSS) and the CPU time of a row, which a
busy machine spoils less than the clock; imports are not counted. The engine is ``aio.generate`` from a
Parquet file to a folder of parts, its ledger an SQLite file, the limit off.

memory    rows answered in the process itself, at once: a tenth of the rows, then all of them
speed     a twentieth of the rows, over HTTP to a loopback server that answers at once, and the same requests
          from bare asyncio loops, which keep no ledger, no order and no output: ``httpx`` over the `fast`
          extra's own transport (httpx-aiohttp), which is what the figure is about, and ``aiohttp`` alone,
          the fastest there is without a client around it
resume    all rows are in the ledger and nothing is written yet; then the same call again over its own output
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

KEY = "aio_benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}"}
URL = "https://files.example/{}.png"
BASE_URL = "http://127.0.0.1:9/api/v1"


def table(path: Path, rows: int) -> None:
    """A Parquet file of products, in row groups as large as pandas makes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "sku": [f"SKU-{n:07d}" for n in range(rows)],
        "caption": [f"A photo of product {n} on a marble kitchen counter" for n in range(rows)],
        "price": [n % 997 / 10 for n in range(rows)],
    }
    pq.write_table(pa.table(columns), path)


def peak() -> float:
    """The most memory that this process has had, in MiB.

    Not ``ru_maxrss`` where it can be helped: on Linux it begins with that of the process which started this
    one, and the one that starts them all has made the table.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def call(folder: Path, output: str, base_url: str = BASE_URL) -> Any:
    """The call that is measured."""
    import aio_provider as aio

    return aio.generate(
        str(folder / "in.parquet"),
        "image",
        model="flux-2",
        prompt="caption",
        output=str(folder / output),
        ledger=str(folder / "ledger.sqlite"),
        base_url=base_url,
        api_key=KEY,
        requests_per_minute=0,
        limiter_url="memory://",
        progress=False,
        gallery=False,
    )


def instant() -> None:
    """Answer every request in the process: a submission with a task, a poll with its result."""
    import functools

    import httpx

    from aio_provider.frames import run

    numbers = count()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            data = {"task_id": f"n{next(numbers)}", "status": "IN_PROGRESS"}
        else:
            data = done(request.url.path.rpartition("/")[2])
        return httpx.Response(200, json={"code": 200, "message": "success", "data": data})

    class Instant(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return answer(request)

    client = run.AsyncAioClient
    run.AsyncAioClient = functools.partial(client, transport=Instant())  # type: ignore[assignment, misc]


def done(task_id: str) -> dict[str, Any]:
    """The answer to a poll."""
    found = [URL.format(task_id)]
    return {"task_id": task_id, "status": "SUCCESS", "consumed_credits": 5, "response": found}


# -- what runs in a process of its own


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it gives, and how many seconds it took, by the clock and of the processor."""
    import aio_provider.frames.calls  # noqa: F401 - imports are not what is measured

    began, busy = time.perf_counter(), time.process_time()
    found = work()
    return found, {"seconds": time.perf_counter() - began, "cpu": time.process_time() - busy}


def fresh(folder: Path, rows: int) -> dict[str, float]:
    """Every row is new."""
    instant()
    result, took = timed(lambda: call(folder, "out"))
    assert result.report.statuses == {"succeeded": rows}, result.report.statuses
    return took


def again(folder: Path, rows: int) -> dict[str, float]:
    """Every row is on record; ``out`` says which parts are, too."""
    result, took = timed(lambda: call(folder, "out"))
    assert result.report.statuses == {"succeeded": rows} and not result.report.credits
    return took


def fill(folder: Path, rows: int) -> dict[str, float]:
    """Put every row into the ledger as done."""
    from aio_provider.frames.batch import Batch
    from aio_provider.jobs.ledger import Finished, JobState, Ledger

    batch = Batch(
        str(folder / "in.parquet"),
        "image",
        model="flux-2",
        prompt="caption",
        output=str(folder / "nothing"),
        base_url=BASE_URL,
    )

    def work() -> None:
        jobs: Iterator[Any] = batch.jobs()
        with Ledger.open(str(folder / "ledger.sqlite")) as ledger:
            while some := list(islice(jobs, 5000)):
                ledger.plan(some, owner="benchmark", scope=BASE_URL)
                keys = [job.key for job in some]
                ledger.intend(keys, owner="benchmark")
                ledger.accept([(key, f"n{key[:12]}") for key in keys], owner="benchmark")
                ledger.finish(
                    Finished(key, JobState.SUCCEEDED, (URL.format(key),), credits=5.0, task_id=f"n{key[:12]}")
                    for key in keys
                )

    _, took = timed(work)
    shutil.rmtree(folder / "nothing")
    return took


def engine(folder: Path, rows: int, base_url: str) -> dict[str, float]:
    """Every row is new, over HTTP."""
    result, took = timed(lambda: call(folder, "over-http", base_url))
    assert result.report.statuses == {"succeeded": rows}, result.report.statuses
    return took


Send = Callable[[str, str, object], Awaitable[Any]]


def bare(folder: Path, opened: Callable[[], AbstractAsyncContextManager[Send]]) -> dict[str, float]:
    """The same requests from 64 coroutines, and nothing else.

    :param opened: a client; what it gives sends a request and reads the answer.
    """
    import pyarrow.parquet as pq

    async def run() -> None:
        async def prompts() -> AsyncIterator[str]:
            for batch in pq.ParquetFile(folder / "in.parquet").iter_batches(columns=["caption"]):
                for value in batch.column(0).to_pylist():
                    yield value

        source = prompts()

        async with opened() as send:
            waiting: asyncio.Queue[str | None] = asyncio.Queue(256)

            async def worker() -> None:
                while (prompt := await waiting.get()) is not None:
                    made = await send("POST", "/images/generations", {"model": "flux-2", "prompt": prompt})
                    await send("GET", f"/tasks/{made['data']['task_id']}", None)

            workers = [asyncio.create_task(worker()) for _ in range(64)]
            async for prompt in source:
                await waiting.put(prompt)
            for _ in workers:
                await waiting.put(None)
            await asyncio.gather(*workers)

    return timed(lambda: asyncio.run(run()))[1]


def bare_httpx(folder: Path, rows: int, base_url: str) -> dict[str, float]:
    """httpx over the transport of the `fast` extra."""
    import httpx
    from httpx_aiohttp import AiohttpTransport

    @asynccontextmanager
    async def opened() -> AsyncIterator[Send]:
        async with httpx.AsyncClient(transport=AiohttpTransport(), headers=HEADERS) as client:

            async def send(method: str, path: str, body: object) -> Any:
                return (await client.request(method, base_url + path, json=body)).raise_for_status().json()

            yield send

    return bare(folder, opened)


def bare_aiohttp(folder: Path, rows: int, base_url: str) -> dict[str, float]:
    """aiohttp alone."""
    import aiohttp

    @asynccontextmanager
    async def opened() -> AsyncIterator[Send]:
        async with aiohttp.ClientSession(headers=HEADERS) as session:

            async def send(method: str, path: str, body: object) -> Any:
                async with session.request(method, base_url + path, json=body) as response:
                    response.raise_for_status()
                    return await response.json()

            yield send

    return bare(folder, opened)


#: the loops that the engine is compared with
BARE = {"bare_httpx": bare_httpx, "bare_aiohttp": bare_aiohttp}


# -- the cases


def measured(step: str, folder: Path, rows: int, *more: str) -> dict[str, float]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--rows", str(rows), *more]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    speed = rows / found["seconds"]
    took = f"{rows:>10,} rows{found['seconds']:>9.1f} s{speed:>10,.0f} rows/s"
    busy = f"{found['cpu'] / rows * 1e6:>8.0f} µs CPU a row"
    print(f"  {step:13}{took}{busy}{found['mb']:>8.0f} MB peak", flush=True)
    return found


def memory(folder: Path, rows: int) -> None:
    """Peak memory must not grow with rows."""
    peaks = []
    for size in (rows // 10, rows):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            table(Path(place) / "in.parquet", size)
            peaks.append(measured("fresh", Path(place), size)["mb"])
    print(f"  {peaks[1] / peaks[0]:.2f} × the memory for 10 × the rows (at most 1.1; and at most 400 MB)")


def speed(folder: Path, rows: int) -> None:
    """Beside a loop that keeps no ledger."""
    from throughput import serve

    table(folder / "in.parquet", rows)
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/api/v1"
    try:
        loops = {name: measured(name, folder, rows, "--base-url", url) for name in BARE}
        ours = measured("engine", folder, rows, "--base-url", url)
    finally:
        server.terminate()
    for name, loop in loops.items():
        by_clock, by_cpu = (loop[unit] / ours[unit] for unit in ("seconds", "cpu"))
        wanted = "; at least 0.6" if name == "bare_httpx" else ""
        print(f"  {by_clock:.2f} of the rows a second of {name} ({by_cpu:.2f} by CPU time{wanted})")


def resume(folder: Path, rows: int) -> None:
    """Run again what is done."""
    table(folder / "in.parquet", rows)
    measured("fill", folder, rows)
    print("  nothing written yet: every row from the ledger (at most 60 s for 1,000,000)")
    measured("again", folder, rows)
    print("  whole parts finished (at most 5 s for 1,000,000)")
    measured("again", folder, rows)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--case", choices=["memory", "speed", "resume"], action="append")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--base-url", default=BASE_URL, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        steps = {"fresh": fresh, "again": again, "fill": fill}
        if options.step in steps:
            found = steps[options.step](options.folder, options.rows)
        else:
            step = {"engine": engine, **BARE}[options.step]
            found = step(options.folder, options.rows, options.base_url)
        print(json.dumps({**found, "mb": peak()}))
        return
    os.environ.pop("AIO_LEDGER", None)
    for name in options.case or ["memory", "speed", "resume"]:
        print(name)
        case = {"memory": memory, "speed": speed, "resume": resume}[name]
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="aio-scale-") as folder:
            case(Path(folder), options.rows // 20 if name == "speed" else options.rows)


if __name__ == "__main__":
    main()
