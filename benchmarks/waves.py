"""How long a batch holds a worker's slot, and how near it comes to what the rate limit allows.

    python benchmarks/waves.py [--rows 600] [--per-minute 60] [--kind image]

`AioGenerateFromParquetOperator` against a sandbox with the service's limit and its latencies, in real time.
Each wave is a process of its own, forked from one that has loaded Airflow, as a task's is; all of its life
counts as slot time, pandas and all. This process is the triggerer. The limit is the physical one: a task
takes two requests at least, so the rows take 2 x rows / limit minutes, less the first minute, which goes at
once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def main() -> None:
    """Run the batch and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--per-minute", type=int, default=60)
    parser.add_argument("--kind", default="image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aio-waves-") as folder:
        run(Path(folder), options.rows, options.per_minute, options.kind)


def run(folder: Path, rows: int, limit: int, kind: str) -> None:
    """The scheduler's and the triggerer's part."""
    from aio_provider.sandbox import Sandbox

    lines = ["caption", *(f"A photo of chair number {n}" for n in range(rows))]
    (folder / "in.csv").write_text("\n".join(lines))
    with Sandbox.spawn(time_scale=1.0, requests_per_minute=limit, credits=1_000_000) as sandbox:
        connection = json.loads(sandbox.environment()["AIRFLOW_CONN_AIO_DEFAULT"])
        connection["extra"] = {
            "requests_per_minute": limit,
            "latency_scale": 1.0,
            "ledger_url": str(folder / "ledger.sqlite"),
            "limiter_url": f"file://{folder}/limit.sqlite",
        }
        os.environ["AIRFLOW_CONN_AIO_DEFAULT"] = json.dumps(connection)
        os.environ["AIRFLOW_HOME"] = str(folder / "airflow")
        from aio_provider.triggers.aio import AioBatchTrigger

        fork = multiprocessing.get_context("fork")
        began, slot, waves = time.monotonic(), 0.0, 0
        event: dict[str, Any] | None = None
        while True:
            start = time.monotonic()
            worker = fork.Process(target=wave, args=(folder, kind, event))
            worker.start()
            worker.join()
            slot, waves = slot + time.monotonic() - start, waves + 1
            answer = json.loads((folder / "answer.json").read_text())
            if "result" in answer:
                break
            event = asyncio.run(first_event(AioBatchTrigger(**answer["trigger"])))
            done = json.loads(event["carry"])["tally"]["succeeded"] + len(event["outcomes"])
            print(f"  {time.monotonic() - began:6.0f} s  {done} of {rows} done", file=sys.stderr)
        seconds, result, requests = time.monotonic() - began, answer["result"], sandbox.requests
        floor = max((2 * rows - limit) * 60 / limit, 1.0)
        print(f"rows                {rows} at {limit} a minute, {result['succeeded']} succeeded")
        print(f"run                 {seconds:.0f} s, {seconds / floor:.2f} of the limit's {floor:.0f} s")
        print(f"slot                {slot:.1f} s in {waves} waves: {slot / seconds:.1%} of the run")
        print(f"requests a row      {requests['requests'] / rows:.2f}, 429s {requests.get('429', 0)}")
        print(f"credits             {result['credits']:g}, charged by the sandbox {sandbox.charged:g}")


async def first_event(trigger: Any) -> dict[str, Any]:
    """What a triggerer stores."""
    event = await anext(trigger.run())
    payload: dict[str, Any] = event.payload
    return payload


def wave(folder: Path, kind: str, event: dict[str, Any] | None) -> None:
    """A worker's part: one wave."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    from aio_provider.operators.aio import AioGenerateFromParquetOperator

    operator = AioGenerateFromParquetOperator(
        task_id="pictures",
        input_path=str(folder / "in.csv"),
        output_path=str(folder / "out.parquet"),
        kind=kind,
        fields={"prompt": "caption"},
        do_xcom_push=False,
    )
    ti = SimpleNamespace(dag_id="waves", run_id="1", task_id="pictures", map_index=-1, try_number=1)
    try:
        context: Any = {"ti": ti, "task": operator}
        result = operator.execute_complete(context, event) if event else operator.execute(context)
        answer = {"result": result}
    except TaskDeferred as deferred:
        answer = {"trigger": deferred.trigger.serialize()[1]}
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
