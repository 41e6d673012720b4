"""Many batches in one real Airflow triggerer: their memory, and how long they hold up its event loop.

    python benchmarks/triggerer.py [--triggers 20] [--tasks 5000] [--seconds 60] [--chunks 2]

A real Airflow 3 (scheduler, dag-processor, api-server, triggerer) and a sandbox whose tasks have all ended,
as though the triggerer had been down. Each trigger follows as many tasks as ``--tasks`` says and carries what
those of the batch operator do. The peer, in the same run, is the same triggerer with one trigger of one task.
Two cases, each in a triggerer of its own:

steady    the batches are loaded, polled at 60 requests a minute for ``--seconds``, then cancelled, as by a
          user who marks the run as failed
at once   there is no limit: batches are loaded and polled as fast as it goes, and each trigger fires 500
          outcomes ``--chunks`` times; then they are loaded once more at 60 a minute, and the key is refused

Memory is that of the process that runs the triggers, in MB (2^20 bytes) of PSS, of RSS, and of RSS at its
highest; ``sup.`` is the PSS of Airflow's supervisor beside it, which runs nothing of ours. Times are the
longest of a phase in milliseconds of processor time of the event loop's thread, see ``triggerer_probe.py``:
other work on the machine does not lengthen them. In ``collect`` phases Python's garbage collector is made to
look through everything, with the batches and without. ``--details`` shows the longest pieces of all phases,
with what was seen in them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from airflow_stack import COMPONENTS, AirflowStack  # noqa: E402

from aio_provider.sandbox import Sandbox  # noqa: E402

KIND, MODEL = "video", "kling-3"
DAG = "many_waits"
BLOCKED = "async thread was blocked"
#: seconds until a phase's memory is read: what was used for a moment is given back
SETTLE = 10.0
PATIENCE = 1200.0


class MeasuredStack(AirflowStack):
    """Airflow, its triggerer under the probe."""

    probe_folder: Path

    def start_component(self, component: str) -> int:
        """Start one of Airflow's components. Returns its pid."""
        if component != "triggerer":
            return super().start_component(component)
        script = str(HERE / "triggerer_probe.py")
        return self.spawn(component, [sys.executable, script, str(self.probe_folder), "--skip-serve-logs"])


class Bench:
    """One Airflow, one sandbox, and what was measured."""

    def __init__(self, folder: Path, stack: MeasuredStack, sandbox: Sandbox) -> None:
        self.folder, self.stack, self.sandbox = folder, stack, sandbox
        self.rows: list[dict[str, Any]] = []
        self._numbers = 0

    # -- the service's side

    def submit(self, count: int, *, done: bool = True) -> Path:
        """Tasks of an hour ago, which are done, or are not and never will be: a file of ids and times."""
        account, tasks = self.sandbox.account, []
        key_hash = account.authenticate(f"Bearer {self.sandbox.api_key}")
        assert key_hash is not None
        then, body = round(time.time() - 3600.0, 3), {"model": MODEL, "prompt": "A lamp on a desk"}
        for _ in range(count):
            task = account.accept(
                name=("n41", "_kling3"),
                kind=KIND,
                endpoint="/videos/generations",
                body=body,
                fingerprint="",
                price=0.0,
                latency=0.0 if done else 1e9,
                key_hash=key_hash,
            )
            tasks.append([task.task_id, then])
        self._numbers += 1
        path = self.folder / f"ids-{self._numbers}.json"
        path.write_text(json.dumps(tasks))
        return path

    # -- Airflow's side

    def run(self, ids: Path, batches: int, tasks: int, aio_conn_id: str, chunks: int = 1) -> str:
        """Start a run of so many mapped tasks."""
        each = {"ids": str(ids), "kind": KIND, "model": MODEL, "aio_conn_id": aio_conn_id, "chunks": chunks}
        conf = {"batches": [{**each, "first": n * tasks, "last": (n + 1) * tasks} for n in range(batches)]}
        return self.stack.trigger(DAG, conf)

    def fail(self, run_id: str) -> None:
        """End a run as a user would: what waits is cancelled."""
        self.stack.request("PATCH", f"/dags/{DAG}/dagRuns/{run_id}", json={"state": "failed"})

    def restart(self) -> None:
        """A new triggerer, so that memory begins anew."""
        self.stack.kill_component("triggerer")
        (self.folder / "probe.json").unlink(missing_ok=True)
        self.stack.start_component("triggerer")
        self.wait("the probe", lambda: (self.folder / "probe.json").exists())

    def blocked(self) -> int:
        """How often Airflow's own watchdog has spoken."""
        log = self.stack.component_log("triggerer")
        return log.read_text(errors="replace").count(BLOCKED)

    # -- measuring

    def probe(self) -> dict[str, Any]:
        """What the probe says now."""
        found: dict[str, Any] = json.loads((self.folder / "probe.json").read_text())
        return found

    def wait(self, what: str, check: Callable[[], Any]) -> None:
        """Until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not check():
            if time.monotonic() > deadline:
                raise SystemExit(f"waited in vain for {what}; logs are under {self.stack.home}")
            time.sleep(0.2)

    def phase(self, name: str, work: Callable[[], None]) -> dict[str, Any]:
        """Do it, and measure it under this name."""
        before = self.blocked()
        (self.folder / "phase").write_text(name)
        self.wait("the probe", lambda: self.probe()["phase"] == name)
        pid = self.probe()["pid"]
        supervisor = int(_status(pid)["PPid"])
        for process in (pid, supervisor):
            Path(f"/proc/{process}/clear_refs").write_text("5")  # the highest RSS begins anew
        polls, began = self.polls(), time.monotonic()
        busy = cpu(pid), cpu(supervisor)
        work()
        took = time.monotonic() - began
        polls = self.polls() - polls
        time.sleep(0.6)  # the probe tells a few times a second
        found = self.probe()
        row = {
            "name": name,
            "seconds": took,
            "polls": polls,
            "followed": found["followed"],
            "blocked": self.blocked() - before,
            "runner": memory(pid),
            "supervisor": memory(supervisor),
            "busy": [(cpu(pid) - busy[0]) / took, (cpu(supervisor) - busy[1]) / took],
            **found["figures"][name],
        }
        self.rows.append(row)
        print(line(row), flush=True)
        return row

    def followed(self, count: int) -> Callable[[], bool]:
        """Whether the triggerer's pollers follow so many tasks, or did until a poll found them done."""
        before = self.polls()
        return lambda: count - self.polls() + before <= self.probe()["followed"] <= count

    def polls(self) -> int:
        """How many there were."""
        return self.sandbox.requests.get("poll", 0)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (one.partition(":") for one in lines)}


def memory(pid: int) -> dict[str, float]:
    """PSS, RSS and the highest RSS of a process, in MiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    pss = next(one for one in rollup if one.startswith("Pss:"))
    status = _status(pid)
    values = {"pss": pss.split()[1], "rss": status["VmRSS"].split()[0], "most": status["VmHWM"].split()[0]}
    return {name: int(value) / 1024 for name, value in values.items()}


def cpu(pid: int) -> float:
    """Seconds of processor time of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


# -- the cases


def steady(bench: Bench, triggers: int, tasks: int, seconds: float) -> None:
    """Load, poll at the service's limit, cancel."""
    one = empty(bench, "aio_limited", "steady: empty")
    ids = bench.submit(triggers * tasks)
    runs: list[str] = []

    def load() -> None:
        runs.append(bench.run(ids, triggers, tasks, "aio_limited"))
        bench.wait("all tasks to be followed", bench.followed(triggers * tasks + 1))

    def cancel() -> None:
        bench.fail(runs[0])
        bench.wait("the triggers to be gone", bench.followed(1))

    bench.phase("steady: load", load)
    bench.phase("steady: poll", lambda: time.sleep(seconds))
    bench.phase("steady: collect", lambda: time.sleep(3.0))
    bench.phase("steady: cancel", cancel)
    bench.phase("empty: collect", lambda: time.sleep(3.0))
    bench.fail(one)
    bench.wait("the triggers to be gone", bench.followed(0))


def at_once(bench: Bench, triggers: int, tasks: int, chunks: int) -> None:
    """All have ended; no limit."""
    empty(bench, "aio_limited", "at once: empty")
    ids = bench.submit(triggers * tasks)

    def fire() -> None:
        run_id = bench.run(ids, triggers, tasks, "aio_unlimited", chunks)
        bench.stack.wait_for_run(DAG, run_id)

    def refuse() -> None:
        bench.run(young, triggers, tasks, "aio_limited")
        bench.wait("all tasks to be followed", bench.followed(triggers * tasks + 1))
        bench.sandbox.add_fault("401:on=poll")
        bench.wait("the triggers to be gone", bench.followed(0))
        bench.sandbox.clear_faults()

    bench.phase("at once: fire", fire)
    bench.phase("at once: after", lambda: time.sleep(SETTLE))
    young = bench.submit(triggers * tasks)
    bench.phase("at once: refuse", refuse)


def empty(bench: Bench, aio_conn_id: str, name: str) -> str:
    """One trigger of one task: everything is imported, the client and the budget are there."""
    ids = bench.submit(1, done=False)
    run_id = bench.run(ids, 1, 1, aio_conn_id)
    bench.wait("one task to be followed", bench.followed(1))
    time.sleep(SETTLE)
    bench.phase(name, lambda: time.sleep(SETTLE))
    return run_id


# -- the table


def line(row: dict[str, Any]) -> str:
    """What a phase came to."""

    def worst(name: str) -> float:
        return 1e3 * max((cpu for cpu, _, _ in row["worst"][name]), default=0.0)

    runner = row["runner"]
    return (
        f"{row['name']:17}{row['seconds']:5.0f}{row['polls']:8,}{row['followed']:9,}"
        f"{runner['pss']:6.0f}{runner['rss']:6.0f}{runner['most']:7.0f}{row['supervisor']['pss']:6.0f}"
        f"{worst('ours'):7.0f}{worst('others'):7.0f}{worst('turn_ours'):7.0f}{worst('turn'):5.0f}"
        f"{worst('collection'):8.0f}{row['blocked']:9}"
    )


HEAD = """\
                                           memory in MB             ms step       ms turn  ms col-  Airflow
phase                s   polls followed   pss   rss   most  sup.   ours others   ours  all lection warnings"""


def summary(rows: list[dict[str, Any]]) -> None:
    """Against the bounds."""
    found = {row["name"]: row for row in rows}
    for case, phase in (("steady", "poll"), ("at once", "fire")):
        if f"{case}: {phase}" not in found:
            continue
        base, row = found[f"{case}: empty"]["runner"], found[f"{case}: {phase}"]["runner"]
        more = ", ".join(f"{row[name] - base[name]:+.0f} MB {name}" for name in ("pss", "rss", "most"))
        print(f"{case}: {more} (at most 150); {row['most'] / base['most']:.2f} × the empty triggerer")
    ours = 1e3 * max((one[0] for row in rows for one in row["worst"]["turn_ours"]), default=0.0)
    print(f"longest that what is ours held up the event loop: {ours:.0f} ms (at most 50)")


def details(rows: list[dict[str, Any]]) -> None:
    """The longest pieces of each phase."""
    for row in rows:
        print(f"\n{row['name']}: {row['steps']:,} steps, {row['turns']:,} turns of the loop")
        print("  of one processor: runner {:.0%}, supervisor {:.0%}".format(*row["busy"]))
        print(f"  {row['ours']:.2f} s ours, {row['others']:.2f} s others'", end="")
        print(f", {row['collecting']:.2f} s in {row['collections']:,} collections")
        for name, worst in row["worst"].items():
            for cpu, wall, what in worst:
                print(f"  {name:11}{cpu * 1e3:8.1f} ms CPU{wall * 1e3:8.1f} ms wall  {what}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--triggers", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=5000, help="of each trigger")
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady polling")
    parser.add_argument("--chunks", type=int, default=2, help="that each trigger fires, at 500 outcomes each")
    parser.add_argument("--case", choices=["steady", "at-once"], action="append")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="aio-triggerer-") as place:
        folder = Path(place)
        with Sandbox(time_scale=1.0, requests_per_minute=0) as sandbox:
            run(folder, sandbox, options)


def run(folder: Path, sandbox: Sandbox, options: argparse.Namespace) -> None:
    """Both cases on one Airflow."""
    (folder / "phase").write_text("start")
    connection = json.loads(sandbox.environment()["AIRFLOW_CONN_AIO_DEFAULT"])
    env = {
        "PYTHONPATH": str(HERE.parent),
        "XDG_DATA_HOME": str(folder / "data"),  # the limiter's file
    }
    for name, limit in (("LIMITED", 60), ("UNLIMITED", 0)):
        extra = {**connection["extra"], "requests_per_minute": limit}
        env[f"AIRFLOW_CONN_AIO_{name}"] = json.dumps({**connection, "extra": extra})
    stack = MeasuredStack(folder / "airflow", [HERE / "triggerer_dags"], env=env, components=COMPONENTS)
    stack.probe_folder = folder
    with stack:
        bench = Bench(folder, stack, sandbox)
        print(HEAD, flush=True)
        cases = options.case or ["steady", "at-once"]
        if "steady" in cases:
            steady(bench, options.triggers, options.tasks, options.seconds)
        if "at-once" in cases:
            if "steady" in cases:
                bench.restart()
            at_once(bench, options.triggers, options.tasks, options.chunks)
        summary(bench.rows)
        if options.details:
            details(bench.rows)


if __name__ == "__main__":
    main()
