"""Suno's sub-routes: extend, feed, cover art, upload cover, timestamped lyrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aio_provider.sandbox import files, media
from aio_provider.sandbox.answers import ApiError
from aio_provider.sandbox.tasks import FAILED, SUCCESS, SandboxTask, timestamp

if TYPE_CHECKING:
    from aio_provider.sandbox.app import Service

_EXTEND = "/audio/music/extend"
_COVER = "/audio/music/cover/generate"
_UPLOAD_COVER = "/audio/music/upload-cover/generate"
_LYRICS = "/audio/music/timestamped-lyrics"

#: Seconds of a song, as the documentation's feed example gives it.
_DURATION = 186


def check(service: Service, path: str, body: Mapping[str, Any]) -> None:
    """What these routes ask beyond the types of their parameters.

    :raises ApiError: 404 for a song that is not there, 400 ``bad_request`` for a second cover.
    """
    if path not in (_EXTEND, _COVER, _LYRICS):
        return
    song_id = _song_of(body)
    song = service.account.tasks.get(song_id)
    if song is None or not song.endpoint.startswith("/audio/music"):
        raise ApiError(404, f"Task {song_id} was not found")
    if path == _COVER and song_id in service.account.covered:
        raise ApiError(400, "A cover has already been generated for this task", type="bad_request")


def accepted(service: Service, task: SandboxTask) -> None:
    """Remember which songs have their cover."""
    if task.endpoint == _COVER:
        service.account.covered.add(_song_of(task.body))


def _song_of(body: Mapping[str, Any]) -> str:
    return str(body.get("origin_task_id") or body.get("task_id") or body.get("taskId"))


def feed(service: Service, task: SandboxTask) -> Mapping[str, Any]:
    """``GET /audio/music/feed``: two clips, whose status goes text → first → complete."""
    now = service.settings.clock.time()
    status = task.status(now)
    elapsed = (now - task.accepted_at) / max(1e-9, task.ready_at - task.accepted_at)
    stage = (
        "complete"
        if status == SUCCESS
        else "error"
        if status == FAILED
        else "text"
        if elapsed < 0.5
        else "first"
    )
    data = {
        "type": status,
        "request_body": task.body,
        "response_data": [
            {
                "id": f"{task.task_id}-clip{index}",
                "audio_url": url if status == SUCCESS else "",
                "image_url": f"{service.origin}/photos/music%20{task.task_id}.png" if stage != "text" else "",
                "status": stage,
                "title": str(task.body.get("title") or media.describe(task.body)[:80]),
                "duration": _DURATION if status == SUCCESS else None,
                "model_name": task.model or "chirp-v3-5",
                "extra_message": "",
                "fail_message": "",
                "error_message": "A fault of the sandbox" if status == FAILED else "",
            }
            for index, url in enumerate(files.urls(service, task), start=1)
        ],
        "created_at": timestamp(task.accepted_at),
    }
    return {"code": 200, "message": "success", "data": data}


def cover_status(service: Service, task: SandboxTask) -> Mapping[str, Any]:
    """``GET /audio/music/cover/status``: ``msg`` and ``taskId``, and two pictures."""
    status = task.status(service.settings.clock.time())
    data = {
        "taskId": task.task_id,
        "status": status,
        "images": files.urls(service, task) if status == SUCCESS else [],
        "created_at": timestamp(task.accepted_at),
    }
    return {"code": 200, "msg": "success", "data": data}


def upload_cover_status(service: Service, task: SandboxTask) -> Mapping[str, Any]:
    """``GET /audio/music/upload-cover/status``: published up to ``data:{task_id,status``; then clips."""
    shape = feed(service, task)["data"]
    data = {
        "task_id": task.task_id,
        "status": shape["type"],
        "response_data": shape["response_data"],
        "created_at": shape["created_at"],
    }
    return {"code": 200, "message": "success", "data": data}


def lyrics(service: Service, task: SandboxTask) -> Mapping[str, Any]:
    """``POST /audio/music/timestamped-lyrics``: answered at once; times in seconds."""
    song = service.account.tasks[_song_of(task.body)]
    words = media.describe(song.body).split() or ["instrumental"]
    step = _DURATION / len(words)
    lines = [
        {
            "text": word,
            "start": round(index * step, 2),
            "end": round((index + 1) * step, 2),
            "type": "lyric",
            "metadata": {},
        }
        for index, word in enumerate(words)
    ]
    waveform = [round(abs((index * 37 % 100) / 100 - 0.5) * 2, 2) for index in range(50)]
    data = {"text": " ".join(words), "lyricParams": lines, "waveform": waveform}
    return {"code": 200, "message": "success", "data": data}


#: Status routes: path → what answers it, and where the tasks it knows were submitted.
STATUS: dict[str, tuple[Callable[[Service, SandboxTask], Mapping[str, Any]], str]] = {
    "/audio/music/feed": (feed, "/audio/music"),
    "/audio/music/cover/status": (cover_status, _COVER),
    "/audio/music/upload-cover/status": (upload_cover_status, _UPLOAD_COVER),
}

#: Routes that answer with their result instead of a task id.
SYNCHRONOUS: dict[str, Callable[[Service, SandboxTask], Mapping[str, Any]]] = {_LYRICS: lyrics}
