"""What tests of plans around the broker share."""

from __future__ import annotations

from ophyd import Signal

from sfdaq_ophyd.plans import sf_count

from ..devices.run_engine_driver import drive, interruptible


class Shutter(Signal):
    """Remembers every position."""

    def __init__(self):
        super().__init__(name="shutter", value="Open")
        self.positions = []

    def put(self, value, **kwargs):
        self.positions.append(value)
        super().put(value, **kwargs)


def first_run(bench, device):
    assert drive(interruptible(), lambda: sf_count([device], 1)).error is None


def sent(bench, since=0):
    return [entry.endpoint for entry in bench.part.requests()][since:]
