"""The services' own delays: what was measured, how much shorter we make them, and how to wait for them."""

from __future__ import annotations

import datetime
import threading
import time

TRIGGER_SETTLE = 4.0
DETECTOR_MODE = 1.0
MODULE_POWER = 1.0
MESSAGE_BROKER_DOWN = 1.0
DETECTOR_BUFFER = 10.0
DATA_BUFFERS = 60.0
EVALUATION = 5.0
POWER_ON_STEP = 0.7
"""Seconds, measured with the real services (contract sections 5-9)."""


class Delays:
    """Wait for the servers' delays, shortened, and stop waiting when the simulator stops.

    Parameters
    ----------
    factor : float
        On every measured delay; 1.0 is the real thing.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self.stopped = threading.Event()
        self.wall_clock = time.time

    def wait(self, seconds: float) -> None:
        """Wait `seconds` of the real services; `Stopped` if the simulator stops meanwhile."""
        if self.stopped.wait(max(seconds, 0.0) * self.factor):
            raise Stopped

    def now(self) -> datetime.datetime:
        """Return the server's local time."""
        return datetime.datetime.fromtimestamp(self.wall_clock())

    def request_time(self) -> str:
        """Return the time as the server writes it into a request."""
        return self.now().strftime("%Y-%m-%d %H:%M:%S.%f")


class Stopped(Exception):
    """The simulator stops: leave."""
