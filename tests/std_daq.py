"""A simulated standard DAQ for tests, in this process, its own delays shortened."""

from __future__ import annotations

from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.std_daq.server import StdDaqServer
from sfdaq_ophyd.sim.std_daq.settings import Settings


def simulated_daq(**settings) -> StdDaqServer:
    """Return a server to be used as a context manager; small images, 100 Hz, ten times as fast."""
    return StdDaqServer(Settings(**{"speed": 10.0, "image_shape": (8, 16), **settings}), PulseClock())
