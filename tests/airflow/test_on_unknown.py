"""``on_unknown`` on every entry point: hold what may have been charged, or submit it again when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException
from click.testing import CliRunner

import aio_provider as aio
from aio_provider.cli import main
from aio_provider.decorators import aio as decorators
from aio_provider.operators.aio import AioGenerateImageOperator
from aio_provider.sandbox import Sandbox

from .conftest import Instance, wait_inline

ROWS = pd.DataFrame({"caption": ["a red chair"]})


class Entry:
    """One way in, called again and again for the same job; gives the job's status."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instance = Instance()  # no state store: the record is the ledger

    def generate(self, **policy: Any) -> str:
        return str(aio.generate(ROWS, "image", prompt="caption", progress=False, **policy)["aio_status"][0])

    def agenerate(self, **policy: Any) -> str:
        out = asyncio.run(aio.agenerate(ROWS, "image", prompt="caption", progress=False, **policy))
        return str(out["aio_status"][0])

    def accessor(self, **policy: Any) -> str:
        return str(ROWS.aio.image(prompt="caption", progress=False, **policy)["aio_status"][0])

    def batch_function(self, **policy: Any) -> str:
        return str(aio.BatchFunction("image", prompt="caption", **policy)(ROWS)["aio_status"][0])

    def command(self, **policy: Any) -> str:
        table, output = self.folder / "in.csv", self.folder / "out.parquet"
        ROWS.to_csv(table, index=False)
        options = [f"--{name.replace('_', '-')}={value}" for name, value in policy.items()]
        call = ["generate", str(table), "image", "-c", "prompt=caption", "-o", str(output), *options]
        CliRunner().invoke(main, call)
        return str(pd.read_parquet(output)["aio_status"][0])

    def operator(self, **policy: Any) -> str:
        return self._run(AioGenerateImageOperator(task_id="it", prompt="a red chair", **policy))

    def decorator(self, **policy: Any) -> str:
        with DAG("d", schedule=None):
            task = decorators.aio_image_task(lambda: "a red chair", task_id="it", **policy)()
        return self._run(task.operator)

    def _run(self, operator: Any) -> str:
        context = self.instance.context(operator)
        operator.render_template_fields(context)
        try:
            return str(wait_inline(operator, context)["status"])
        except AirflowFailException as error:
            return "unknown" if "may have been charged" in str(error) else str(error)


NAMES = [name for name in vars(Entry) if not name.startswith("_")]


@pytest.mark.aio_sandbox(faults=["drop-after@1"])
@pytest.mark.parametrize("name", NAMES)
def test_held_until_told_otherwise(name: str, aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    entry: Callable[..., str] = getattr(Entry(tmp_path), name)
    assert [entry(), entry(), entry(on_unknown="hold")] == ["unknown"] * 3
    assert len(aio_sandbox_env.submissions) == 1
    assert entry(on_unknown="resubmit") == "succeeded"
    assert len(aio_sandbox_env.submissions) == 2
