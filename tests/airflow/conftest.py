"""Airflow for these tests: a migrated database, DAG files, and a task instance's context as plain data."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow is not installed")

DAGS_FOLDER = Path(os.environ["AIRFLOW_HOME"]) / "dags"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS_FOLDER)
DAGS_FOLDER.mkdir(exist_ok=True)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """The metadata database, migrated once a session."""
    airflow = Path(sys.executable).with_name("airflow")
    done = subprocess.run([airflow, "db", "migrate"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def load_dag(airflow_db: None) -> Iterator[Callable[[str | Path], ModuleType]]:
    """Put a DAG file (its source, or its path) alone into the DAGs folder and import it from there."""
    loaded: list[str] = []

    def load(source: str | Path) -> ModuleType:
        text = source.read_text() if isinstance(source, Path) else source
        name = f"dag_of_test_{len(loaded)}_{abs(hash(text)) % 10**8}"
        path = DAGS_FOLDER / f"{name}.py"
        path.write_text(text)
        loaded.append(name)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        (DAGS_FOLDER / f"{name}.py").unlink()
        sys.modules.pop(name, None)


class StateStore:
    """Airflow's task state store as a task sees it, for one task instance: JSON values by key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.retention: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        import json

        copy = json.loads(json.dumps(value))
        assert copy is not None and repr(copy) == repr(value), "Airflow takes JSON values only, as they are"
        self.values[key] = copy
        self.retention[key] = retention

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Instance:
    """A task instance of a run, over all its attempts: what Airflow keeps, and what it throws away."""

    def __init__(self, *, map_index: int = -1, store: StateStore | None = None) -> None:
        self.store = store
        self.xcom: dict[str, Any] = {}
        self.attempt = 0
        self.map_index = map_index

    def context(self, task: Any) -> dict[str, Any]:
        """The context of the next attempt; as in Airflow, its XComs are gone and its state store is not."""
        self.attempt += 1
        self.xcom.clear()
        ti = SimpleNamespace(
            dag_id="shop",
            run_id="manual__2026-11-22T09:00:00+00:00",
            task_id=task.task_id,
            map_index=self.map_index,
            try_number=self.attempt,
            xcom_push=lambda key, value, **_: self.xcom.__setitem__(key, value),
        )
        context: dict[str, Any] = {"ti": ti, "task_instance": ti, "task": task, "run_id": ti.run_id}
        if self.store is not None:
            context["task_state_store"] = self.store
        return context


@pytest.fixture
def instance() -> Instance:
    """A task instance whose Airflow has a task state store (3.3 and later)."""
    return Instance(store=StateStore())


def wait_inline(operator: Any, context: dict[str, Any]) -> Any:
    """Run a task instance's attempt with its trigger in line, as ``dag.test()`` does."""
    deferred = deferral_of(operator, context)
    return operator.execute_complete(context, fire(deferred.trigger))


def deferral_of(operator: Any, context: dict[str, Any]) -> Any:
    """Run an attempt up to its deferral."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    return deferred.value


def fire(trigger: Any) -> dict[str, Any]:
    """Store a trigger as Airflow does, make it anew, and run it to its event."""
    import asyncio
    import json

    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))

    async def run() -> Any:
        return await anext(again.run())

    return json.loads(json.dumps(asyncio.run(run()).payload))
