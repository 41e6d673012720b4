"""``Sandbox``: the server on a loopback port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aio_provider.sandbox.environment import environment
from aio_provider.sandbox.faults import Fault, FaultBoard
from aio_provider.sandbox.settings import SandboxSettings
from aio_provider.sandbox.tasks import Account, Submission

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import Scope

    from aio_provider.sandbox.process import SandboxProcess

INSTALL_HINT = "The sandbox needs its extra: pip install 'aio-provider[sandbox]'"

#: Seconds the server may take to start or to stop.
_PATIENCE = 15.0


class Sandbox:
    """A server that speaks the API in One HTTP API on loopback.

    A context manager; takes the fields of :class:`aio_provider.sandbox.SandboxSettings` by name. ``with
    Sandbox(time_scale=0.01) as sb:`` serves until the block ends; point a client at ``sb.base_url`` with
    ``sb.api_key``.

    :raises ValueError: for a setting that cannot be used.
    :raises ModuleNotFoundError: when the ``sandbox`` extra is not installed.
    :raises OSError: when the port is taken.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = SandboxSettings(**settings)
        self.account = Account(self.settings)
        self.fault_board = FaultBoard(self.settings.seed)
        self.fault_board.add(self.settings.faults)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._failure: BaseException | None = None
        self._port = self.settings.port

    # Running.

    def start(self) -> Self:
        """Listen, and return once requests are answered."""
        if self._thread is not None:
            raise RuntimeError("this sandbox is running already")
        try:
            import uvicorn

            from aio_provider.sandbox.app import Service
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{INSTALL_HINT} ({error.name} is missing)", name=error.name) from error
        self._socket = _listen(self.settings.host, self.settings.port)
        self._port = int(self._socket.getsockname()[1])
        service = Service(self.settings, self.account, self.fault_board, self._drop, self.origin)
        config = uvicorn.Config(
            service.application(),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._serve, args=(server, self._socket), name="aio-sandbox", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _PATIENCE
        while not server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        if not server.started:
            self.stop()
            raise RuntimeError("the sandbox did not start") from self._failure
        return self

    def stop(self) -> None:
        """Stop listening; open connections are closed. Tasks and submissions stay readable."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_PATIENCE)
        if self._socket is not None:
            self._socket.close()
        self._thread = None

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @staticmethod
    def spawn(**settings: Any) -> SandboxProcess:
        """The same server in a process of its own, which can be killed.

        :param settings: as for the class, except ``clock``.
        :return: a running process with the same attributes; a context manager as well.
        """
        from aio_provider.sandbox.process import SandboxProcess

        return SandboxProcess(**settings).start()

    # Where it is.

    @property
    def port(self) -> int:
        """The port it listens on."""
        if not self._port:
            raise RuntimeError("this sandbox has not been started: use it in a with block")
        return self._port

    @property
    def origin(self) -> str:
        """``http://host:port``."""
        host = self.settings.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What ``AIO_BASE_URL`` should be."""
        return f"{self.origin}/api/v1"

    @property
    def api_key(self) -> str:
        """What ``AIO_API_KEY`` should be."""
        return self.settings.api_key

    def environment(self, *, ledger: str | None = None) -> dict[str, str]:
        """Environment variables for clients of this sandbox, the Airflow connection included.

        :param ledger: path or SQLAlchemy URL of the ledger that notebooks and the connection use; by default
            none is named.
        """
        limit = self.settings.requests_per_minute
        return environment(
            self.base_url,
            self.api_key,
            requests_per_minute=limit,
            latency_scale=self.settings.time_scale,
            ledger=ledger,
        )

    # What was asked of it, and what comes next.

    @property
    def submissions(self) -> list[Submission]:
        """Everything that was accepted, in order."""
        return self.account.submissions()

    @property
    def charged(self) -> float:
        """Credits that the submissions cost by now; a failed task costs 0."""
        return self.account.charged

    @property
    def credits(self) -> float:
        """The balance; settable."""
        return self.account.balance

    @credits.setter
    def credits(self, credits: float) -> None:
        self.account.balance = credits

    @property
    def requests(self) -> dict[str, int]:
        """Counts of API requests: ``requests`` in all, ``submit``, ``poll``, ``chat``, ``accepted``, and each
        error status answered, such as ``429``.
        """
        return dict(self.account.counts)

    @property
    def faults(self) -> list[dict[str, object]]:
        """The faults that are set, with how many requests each matched and hit."""
        return self.fault_board.describe()

    def add_fault(self, *faults: str | Fault) -> None:
        """Set more faults from now on.

        :param faults: in the notation of :class:`aio_provider.sandbox.Fault`.
        :raises ValueError: for one that cannot be read; then none is set.
        """
        self.fault_board.add(faults)

    def clear_faults(self) -> None:
        """Take all faults away, those of the settings too."""
        self.fault_board.clear()

    def reset(self) -> None:
        """Forget tasks, charges and requests; restore the balance and the settings' faults."""
        self.account.reset()
        self.fault_board.clear()
        self.fault_board.add(self.settings.faults)

    # Inside.

    def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            server.run(sockets=[listener])
        except BaseException as error:  # noqa: BLE001 - raised again by start(), in the caller's thread
            self._failure = error

    def _drop(self, scope: Scope) -> None:
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            if getattr(connection, "client", None) == scope["client"]:
                connection.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is known, and taken, before the server's thread starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener
