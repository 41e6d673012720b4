"""How much the engine costs by itself: no limit, ledger in memory, submit and one poll, concurrency 64.

    python benchmarks/throughput.py [--tasks 2000]

In one run, against one loopback server in a process of its own that answers at once: a bare asyncio + httpx
loop, a bare aiohttp loop, and the engine over plain httpx and over the `fast` transport. The bare loops keep
no record, follow no plan and retry nothing; they are the physical limit here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable

KEY = "aio_benchmark"


def serve(port: object) -> None:
    """A service whose tasks are done at once."""

    class Server(asyncio.Protocol):
        count = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            self.data = b""

        def data_received(self, data: bytes) -> None:
            self.data += data
            while b"\r\n\r\n" in self.data:
                head, _, rest = self.data.partition(b"\r\n\r\n")
                lower = head.lower()
                length = 0
                if b"content-length:" in lower:
                    length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
                if len(rest) < length:
                    return
                self.data = rest[length:]
                path = head.split(b" ", 2)[1]
                if head.startswith(b"POST"):
                    Server.count += 1
                    answer = {
                        "code": 200,
                        "message": "success",
                        "data": {"task_id": f"n{Server.count}", "status": "IN_PROGRESS"},
                    }
                else:
                    task_id = path.rpartition(b"/")[2].decode()
                    answer = {
                        "code": 200,
                        "message": "success",
                        "data": {
                            "task_id": task_id,
                            "status": "SUCCESS",
                            "consumed_credits": 5,
                            "response": ["https://files.example/a.png"],
                        },
                    }
                text = json.dumps(answer).encode()
                self.transport.write(  # type: ignore[attr-defined]
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
                    + str(len(text)).encode()
                    + b"\r\n\r\n"
                    + text
                )

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
        await server.serve_forever()

    asyncio.run(main())


Call = Callable[[str, str, object], Awaitable[object]]


async def loop(call: Call, tasks: int) -> float:
    """64 workers, each: submit, poll once, again."""
    began = time.perf_counter()
    numbers = iter(range(tasks))

    async def worker() -> None:
        for index in numbers:
            answer = await call(
                "POST", "/images/generations", {"model": "flux-2", "prompt": f"a cat {index}"}
            )
            await call("GET", f"/tasks/{answer['data']['task_id']}", None)  # type: ignore[index]

    await asyncio.gather(*(worker() for _ in range(64)))
    return tasks / (time.perf_counter() - began)


async def bare_httpx(base_url: str, tasks: int) -> float:
    """The usual loop."""
    import httpx

    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers) as client:

        async def call(method: str, path: str, body: object) -> object:
            return (await client.request(method, path, json=body)).raise_for_status().json()

        return await loop(call, tasks)


async def bare_aiohttp(base_url: str, tasks: int) -> float:
    """The fastest there is in Python without a parser of one's own."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client:

        async def call(method: str, path: str, body: object) -> object:
            async with client.request(method, base_url + path, json=body) as response:
                response.raise_for_status()
                return await response.json()

        return await loop(call, tasks)


async def engine(base_url: str, tasks: int, *, fast: bool) -> float:
    """Ours: ledger in memory, no limit; ``fast``: with the extra of that name."""
    import httpx

    from aio_provider.api.client import AsyncAioClient
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.api.wire import SpreadTransport
    from aio_provider.jobs.job import jobs_for
    from aio_provider.jobs.ledger import Ledger
    from aio_provider.jobs.limiter import rate_budget
    from aio_provider.jobs.runner import Runner

    transport = None if fast else SpreadTransport(httpx.Limits(max_connections=100, keepalive_expiry=3.0))
    requests = [GenerationRequest.image(f"a cat {index}") for index in range(tasks)]
    jobs = list(jobs_for(requests, scope=base_url))
    with Ledger.open(":memory:") as ledger:
        async with AsyncAioClient(KEY, base_url, retry=None, transport=transport) as client:
            runner = Runner(client, ledger, rate_budget(0), concurrency=64)
            began = time.perf_counter()
            done = 0
            async for outcome in runner.run(jobs, total=tasks):
                assert outcome.urls
                done += 1
            assert done == tasks
            return tasks / (time.perf_counter() - began)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    base_url = f"http://127.0.0.1:{port.get()}/api/v1"
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "bare asyncio + httpx": lambda: bare_httpx(base_url, options.tasks),
        "bare aiohttp": lambda: bare_aiohttp(base_url, options.tasks),
        "engine, plain httpx": lambda: engine(base_url, options.tasks, fast=False),
        "engine, fast transport": lambda: engine(base_url, options.tasks, fast=True),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            speeds[name].append(asyncio.run(way()))  # type: ignore[arg-type]
    server.terminate()
    base = sorted(speeds["bare asyncio + httpx"])[options.rounds // 2]
    print(f"{options.tasks} tasks, median of {options.rounds}")
    for name, found in speeds.items():
        median = sorted(found)[options.rounds // 2]
        print(f"{name:24}{median:>8.0f} tasks/s   {median / base:>6.2f} × the bare httpx loop")


if __name__ == "__main__":
    main()
