"""``make demo``: a real Airflow runs the example DAG against the sandbox; then the bill.

Everything is on loopback and under ``demo-output/``. What was started is stopped at the end, on failure and
on Ctrl-C too; with ``--keep`` the finished run is left to look at in the UI, until ``make stop``.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pandas as pd
from airflow_stack import DONE_STATES, RECORD, AirflowStack, StackError, free_port, stop_recorded

from aio_provider.sandbox.environment import environment

ROOT = Path(__file__).resolve().parents[1]

DAG = "enrich_catalog"
HOME = "airflow"  # AIRFLOW_HOME, in the output folder
SANDBOX_KEY = "aio_sandbox_key"
REQUESTS_PER_MINUTE = 60  # the service's own limit
TIME_SCALE = 0.1  # a video takes seconds here, not minutes


def main() -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave Airflow and the sandbox running")
    parser.add_argument("--stop", action="store_true", help="stop what an earlier --keep left running")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "demo-output", help="emptied first (%(default)s)"
    )
    options = parser.parse_args()
    output: Path = options.output.resolve()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    stopped = stop_recorded(output / HOME / RECORD)
    if options.stop:
        say("Stopped." if stopped else "Nothing was running.")
        return 0
    try:
        return demo(output, options.keep)
    except StackError as error:
        say(f"The demo failed: {error}")
    except KeyboardInterrupt:
        say("Interrupted; everything is stopped.")
        return 130
    return 1


def demo(output: Path, keep: bool) -> int:
    """Start everything, run the DAG, print what it made and cost, stop everything."""
    began = time.monotonic()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    sandbox_port = free_port()
    settings = environment(
        f"http://127.0.0.1:{sandbox_port}/api/v1",
        SANDBOX_KEY,
        requests_per_minute=REQUESTS_PER_MINUTE,
        latency_scale=TIME_SCALE,
        ledger=f"sqlite:///{output / 'ledger.sqlite'}",
    )
    sandbox = [sys.executable, "-m", "aio_provider.cli", "sandbox", "--port", str(sandbox_port)]
    sandbox += ["--time-scale", str(TIME_SCALE), "--requests-per-minute", str(REQUESTS_PER_MINUTE)]
    connection = {"AIRFLOW_CONN_AIO_DEFAULT": settings["AIRFLOW_CONN_AIO_DEFAULT"]}
    stack = AirflowStack(output / HOME, [ROOT / "dags_examples"], env=connection)
    finished = False
    try:
        say("Starting the sandbox and Airflow: api-server, scheduler, dag-processor, triggerer …")
        stack.spawn("sandbox", sandbox)
        stack.start()
        say(f"All are up after {time.monotonic() - began:.0f} s, on loopback only. Running {DAG} …")
        run_id = stack.trigger(DAG, {"output": str(output)})
        state, instances = watch(stack, run_id, began)
        finished = True
        if state != "success":
            report_failure(stack, run_id, instances)
            return 1
        asked = httpx.get(f"http://127.0.0.1:{sandbox_port}/sandbox/state", trust_env=False)
        report(pd.read_parquet(output / "enriched_catalog.parquet"), asked.json()["charged"])
        say(f"\nDone in {time.monotonic() - began:.0f} s. Everything the run wrote is in {output}.")
        return 0
    finally:
        if keep and finished:
            stack.leave()
            say(f"\nAirflow stays up: {stack.url}  user {stack.user}, password {stack.password}")
            say(f"The sandbox: http://127.0.0.1:{sandbox_port}/  `make stop` ends both.")
        else:
            stack.stop()


def watch(stack: AirflowStack, run_id: str, began: float) -> tuple[str, list[dict[str, Any]]]:
    """Wait for the run, with a line every few seconds while something changes."""
    state, instances = "", list[dict[str, Any]]()
    shown, shown_at = "", 0.0
    for state, instances in stack.watch(DAG, run_id):
        counts = Counter(instance["state"] for instance in instances)
        parts = {
            "running": counts["running"],
            "waiting for the service": counts["deferred"],
            "up for retry": counts["up_for_retry"],
            "failed": counts["failed"],
        }
        line = f"{counts['success']:3} of {len(instances)} tasks done" + "".join(
            f", {count} {name}" for name, count in parts.items() if count
        )
        now = time.monotonic()
        if line != shown and (now - shown_at > 2.5 or state in DONE_STATES):
            say(f"{now - began:5.0f} s  {line}")
            shown, shown_at = line, now
    return state, instances


def report(table: pd.DataFrame, charged: float) -> None:
    """
    What was made of each product, and the credits by model.

    :raises StackError: the credits that the DAG counted are not those that the sandbox charged.
    """
    parts = []
    for kind in ("picture", "cutout", "video"):
        part = table.filter(regex=f"^(name|{kind}_.*)$")
        parts.append(part.set_axis(part.columns.str.removeprefix(f"{kind}_"), axis="columns"))
    made = pd.concat(parts).dropna(subset="status")
    made["model"] = made["model"].fillna("remove-bg")
    shown = made.rename(columns={"name": "product", "url": "URL"}).sort_values("product", kind="stable")
    say(
        "\n"
        + shown[["product", "model", "status", "URL", "credits"]].to_string(index=False, float_format="%g")
    )
    by_model = made.groupby("model").agg(generations=("credits", "size"), credits=("credits", "sum"))
    by_model.loc["total"] = by_model.sum()
    say("\n" + by_model.reset_index().to_string(index=False, float_format="%g"))
    if by_model.loc["total", "credits"] != charged:
        raise StackError(f"the sandbox charged {charged:g} credits")


def report_failure(stack: AirflowStack, run_id: str, instances: list[dict[str, Any]]) -> None:
    """The end of the log of each task that failed."""
    for instance in instances:
        if instance["state"] == "failed":
            log = stack.task_log(DAG, run_id, instance["task_id"])
            say(f"\n{instance['task_id']} failed:\n{log[-4000:]}")
    say(f"\nThe run failed. Logs are in {stack.home / 'logs'}.")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C must not cut the clean-up short.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
