"""The rate limit: an exact sliding window for each key, polls included."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aio_provider.sandbox import ManualClock, Sandbox
from aio_provider.sandbox.tasks import RateWindow

Serve = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]

IMAGE = {"model": "flux-2", "prompt": "garden"}


def test_the_sixty_first_request_in_a_minute_is_refused(
    serve: Serve, connect: Connect, clock: ManualClock
) -> None:
    sandbox = serve(requests_per_minute=60)
    client = connect(sandbox)
    client.post("/images/generations", json=IMAGE)
    clock.advance(30)

    answers = [client.get("/tasks/none") for _ in range(60)]

    assert [a.status_code for a in answers] == [404] * 59 + [429]
    assert answers[-1].json()["error"]["type"] == "rate_limit"
    assert "retry-after" not in answers[-1].headers
    clock.advance(29.9)
    assert client.get("/tasks/none").status_code == 429
    clock.advance(0.1)  # the submission is 60 s old now, and only its place is free
    assert [client.get("/tasks/none").status_code for _ in range(2)] == [404, 429]
    assert sandbox.requests["429"] == 3


def test_a_refused_submission_costs_nothing(serve: Serve, connect: Connect) -> None:
    sandbox = serve(requests_per_minute=1)
    client = connect(sandbox)

    codes = [client.post("/images/generations", json=IMAGE).status_code for _ in range(3)]

    assert codes == [200, 429, 429]
    assert len(sandbox.submissions) == 1


def test_each_key_has_its_own_window_and_a_wrong_one_has_none(serve: Serve, connect: Connect) -> None:
    sandbox = serve(requests_per_minute=1, extra_api_keys=("second",))
    first, second, wrong = connect(sandbox), connect(sandbox, "second"), connect(sandbox, "wrong")

    codes = [c.get("/tasks/none").status_code for c in (wrong, first, second, first, second, wrong)]

    assert codes == [401, 404, 404, 429, 429, 401]


def test_control_routes_files_and_photos_are_outside_the_limit(serve: Serve, connect: Connect) -> None:
    sandbox = serve(requests_per_minute=1)
    client = connect(sandbox)
    client.get("/tasks/none")

    paths = ["/sandbox/state", "/sandbox/submissions", "/", "/photos/mug.jpg", "/sandbox/credits"]
    codes = [client.get(sandbox.origin + path).status_code for path in paths]

    assert codes == [200] * 5
    assert client.get("/tasks/none").status_code == 429


def test_retry_after_says_when_a_place_is_free(serve: Serve, connect: Connect, clock: ManualClock) -> None:
    def refused(form: str) -> str:
        client = connect(serve(requests_per_minute=1, retry_after=form))
        client.get("/tasks/none")
        clock.advance(20.5)
        return client.get("/tasks/none").headers["retry-after"]

    assert refused("seconds") == "40"
    asked = clock.time()
    date = parsedate_to_datetime(refused("date")).timestamp()
    assert 60 <= date - asked <= 62


@given(
    steps=st.lists(st.floats(0, 40, allow_nan=False), max_size=60),
    limit=st.integers(1, 5),
)
def test_never_more_than_the_limit_in_any_window(steps: list[float], limit: int) -> None:
    window = RateWindow(limit)
    now, admitted = 0.0, []
    for step in steps:
        now += step
        recent = [t for t in admitted if now - t < 60]
        wait = window.admit(now)
        # Admitted exactly when the last 60 s have room, and the wait told is the time until they do.
        assert (wait is None) == (len(recent) < limit)
        if wait is None:
            admitted.append(now)
        else:
            assert wait == pytest.approx(60 - (now - recent[0]))
