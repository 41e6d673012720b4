"""Result files and product photos, drawn when they are fetched; with HEAD and single byte ranges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from aio_provider.sandbox import media, pictures
from aio_provider.sandbox.tasks import SUCCESS, SandboxTask

if TYPE_CHECKING:
    from aio_provider.sandbox.app import Service

_FILE_NAME = re.compile(r"(?P<task_id>[\w-]+)-(?P<index>\d+)\.(?P<ending>\w+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def routes(service: Service) -> list[Route]:
    """``/files/…`` and ``/photos/…``; neither needs a key, as real result hosts do not."""

    async def file(request: Request) -> Response:
        found = _FILE_NAME.fullmatch(request.path_params["name"])
        task = service.account.tasks.get(found["task_id"]) if found else None
        if found is None or task is None or task.status(service.settings.clock.time()) != SUCCESS:
            return PlainTextResponse("There is no such file", status_code=404)
        index, ending = int(found["index"]), _ending(task)
        if not 1 <= index <= _count(task) or found["ending"] != ending:
            return PlainTextResponse("There is no such file", status_code=404)
        data = await run_in_threadpool(_result, service.account.tasks, task, index)
        return ranged(request, data, media.CONTENT_TYPES[ending])

    async def photo(request: Request) -> Response:
        name, _, ending = request.path_params["name"].rpartition(".")
        if not name or ending not in ("jpg", "jpeg", "png", "webp"):
            return PlainTextResponse("Photos are named NAME.jpg, .png or .webp", status_code=404)
        data = await run_in_threadpool(_photo, name, ending)
        return ranged(request, data, media.CONTENT_TYPES[ending])

    return [
        Route("/files/{name}", file, methods=["GET"]),
        Route("/photos/{name}", photo, methods=["GET"]),
    ]


def urls(service: Service, task: SandboxTask) -> list[str]:
    """Where the results of a task are."""
    ending = _ending(task)
    return [f"{service.origin}/files/{task.task_id}-{n}.{ending}" for n in range(1, _count(task) + 1)]


def _ending(task: SandboxTask) -> str:
    return media.extension(task.kind, task.endpoint, task.body)


def _count(task: SandboxTask) -> int:
    return media.count(task.kind, task.endpoint, task.body)


def _result(tasks: dict[str, SandboxTask], task: SandboxTask, index: int) -> bytes:
    subject = _subject(tasks, task)
    return media.draw(task.kind, task.endpoint, task.body, index, subject)


def _subject(tasks: dict[str, SandboxTask], task: SandboxTask) -> str:
    """What a tool's input shows: our own photos and results are known, other URLs give their file name."""
    song = tasks.get(str(task.body.get("task_id") or task.body.get("taskId")))
    if song is not None and song is not task:  # cover art shows what its song is about
        return media.describe(song.body)
    url = task.body.get("image") or task.body.get("video") or ""
    if not isinstance(url, str):
        return ""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    found = _FILE_NAME.fullmatch(name)
    source = tasks.get(found["task_id"]) if found else None
    if source is not None and source is not task:
        return media.describe(source.body) or _subject(tasks, source)
    return name.rpartition(".")[0] or name


@lru_cache(maxsize=64)
def _photo(name: str, ending: str) -> bytes:
    return pictures.photo(name, ending)


def ranged(request: Request, data: bytes, content_type: str) -> Response:
    """A file's answer: whole, one range of it (206), or 416; HEAD has the same headers and no body."""
    headers = {"Accept-Ranges": "bytes"}
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if asked is None or not any(asked.groups()):
        return Response(data, headers=headers, media_type=content_type)
    bounds = _bounds(asked.groups(), len(data))
    if bounds is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    first, last = bounds
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], 206, headers, content_type)


def _bounds(asked: Sequence[str | None], size: int) -> tuple[int, int] | None:
    start, end = asked
    if not start:
        first, last = max(0, size - int(end or 0)), size - 1
    else:
        first, last = int(start), min(int(end), size - 1) if end else size - 1
    return (first, last) if first <= last and first < size else None
