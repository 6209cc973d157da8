"""Serve a simulated Jungfrau: ``python -m sfdaq_ophyd.sim.jungfrau --name JF01T03V01``.

Prints ``READY`` and its addresses as JSON. With ``--control`` it also obeys commands on standard input.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import queue
import signal

from ...starting import report_step, without_collection
from ..child import read_commands
from ..clock import PulseClock

with without_collection(ours=True):
    from .sender import Sender
    from .settings import Settings


def main() -> None:
    """Parse the command line and serve until SIGINT, SIGTERM or, with --control, the end of input."""
    parser = argparse.ArgumentParser(prog="python -m sfdaq_ophyd.sim.jungfrau", description=__doc__)
    parser.add_argument("--name", default="JF01T03V01", help="detector name")
    parser.add_argument("--settings", type=json.loads, default={}, help="fields of Settings, as JSON")
    parser.add_argument("--ports", default="", help="comma-separated: module streams, assembled, live")
    parser.add_argument("--clock", help="file of another process's pulse clock")
    parser.add_argument("--start-pulse-id", type=int, help="frame numbers count from here")
    parser.add_argument("--control", action="store_true", help="take JSON commands on standard input")
    parser.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO" if arguments.verbose else "WARNING")
    settings = Settings(**{"detector_name": arguments.name, **arguments.settings})
    clock = PulseClock(arguments.clock)
    start = clock.start_pulse_id if arguments.start_pulse_id is None else arguments.start_pulse_id
    ports = [int(port) for port in arguments.ports.split(",") if port] or itertools.repeat(0)
    commands: queue.Queue = queue.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: commands.put(None))
    sender = Sender(clock, settings, start, ports)
    try:
        if arguments.control:
            report_step("rendering the scene")
        sender.scene.raw(0)  # before the first frame is due
        print(f"READY {json.dumps(sender.addresses())}", flush=True)  # noqa: T201
        if arguments.control:
            read_commands(commands)
        sender.run(commands)
    finally:
        sender.close()
        clock.close()


main()
