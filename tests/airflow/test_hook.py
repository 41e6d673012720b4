"""The hook: free connection test, clients, ledger, estimate, and its form in both generations of Airflow."""

from __future__ import annotations

import json
import secrets
import socket
import sqlite3
from pathlib import Path
from typing import Any

import airflow
import pytest
import sqlalchemy as sa
from airflow.exceptions import AirflowNotFoundException
from sqlalchemy.engine import make_url

from aio_provider.api.client import AioClient, AsyncAioClient
from aio_provider.api.requests import GenerationRequest
from aio_provider.get_provider_info import CONN_FIELDS, get_provider_info
from aio_provider.hooks.aio import AioHook, budget_of
from aio_provider.jobs.ledger import Ledger
from aio_provider.sandbox import Sandbox
from tests import postgres_server, redis_server

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


def tried(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> tuple[bool, str]:
    """What Test connection says of a connection to the sandbox with this extra field."""
    conn = {"conn_type": "aio", "host": sandbox.base_url, "password": sandbox.api_key, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AIO_DEFAULT", json.dumps(conn))
    ok, message = AioHook().test_connection()
    assert "pw-secret" not in message and sandbox.api_key not in message and "\n" not in message
    assert message.endswith("."), message
    return ok, message


def test_connection_test_looks_at_ledger_and_limiter(
    aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ledger, limiter = tmp_path / "ledger.sqlite", tmp_path / "limits.sqlite"
    extra = {"ledger_url": f"sqlite:///{ledger}", "limiter_url": f"file://{limiter}"}
    ok, message = tried(aio_sandbox, monkeypatch, **extra)
    assert ok and message.count("not there yet: the first task makes it") == 2, message
    assert not list(tmp_path.iterdir())  # and it made nothing

    with AioHook().ledger(), budget_of(AioHook().settings) as budget:
        room = budget.available()
        ok, message = tried(aio_sandbox, monkeypatch, **extra)
        assert ok and f"{ledger} (schema version" in message and f"{limiter} (in use)" in message, message
        assert budget.available() == room

    with sqlite3.connect(ledger) as db:
        db.execute("UPDATE aio_meta SET value = '99'")
    ok, message = tried(aio_sandbox, monkeypatch, **extra)
    assert not ok and message.startswith("ledger_url (extra field): it has schema version 99")


def test_connection_test_looks_at_servers(aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_server.schema() as url:
        ok, message = tried(aio_sandbox, monkeypatch, ledger_url=url, limiter_url=url)
        assert ok and message.count("(empty yet: the first task makes its tables)") == 2, message
        ok, again = tried(aio_sandbox, monkeypatch, ledger_url=url, limiter_url=url)
        assert again == message  # it made no table
        with AioHook().ledger(), budget_of(AioHook().settings):
            ok, message = tried(aio_sandbox, monkeypatch, ledger_url=url, limiter_url=url)
        assert ok and "(schema version" in message and "(in use)" in message, message
        standby = f"{url}%20-cdefault_transaction_read_only%3Don"
        ok, message = tried(aio_sandbox, monkeypatch, ledger_url=standby)
        assert not ok and "takes no writes" in message
    with redis_server.url() as url:
        ok, message = tried(aio_sandbox, monkeypatch, limiter_url=url)
        assert ok and "(it answers)" in message


def test_connection_test_says_who_may_not_write(
    aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_server.schema() as url:
        engine = sa.create_engine(make_url(url).set(drivername="postgresql+psycopg2"), future=True)
        role = f"aio_reader_{secrets.token_hex(4)}"
        with engine.begin() as conn:
            schema = conn.execute(sa.text("SELECT current_schema()")).scalar_one()
            conn.execute(sa.text(f"CREATE ROLE {role} LOGIN PASSWORD 'pw-secret'"))
            conn.execute(sa.text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
        try:
            reader = make_url(url).set(username=role, password="pw-secret")
            extra = {"ledger_url": reader.render_as_string(hide_password=False)}
            ok, message = tried(aio_sandbox, monkeypatch, **extra)
            assert not ok and "no right to CREATE in its schema" in message, message
            with Ledger.open(url), engine.begin() as conn:
                conn.execute(sa.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"))
            ok, message = tried(aio_sandbox, monkeypatch, **extra)
            assert not ok and "no right to INSERT and UPDATE on its table aio_jobs" in message, message
        finally:
            with engine.begin() as conn:
                conn.execute(sa.text(f"DROP OWNED BY {role}"))
                conn.execute(sa.text(f"DROP ROLE {role}"))
            engine.dispose()


def test_connection_test_names_the_field_that_is_wrong(
    aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused at once
        closed = f"someone:pw-secret@127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "diary.txt").write_text("dear diary, " * 1000)
        for field, url, said in (
            ("ledger_url", "postgre://someone:pw-secret@db/aio", "postgre:// is not supported"),
            ("ledger_url", "postgresql:/someone:pw-secret@db/aio", "two slashes after postgresql"),
            ("ledger_url", "postgresql+nosuch://someone:pw-secret@db/aio", "driver is not installed"),
            ("ledger_url", f"postgresql://{closed}/aio", "cannot be reached: is the server up?"),
            ("ledger_url", f"sqlite:///{tmp_path}/not/there/l.sqlite", f"folder {tmp_path}/not/there is not"),
            ("ledger_url", f"sqlite:///{tmp_path}", "name a file in it"),
            ("ledger_url", f"{tmp_path}/diary.txt", "something else, or damaged"),
            ("ledger_url", "sqlite://", "is in memory"),
            ("limiter_url", f"redsi://{closed}", "begins with 'redsi'"),
            ("limiter_url", f"redis://{closed}/0", "cannot be used"),
            ("limiter_url", "redis://someone:pw-secret@db:port", "malformed URL"),
            ("limiter_url", "redis://:pw-secret/1@db", "malformed URL"),
            ("limiter_url", "redis://someone:12/pw-secret@db", "malformed URL"),
            ("limiter_url", f"postgresql://{closed}/aio", "cannot be reached: is the server up?"),
            ("limiter_url", f"file://{tmp_path}/not/there/limits.sqlite", "is not on this machine"),
            ("limiter_url", f"file://{tmp_path}/diary.txt", "is not a database of this limiter: the file"),
        ):
            ok, message = tried(aio_sandbox, monkeypatch, **{field: url})
            assert not ok and message.startswith(f"{field} (extra field): "), message
            assert said in message, message
    assert [file.name for file in tmp_path.iterdir()] == ["diary.txt"]


def test_connection_test_tells_all_that_is_wrong(
    aio_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    aio_sandbox.add_fault("401")
    ok, message = tried(aio_sandbox, monkeypatch, ledger_url="x://y", limiter_url="x://y", leger_url="x://y")
    assert not ok and message.startswith("401")
    assert "ledger_url (extra field)" in message and "limiter_url (extra field)" in message
    assert "nothing reads: leger_url" in message


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
        "team": StringField,
    }
    assert AioHook.get_ui_field_behaviour()["hidden_fields"] == ["login"]
