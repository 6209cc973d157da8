"""The simulated standard DAQ as a server: REST on loopback, Redis, everything behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping

import redis
import uvicorn
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ...errors import ServiceUnreachable
from ...limits import Limit
from ..clock import PulseClock
from ..faults import Faults, check
from ..http import STATUS, refusal
from . import rest_fastapi, rest_flask
from .embedded_redis import EmbeddedRedis
from .faults import AT_ONCE, FAULTS
from .service import Service
from .settings import StdDaqSettings

MAX_BODY = 2**16
"""Longest body of a request, bytes: a configuration of all modules is a tenth of it."""

TOO_LONG = 413


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


class _AroundFlask:
    """Around a Flask application: refuses what is not local, hangs, loses replies."""

    def __init__(self, app, faults: Faults, closing: threading.Event):
        self._app, self._faults, self._closing = app, faults, closing

    def __call__(self, environ, start_response):
        names = ("Host", "Origin", "Access-Control-Request-Method", "Transfer-Encoding")
        headers = {name: environ.get("HTTP_" + name.upper().replace("-", "_")) for name in names}
        headers["Content-Length"] = environ.get("CONTENT_LENGTH") or None
        headers = {name: value for name, value in headers.items() if value is not None}
        if (refusal_of_it := refused(environ["REQUEST_METHOD"], headers)) is not None:
            code, text = refusal_of_it
            start_response(f"{code} Refused", [("Content-Type", "text/plain"), ("Connection", "close")])
            return [text.encode()]
        path = environ["PATH_INFO"]
        if fault := self._faults.take("hang", path=path):
            self._closing.wait(fault.get("seconds", 30.0))
        lost = self._faults.take("lost_reply", path=path)
        reply = self._app(environ, start_response)
        if lost:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return reply


class _AroundFastApi:
    """Around a FastAPI application, the same."""

    def __init__(self, app, faults: Faults, closing: threading.Event):
        self._app, self._faults, self._closing = app, faults, closing

    async def __call__(self, scope, receive, send):
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = {name.title(): value for name, value in pairs}
        if (refusal_of_it := refused(scope["method"], headers)) is not None:
            code, text = refusal_of_it
            await self._reply(send, code, {b"content-type": b"text/plain"}, text.encode())
            return
        path = scope["path"]
        if fault := self._faults.take("hang", path=path):
            await asyncio.to_thread(self._closing.wait, fault.get("seconds", 30.0))
        if not self._faults.take("lost_reply", path=path):
            await self._app(scope, receive, send)
            return
        with contextlib.suppress(Exception):  # raised again once its reply is sent
            await self._app(scope, receive, self._swallow)
        await self._reply(send, 200, {b"content-length": b"1000"}, None)

    @staticmethod
    async def _reply(send, code: int, headers: dict[bytes, bytes], body: bytes | None) -> None:
        header = [*headers.items(), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": code, "headers": header})
        if body is not None:
            await send({"type": "http.response.body", "body": body})

    @staticmethod
    async def _swallow(message) -> None:
        pass


HOST = "127.0.0.1"


class _QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type, message, *args):
        logging.getLogger(__name__).debug(message.rstrip(), *args)


class _FlaskServer(ThreadedWSGIServer):
    block_on_close = False


class StdDaqServer:
    """One simulated DAQ in this process.

    Parameters
    ----------
    settings : StdDaqSettings
    clock : PulseClock
        The machine's pulses.
    start_pulse_id : int
        Pulse id of frame 1.
    port, redis_port : int
        0 takes a free one.
    on_step : callable
        Called with every step of the start.

    Attributes
    ----------
    url, redis_url : str
        Addresses, once started.
    """

    def __init__(
        self,
        settings: StdDaqSettings,
        clock: PulseClock,
        *,
        start_pulse_id: int | None = None,
        port: int = 0,
        redis_port: int = 0,
        on_step: Callable[[str], object] = lambda step: None,
    ):
        self.settings, self._clock = settings, clock
        self._start_pulse_id = clock.start_pulse_id if start_pulse_id is None else start_pulse_id
        self._port, self._on_step = port, on_step
        self._embedded = None if settings.redis_url else EmbeddedRedis(redis_port)
        self.redis_url = settings.redis_url
        self.url = ""
        self._service: Service | None = None
        self._faults = Faults(FAULTS)
        self._closing = threading.Event()
        self._stop_rest = lambda: None
        self._others: list[threading.Thread] = []

    def start(self) -> StdDaqServer:
        """Return once it serves."""
        if self._embedded is not None:
            self._on_step("starting Redis")
            self._embedded.start()
            self.redis_url = self._embedded.url
        try:
            self._on_step("starting the writer")
            self._service = Service(
                *(self.settings, self._clock, self.redis_url, self._start_pulse_id, self._faults),
                self._on_step,
            )
            self._on_step("starting the REST service")
            start_rest = self._start_flask if self.settings.dialect == "flask" else self._start_fastapi
            start_rest()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Leave nothing behind. Safe twice."""
        self._closing.set()
        self._stop_rest()
        for thread in self._others:
            thread.join(10)
        if self._service is not None:
            self._service.close()
        if self._embedded is not None:
            self._embedded.stop()

    __enter__ = start

    def __exit__(self, *exc_info):
        self.stop()

    @property
    def service(self) -> Service:
        """What stands behind the REST interface; ServiceUnreachable before the start."""
        if self._service is None:
            raise ServiceUnreachable("simulated standard DAQ", url=self.url, reason="it was not started")
        return self._service

    def fail_next(self, what: str, **details) -> None:
        """Misbehave, by the names in `faults`."""
        if what not in AT_ONCE:
            self._faults.add(what, details)
            return
        check(FAULTS, what, details)
        at_once: dict[str, Callable[..., object]] = {
            "writer_dies": self._writer_dies,
            "redis_away": self._redis_away,
            "redis_empty": lambda: redis.Redis.from_url(self.redis_url).flushall(),
            "rest_restarts": self.service.restart,
            "ghost_start": self._ghost_start,
        }
        at_once[what](**details)

    def _writer_dies(self, seconds: float | None = None) -> None:
        self.service.writer.kill()
        if seconds is not None:
            self._later(seconds, self.service.restart_writer)

    def _ghost_start(self, seconds: float = 0.3) -> None:
        """Let the next start fail, and the one after it take longer than a poll to create its file."""
        self._faults.add("creation_error", {})
        self._faults.add("slow_creation", {"seconds": 0.0})
        self._faults.add("slow_creation", {"seconds": seconds})

    def _redis_away(self, seconds: float = 1.0, empty: bool = False) -> None:
        if self._embedded is None:
            raise ValueError("redis_away: only our own Redis can be stopped; stop the outside one yourself")
        self._embedded.stop(empty=empty)
        self._later(seconds, self._embedded.start)

    def _later(self, seconds: float, act) -> None:
        def wait():
            if not self._closing.wait(seconds):
                act()

        thread = threading.Thread(target=wait, name="std-daq later", daemon=True)
        self._others.append(thread)
        thread.start()

    # ---- REST ---------------------------------------------------------------------------------------

    def _start_flask(self) -> None:
        app = _AroundFlask(rest_flask.make_app(self.service, self._closing), self._faults, self._closing)
        server = _FlaskServer(HOST, self._port, app, _QuietHandler)
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="std-daq REST", daemon=True
        )
        thread.start()
        self.url = f"http://{HOST}:{server.server_port}"

        def stop():
            server.shutdown()
            thread.join(10)
            server.server_close()
            self._stop_rest = lambda: None

        self._stop_rest = stop

    def _start_fastapi(self) -> None:
        app = _AroundFastApi(rest_fastapi.make_app(self.service, self._closing), self._faults, self._closing)
        config = uvicorn.Config(
            app, host=HOST, port=self._port, log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it logs each error reply at length
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        self.url = f"http://{HOST}:{socket.getsockname()[1]}"
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [socket]}, name="std-daq REST", daemon=True
        )
        thread.start()
        limit = Limit(self.settings.start_timeout)
        while not server.started and thread.is_alive() and not limit.reached():
            self._closing.wait(0.005)

        def stop():
            server.should_exit = True
            thread.join(10)
            socket.close()
            self._stop_rest = lambda: None

        self._stop_rest = stop
