"""The simulated standard DAQ as a process: ``python -m sfdaq_ophyd.sim.std_daq``.

Prints ``READY <REST address>`` once it serves. With ``--control`` it reports steps while it starts, prints
READY and both addresses as JSON, obeys JSON commands on standard input, and ends with it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import threading
from functools import partial

from ...starting import report_step, without_collection
from ..child import obey
from ..clock import PulseClock

with without_collection(ours=True):
    from .server import StdDaqServer
    from .settings import DIALECTS, Settings


def main() -> None:
    """Run until Ctrl-C, SIGTERM, or the end of the commands."""
    parser = argparse.ArgumentParser(prog="python -m sfdaq_ophyd.sim.std_daq", description=__doc__)
    parser.add_argument("--dialect", choices=DIALECTS, default="flask", help="generation of the service")
    parser.add_argument("--port", type=int, default=5000, help="REST port; 0 takes a free one")
    parser.add_argument("--redis-port", type=int, default=0, help="port of our own Redis")
    parser.add_argument("--redis-url", default="", help="use this Redis")
    parser.add_argument("--detector-name", default="", help="e.g. JF01T03V01")
    parser.add_argument("--speed", type=float, default=1.0, help="divides the service's own delays")
    parser.add_argument(
        "--writable", action="append", metavar="DIR", help="write below it; default: the current directory"
    )
    parser.add_argument("--settings", type=json.loads, default={}, help="any of Settings, as JSON")
    parser.add_argument("--clock", help="file of the pulse clock to follow")
    parser.add_argument("--start-pulse-id", type=int, help="pulse id of frame 1")
    parser.add_argument("--control", action="store_true", help="obey JSON commands on standard input")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.CRITICAL)
    given = {"dialect": options.dialect, "redis_url": options.redis_url, "speed": options.speed}
    given |= {"detector_name": options.detector_name, "writable": options.writable or [os.getcwd()]}
    settings = Settings(**{**given, **options.settings})
    clock = PulseClock(options.clock)
    server = StdDaqServer(
        settings,
        clock,
        start_pulse_id=options.start_pulse_id,
        port=options.port,
        redis_port=options.redis_port,
        on_step=report_step if options.control else lambda step: None,
    )
    try:
        with server:
            (_obey if options.control else _wait)(server)
    finally:
        clock.close()


def _wait(server: StdDaqServer) -> None:
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    print("READY", server.url, flush=True)  # noqa: T201
    done.wait()


def _obey(server: StdDaqServer) -> None:
    print("READY", json.dumps({"url": server.url, "redis_url": server.redis_url}), flush=True)  # noqa: T201
    obey(partial(_do, server))


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
