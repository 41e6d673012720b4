"""What importing the operators adds to what a DAG file imports from Airflow anyway.

    python benchmarks/imports.py

DAG files are parsed every few seconds. Pairs of fresh processes, one after the other; medians of the
processor time, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from statistics import median

AIRFLOW = """
import airflow.sdk, airflow.triggers.base
from airflow.providers.common.compat.sdk import (
    DAG, AirflowException, AirflowFailException, AirflowSensorTimeout, BaseHook, BaseOperator,
    BaseOperatorLink, BaseSensorOperator, Context, DecoratedOperator, PokeReturnValue, XCom,
    context_merge, determine_kwargs, task_decorator_factory,
)
"""
OURS = AIRFLOW + "import aio_provider.operators.aio, aio_provider.triggers.aio, aio_provider.sensors.aio\n"


def seconds(source: str) -> float:
    """Processor time of a fresh process that imports this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", source], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    seconds(OURS)  # compiles what is not compiled yet
    pairs = [(seconds(AIRFLOW), seconds(OURS)) for _ in range(options.pairs)]
    theirs, both = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(ours / airflow for airflow, ours in pairs)
    print(f"Airflow's names {theirs:.2f} s, with the operators {both:.2f} s: {ratio:.3f} times")


if __name__ == "__main__":
    main()
