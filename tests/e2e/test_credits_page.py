"""The *Credits* page in a real Airflow: by a browser through its login, and by what an outsider can send."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow_stack import ANSWER_TIMEOUT, free_port

from aio_provider.accounting import credits
from aio_provider.accounting.formats import encode, number
from aio_provider.jobs.ledger import Ledger
from tests.accounting.conftest import put, row
from tests.e2e import browser
from tests.e2e.conftest import Services
from tests.e2e.people import ANALYST, ANALYSTS_DAG

DAY = datetime(2026, 11, 10, 12, tzinfo=UTC)
OTHER, GONE = "aio_quickstart", "dag_of_another_airflow"
#: what an analyst must not find anywhere
HIDDEN = (OTHER, GONE, "hidden-model", "hidden-team", "hidden-task")


def connect(services: Services, conn_id: str, **extra: str) -> str:
    body = {"connection_id": conn_id, "conn_type": "aio", "password": "aio_x", "extra": json.dumps(extra)}
    services.airflow.request("POST", "/connections", json=body)
    return conn_id


@pytest.fixture(scope="module")
def book(services: Services) -> Path:
    """A ledger with rows of two DAGs, of one that this Airflow does not know, and of none."""
    services.airflow.wait_for_dag(ANALYSTS_DAG)
    services.airflow.wait_for_dag(OTHER)
    path = services.output / "credits_page.sqlite"
    hidden = {"team": "hidden-team", "task_id": "hidden-task", "model": "hidden-model"}
    with Ledger.open(path) as ledger:
        for day in range(4):
            sent = DAY + timedelta(days=day)
            mine = {"dag_id": ANALYSTS_DAG, "team": "shop", "sent": sent}
            put(
                ledger,
                row(credits=5.0, **mine),
                row(credits=60.5, model="kling-3", kind="video", **mine),
                row("failed", credits=1.0, **mine),
                row(credits=7.0, dag_id=OTHER, sent=sent, **hidden),
                row(credits=11.0, dag_id=GONE, sent=sent, **hidden),
                row("unknown", credits=None, dag_id=None, user_name="a notebook", sent=sent, **hidden),
            )
        ledger.set_budget("dag", ANALYSTS_DAG, credits=1000.0)
        ledger.set_budget("dag", OTHER, credits=2000.0)
        ledger.set_budget("total", credits=3000.0, month=None)
    connect(services, "aio_book", ledger_url=str(path))
    return path


@pytest.fixture(scope="module")
def passwords(services: Services) -> dict[str, str]:
    found: dict[str, str] = json.loads((services.airflow.home / "passwords.json").read_text())
    return found


def client(services: Services, user: str, password: str) -> httpx.Client:
    answer = httpx.post(
        f"{services.airflow.url}/auth/token", json={"username": user, "password": password}, trust_env=False
    )
    token = answer.raise_for_status().json()["access_token"]
    return httpx.Client(
        base_url=f"{services.airflow.url}/aio-credits",
        headers={"Authorization": f"Bearer {token}"},
        timeout=ANSWER_TIMEOUT,
        trust_env=False,
    )


@pytest.fixture(scope="module")
def admin(services: Services, passwords: dict[str, str]) -> Iterator[httpx.Client]:
    with client(services, "admin", passwords["admin"]) as found:
        yield found


@pytest.fixture(scope="module")
def analyst(services: Services, passwords: dict[str, str]) -> Iterator[httpx.Client]:
    with client(services, ANALYST, passwords[ANALYST]) as found:
        yield found


def tiles(page: browser.Browser) -> dict[str, str]:
    return dict(zip(page.texts(".tile h2"), page.texts(".tile b"), strict=True))


def expected(frame: Any) -> dict[str, str]:
    totals = frame.attrs["aio"]["totals"]
    names = {"Credits": "credits", "Tasks": "tasks", "Wasted": "wasted", "Held": "unknown"}
    return {title: number(totals[name]) for title, name in names.items()}


def test_a_user_opens_it_from_the_navigation_and_asks(
    services: Services, book: Path, passwords: dict[str, str]
) -> None:
    with browser.opened() as page:
        page.driver.get(services.airflow.url)
        page.log_in("admin", passwords["admin"])
        page.open_credits()
        page.choose("conn_id", "aio_book")
        page.submit()
        whole = credits(book)
        assert tiles(page).items() >= expected(whole).items()
        assert sorted(page.texts("table.figures tbody th")) == sorted(whole["model"])

        page.choose("dag", OTHER)
        page.pick("since", "2026-11-11")
        page.pick("until", "2026-11-13")
        page.choose("by", "task")
        page.submit()
        some = credits(book, "task", "2026-11-11", "2026-11-13", dag=OTHER)
        assert expected(some)["Credits"] == "14"
        assert tiles(page).items() >= expected(some).items()
        assert page.texts(".period") == [f"2026-11-11 to 2026-11-13 UTC, dag = {OTHER}"]
        assert "hidden-task" in page.texts("table.figures td.name")

        # The address in the bar leads to this very view, the theme is Airflow's.
        page.driver.switch_to.default_content()
        link = page.driver.current_url
        assert "since=2026-11-11" in link
        colours = []
        for theme in ("light", "dark"):
            page.driver.execute_script("localStorage.setItem('theme', arguments[0])", theme)
            page.driver.get(link)
            page.driver.switch_to.frame(page.find("iframe[title=Credits]"))
            page.find("form.ask")
            assert tiles(page).items() >= expected(some).items()
            body = page.find("body")
            colours.append((body.value_of_css_property("background-color"), body.is_displayed()))
            page.driver.switch_to.default_content()
        assert colours == [("rgba(252, 252, 251, 1)", True), ("rgba(21, 23, 26, 1)", True)]
        severe = [line for line in page.driver.get_log("browser") if "Content Security" in line["message"]]
        assert severe == []


def test_who_may_read_one_dag_sees_that_one(
    services: Services, book: Path, analyst: httpx.Client, passwords: dict[str, str]
) -> None:
    mine = credits(book, dag=ANALYSTS_DAG)
    with browser.opened() as page:
        page.driver.get(f"{services.airflow.url}/aio-credits/?conn_id=aio_book")
        page.log_in(ANALYST, passwords[ANALYST])  # and back to where it was asked for
        page.find("form.ask")
        assert "/aio-credits/?conn_id=aio_book" in page.driver.current_url
        assert tiles(page).items() >= expected(mine).items()
        assert page.texts("select[name=dag] option") == ["all", ANALYSTS_DAG]
        assert not page.texts("select[name=conn_id] option")  # connections are not his to know

    answers = [analyst.get("/", params={"conn_id": "aio_book", "by": by}) for by in ("model", "dag", "user")]
    answers += [analyst.get(f"/credits.{form}?conn_id=aio_book&by=team") for form in ("csv", "json")]
    for answer in answers:
        assert answer.status_code == 200
        assert not [name for name in HIDDEN if name in answer.text]
        assert str(book.parent) not in answer.text
    assert f"dag {ANALYSTS_DAG}" in answers[0].text  # his budget is shown, and no other
    assert "2,000" not in answers[0].text
    assert "3,000" not in answers[0].text
    assert answers[4].json()["aio"]["totals"]["credits"] == mine.attrs["aio"]["totals"]["credits"] == 266.0

    for dag in (OTHER, GONE, "no_such_dag"):
        answer = analyst.get("/credits.json", params={"conn_id": "aio_book", "dag": dag})
        assert answer.json()["aio"]["totals"]["tasks"] == 0
        assert answer.json()["rows"] == []
        both = analyst.get("/credits.json", params={"conn_id": "aio_book", "dag": [dag, ANALYSTS_DAG]})
        assert both.json()["aio"]["totals"]["credits"] == 266.0


def test_files_hold_what_aio_credits_says(book: Path, admin: httpx.Client) -> None:
    for by in ("model", "dag", "connection"):
        frame = credits(book, by, "2026-11-11", dag=[OTHER, ANALYSTS_DAG])
        asked = {"conn_id": "aio_book", "since": "2026-11-11", "dag": [OTHER, ANALYSTS_DAG], "by": by}
        answer = admin.get("/credits.csv", params=asked)
        assert answer.content == encode(frame, "csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="credits.csv"'
        found = admin.get("/credits.json", params=asked).json()
        wanted = json.loads(encode(frame, "json"))
        assert found["rows"] == wanted["rows"]
        assert found["aio"]["totals"] == wanted["aio"]["totals"]
        assert found["aio"]["book"]["url"] == "aio_book"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}])
def test_without_a_login_there_is_nothing(services: Services, book: Path, headers: dict[str, str]) -> None:
    url = f"{services.airflow.url}/aio-credits"
    with httpx.Client(headers=headers, trust_env=False, timeout=ANSWER_TIMEOUT) as nobody:
        for path in ("/credits.json", "/credits.csv", "/", "/credits.html"):
            answer = nobody.get(f"{url}{path}?conn_id=aio_book")
            assert answer.status_code in (401, 403)
            assert set(answer.json()) == {"detail"}
        answer = nobody.get(f"{url}/?conn_id=aio_book", headers={"Accept": "text/html"})
        if answer.status_code != 403:  # a token that is no token is not one that has run out
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/auth/login?next=")


def test_it_says_why_there_are_no_figures_and_makes_no_ledger(
    services: Services, book: Path, admin: httpx.Client, analyst: httpx.Client, tmp_path: Path
) -> None:
    newer = tmp_path / "newer.sqlite"
    with Ledger.open(newer) as ledger, ledger.store.write() as conn:
        conn.exec_driver_sql("UPDATE aio_meta SET value = '99' WHERE name = 'schema_version'")
    connect(services, "aio_absent", ledger_url=str(tmp_path / "absent.sqlite"))
    connect(services, "aio_newer", ledger_url=str(newer))
    connect(services, "aio_without")
    connect(services, "aio_odd", ledger_url="mysql://u:hush-hush@db/aio")
    for asked, status, said in (
        ("conn_id=aio_absent", 503, "no such directory"),
        ("conn_id=aio_newer", 503, "upgrade aio_provider"),
        ("conn_id=aio_without", 404, "ledger_url"),
        ("conn_id=aio_odd", 503, "is not supported"),
        ("conn_id=no_such_connection", 404, "ledger_url"),
        ("conn_id=aio_book&since=yesterday", 400, "is not a time"),
        ("conn_id=aio_book&since=2026-11-12&until=2026-11-11", 400, "must be before"),
        ("conn_id=aio_book&by=prompt", 400, "is none of"),
        ("conn_id=<script>alert(1)</script>", 404, "&lt;script&gt;"),
    ):
        answer = admin.get(f"/?{asked}")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert said in answer.text
        assert "<script" not in answer.text
        assert admin.get(f"/credits.json?{asked}").status_code == status
    assert not (tmp_path / "absent.sqlite").exists()
    # Who may not read the connection is not told where its ledger is.
    assert str(tmp_path) in admin.get("/?conn_id=aio_absent").text
    assert str(tmp_path) not in analyst.get("/?conn_id=aio_absent").text
    assert admin.post("/").status_code == 405


def test_a_ledger_that_does_not_answer_holds_nobody_up(services: Services, admin: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, ThreadPoolExecutor(4) as threads:
        port = mute.getsockname()[1]
        connect(services, "aio_mute", ledger_url=f"postgresql://u:hush-hush@127.0.0.1:{port}/db")
        asked = [threads.submit(admin.get, "/?conn_id=aio_mute") for _ in range(4)]
        waiting = [mute.accept()[0] for _ in asked]
        answer = httpx.get(f"{services.airflow.url}/api/v2/version", trust_env=False, timeout=8.0)
        assert answer.status_code == 200
        assert not any(one.done() for one in asked)
        for connection in waiting:
            connection.close()
        mute.close()
        for one in asked:
            assert one.result().status_code == 503
            assert "hush-hush" not in one.result().text


def test_it_works_below_a_path(services: Services, book: Path, passwords: dict[str, str]) -> None:
    browser.require()
    port = free_port()
    base = f"http://127.0.0.1:{port}/teams/media"
    settings = [f"AIRFLOW__API__BASE_URL={base}", f"AIRFLOW__API__PORT={port}"]
    server = [sys.executable, "-m", "airflow", "api-server"]
    services.airflow.spawn("api-server-below", ["env", *settings, *server])

    def answers() -> bool:
        try:
            return httpx.get(f"{base}/api/v2/version", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    services.wait_until("the second api-server", answers)
    try:
        with browser.opened() as page:
            page.driver.get(f"{base}/")
            page.log_in("admin", passwords["admin"])
            page.open_credits()
            page.choose("conn_id", "aio_book")
            page.submit()
            page.choose("dag", ANALYSTS_DAG)
            page.submit()
            assert tiles(page).items() >= expected(credits(book, dag=ANALYSTS_DAG)).items()
            href = page.find("a.file").get_attribute("href")
            assert re.match(rf"{base}/aio-credits/credits\.csv\?conn_id=aio_book&dag={ANALYSTS_DAG}", href)
    finally:
        services.airflow.kill_component("api-server-below")
