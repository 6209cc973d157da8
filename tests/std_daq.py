"""A simulated standard DAQ for tests, in this process, its own delays shortened."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.std_daq.service import StdDaqServer
from sfdaq_ophyd.sim.std_daq.settings import StdDaqSettings
from sfdaq_ophyd.sim.std_daq.websocket_server import WebsocketServer


@contextlib.contextmanager
def simulated_websocket_daq(**settings) -> Iterator[WebsocketServer]:
    """Yield a running server of the websocket generation, the same way; its files have small chunks."""
    given = {"speed": 10.0, "image_shape": (8, 16), "writable": tempfile.gettempdir(), "block_size": 4096}
    clock = PulseClock(patient=True)
    try:
        with WebsocketServer(StdDaqSettings(dialect="websocket", **{**given, **settings}), clock) as server:
            yield server
    finally:
        clock.close()


@contextlib.contextmanager
def simulated_daq(**settings) -> Iterator[StdDaqServer]:
    """Yield a running server; small images, 100 Hz or what the machine can do, ten times as fast.

    It writes below the folder of temporary files.
    """
    given = {"speed": 10.0, "image_shape": (8, 16), "writable": tempfile.gettempdir(), **settings}
    clock = PulseClock(patient=True)
    try:
        with StdDaqServer(StdDaqSettings(**given), clock) as server:
            yield server
    finally:
        clock.close()
