"""The hook: free connection test, clients, ledger, estimate, and its form in both generations of Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import airflow
import pytest
from airflow.exceptions import AirflowNotFoundException

from aio_provider.api.client import AioClient, AsyncAioClient
from aio_provider.api.requests import GenerationRequest
from aio_provider.get_provider_info import CONN_FIELDS, get_provider_info
from aio_provider.hooks.aio import AioHook
from aio_provider.sandbox import Sandbox

AIRFLOW_2 = airflow.__version__.startswith("2.")


def test_connection_test_is_free(aio_sandbox_env: Sandbox) -> None:
    ok, message = AioHook().test_connection()
    assert ok, message
    assert aio_sandbox_env.base_url in message
    assert aio_sandbox_env.charged == 0
    assert aio_sandbox_env.requests.get("submit", 0) == 0


def test_connection_test_names_what_is_wrong(aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"conn_type": "aio", "host": aio_sandbox.base_url, "password": "aio_wrong_key_0123"}
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(wrong))
    ok, message = AioHook().test_connection()
    assert not ok and "401" in message and "aio_wrong_key_0123" not in message

    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps({**wrong, "host": "http://example.com/api/v1"}))
    ok, message = AioHook().test_connection()
    assert not ok and "http" in message


def test_missing_connection_is_airflows_own_error(airflow_db: None) -> None:
    with pytest.raises(AirflowNotFoundException, match="nowhere"):
        _ = AioHook("nowhere").settings


async def test_clients(aio_sandbox_env: Sandbox) -> None:
    hook = AioHook()
    with hook.get_conn() as client:
        assert isinstance(client, AioClient) and client.base_url == aio_sandbox_env.base_url
    async with await hook.get_async_conn() as async_client:
        assert isinstance(async_client, AsyncAioClient)
        await async_client.check()
    assert aio_sandbox_env.api_key not in repr((hook, hook.settings, client, async_client))


def test_estimate_sends_nothing(aio_sandbox_env: Sandbox) -> None:
    estimate = AioHook().estimate([GenerationRequest.image("a red fox", model="flux-2")] * 3)
    assert estimate.total.low == 15
    assert aio_sandbox_env.requests.get("requests", 0) == 0


def test_estimate_without_a_ledger(aio_sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"ledger_url": "/proc/nowhere/ledger.sqlite"}
    conn = {"conn_type": "aio", "host": aio_sandbox_env.base_url, "password": "aio_key_0123", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(conn))
    assert AioHook().estimate([GenerationRequest.image("a red fox", model="flux-2")]).total.low == 5


def test_ledger_is_the_connections(aio_sandbox_env: Sandbox, tmp_path: Path) -> None:
    with AioHook().ledger() as ledger:
        assert str(tmp_path) in ledger.url


def test_provider_info_fits_airflows_schema() -> None:
    import jsonschema

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    info = get_provider_info()
    jsonschema.validate(info, schema)
    fields = Path(airflow.__file__).parent / "provider.yaml.schema.json"
    if fields.exists():  # 3.3: the runtime schema leaves the form's fields open, the source one does not
        types = json.loads(fields.read_text())["properties"]["connection-types"]
        jsonschema.validate(info["connection-types"], types)


def test_provider_info_names_what_exists() -> None:
    from importlib import import_module

    info = get_provider_info()
    paths = [kind["hook-class-name"] for kind in info["connection-types"]]
    paths += info["extra-links"] + [decorator["class-name"] for decorator in info["task-decorators"]]
    for path in paths:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path
    for section in ("hooks", "operators", "sensors", "triggers"):
        for module in info[section][0]["python-modules"]:
            import_module(module)


def test_airflow_finds_connection_type_form_and_decorators() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert manager.hooks["aio"].hook_name == "API in One"  # type: ignore[union-attr]
    widgets = {name for name in manager.connection_form_widgets if name.startswith("extra__aio__")}
    assert widgets == {f"extra__aio__{name}" for name in CONN_FIELDS}
    behaviour = manager.field_behaviours["aio"]
    assert behaviour["relabeling"]["password"] == "API key"
    assert "login" in behaviour["hidden_fields"]
    assert behaviour["placeholders"]["extra__aio__requests_per_minute"] == "60"
    assert {name for name, _ in manager.taskflow_decorators.items() if name.startswith("aio_")} == {
        decorator["name"] for decorator in get_provider_info()["task-decorators"]
    }
    assert "aio_provider.links.aio.AioTaskLink" in manager.extra_links_class_names


def test_secrets_of_the_form_are_hidden() -> None:
    for name in ("ledger_url", "limiter_url"):
        assert CONN_FIELDS[name]["schema"]["format"] == "password"


@pytest.mark.skipif(not AIRFLOW_2, reason="Airflow 3 takes the form from the provider info")
def test_form_of_airflow_2() -> None:
    from wtforms import BooleanField, Form, IntegerField, PasswordField, StringField

    class ConnectionForm(Form):  # type: ignore[misc]
        pass

    for name, field in AioHook.get_connection_form_widgets().items():
        setattr(ConnectionForm, name, field)
    form: Any = ConnectionForm()
    kinds = {name: type(form[name]) for name in CONN_FIELDS}
    assert kinds == {
        "requests_per_minute": IntegerField,
        "timeout": IntegerField,
        "ledger_url": PasswordField,
        "limiter_url": PasswordField,
        "allow_insecure": BooleanField,
        "on_server_error": StringField,
    }
    assert AioHook.get_ui_field_behaviour()["hidden_fields"] == ["login"]
