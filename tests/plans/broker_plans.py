"""What tests of plans around the broker share."""

from __future__ import annotations

from ophyd import Signal

from sfdaq_ophyd.plans import sf_count

from ..devices.run_engine_driver import drive, interruptible


class Shutter(Signal):
    """Remembers every position; takes two pulses to get there, and nothing else meanwhile."""

    def __init__(self, clock):
        super().__init__(name="shutter", value="Open")
        self.clock, self.positions = clock, []

    def put(self, value, **kwargs):
        self.clock.wait_for(self.clock.now() + 2, 10)
        self.positions.append(value)
        super().put(value, **kwargs)

    @property
    def stands(self):
        return self._set_thread is None


def first_run(bench, device):
    assert drive(interruptible(), lambda: sf_count([device], 1)).error is None


def sent(bench, since=0):
    return [entry.endpoint for entry in bench.part.requests()][since:]
