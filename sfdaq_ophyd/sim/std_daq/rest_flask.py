"""Dialect D1: Flask. Every reply has HTTP code 200, whatever went wrong."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from flask import Flask, Response, request
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ..faults import Faults
from .extras import PAGE, UdpSimulator, live_parts, pictures_of
from .files import check_path
from .service import Service, config_words, ok
from .serving import HOST, refused
from .settings import INTEGERS, ServiceError

STORED = ("detector_name", "detector_type", *INTEGERS, "module_positions")
"""What a POST leaves of a configuration, in the order it is stored."""


def make_app(service: Service, closing: threading.Event) -> Flask:
    """Build the application; `closing` ends its streams."""
    app = Flask("std_daq")
    simulator = UdpSimulator(service.settings.simulation, service.source)

    @app.errorhandler(Exception)
    def error(exc):
        return {"status": "error", "message": str(exc)}

    @app.after_request
    def allow_all(response):
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    @app.get("/")
    def page():
        return PAGE

    @app.get("/writer/status")
    def status():
        writer = service.status()
        return ok(f"Writer is {writer['state']}", writer=writer)

    @app.post("/writer/write_async")
    def write_async():
        return ok("Writing started.", writer=service.write(_checked(service, request.json)))

    @app.post("/writer/write_sync")
    def write_sync():
        service.write(_checked(service, request.json))
        return ok("Writing finished.", writer=service.wait_while_writing())

    @app.post("/writer/stop")
    def stop():
        return ok("Writing stopped.", writer=service.stop())

    @app.get("/daq/config")
    def get_config():
        config, config_id = service.config()
        return ok(config_words(config), config=config, config_id=config_id)

    @app.post("/daq/config")
    def set_config():
        config = _merged(service, request.json)
        service.set_config(config)
        return ok("Setting new daq config.", config=config)

    @app.get("/daq/stats")
    def stats():
        return ok("DAQ statistics", stats=service.stats())

    @app.get("/daq/logs/<int:n_logs>")
    def logs(n_logs):
        return ok("DAQ logs", logs=[acquisition for _, acquisition in service.logs(n_logs)])

    @app.get("/daq/deployment")
    def deployment():
        return ok("Deployment status", deployment=service.deployment())

    @app.get("/daq/live")
    def live():
        parts = live_parts(service.observe, pictures_of(service), service.timing, closing)
        return Response(parts, mimetype="multipart/x-mixed-replace; boundary=frame")

    def simulation(act):
        return lambda: ok(f"Simulator for {service.stored_config()['detector_name']}.", simulator=act())

    app.get("/simulation/status", endpoint="simulation_status")(simulation(simulator.status))
    app.post("/simulation/start", endpoint="simulation_start")(simulation(simulator.start))
    app.post("/simulation/stop", endpoint="simulation_stop")(simulation(simulator.stop))
    return app


def _checked(service: Service, body) -> dict:
    """Check a write request in the service's order, with its coercions."""
    path = _mandatory(body, "output_file")
    check_path(path)
    service.check_folder(path)
    given = _mandatory(body, "n_images")
    try:
        n_images = int(given)
    except (TypeError, ValueError):
        raise ServiceError(
            f"Cannot convert n_images={given} to an integer. Must be an integer >= 1."
        ) from None
    if n_images < 1:
        raise ServiceError(f"Invalid n_images={n_images}. Must be an integer >= 1.")
    run_id = body.get("run_id", time.time_ns())
    return {"output_file": path, "n_images": n_images, "run_id": 0 if run_id is None else run_id}


def _mandatory(body, field: str):
    if field not in body or body[field] is None:
        raise ServiceError(f"Mandatory field missing: {field}")
    return body[field]


def _merged(service: Service, changes) -> dict:
    """Merge over what is stored, dropping unknown keys; submodule_info is one of them."""
    stored = service.config()[0] or {}
    merged = {key: changes.get(key, stored.get(key)) for key in STORED}
    errors = ""
    for key in INTEGERS:
        try:
            merged[key] = int(merged[key])
        except ValueError:
            errors += f"non-int value {key};"
    if errors:
        raise ServiceError(f"Config errors: {errors}")
    return merged


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


def serve(
    service: Service, faults: Faults, closing: threading.Event, port: int, start_timeout: float
) -> tuple[str, Callable[[], None]]:
    """Serve a service in a thread; return the address, and what ends it."""
    server = _FlaskServer(
        HOST, port, _AroundFlask(make_app(service, closing), faults, closing), _QuietHandler
    )
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="std-daq REST", daemon=True
    )
    thread.start()

    def stop() -> None:
        if thread.is_alive():
            server.shutdown()
            thread.join(10)
            server.server_close()

    return f"http://{HOST}:{server.server_port}", stop
