"""The websocket that controls the driver: every session is told the state, each at its own time.

As in wire reference std-daq, section 12. A session looks when the state changes, and after every poll; what
was over by then it never sees. When the driver dies its sessions end without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Coroutine
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..http import STATUS, refusal
from .settings import Timing
from .websocket_driver import DriverDied, WebsocketDriver

HOST = "127.0.0.1"

MAX_COMMAND = 2**16
"""Longest command, bytes."""

LOOK = 1.0
"""s for which a session that tells nothing is waited for."""

PATIENCE = 30.0
"""s for which the loop may take what it is given to do."""

logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # it logs each connection that ends early


class Control:
    """The websocket's server at `url`; port 0 takes a free one, and nothing is served before `serve`."""

    def __init__(self, timing: Timing, port: int):
        self._timing = timing
        self._place = _reserve(port)
        self.url = f"ws://{HOST}:{self._place.getsockname()[1]}"
        self._driver: WebsocketDriver | None = None
        self._server: Server | None = None
        self._sessions: dict[ServerConnection, str] = {}
        self._told = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="std-daq websocket", daemon=True)
        self._thread.start()

    def serve(self, driver: WebsocketDriver) -> None:
        """Serve a driver that has just begun."""
        self._driver = driver
        self._do(self._open())

    def cut(self, driver: WebsocketDriver | None = None) -> None:
        """End all sessions without a word, and refuse new ones; only those of `driver`. Safe twice."""
        self._do(self._cut(driver))

    def close(self) -> None:
        """Cut, and end the thread. Safe twice."""
        if self._loop.is_closed():
            return
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._place.close()

    def changed(self) -> None:
        """Wake the sessions: the state has changed. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake)

    def let_look(self, state: str) -> None:
        """Wait until every session has told a state, or hangs. From any thread but the loop's."""
        with self._told:
            self._told.wait_for(lambda: all(told == state for told in self._sessions.values()), LOOK)

    # ---- in the loop --------------------------------------------------------------------------------

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("not from the loop itself")
        asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _open(self) -> None:
        place = _bound(self._place.getsockname()[1])
        self._server = await serve(
            self._session,
            sock=place,
            process_request=_refuse,
            compression=None,
            ping_interval=None,
            max_size=MAX_COMMAND,
            close_timeout=1,
        )

    async def _cut(self, driver: WebsocketDriver | None) -> None:
        if driver not in (None, self._driver):
            return
        server, self._server = self._server, None
        if server is None:
            return
        server.close(close_connections=False)
        for connection in self._sessions:
            connection.transport.abort()
        self._note(None)

    async def _session(self, connection: ServerConnection) -> None:
        driver = self._driver
        if driver is None or self._server is None:  # it died during the handshake
            connection.transport.abort()
            return
        self._note(connection, "")
        teller = asyncio.create_task(self._tell(connection, driver))
        try:
            async for message in connection:
                text = message if isinstance(message, str) else message.decode(errors="replace")
                reply, leave = driver.obey(text)
                if reply is not None:
                    await connection.send(reply)
                if leave:
                    await connection.close()
                    raise DriverDied("it closed a connection")
        except ConnectionClosed:
            pass
        except DriverDied:
            driver.end()
            await self._cut(driver)
        finally:
            teller.cancel()
            self._note(connection)

    async def _tell(self, connection: ServerConnection, driver: WebsocketDriver) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                before, news = driver.shown, self._news
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._timing.poll):
                        while driver.shown == before:
                            await news.wait()
                            news = self._news
                state, status = driver.tell()
                self._note(connection, state)
                await connection.send(status)

    def _note(self, connection: ServerConnection | None, state: str | None = None) -> None:
        """Note the state that a session tells; None if it is over, of all where none is named."""
        with self._told:
            if connection is None:
                self._sessions.clear()
            elif state is None:
                self._sessions.pop(connection, None)
            else:
                self._sessions[connection] = state
            self._told.notify_all()


def _refuse(connection: ServerConnection, request: Request) -> Response | None:
    """Refuse what does not come from this machine."""
    headers = {name.title(): ", ".join(request.headers.get_all(name)) for name in request.headers}
    why = refusal("GET", headers)
    return None if why is None else connection.respond(STATUS, f"{why}\n")


def _reserve(port: int) -> socket.socket:
    """Return a socket that keeps a port ours while nobody serves there, so that connections are refused."""
    with socket.socket() as probe:  # in use by somebody else?
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
    return _bound(port)


def _bound(port: int) -> socket.socket:
    place = socket.socket()
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind((HOST, port))
    except OSError:
        place.close()
        raise
    return place
