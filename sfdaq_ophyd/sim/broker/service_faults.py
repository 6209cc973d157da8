"""Faults of the HTTP services, before and after a request is carried out."""

from __future__ import annotations

import socket
from typing import Any

import bottle

from ...wire.broker import raw_directory
from .delays import Stopped
from .pgroups import PGroup
from .refusals import envelope
from .site import Site


def before(site: Site, endpoint: str) -> None:
    """Misbehave before the request is carried out; what is raised ends it."""
    faults = site.faults
    if fault := faults.take("latency", endpoint=endpoint):
        site.delays.stopped.wait(fault.details.get("seconds", 0.5))
    if faults.take("hang", endpoint=endpoint):
        site.delays.stopped.wait()
        raise Stopped
    if faults.take("drop_before", endpoint=endpoint):
        _drop()
        raise bottle.HTTPResponse("", 500)
    if faults.take("server_error", endpoint=endpoint):
        raise bottle.HTTPError(500, "Unhandled exception")
    if fault := faults.take("refuse", endpoint=endpoint):
        refusal = type(fault.details.get("exception", "RuntimeError"), (Exception,), {})
        raise bottle.HTTPResponse(envelope(refusal(fault.details.get("message", "refused")), site.dialect))
    if fault := faults.take("close_pgroup", endpoint=endpoint):
        PGroup(site.tree, site.home, fault.details.get("pgroup", "p12345")).close()
    if faults.take("run_info_unwritable", endpoint=endpoint):
        _block_run_info(site)


def after(site: Site, endpoint: str, reply: dict[str, Any]) -> Any:
    """Misbehave after the request was carried out; return what is sent."""
    faults = site.faults
    if faults.take("drop_after", endpoint=endpoint):
        _drop()
    if fault := faults.take("garbage", endpoint=endpoint):
        bottle.response.content_type = "text/html; charset=UTF-8"
        return fault.details.get("body", "<html><title>Proxy</title><pre>try later</pre></html>")
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
