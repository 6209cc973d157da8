"""Dialect D1: Flask. Every reply has HTTP code 200, whatever went wrong."""

from __future__ import annotations

import threading
import time

from flask import Flask, Response, request

from .extras import PAGE, UdpSimulator, pictures_of
from .folders import ServiceError, check_path
from .service import Service
from .validator import live_parts

INTEGERS = (
    "bit_depth",
    "image_pixel_height",
    "image_pixel_width",
    "n_modules",
    "start_udp_port",
    "writer_user_id",
)
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
        return _ok(f"Writer is {writer['state']}", writer=writer)

    @app.post("/writer/write_async")
    def write_async():
        return _ok("Writing started.", writer=service.write(_checked(service, request.json)))

    @app.post("/writer/write_sync")
    def write_sync():
        service.write(_checked(service, request.json))
        return _ok("Writing finished.", writer=service.wait_while_writing())

    @app.post("/writer/stop")
    def stop():
        return _ok("Writing stopped.", writer=service.stop())

    @app.get("/daq/config")
    def get_config():
        config, config_id = service.config()
        depth = (
            "No config set yet." if config is None else f"DAQ configured for bit_depth={config['bit_depth']}."
        )
        return _ok(depth, config=config, config_id=config_id)

    @app.post("/daq/config")
    def set_config():
        config = _merged(service, request.json)
        service.set_config(config)
        return _ok("Setting new daq config.", config=config)

    @app.get("/daq/stats")
    def stats():
        return _ok("DAQ statistics", stats=service.stats())

    @app.get("/daq/logs/<int:n_logs>")
    def logs(n_logs):
        return _ok("DAQ logs", logs=[acquisition for _, acquisition in service.logs(n_logs)])

    @app.get("/daq/deployment")
    def deployment():
        return _ok("Deployment status", deployment=service.deployment())

    @app.get("/daq/live")
    def live():
        parts = live_parts(service.observe, pictures_of(service), service.timing, closing)
        return Response(parts, mimetype="multipart/x-mixed-replace; boundary=frame")

    def simulation(act):
        return lambda: _ok(f"Simulator for {service.stored_config()['detector_name']}.", simulator=act())

    app.get("/simulation/status", endpoint="simulation_status")(simulation(simulator.status))
    app.post("/simulation/start", endpoint="simulation_start")(simulation(simulator.start))
    app.post("/simulation/stop", endpoint="simulation_stop")(simulation(simulator.stop))
    return app


def _ok(message: str, **payload) -> dict:
    return {"status": "ok", "message": message, **payload}


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
