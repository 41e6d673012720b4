"""Our own clients against the sandbox: every kind, every published form of an answer, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aio_provider.api.catalog import KINDS
from aio_provider.api.client import AioClient, AsyncAioClient
from aio_provider.api.requests import GenerationRequest
from aio_provider.api.tasks import TaskStatus
from aio_provider.sandbox import ManualClock, Sandbox

Serve = Callable[..., Sandbox]

PHOTO = "https://example.com/photo.jpg"
REQUESTS = {
    "image": GenerationRequest.image("A mug", model="imagen-4", num_images=2),
    "video": GenerationRequest.video("A dog runs"),
    "music": GenerationRequest.music("la la", title="Song"),
    "speech": GenerationRequest.speech("Hello."),
    "remove_background": GenerationRequest.remove_background(PHOTO),
    "swap_face": GenerationRequest.swap_face(PHOTO, PHOTO),
    "remove_video_background": GenerationRequest.remove_video_background("https://example.com/a.mp4"),
    "upscale_image": GenerationRequest.upscale_image(PHOTO),
}


def test_the_table_has_every_kind_that_makes_a_task() -> None:
    assert {*REQUESTS, "chat"} == set(KINDS)


@pytest.mark.parametrize("shapes", ["documented", "varied"])
def test_the_client_reads_every_form(serve: Serve, clock: ManualClock, shapes: str) -> None:
    sandbox = serve(shapes=shapes, credits=1e6, faults=["failed:every=5"])
    with AioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
        # Three coprime cycles of forms and eight kinds: enough tasks to meet each kind in each form.
        ids = [client.submit(request).id for _ in range(35) for request in REQUESTS.values()]
        running = [client.get_task(task_id) for task_id in ids]
        clock.advance(1000)
        done = [client.get_task(task_id) for task_id in ids]

    truth = {s.task_id: s for s in sandbox.submissions}
    assert ids == list(truth)
    assert {t.status for t in running} == {TaskStatus.RUNNING}
    assert {t.urls for t in running} == {()}
    for task in done:
        submission = truth[task.id]
        assert task.credits == submission.credits
        if submission.status == "FAILED":
            assert (task.status, task.urls) == (TaskStatus.FAILED, ())
            assert task.error
        else:
            assert task.status is TaskStatus.SUCCEEDED
            wanted = {"music": 2, "image": 2}.get(submission.kind, 1)
            assert len(task.urls) == wanted, task.raw
            assert all(url.startswith(f"{sandbox.origin}/files/{task.id}-") for url in task.urls)


@pytest.mark.parametrize("shapes", ["documented", "varied"])
def test_the_client_reads_chat_in_every_form(serve: Serve, shapes: str) -> None:
    sandbox = serve(shapes=shapes)
    with AioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
        for _ in range(2):
            completion = client.chat(GenerationRequest.chat("What is a mug?"))
            streamed = list(client.chat_stream(GenerationRequest.chat("What is a mug?", stream=True)))

            assert "What is a mug?" in completion.text
            assert "".join(chunk.text for chunk in streamed) == completion.text
            assert completion.thoughts
    costs = [s.credits for s in sandbox.submissions]
    assert completion.credits == costs[-2]


async def test_many_at_once_are_all_accepted_once(serve: Serve) -> None:
    sandbox = serve(credits=1e6)
    async with AsyncAioClient(sandbox.api_key, sandbox.base_url, retry=None) as client:
        requests = [GenerationRequest.image(f"Mug {number}") for number in range(200)]
        tasks = await asyncio.gather(*(client.submit(request) for request in requests))

    assert len({task.id for task in tasks}) == 200
    assert sorted(s.fingerprint for s in sandbox.submissions) == sorted(r.fingerprint for r in requests)
    assert sandbox.charged == 1000


def test_a_hundred_thousand_tasks_are_kept(serve: Serve) -> None:
    sandbox = serve(credits=1e9)
    account = sandbox.account
    for number in range(100_000):
        account.accept(
            name=("n41", "_flux2"),
            kind="image",
            endpoint="/images/generations",
            body={"model": "flux-2", "prompt": f"Mug {number}"},
            fingerprint=str(number),
            price=5,
            latency=3,
            key_hash="k",
        )

    assert sandbox.charged == 500_000
    assert len(account.submissions(99_990)) == 10
