"""What tests of plans around the broker share."""

from __future__ import annotations

import time

from ophyd import Signal

from sfdaq_ophyd.plans import sf_count

from ..devices.run_engine_driver import drive, interruptible


class Shutter(Signal):
    """Remembers every position; takes a moment to get there, and nothing else meanwhile."""

    def __init__(self):
        super().__init__(name="shutter", value="Open")
        self.positions = []

    def put(self, value, **kwargs):
        time.sleep(0.02)
        self.positions.append(value)
        super().put(value, **kwargs)

    @property
    def stands(self):
        return self._set_thread is None


def first_run(bench, device):
    assert drive(interruptible(), lambda: sf_count([device], 1)).error is None


def sent(bench, since=0):
    return [entry.endpoint for entry in bench.part.requests()][since:]
