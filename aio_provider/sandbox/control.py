"""The sandbox's own routes, outside the limit: ask what was charged, set faults and credits, reset."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from aio_provider.sandbox import page

if TYPE_CHECKING:
    from aio_provider.sandbox.app import Service


def routes(service: Service) -> list[Route]:
    """The page at ``/`` and everything under ``/sandbox``."""

    async def home(request: Request) -> Response:
        return HTMLResponse(page.render(service))

    async def show(request: Request) -> Response:
        return JSONResponse(state(service))

    async def submissions(request: Request) -> Response:
        start = int(request.query_params.get("start", 0))
        return JSONResponse({"submissions": [s.to_dict() for s in service.account.submissions(start)]})

    async def reset(request: Request) -> Response:
        service.account.reset()
        service.faults.clear()
        service.faults.add(service.settings.faults)
        return JSONResponse(state(service))

    async def credits(request: Request) -> Response:
        if request.method == "POST":
            service.account.balance = _field(await request.json(), "credits", (int, float))
        return JSONResponse({"credits": service.account.balance})

    async def faults(request: Request) -> Response:
        if request.method == "POST":
            service.faults.add(_field(await request.json(), "faults", (list,)))
        elif request.method == "DELETE":
            service.faults.clear()
        return JSONResponse({"faults": service.faults.describe()})

    return [
        Route("/", home, methods=["GET"]),
        Route("/sandbox/state", show, methods=["GET"]),
        Route("/sandbox/submissions", _checked(submissions), methods=["GET"]),
        Route("/sandbox/reset", reset, methods=["POST"]),
        Route("/sandbox/credits", _checked(credits), methods=["GET", "POST"]),
        Route("/sandbox/faults", _checked(faults), methods=["GET", "POST", "DELETE"]),
    ]


def state(service: Service) -> dict[str, Any]:
    """Everything but the submissions, as plain JSON values."""
    account, settings = service.account, service.settings
    return {
        "base_url": f"{service.origin}/api/v1",
        "credits": account.balance,
        "charged": account.charged,
        "submissions": len(account.tasks),
        "requests": dict(account.counts),
        "requests_per_minute": settings.requests_per_minute,
        "time_scale": settings.time_scale,
        "seed": settings.seed,
        "shapes": settings.shapes,
        "faults": service.faults.describe(),
    }


def _checked(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Answer a value that cannot be used with 400 and what is wrong with it."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return endpoint


def _field(body: Any, name: str, types: tuple[type, ...]) -> Any:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, types) or isinstance(value, bool):
        raise ValueError(f"send a JSON object with {name!r} ({' or '.join(t.__name__ for t in types)})")
    return value
