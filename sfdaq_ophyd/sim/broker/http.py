"""Both services: bottle on wsgiref, one request at a time (wire reference sf-daq-broker, section 2)."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bottle

from ...errors import ServiceUnreachable
from ...wire.broker import Service, raw_directory
from ...wire.broker_operations import OPERATIONS
from ..http import STATUS, BoundedLog, refusal
from . import detector_calls, file_calls, runs
from .beamline import Stopped, ValidationError, envelope
from .runs import PGroup
from .site import Caller, Handler, Site

logger = logging.getLogger(__name__)


def before(site: Site, endpoint: str) -> None:
    """Misbehave before the request is carried out; what is raised ends it."""
    faults = site.faults
    if fault := faults.take("latency", endpoint=endpoint):
        site.delays.stopped.wait(fault.get("seconds", 0.5))
    if faults.take("hang", endpoint=endpoint):
        site.delays.stopped.wait()
        raise Stopped
    if faults.take("drop_before", endpoint=endpoint):
        _drop()
        raise bottle.HTTPResponse("", 500)
    if faults.take("server_error", endpoint=endpoint):
        raise bottle.HTTPError(500, "Unhandled exception")
    if fault := faults.take("refuse", endpoint=endpoint):
        refusal = type(fault.get("exception", "RuntimeError"), (Exception,), {})
        raise bottle.HTTPResponse(envelope(refusal(fault.get("message", "refused")), site.dialect))
    if fault := faults.take("close_pgroup", endpoint=endpoint):
        PGroup(site.tree, site.home, fault.get("pgroup", "p12345")).close()
    if faults.take("run_info_unwritable", endpoint=endpoint):
        _block_run_info(site)


def after(site: Site, endpoint: str, reply: dict[str, Any]) -> Any:
    """Misbehave after the request was carried out; return what is sent."""
    faults = site.faults
    if faults.take("drop_after", endpoint=endpoint):
        _drop()
    if fault := faults.take("garbage", endpoint=endpoint):
        bottle.response.content_type = "text/html; charset=UTF-8"
        return fault.get("body", "<html><title>Proxy</title><pre>try later</pre></html>")
    if "run_number" in reply and faults.take("wrong_run_number", endpoint=endpoint):
        number = reply["run_number"]
        reply = {**reply, "run_number": type(number)(int(number) + 1)}
    return reply


def _drop() -> None:
    connection = bottle.request.environ["sfdaq.connection"]
    connection.shutdown(socket.SHUT_RDWR)


def _block_run_info(site: Site) -> None:
    for raw in site.tree.local(raw_directory(site.home, "*").removesuffix("*/raw/")).glob("*/raw"):
        if not (raw / "run_info").exists():
            (raw / "run_info").symlink_to("nowhere")  # is not there, and cannot be made


_ALL = vars(runs) | vars(detector_calls) | vars(file_calls)
HANDLERS: dict[str, Handler] = {name: _ALL[name] for name in OPERATIONS}
"""What answers each call."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request, for tests."""

    service: str
    method: str
    endpoint: str
    request: Any
    client: str
    reply: Any
    started: float
    elapsed: float


class _RequestHandler(WSGIRequestHandler):
    """Log to our logger, and let the application reach the connection."""

    def log_message(self, format, *args):
        logger.debug(format, *args)

    def get_environ(self):
        environ = super().get_environ()
        environ["sfdaq.connection"] = self.connection
        return environ

    def address_string(self):
        return self.client_address[0]


class _Server(WSGIServer):
    request_queue_size = 128  # callers of all beamlines wait here

    def handle_error(self, request, client_address):
        logger.debug("a client went away: %s", client_address, exc_info=True)

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().server_bind()


class HttpService:
    """Serve one of the two services on loopback.

    Parameters
    ----------
    site : Site
    service : {"broker", "slow"}
    """

    def __init__(self, site: Site, service: Service):
        self._site, self.service = site, service
        self.log: BoundedLog[LoggedRequest] = BoundedLog()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._bound.server_port

    @property
    def _bound(self) -> _Server:
        if self._server is None:
            raise ServiceUnreachable(f"simulated {self.service}", url="no port", reason="it does not listen")
        return self._server

    def bind(self, port: int = 0) -> None:
        """Listen at a port, 0 for a free one; OSError if it is taken."""
        app = bottle.Bottle()
        app.add_hook("before_request", _refuse_foreign_pages)
        for operation in OPERATIONS.values():
            method = operation.current if self._site.dialect == "current" else operation.documented
            if operation.service == self.service and method is not None:
                app.route(f"/{operation.name}", method, self._callback(operation.name))
        self._server = _Server(("127.0.0.1", port), _RequestHandler)
        self._server.set_app(app)

    def start(self) -> None:
        """Serve from now on."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, name=f"sf-daq {self.service}", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._bound.handle_request()  # sleeps until there is one

    def stop(self) -> None:
        """End after the present request. Safe twice."""
        if self._thread is not None:
            self._stopping.set()
            with contextlib.suppress(OSError):  # a caller without a request, to wake it
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            self._thread.join(10)
            self._thread = None
        if self._server is not None:
            self._server.server_close()

    def _callback(self, name: str):
        def answer():
            started = time.time()
            forwarded = bottle.request.environ.get("HTTP_X_FORWARDED_FOR")
            caller = Caller(self._site, bottle.request.remote_addr if forwarded else None)
            request, reply = None, None
            try:
                before(self._site, name)
                try:
                    request = bottle.request.json
                    reply = self._handle(name, request, caller)
                except bottle.HTTPError as exc:
                    if self._site.dialect == "documented":
                        raise
                    reply = envelope(exc, "current")
                except Exception as exc:
                    logger.debug("%s refused: %r", name, exc)
                    reply = envelope(exc, self._site.dialect)
                return after(self._site, name, reply)
            finally:
                self.log.append(
                    LoggedRequest(
                        self.service,
                        bottle.request.method,
                        name,
                        request,
                        bottle.request.remote_addr or "",
                        reply,
                        started,
                        time.time() - started,
                    ),
                    2 * max(0, bottle.request.content_length),  # replies repeat what was asked
                )

        return answer

    def _handle(self, name: str, request: Any, caller: Caller) -> dict[str, Any]:
        if not OPERATIONS[name].has_body:
            if request and self._site.dialect == "current":
                raise ValidationError(
                    f"this endpoint does not accept request parameters but received {request}"
                )
        elif not request:
            raise ValidationError("no request parameters provided", "request parameters are empty")
        elif self._site.dialect == "documented":
            _ = caller.beamline  # a stranger is refused before the request is looked at
        reply = {"status": "ok", **HANDLERS[name](self._site, request, caller)}
        return {key: value for key, value in reply.items() if not (key == "status" and value is None)}


def _refuse_foreign_pages() -> None:
    """End a request that a web page elsewhere made a browser send."""
    why = refusal(bottle.request.method, bottle.request.headers)
    if why is not None:
        raise bottle.HTTPError(STATUS, why)


def bind_pair(first: HttpService, second: HttpService, port: int = 0) -> None:
    """Bind two services to neighbouring ports: the slow broker is one above the broker.

    Parameters
    ----------
    port : int
        Of the first; 0 takes any free pair.
    """
    for attempt in range(100):
        first.bind(port)
        try:
            second.bind(first.port + 1)
            return
        except OSError:
            first.stop()
            if port or attempt == 99:
                raise
