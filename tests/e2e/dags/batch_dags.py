"""A batch in three shards, one of whose workers is killed in the middle of a wave."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from aio_provider.operators.aio import AioGenerateFromParquetOperator

#: rows of a shard, and tasks in flight of one: three waves a shard
ROWS, IN_FLIGHT = 20, 8


class KilledInItsWave(AioGenerateFromParquetOperator):
    """The worker of shard 1 is gone, by SIGKILL, once four answers of its second wave are on record."""

    def _run(self, context: Any, state: Any, event: Any) -> Any:
        from aio_provider.jobs.ledger import AsyncLedger
        from aio_provider.operators import batch_run

        batch_run.MOST_IN_FLIGHT = IN_FLIGHT
        ti = context["ti"]
        if (ti.map_index, ti.try_number, state.waves) == (1, 1, 1):
            accept = AsyncLedger.accept
            answered: list[str] = []
            recorded: list[str] = []

            async def accept_and_die(ledger: Any, key: str, task_id: str) -> None:
                answered.append(key)
                if len(answered) > 4:
                    await asyncio.sleep(60)  # answered, and not on record
                await accept(ledger, key, task_id)
                recorded.append(key)
                if len(recorded) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)

            AsyncLedger.accept = accept_and_die  # type: ignore[method-assign]
        return super()._run(context, state, event)


@dag(schedule=None, params={"folder": Param("", type="string")})
def batch_in_shards():
    """Sixty rows, three tasks."""

    @task
    def shards(params: dict[str, Any] | None = None) -> list[str]:
        import pandas as pd

        assert params is not None
        folder = Path(params["folder"])
        (folder / "out").mkdir(parents=True)
        paths = []
        for shard in range(3):
            rows = range(shard * ROWS, (shard + 1) * ROWS)
            path = folder / f"shard-{shard}.parquet"
            pd.DataFrame({"row": rows, "caption": [f"Batch row number {n}" for n in rows]}).to_parquet(path)
            paths.append(str(path))
        return paths

    KilledInItsWave.partial(
        task_id="pictures",
        aio_conn_id="aio_rough_ledger",
        output_path="{{ params.folder }}/out/",
        kind="image",
        model="flux-2",
        fields={"prompt": "caption"},
        on_failure="fail",
        retries=1,
        retry_delay=timedelta(seconds=1),
    ).expand(input_path=shards())


batch_in_shards()
