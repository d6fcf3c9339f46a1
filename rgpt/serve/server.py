"""Running the application: a socket, signals, an end in order."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from rgpt.errors import InputError

if TYPE_CHECKING:  # the app listens, too, and has no service
    from rgpt.serve.service import Service


class Server(uvicorn.Server):
    """uvicorn, which on SIGTERM or Ctrl-C lets the answers under way come to their end.

    No connection is accepted any more; what is not done after `grace` seconds ends with an error that says
    so. A second signal ends at once.
    """

    def __init__(self, app: Any, service: Service, **options: Any) -> None:
        grace = service.settings.grace
        options.setdefault("log_level", "warning")
        # Ours ends the answers in order; uvicorn's, a little later, is for connections that hang.
        super().__init__(
            uvicorn.Config(
                app,
                timeout_graceful_shutdown=int(grace) + 5,
                timeout_keep_alive=15,
                proxy_headers=False,  # `rgpt.serve.guard` reads them, of proxies that were named
                **options,
            )
        )
        self.service = service
        self._loop: Any = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.stop()

    def stop(self) -> None:
        """Begin the end; may be called from any thread."""
        self.should_exit = True
        self.service.drain()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(
                self._loop.call_later, self.service.settings.grace, self.service.end
            )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 lets the system choose.

    Raises:
        InputError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP by name: asyncio switches Nagle's algorithm off only for sockets that say so, and an
    # accepted socket says what its listener said. With it on, each small piece of a stream waits for the
    # client's acknowledgement of the one before, up to 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(
            f"The server cannot listen on {host}:{port} ({error}): choose another --port or --host."
        ) from error
    return listener


def run(
    app: Any, service: Service, listener: socket.socket, greeting: Callable[[str], str], **options: Any
) -> int:
    """Serve on a listening socket until a signal; prints `greeting(address)`. Returns the exit code.

    Requests that come before the server is ready wait in the socket's backlog.
    """
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    server = Server(app, service, **options)
    print(greeting(address), flush=True)
    server.run(sockets=[listener])
    return 0


class BackgroundServer:
    """A server on 127.0.0.1 in a thread, for tests: `with BackgroundServer(app, service) as url`."""

    def __init__(self, app: Any, service: Service) -> None:
        self.server = Server(app, service)
        self.listener = listen("127.0.0.1", 0)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, name="rgpt-server", daemon=True
        )

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.thread.join(timeout=20)
