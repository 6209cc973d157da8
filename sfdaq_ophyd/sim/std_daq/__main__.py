"""The simulated standard DAQ as a process: ``python -m sfdaq_ophyd.sim.std_daq``.

Prints ``READY <REST address>`` once it serves. With ``--control`` it reports steps while it starts, prints
READY and both addresses as JSON, obeys JSON commands on standard input, and ends with it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import partial

from ...starting import report_step, without_collection
from ..child import make_parser, obey, on_signal, running_clock, say_ready

with without_collection(ours=True):
    from .server import StdDaqServer
    from .settings import DIALECTS, StdDaqSettings


def main() -> None:
    """Run until Ctrl-C, SIGTERM, or the end of the commands."""
    parser = make_parser("sfdaq_ophyd.sim.std_daq", __doc__)
    parser.add_argument("--dialect", choices=DIALECTS, default="flask", help="generation of the service")
    parser.add_argument("--port", type=int, default=5000, help="REST port; 0 takes a free one")
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
        server = StdDaqServer(
            StdDaqSettings(**{**given, **options.settings}),
            clock,
            start_pulse_id=options.start_pulse_id,
            port=options.port,
            redis_port=options.redis_port,
            on_step=report_step if options.control else lambda step: None,
        )
        with server:
            if options.control:
                say_ready(json.dumps({"url": server.url, "redis_url": server.redis_url}))
                obey(partial(_do, server))
            else:
                done = threading.Event()
                on_signal(done.set)
                say_ready(server.url)
                done.wait()


def _do(server: StdDaqServer, do: str, **details):
    source = server.service.source
    actions = {
        "fail": lambda: server.fail_next(details["what"], **details["details"]),
        "burst": lambda: source.burst(**details),
        "follow_clock": source.follow_clock,
        "silence": source.silence,
        "n_images": lambda: source.n_images,
        "restart_writer": server.service.restart_writer,
        "writer_alive": lambda: server.service.writer.alive,
    }
    return actions[do]()


if __name__ == "__main__":
    main()
