"""One limit for several processes: the file, PostgreSQL and Redis keep the same rules."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aio_provider.api.errors import ConfigurationError
from aio_provider.jobs.limiter import open_rate_budget, rate_budget
from aio_provider.jobs.pacing import PacedBudget
from aio_provider.jobs.redis_window import RedisWindow
from aio_provider.jobs.shared_windows import shared_window
from aio_provider.jobs.sql_window import SqlWindow
from tests import redis_server


@pytest.fixture
def redis_url() -> Iterator[str]:
    with redis_server.url() as url:
        yield url


@pytest.fixture(params=["file", "postgresql", "redis"])
def limiter_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/deep/limit.sqlite"
    url: str = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "redis_url")
    return url


@pytest.fixture
def key() -> str:
    return secrets.token_hex(8)


def test_two_processes_share_one_count(limiter_url: str, key: str) -> None:
    a, b = (shared_window(limiter_url, key, 10) for _ in range(2))
    items = [window.take(0.0)[0] for window in (a, b, a, b, a)]
    assert all(items), "five go at once"
    assert a.room(0.0) == b.room(0.0) == 5
    wait = b.take(0.0)[1]
    assert 0 < wait <= 0.9 * 30 + 2, "the sixth is spaced"
    a.withdraw(items[0])
    assert b.room(0.0) == 6
    a.close_for(30.0, 0.0)
    item, wait = b.take(0.0)
    assert item is None
    assert 25 < wait < 40
    assert b.room(0.0) == 0
    assert shared_window(limiter_url, "another key", 10).room(0.0) == 10
    a.close()
    b.close()


def test_a_wave_takes_what_is_left_of_the_minute_at_once(limiter_url: str, key: str) -> None:
    spaced, wave = (shared_window(limiter_url, key, 10) for _ in range(2))
    assert spaced.take(0.0)[0]
    assert [wave.take(0.0, False)[0] is not None for _ in range(10)] == [True] * 9 + [False]
    assert spaced.room(0.0) == 0, "one count for both"


def test_the_minute_begins_with_the_answer(
    limiter_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_800_000_000_000]
    for kind in (SqlWindow, RedisWindow):
        monkeypatch.setattr(kind, "_now", lambda *_: now[0])
    window = shared_window(limiter_url, key, 2)
    first, _ = window.take(0.0)
    second, _ = window.take(0.0)
    assert first
    assert second
    assert window.take(0.0)[0] is None
    now[0] += 40_000
    window.answered(first, 0.0)
    now[0] += 25_000
    assert window.room(0.0) == 1, "the second's minute began when it was sent, the first's with its answer"
    now[0] += 36_000
    assert window.room(0.0) == 2


def test_a_clock_that_was_set_back_blocks_nobody_for_long(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_800_000_000_000]
    monkeypatch.setattr(SqlWindow, "_now", lambda *_: now[0])
    window = shared_window(f"file://{tmp_path}/l.sqlite", key, 2)
    assert window.take(0.0)[0]
    assert window.take(0.0)[0]
    now[0] -= 24 * 3_600_000
    assert window.take(0.0)[0]


_SENDER = """
import asyncio, sys, time
from aio_provider.jobs.limiter import rate_budget

async def main(url, key):
    budget = rate_budget(600, url, key)
    print("ready", flush=True)
    sys.stdin.readline()  # all begin together
    until = time.time() + 4.0
    sent = []
    async def one():
        while time.time() < until:
            async with budget.request() as turn:
                if time.time() < until:
                    sent.append(time.time())
                else:
                    turn.withdraw()
    await asyncio.gather(*(one() for _ in range(8)))
    budget.close()
    print(*sent)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def test_processes_take_turns(limiter_url: str, key: str) -> None:
    pipe = subprocess.PIPE
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", _SENDER, limiter_url, key], stdin=pipe, stdout=pipe, text=True
        )
        for _ in range(2)
    ]
    for sender in senders:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    sent = [[float(t) for t in sender.communicate(timeout=120)[0].split()] for sender in senders]
    assert all(sender.returncode == 0 for sender in senders)
    times = sorted(sent[0] + sent[1])
    assert len(times) <= 4.2 * 10 / 0.9 + 6, "ten a second between them, a tenth to make good, and a burst"
    assert min(len(s) for s in sent) >= 5, "nobody is left out"


def test_nothing_configured_is_a_file_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    async def main() -> None:
        budget = rate_budget(60, None, key)
        async with budget.request():
            pass
        budget.close()
        again = rate_budget(60, None, key)
        assert again.available() == 59
        again.close()

    asyncio.run(main())
    file = tmp_path / "aio-provider" / "limits" / f"{key}.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600


def test_opening_it_holds_up_nobody_else_in_the_event_loop(key: str) -> None:
    """A triggerer's loop has others to serve while a database does not answer."""

    async def main(mute: socket.socket) -> None:
        url = f"postgresql://u:pw@127.0.0.1:{mute.getsockname()[1]}/d"

        async def use() -> None:
            async with open_rate_budget(60, url, key):
                pass

        users = [asyncio.create_task(use()) for _ in range(5)]
        connection, _ = await asyncio.to_thread(mute.accept)
        assert not any(user.done() for user in users)
        connection.close()
        told = await asyncio.gather(*users, return_exceptions=True)
        assert [type(error) for error in told] == [ConfigurationError] * 5
        mute.setblocking(False)
        with pytest.raises(BlockingIOError):
            mute.accept()  # it was tried once for all of them

    with socket.create_server(("127.0.0.1", 0)) as mute:
        asyncio.run(main(mute))


def test_users_in_one_event_loop_have_one_budget(limiter_url: str, key: str) -> None:
    async def main() -> None:
        async with open_rate_budget(60, limiter_url, key) as first:
            async with open_rate_budget(60, limiter_url, key) as second, second.request():
                assert first is second is rate_budget(60, limiter_url, key)
                second.close()  # the third user's
            assert first.available() == 59, "it is still open"
        async with open_rate_budget(60, limiter_url, key) as later:
            assert later is not first
            assert later.available() == 59
        async with open_rate_budget(0, limiter_url, key) as unlimited:
            assert unlimited.per_minute == 0

    asyncio.run(main())


def test_a_relative_file_is_the_one_that_the_ledger_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shared_window("sqlite:///here.sqlite", key, 10).close()
    shared_window(f"sqlite:///{tmp_path}/there.sqlite", key, 10).close()
    assert (tmp_path / "here.sqlite").exists() and (tmp_path / "there.sqlite").exists()


def test_no_place_for_the_file_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "aio-provider").write_text("not a folder")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    async def main() -> None:
        budget = rate_budget(60, None, key)
        async with budget.request():
            assert isinstance(budget, PacedBudget)
        budget.close()

    asyncio.run(main())
    assert "not shared" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/x", "nonsense", "redis://127.0.0.1:1/0", "postgresql://u:pw@127.0.0.1:1/d"),
        *("redis://u:12/pw@127.0.0.1:1/0", "redis://u:x@127.0.0.1:pw/0", "postgresql://u:x@127.0.0.1:pw/d"),
    ],
)
def test_a_limiter_that_cannot_be_is_said_at_once(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        rate_budget(60, url, key)
    assert "pw" not in str(raised.value) and ".." not in str(raised.value)


def test_a_file_of_another_kind_is_named(tmp_path: Path, key: str) -> None:
    (tmp_path / "diary.txt").write_text("dear diary, " * 1000)
    with pytest.raises(ConfigurationError, match=r"diary\.txt is another kind of file, or damaged"):
        rate_budget(60, f"file://{tmp_path}/diary.txt", key)
