"""The Airflow hook of API in One: a connection in, a client, a ledger or an estimate out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import BaseHook

from aio_provider.api.errors import TaskTimeoutError
from aio_provider.hooks import metrics
from aio_provider.hooks.connection import read_connection, unknown_extras
from aio_provider.hooks.sending import send_in_turn

if TYPE_CHECKING:
    from aio_provider.api.client import AioClient, AsyncAioClient
    from aio_provider.api.requests import GenerationRequest
    from aio_provider.api.tasks import ChatCompletion, Task
    from aio_provider.jobs.budget import Estimate
    from aio_provider.jobs.ledger import Ledger
    from aio_provider.jobs.pacing import RateBudget
    from aio_provider.jobs.poller import Poller
    from aio_provider.jobs.settings import Settings


#: seconds for which a 404 only means that a task is not visible yet
NOT_FOUND_GRACE = 60.0
#: seconds for which a connection that was looked up in an event loop is taken as it was
_LOOKUP_LASTS = 30.0


class AioHook(BaseHook):
    """
    Reach API in One through an Airflow connection of type ``aio``.

    The connection's password is the key. Its host, port and schema are the address,
    ``https://apiin.one/api/v1`` where they are empty. See
    :func:`aio_provider.hooks.connection.read_connection` for every field.

    :param aio_conn_id: connection id.
    """

    conn_name_attr = "aio_conn_id"
    default_conn_name = "aio_default"
    conn_type = "aio"
    hook_name = "API in One"

    def __init__(self, aio_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aio_conn_id = aio_conn_id

    @cached_property
    def settings(self) -> Settings:
        """The connection as settings (key, address, limits, ledger).

        :raises ConfigurationError: a field is missing or cannot be used.
        """
        return self._read(self.get_connection(self.aio_conn_id))

    async def aget_settings(self) -> Settings:
        """The same as :attr:`settings`, without blocking an event loop: what triggers use."""
        if "settings" not in self.__dict__:
            from airflow.providers.common.compat.connection import get_async_connection

            self.__dict__["settings"] = self._read(await get_async_connection(self.aio_conn_id, type(self)))
        return self.settings

    def get_conn(self) -> AioClient:
        """A new client; close it, or use it as a context manager.

        :raises ConfigurationError: the connection cannot be used.
        """
        return open_client(self.settings)

    async def get_async_conn(self) -> AsyncAioClient:
        """A new asynchronous client; close it, or use it as an asynchronous context manager."""
        return open_async_client(await self.aget_settings())

    async def submit(
        self, request: GenerationRequest, *, intend: Callable[[], None], release: Callable[[], None]
    ) -> Task:
        """Submit one generation in its turn; see :func:`aio_provider.hooks.sending.send_in_turn`."""
        settings = await self.aget_settings()
        with budget_of(settings) as budget:
            async with open_async_client(settings, retry=None) as client:
                return await send_in_turn(
                    lambda: client.submit(request), budget, intend=intend, release=release, refused=_refused
                )

    async def chat(
        self, request: GenerationRequest, *, intend: Callable[[], None], release: Callable[[], None]
    ) -> ChatCompletion:
        """Ask a chat model in its turn; otherwise as :meth:`submit`."""
        settings = await self.aget_settings()
        with budget_of(settings) as budget:
            async with open_async_client(settings, retry=None) as client:
                return await send_in_turn(
                    lambda: client.chat(request), budget, intend=intend, release=release, refused=_refused
                )

    async def watch(
        self, aio_task_id: str, *, kind: str, model: str | None, submitted_at: float, deadline: float | None
    ) -> Task:
        """Wait until a task has ended. Sends GETs only.

        Everyone in this event loop who watches tasks of the same key shares one poller.

        :param submitted_at: seconds since 1970; with ``kind`` and ``model`` it tells when a poll is worth a
            request.
        :param deadline: seconds since 1970; ``None``: no end.
        :raises TaskTimeoutError: at the deadline.
        :raises NotFoundError: the service does not know the task (any more).
        :raises AuthenticationError: the key is refused.
        """
        if deadline is not None and deadline <= time.time():
            return await self._last_look(aio_task_id)
        async with self.poller() as poller:
            return await poller.watch(
                aio_task_id, kind=kind, model=model, submitted_at=submitted_at, deadline=deadline
            )

    @asynccontextmanager
    async def poller(self) -> AsyncIterator[Poller]:
        """The poller of the connection's key, shared with everyone in this event loop."""
        await asyncio.to_thread(_warm_up)
        from aio_provider.jobs.shared_poller import shared_poller

        settings = await _looked_up_once(self)
        key = (settings.key_id, settings.requests_per_minute, settings.limiter_url)
        async with (
            open_budget_of(settings) as budget,
            shared_poller(key, lambda: poller_of(settings, budget)) as poller,
        ):
            yield poller

    async def _last_look(self, aio_task_id: str) -> Task:
        """At a task whose deadline passed while nobody looked: the triggerer was down, not the service."""
        await asyncio.to_thread(_warm_up)
        settings = await _looked_up_once(self)
        async with (
            open_budget_of(settings) as budget,
            open_async_client(settings) as client,
            budget.request(),
        ):
            task = await client.get_task(aio_task_id)
        if not task.done:
            raise TaskTimeoutError(
                f"Task {aio_task_id} was still running after its deadline. It goes on at the service.",
                task_id=aio_task_id,
            )
        return task

    def ledger(self) -> Ledger:
        """The ledger the connection names in ``ledger_url``, else the ledger file of this machine's user.

        The caller closes it.
        """
        from aio_provider.jobs.ledger import Ledger

        return Ledger.open(self.settings.ledger)

    def estimate(self, requests: Iterable[GenerationRequest]) -> Estimate:
        """What requests are expected to cost, in credits: in total and by model, low, likely and high.

        Sends nothing and spends nothing. The figures rest on published prices, and on what the ledger says
        that this service has charged.

        :param requests: built with :class:`aio_provider.api.requests.GenerationRequest`.
        """
        from aio_provider.jobs.budget import estimate
        from aio_provider.jobs.ledger import LedgerError

        try:
            ledger = self.ledger()
        except LedgerError as error:
            self.log.warning("Estimated from published prices alone: %s", error)
            return estimate(requests)
        with ledger:
            return estimate(requests, ledger=ledger, scope=self.settings.base_url)

    def test_connection(self) -> tuple[bool, str]:
        """Whether tasks could use the connection: its key, ``ledger_url`` and ``limiter_url``.

        Asks the service for a task that cannot exist: the key works when the answer is 404. Costs nothing,
        and makes no table and no file.

        :returns: whether all of it works, and for the user what is wrong, then what was found.
        """
        from aio_provider.hooks.checking import check

        return check(self.get_connection(self.aio_conn_id), _ask_service)

    def _read(self, conn: Any) -> Settings:
        unknown = unknown_extras(conn)
        if unknown:
            self.log.warning("Connection %r: unknown extra fields %s are ignored.", self.aio_conn_id, unknown)
        return read_connection(conn)

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Fields of the connection form in Airflow 2.11 (Airflow 3 reads the provider info)."""
        from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import BooleanField, IntegerField, PasswordField, StringField
        from wtforms.validators import NumberRange, Optional

        from aio_provider.get_provider_info import CONN_FIELDS

        widgets: dict[str, Any] = {}
        for name, field in CONN_FIELDS.items():
            schema = field["schema"]
            label, description = lazy_gettext(field["label"]), field["description"]
            if "boolean" in schema["type"]:
                widgets[name] = BooleanField(label, description=description)
            elif "integer" in schema["type"]:
                widgets[name] = IntegerField(
                    label,
                    widget=BS3TextFieldWidget(),
                    validators=[Optional(), NumberRange(min=schema["minimum"])],
                    description=description,
                )
            elif schema.get("format") == "password":
                widgets[name] = PasswordField(label, widget=BS3PasswordFieldWidget(), description=description)
            else:
                widgets[name] = StringField(label, widget=BS3TextFieldWidget(), description=description)
        return widgets

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Labels of the connection form in Airflow 2.11."""
        from aio_provider.get_provider_info import UI_FIELD_BEHAVIOUR

        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}


_Lookups = dict[str, tuple[float, "asyncio.Task[Settings] | Settings"]]
_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups] = WeakKeyDictionary()


async def _looked_up_once(hook: AioHook) -> Settings:
    """The hook's settings, from one look at the connection for all who ask in this event loop.

    A thousand triggers that start together would else ask a thousand times, one after the other.
    """
    lookups, conn_id = _lookups.setdefault(asyncio.get_running_loop(), {}), hook.aio_conn_id
    until, found = lookups.get(conn_id, (0.0, None))
    if found is None or until < time.monotonic():
        found = asyncio.create_task(hook.aget_settings())
        until = time.monotonic() + _LOOKUP_LASTS

        def keep(done: asyncio.Task[Settings]) -> None:
            if done.cancelled() or done.exception() is not None:
                lookups.pop(conn_id, None)
            else:
                lookups[conn_id] = until, done.result()  # the task itself would keep its loop alive

        found.add_done_callback(keep)
        lookups[conn_id] = until, found
    if isinstance(found, asyncio.Task):
        return await asyncio.shield(found)  # one who is cancelled leaves it to the others
    return found


@cache
def _warm_up() -> None:
    """Load what a poller needs, once a process, outside the event loop: it takes tenths of a second."""
    import aio_provider.jobs.limiter
    import aio_provider.jobs.poller
    import aio_provider.jobs.polling
    import aio_provider.jobs.shared_poller
    import aio_provider.jobs.shared_windows  # noqa: F401
    from aio_provider.api.client import AsyncAioClient

    AsyncAioClient("aio_warm_up", "http://127.0.0.1/api/v1")  # loads its transport; connects to nothing


@contextmanager
def budget_of(settings: Settings, *, spaced: bool = True) -> Iterator[RateBudget]:
    """The rate budget of the key, shared with whoever else uses it as ``limiter_url`` says."""
    from aio_provider.jobs.limiter import rate_budget

    budget = rate_budget(
        settings.requests_per_minute,
        limiter_url=settings.limiter_url,
        key_id=settings.key_id,
        spaced=spaced,
    )
    try:
        yield budget
    finally:
        budget.close()


def open_budget_of(settings: Settings) -> AbstractAsyncContextManager[RateBudget]:
    """The same where others use the event loop too, as in a triggerer."""
    from aio_provider.jobs.limiter import open_rate_budget

    return open_rate_budget(settings.requests_per_minute, settings.limiter_url, settings.key_id)


def poller_of(settings: Settings, budget: RateBudget) -> Poller:
    """A poller with a client and a plan of its own."""
    from aio_provider.jobs.poller import Poller
    from aio_provider.jobs.polling import PollPlan, catalog_prior

    client = open_async_client(settings, retry=None)
    plan = PollPlan(catalog_prior(settings.latency_scale))
    return Poller(client, budget, plan, not_found_grace=NOT_FOUND_GRACE, observer=metrics.of_poller)


def _ask_service(settings: Settings) -> str:
    with open_client(settings) as client:
        client.check()
        return f"The key works at {client.base_url}. Nothing was spent"


def _refused() -> None:
    metrics.refused("submit")


def open_client(settings: Settings, **options: Any) -> AioClient:
    """A client for these settings. Loaded here: whoever only reads a DAG needs none."""
    from aio_provider.api.client import AioClient

    return AioClient(**_client_arguments(settings), **options)


def open_async_client(settings: Settings, **options: Any) -> AsyncAioClient:
    """The same for an event loop."""
    from aio_provider.api.client import AsyncAioClient

    return AsyncAioClient(**_client_arguments(settings), **options)


def _client_arguments(settings: Settings) -> dict[str, Any]:
    return {
        "api_key": settings.api_key,
        "base_url": settings.base_url,
        "timeout": settings.timeout,
        "allow_insecure": settings.allow_insecure,
        "on_server_error": settings.on_server_error,
    }
