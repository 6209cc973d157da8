"""The simulated standard DAQ as a process: ``python -m sfdaq_ophyd.sim.std_daq``.

Prints ``READY <REST address>`` once it serves, with the websocket's after it if it has one. With
``--control`` it reports steps while it starts, prints READY and all addresses as JSON, obeys JSON commands on
standard input, and ends with it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
from functools import partial

from ...starting import report_step, without_collection
from ..child import make_parser, obey, on_signal, running_clock, say_ready
from ..clock import PulseClock

with without_collection(ours=True):
    from .server import DaqServer
    from .settings import DIALECTS, StdDaqSettings


def main() -> None:
    """Run until Ctrl-C, SIGTERM, or the end of the commands."""
    parser = make_parser("sfdaq_ophyd.sim.std_daq", __doc__)
    parser.add_argument("--dialect", choices=DIALECTS, default="flask", help="generation of the service")
    parser.add_argument("--port", type=int, default=5000, help="REST port; 0 takes a free one")
    parser.add_argument(
        "--ws-port", type=int, default=8080, help="port of the websocket generation's control"
    )
    parser.add_argument("--redis-port", type=int, default=0, help="port of our own Redis")
    parser.add_argument("--redis-url", default="", help="use this Redis")
    parser.add_argument("--detector-name", default="", help="e.g. JF01T03V01")
    parser.add_argument("--speed", type=float, default=1.0, help="divides the service's own delays")
    parser.add_argument(
        "--writable", action="append", metavar="DIR", help="write below it; default: the current directory"
    )
    parser.add_argument("--settings", type=json.loads, default={}, help="any of StdDaqSettings, as JSON")
    with running_clock(parser, logging.CRITICAL, logging.DEBUG) as (options, clock):
        given = {name: getattr(options, name) for name in ("dialect", "redis_url", "speed", "detector_name")}
        given["writable"] = options.writable or [os.getcwd()]
        settings = StdDaqSettings(**{**given, **options.settings})
        on_step = report_step if options.control else lambda step: None
        with _server(settings, clock, options, on_step) as server:
            if options.control:
                say_ready(json.dumps(server.addresses()))
                obey(partial(_do, server))
            else:
                done = threading.Event()
                on_signal(done.set)
                addresses = server.addresses()
                say_ready(*(addresses[role] for role in ("url", "ws_url") if role in addresses))
                done.wait()


def _server(settings: StdDaqSettings, clock: PulseClock, options: argparse.Namespace, on_step) -> DaqServer:
    """Make the server of a dialect, and import no other."""
    common = {"start_pulse_id": options.start_pulse_id, "port": options.port, "on_step": on_step}
    with without_collection(ours=True):
        if settings.dialect == "websocket":
            from .websocket_server import WebsocketServer

            return WebsocketServer(settings, clock, ws_port=options.ws_port, **common)
        from .service import StdDaqServer

        return StdDaqServer(settings, clock, redis_port=options.redis_port, **common)


def _do(server: DaqServer, do: str, **details):
    if do == "fail":
        return server.fail_next(details["what"], **details["details"])
    return getattr(server if do.startswith("restart_") else server.source, do)(**details)


if __name__ == "__main__":
    main()
