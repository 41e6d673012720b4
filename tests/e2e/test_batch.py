"""A mapped batch on a real Airflow: a worker is killed in the middle of a wave, and nothing is paid twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from aio_provider.jobs.ledger import JobState, Ledger
from aio_provider.sandbox import Submission
from tests.e2e.conftest import Services

DAG, TASK = "batch_in_shards", "pictures"


def test_sixty_rows_in_three_shards(services: Services) -> None:
    folder = services.output / "batch"
    run_id = services.airflow.trigger(DAG, {"folder": str(folder)})

    def ended() -> bool:
        services.rough_clock.advance(60)  # everything at the service is done at once
        return services.airflow.run_state(DAG, run_id) in ("success", "failed")

    services.wait_until("the shards to end", ended)
    found = {ti["map_index"]: ti for ti in services.task_instances(DAG, run_id, TASK)}
    assert {index: ti["state"] for index, ti in found.items()} == {0: "success", 1: "failed", 2: "success"}
    assert found[1]["try_number"] == 2, "killed in its first try, held in its second"

    def mine() -> list[Submission]:
        return [
            one for one in services.rough.submissions if str(one.body.get("prompt")).startswith("Batch row")
        ]

    assert len(mine()) == 60, "what was in the air is held; the rest of the shard went on"
    with Ledger.open(services.ledger) as ledger:
        held = list(ledger.entries(state=JobState.UNKNOWN, labels={"dag_id": DAG}))
        assert len(held) == 4, "of the eight of that wave, four were on record"
        task_of = {one.fingerprint: one.task_id for one in mine()}
        for entry in held:
            ledger.settle(entry.key, task_id=task_of[entry.fingerprint])

    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [[TASK, 1]], "reset_dag_runs": True}
    services.airflow.request("POST", f"/dags/{DAG}/clearTaskInstances", json=body | {"only_failed": False})
    services.wait_until("the settled shard to end", ended)
    assert services.airflow.run_state(DAG, run_id) == "success"

    assert set(Counter(one.body["prompt"] for one in mine()).values()) == {1}, "nothing was paid twice"
    results = [services.airflow.xcom(DAG, run_id, TASK, map_index=index) for index in range(3)]
    assert [result["succeeded"] for result in results] == [20, 20, 20]
    parts = [pd.read_parquet(result["output_path"]) for result in results]
    table = pd.concat(parts, ignore_index=True)
    assert table["row"].tolist() == list(range(60))
    prompt_of = {one.task_id: one.body["prompt"] for one in mine()}
    assert [prompt_of[task_id] for task_id in table["aio_task_id"]] == table["caption"].tolist()
    charged = sum(one.credits for one in mine())
    assert table["aio_credits"].sum() == sum(result["total_credits"] for result in results) == charged
    assert [Path(result["output_path"]).name for result in results] == [
        f"shard-{n}-{n}.parquet" for n in range(3)
    ]
