"""The plugin as each of Airflow's processes loads it; the page itself: ``tests/e2e/test_credits_page.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from aio_provider.api.errors import ConfigurationError
from aio_provider.plugins.credits_figures import Question
from aio_provider.plugins.ledgers import _is_aio
from aio_provider.plugins.sight import Sight


def run(source: str) -> list[str]:
    environment = {**os.environ, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_airflow_finds_it_and_has_no_complaint(airflow_db: None) -> None:
    source = """
import json
from airflow import plugins_manager as manager
manager.ensure_plugins_loaded()
plugins, errors = manager._get_plugins() if hasattr(manager, "_get_plugins") else (
    manager.plugins, manager.import_errors)
info = [each["name"] for each in manager.get_plugin_info()]
print(json.dumps([*(plugin.name for plugin in plugins), info.count("aio_provider"), *errors]))
"""
    assert run(source) == ["aio_provider", 1]


def test_loading_it_loads_nothing_else(airflow_db: None) -> None:
    """Every scheduler, worker and triggerer does."""
    source = """
import json, sys
import airflow.plugins_manager
from airflow.providers.common.compat.sdk import AirflowPlugin
import aio_provider
before = set(sys.modules)
import aio_provider.plugins.aio
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    assert run(source) == ["aio_provider.plugins", "aio_provider.plugins.aio"]


@pytest.mark.parametrize(
    ("sight", "seen"),
    [
        (Sight(frozenset({"mine"}), frozenset({"mine", "other"}), False), {"mine"}),
        (Sight(frozenset({"mine"}), frozenset({"mine", "other"}), True), {"mine", "gone", ""}),
        (Sight(frozenset({"mine", "other"}), frozenset({"mine", "other"}), False), {"mine", "other"}),
        (
            Sight(frozenset({"mine", "other"}), frozenset({"mine", "other"}), True),
            {"mine", "other", "gone", ""},
        ),
        (Sight(frozenset(), frozenset({"mine", "other"}), False), set()),
    ],
)
def test_who_sees_what(sight: Sight, seen: set[str]) -> None:
    assert sight.of(["mine", "other", "gone", None]) == seen
    assert sight.whole == (len(seen) == 4)


def test_a_question_is_checked() -> None:
    assert Question.of(" 2026-11 ", "", ["", "shop"], "day") == Question("2026-11", "", ("shop",), "day")
    with pytest.raises(ConfigurationError, match="is none of model, dag"):
        Question.of("", "", [], "key")


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ("aio://:key@apiin.one", True),
        ('{"conn_type": "aio", "password": "x"}', True),
        ("postgres://aio:x@db", False),
        ('{"conn_type": "http"}', False),
        ("{broken", False),
    ],
)
def test_which_variables_are_connections_of_ours(value: str, ours: bool) -> None:
    assert _is_aio(value) is ours
