"""The simulated standard DAQ as a server: REST on loopback, Redis, everything behind them."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

import redis
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ...errors import ServiceUnreachable
from ..clock import PulseClock
from ..faults import Faults, check
from . import rest_fastapi, rest_flask
from .embedded_redis import EmbeddedRedis
from .faults import AT_ONCE, faults_of
from .image_source import ImageSource
from .service import Service
from .serving import HOST, AroundFastApi, refused, serve_fastapi
from .settings import StdDaqSettings


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
        self._faults = Faults(faults_of(settings.dialect))
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

    @property
    def source(self) -> ImageSource:
        """The detector."""
        return self.service.source

    def addresses(self) -> dict[str, str]:
        """Return REST and Redis by role."""
        return {"url": self.url, "redis_url": self.redis_url}

    def restart_writer(self) -> None:
        """Start the writer process anew."""
        self.service.restart_writer()

    def restart_driver(self) -> None:
        """Start the service anew; its writer goes on."""
        self.service.restart()

    def fail_next(self, what: str, **details) -> None:
        """Misbehave, by the names in `faults`."""
        if what not in AT_ONCE:
            self._faults.add(what, details)
            return
        check(faults_of(self.settings.dialect), what, details)
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
        app = AroundFastApi(rest_fastapi.make_app(self.service, self._closing), self._faults, self._closing)
        timeout = self.settings.start_timeout
        self.url, self._stop_rest = serve_fastapi(app, self._port, timeout, self._closing)
