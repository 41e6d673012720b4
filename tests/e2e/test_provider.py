"""What Airflow itself says of the provider: its command line, the connection form, Test connection."""

from __future__ import annotations

import json

from tests.e2e.conftest import Services


def test_airflow_lists_the_provider(services: Services) -> None:
    listed = services.airflow.cli("providers", "get", "aio-provider", "--full", "-o", "json")
    assert "aio-provider" in listed
    assert "API in One" in listed


def test_airflow_knows_the_connection_type(services: Services) -> None:
    hooks = json.loads(services.airflow.cli("providers", "hooks", "-o", "json"))
    (hook,) = [hook for hook in hooks if hook["connection_type"] == "aio"]
    assert hook["class"] == "aio_provider.hooks.aio.AioHook"
    connection = json.loads(services.airflow.cli("connections", "get", "aio_default", "-o", "json"))
    assert connection[0]["conn_type"] == "aio"


def test_the_connection_form_has_its_fields(services: Services) -> None:
    answer = services.airflow.request("GET", "/../../ui/connections/hook_meta")
    (meta,) = [meta for meta in answer if meta["connection_type"] == "aio"]
    assert meta["hook_name"] == "API in One"
    assert {"requests_per_minute", "timeout", "ledger_url", "limiter_url"} <= set(meta["extra_fields"])


def test_test_connection_is_free_and_tells_a_wrong_key(services: Services) -> None:
    before = len(services.fast.submissions)
    body = {"connection_id": "aio_try", "conn_type": "aio", "host": services.fast.base_url}
    right = {**body, "password": services.fast.api_key}
    answer = services.airflow.request("POST", "/connections/test", json=right)
    assert answer["status"] is True, answer
    wrong = {**body, "password": "aio_not_the_key"}
    answer = services.airflow.request("POST", "/connections/test", json=wrong)
    assert answer["status"] is False
    assert "key" in answer["message"].lower()
    assert len(services.fast.submissions) == before
