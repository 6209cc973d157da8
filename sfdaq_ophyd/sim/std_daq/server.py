"""What all generations share as servers: start and stop, who is refused, how replies get lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import uvicorn

from ...errors import ServiceTimeout, ServiceUnreachable
from ...limits import Limit
from ..child import HINT
from ..clock import PulseClock
from ..faults import Faults, check
from ..http import STATUS, not_opened, refusal
from .image_source import ImageSource
from .settings import StdDaqSettings, faults_of

HOST = "127.0.0.1"

MAX_BODY = 2**16
"""Longest body of a request, bytes: a configuration of all modules is a tenth of it."""

TOO_LONG = 413

logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it logs each error reply at length


def refused(method: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return code and text of a refusal; None if the service may look at the request.

    A plain OPTIONS is answered as the real service does, a browser's question before a request is not.
    """
    asks_before = method == "OPTIONS" and "Access-Control-Request-Method" in headers
    why = refusal("OPTIONS" if asks_before else "GET", headers)
    if why is not None:
        return STATUS, why
    length = headers.get("Content-Length", "0")
    if "chunked" in headers.get("Transfer-Encoding", "") or not length.isdecimal() or int(length) > MAX_BODY:
        return TOO_LONG, f"a body of at most {MAX_BODY} bytes, of a length given before, is served here"
    return None


class Gate:
    """In front of the application of any generation: refuses what is not local, hangs, loses replies."""

    def __init__(self, app: Any, faults: Faults, closing: threading.Event):
        self._app, self._faults, self._closing = app, faults, closing

    async def __call__(self, scope, receive, send) -> None:
        """Serve a request, by the rules of ASGI."""
        headers = {
            name.decode("latin-1").title(): value.decode("latin-1") for name, value in scope["headers"]
        }
        if (why := refused(scope["method"], headers)) is not None:
            await self._begin_reply(send, why[0], (b"content-type", b"text/plain"))
            await send({"type": "http.response.body", "body": why[1].encode()})
            return
        path = scope["path"]
        if fault := self._faults.take("hang", path=path):
            await asyncio.to_thread(self._closing.wait, fault.get("seconds", 30.0))
        if not self._faults.take("lost_reply", path=path):
            await self._app(scope, receive, send)
            return
        with contextlib.suppress(Exception):  # raised again once its reply is sent
            await self._app(scope, receive, self._swallow)
        await self._begin_reply(send, 200, (b"content-length", b"1000"))  # of which nothing comes

    @staticmethod
    async def _begin_reply(send, code: int, header: tuple[bytes, bytes]) -> None:
        headers = [header, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": code, "headers": headers})

    @staticmethod
    async def _swallow(message) -> None:
        pass


class DaqServer(ABC):
    """One simulated DAQ in this process.

    Parameters
    ----------
    settings : StdDaqSettings
    clock : PulseClock
        The machine's pulses.
    start_pulse_id : int
        Pulse id of frame 1.
    port : int
        Of the REST service; 0 takes a free one.
    on_step : callable
        Called with every step of the start.

    Attributes
    ----------
    url : str
        Address of the REST service, once started.
    source : ImageSource
        The detector, once started.
    """

    source: ImageSource

    def __init__(
        self,
        settings: StdDaqSettings,
        clock: PulseClock,
        *,
        start_pulse_id: int | None = None,
        port: int = 0,
        on_step: Callable[[str], object] = lambda step: None,
    ):
        self.settings, self._clock = settings, clock
        self._start_pulse_id = clock.start_pulse_id if start_pulse_id is None else start_pulse_id
        self._port, self._on_step = port, on_step
        self._faults = Faults(faults_of(settings.dialect))
        self._closing = threading.Event()
        self._others: list[threading.Thread] = []
        self._running = contextlib.ExitStack()
        self.url = ""

    def start(self) -> Self:
        """Return once it serves."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Leave nothing behind. Safe twice."""
        self._closing.set()
        self._running.close()

    __enter__ = start

    def __exit__(self, *exc_info) -> None:
        self.stop()

    @abstractmethod
    def _start(self) -> None:
        """Start all parties, and note in `_running` how each ends."""

    @abstractmethod
    def addresses(self) -> dict[str, str]:
        """Return the addresses by role: ``url`` is REST."""

    @property
    @abstractmethod
    def _at_once(self) -> Mapping[str, Callable[..., object]]:
        """Faults that happen when they are asked for, and what makes them happen."""

    def fail_next(self, what: str, **details) -> None:
        """Misbehave, by the names in `settings.FAULTS`."""
        check(faults_of(self.settings.dialect), what, details)
        if what in self._at_once:
            self._at_once[what](**details)
        else:
            self._faults.add(what, details)

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        def wait() -> None:
            if not self._closing.wait(seconds):
                with contextlib.suppress(RuntimeError):  # it stops meanwhile
                    act()

        thread = threading.Thread(target=wait, name="std-daq later", daemon=True)
        self._others.append(thread)
        thread.start()

    def _serve(self, app: Any, **options: Any) -> None:
        """Serve an ASGI application in a thread, and return once it does; `options` are uvicorn's.

        Raises
        ------
        ServiceUnreachable
            Its port is taken, or it ended by itself.
        ServiceTimeout
            It did not begin to serve.
        """
        step, what = "starting the REST service", "start of the simulated standard DAQ"
        self._on_step(step)
        config = uvicorn.Config(
            Gate(app, self._faults, self._closing),
            host=HOST,
            port=self._port,
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=1,
            **options,
        )
        server, listening = uvicorn.Server(config), socket.socket()
        self._running.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, self._port))
        except OSError as exc:
            raise not_opened("standard DAQ", f"http://{HOST}:{self._port}", exc) from exc
        self.url = f"http://{HOST}:{listening.getsockname()[1]}"
        reason: BaseException | str = "it ended by itself"

        def run() -> None:
            nonlocal reason
            try:
                server.run(sockets=[listening])
            except (Exception, SystemExit) as exc:
                if server.started:
                    raise
                reason = exc

        thread = threading.Thread(target=run, name="std-daq REST", daemon=True)

        def end() -> None:
            server.should_exit = True
            thread.join(10)
            for other in self._others:
                other.join(10)

        self._running.callback(end)
        thread.start()
        limit = Limit(self.settings.start_timeout)
        while not server.started:
            if not thread.is_alive():
                raise ServiceUnreachable(what, url=self.url, reason=reason)
            if limit.reached():
                took = f"step {step!r}, {limit.elapsed:.0f} s after its beginning"
                raise ServiceTimeout(what, limit.seconds, took, HINT)
            self._closing.wait(0.005)
