"""The *Credits* page as an app that Airflow's API server mounts. It only reads.

A mounted app has no login of its own: every route asks Airflow for the user, and what is shown is what this
user may see (:mod:`~aio_provider.plugins.sight`). Routes are plain functions, so that the server runs them in
threads: no ledger ever holds up its event loop.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from aio_provider.api.errors import AioError, ConfigurationError
from aio_provider.hooks.aio import AioHook
from aio_provider.plugins.credits_figures import Question, Shown, figures
from aio_provider.plugins.credits_page import message, page
from aio_provider.plugins.ledgers import NoLedgerError, choices, opened
from aio_provider.plugins.sight import connections_of, sight

log = logging.getLogger(__name__)

_HEADERS = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_FILES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


class _RefusedError(Exception):
    """There are no figures; what to say, and the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class _Asked:
    """A request.

    :param connections: those with a ledger that the user may choose from.
    :param conn_id: the one that is shown.
    :param given: the question, not checked yet: since, until, DAGs, group.
    """

    user: BaseUser
    connections: list[str]
    conn_id: str
    given: tuple[str, str, list[str], str]

    def shown(self) -> Shown:
        """The figures that this user may see.

        :raises _RefusedError: there are none to show.
        """
        try:
            asked = Question.of(*self.given)
        except ConfigurationError as error:
            raise _RefusedError(400, str(error)) from error
        try:
            with opened(self.conn_id) as book:
                return figures(book, self.conn_id, asked, sight(self.user, self.conn_id))
        except NoLedgerError as error:
            raise _RefusedError(404, str(error)) from error
        except AioError as error:
            log.warning("The ledger of connection %r cannot be shown: %s", self.conn_id, error)
            # The message names the database: for those only who may read the connection.
            allowed = connections_of(self.user, [self.conn_id])
            text = str(error) if allowed else "ask whoever runs this Airflow; the API server's log says why."
            raise _RefusedError(503, f"The ledger of {self.conn_id!r} cannot be shown: {text}") from error


def _asked(
    user: GetUserDep,
    conn_id: str = "",
    since: str = "",
    until: str = "",
    by: str = "model",
    dag: Annotated[list[str] | None, Query()] = None,
) -> _Asked:
    connections = choices(user)
    default = AioHook.default_conn_name
    first = default if default in connections or not connections else connections[0]
    return _Asked(user, connections, conn_id.strip() or first, (since, until, dag or [], by))


_AskedDep = Annotated[_Asked, Depends(_asked)]


def create_app() -> FastAPI:
    """The app, with three routes: the page, and its last table as CSV and JSON."""
    app = FastAPI(title="API in One credits", docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/")(_page)
    app.get("/credits.{form}")(_file)
    app.add_exception_handler(HTTPException, _to_login)
    return app


def _page(asked: _AskedDep) -> HTMLResponse:
    try:
        shown = asked.shown()
    except _RefusedError as error:
        question = Question(*asked.given[:2], tuple(asked.given[2]))
        text = message(str(error), asked.conn_id, asked.connections, question)
        return HTMLResponse(text, error.status, headers=_HEADERS)
    return HTMLResponse(
        page(shown, asked.conn_id, asked.connections, Question.of(*asked.given)), headers=_HEADERS
    )


def _file(form: str, asked: _AskedDep) -> Response:
    from aio_provider.accounting.formats import encode

    if form not in _FILES:
        return JSONResponse({"detail": "There are credits.csv and credits.json."}, 404, headers=_HEADERS)
    try:
        content = encode(asked.shown().report.table, form)
    except _RefusedError as error:
        return JSONResponse({"detail": str(error)}, error.status, headers=_HEADERS)
    name = {"Content-Disposition": f'attachment; filename="credits.{form}"'}
    return Response(content, media_type=_FILES[form], headers={**_HEADERS, **name})


async def _to_login(request: Request, error: Exception) -> Response:
    """Nobody is logged in: a person is sent to Airflow's login, a program is told."""
    assert isinstance(error, HTTPException)
    wants_page = "text/html" in request.headers.get("accept", "")
    if error.status_code == 401 and wants_page:
        back: dict[str, Any] = {"next_url": str(request.url)}
        return RedirectResponse(get_auth_manager().get_url_login(**back), 303, headers=_HEADERS)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=_HEADERS)
