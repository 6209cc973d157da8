"""Serve a simulated Jungfrau: ``python -m sfdaq_ophyd.sim.jungfrau --name JF01T03V01``.

Prints ``READY`` and its addresses as JSON. With ``--control`` it also obeys commands on standard input.
"""

from __future__ import annotations

import itertools
import json
import queue
from contextlib import closing
from functools import partial

from ...starting import report_step, without_collection
from ..child import make_parser, on_signal, read_commands, running_clock, say_ready

with without_collection(ours=True):
    from .model import JungfrauSettings
    from .sender import Sender


def main() -> None:
    """Parse the command line and serve until SIGINT, SIGTERM or, with --control, the end of input."""
    parser = make_parser("sfdaq_ophyd.sim.jungfrau", __doc__)
    parser.add_argument("--name", default="JF01T03V01", help="detector name")
    parser.add_argument("--settings", type=json.loads, default={}, help="fields of Settings, as JSON")
    parser.add_argument("--ports", default="", help="comma-separated: module streams, assembled, live")
    with running_clock(parser) as (options, clock):
        settings = JungfrauSettings(**{"detector_name": options.name, **options.settings})
        start = clock.start_pulse_id if options.start_pulse_id is None else options.start_pulse_id
        ports = [int(port) for port in options.ports.split(",") if port] or itertools.repeat(0)
        commands: queue.Queue = queue.Queue()
        on_signal(partial(commands.put, None))
        with closing(Sender(clock, settings, start, ports)) as sender:
            if options.control:
                report_step("rendering the scene")
            sender.scene.raw(0)  # before the first frame is due
            say_ready(json.dumps(sender.addresses()))
            if options.control:
                read_commands(commands)
            sender.run(commands)


main()
