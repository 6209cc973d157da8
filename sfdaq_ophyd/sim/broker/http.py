"""Both services: bottle on wsgiref, one request at a time (wire reference sf-daq-broker, section 2)."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from functools import partial
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bottle

from ...errors import ServiceUnreachable
from ...wire.broker import Dialect, Service, raw_directory
from ...wire.broker_operations import OPERATIONS
from ..http import STATUS, not_opened, refusal
from . import detector_calls, run_calls
from .run_calls import PGroup
from .site import Caller, Handler, NothingToDo, ServiceCall, Site, Stopped, ValidationError, required

logger = logging.getLogger(__name__)


def envelope(exc: Exception, dialect: Dialect) -> dict[str, Any]:
    """Return the reply that reports `exc`."""
    if dialect == "current":
        name = "RuntimeError" if isinstance(exc, NothingToDo) else type(exc).__name__
        return {"status": "error", "message": str(exc), "exception": name}
    if isinstance(exc, NothingToDo):
        return {"status": "pass", "message": "everything fine but no request to write any data"}
    if isinstance(exc, ValidationError):
        return {"status": "failed", "message": exc.documented}
    return {"state": "error", "status": str(exc)}


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
        for raw in site.tree.local(raw_directory(site.home, "*").removesuffix("*/raw/")).glob("*/raw"):
            if not (raw / "run_info").exists():
                (raw / "run_info").symlink_to("nowhere")  # is not there, and cannot be made


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
    bottle.request.environ["sfdaq.connection"].shutdown(socket.SHUT_RDWR)


HANDLERS: dict[str, Handler] = {
    "get_allowed_detectors": detector_calls.get_allowed_detectors,
    "get_running_detectors": detector_calls.get_running_detectors,
    "power_on_detector": detector_calls.power_on_detector,
    "advance_run_number": run_calls.advance_run_number,
    "get_current_run_number": run_calls.get_current_run_number,
    "retrieve_from_buffers": run_calls.retrieve_from_buffers,
    "take_pedestal": detector_calls.take_pedestal,
    "get_pvlist": run_calls.get_pvlist,
    "set_pvlist": run_calls.set_pvlist,
    "close_pgroup_writing": run_calls.close_pgroup_writing,
    "get_detector_settings": detector_calls.get_detector_settings,
    "set_detector_settings": detector_calls.set_detector_settings,
    "get_detector_status": detector_calls.get_detector_status,
    "get_detector_temperatures": detector_calls.get_detector_temperatures,
    "get_detector_pings": detector_calls.get_detector_pings,
    "get_jfctrl_monitor": detector_calls.get_jfctrl_monitor,
    "get_jfstats": detector_calls.get_jfstats,
    "power_on_modules": detector_calls.power_on_modules,
    "power_off_modules": detector_calls.power_off_modules,
    "copy_user_files": run_calls.copy_user_files,
    "get_dap_settings": detector_calls.get_dap_settings,
    "set_dap_settings": detector_calls.set_dap_settings,
    "upload_custom_dap_script": detector_calls.upload_custom_dap_script,
}
"""What answers each call."""


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


class _SiteServer(WSGIServer):
    request_queue_size = 128  # callers of all beamlines wait here

    def handle_error(self, request, client_address):
        logger.debug("a client went away: %s", client_address, exc_info=True)

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().server_bind()


class SiteServer:
    """Serve one of the two services on loopback."""

    def __init__(self, site: Site, service: Service):
        self._site, self._service = site, service
        self._server: _SiteServer | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            raise ServiceUnreachable(f"simulated {self._service}", url="no port", reason="it does not listen")
        return self._server.server_port

    def bind(self, port: int = 0) -> None:
        """Listen at a port, 0 for a free one; OSError if it is taken."""
        app = bottle.Bottle()
        app.add_hook("before_request", _refuse_foreign_pages)
        for operation in OPERATIONS.values():
            method = getattr(operation, self._site.dialect)
            if operation.service == self._service and method is not None:
                app.route(f"/{operation.name}", method, partial(self._answer, operation.name))
        self._server = _SiteServer(("127.0.0.1", port), _RequestHandler)
        self._server.set_app(app)

    def start(self) -> None:
        """Serve from now on."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, name=f"sf-daq {self._service}", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        assert self._server is not None
        while not self._stopping.is_set():
            self._server.handle_request()  # sleeps until there is one

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

    def _answer(self, name: str) -> Any:
        started, site = time.time(), self._site
        forwarded = bottle.request.environ.get("HTTP_X_FORWARDED_FOR")
        address = bottle.request.remote_addr
        request, reply = None, None
        try:
            before(site, name)
            try:
                request = bottle.request.json
                reply = self._handle(name, request, Caller(site, address if forwarded else None))
            except bottle.HTTPError as exc:
                if site.dialect == "documented":
                    raise
                reply = envelope(exc, "current")
            except Exception as exc:
                logger.debug("%s refused: %r", name, exc)
                reply = envelope(exc, site.dialect)
            return after(site, name, reply)
        finally:
            size = 2 * max(0, bottle.request.content_length)  # replies repeat what was asked
            site.requests.append(ServiceCall(name, request, address or "", reply, started), size)

    def _handle(self, name: str, request: Any, caller: Caller) -> dict[str, Any]:
        needs = OPERATIONS[name].needs.split()
        if not needs:
            if request and self._site.dialect == "current":
                raise ValidationError(
                    f"this endpoint does not accept request parameters but received {request}"
                )
        elif not request:
            raise ValidationError("no request parameters provided", "request parameters are empty")
        elif self._site.dialect == "documented":
            _ = caller.beamline  # a stranger is refused before the request is looked at
        else:
            required(request, *needs)
        reply = {"status": "ok", **HANDLERS[name](self._site, request, caller)}
        return {key: value for key, value in reply.items() if not (key == "status" and value is None)}


def _refuse_foreign_pages() -> None:
    """End a request that a web page elsewhere made a browser send."""
    why = refusal(bottle.request.method, bottle.request.headers)
    if why is not None:
        raise bottle.HTTPError(STATUS, why)


def bind_pair(first: SiteServer, second: SiteServer, port: int = 0) -> None:
    """Bind two services to neighbouring ports: the slow broker is one above the broker; 0 takes any pair.

    ServiceUnreachable if a port that is asked for is taken.
    """
    for attempt in range(100):
        address = f"http://127.0.0.1:{port}"
        try:
            first.bind(port)
            address = f"http://127.0.0.1:{first.port + 1}"
            second.bind(first.port + 1)
            return
        except OSError as exc:
            first.stop()
            if port or attempt == 99:
                raise not_opened("broker", address, exc) from exc
