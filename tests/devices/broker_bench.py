"""A simulated broker with fast writers, a device on a pgroup of its own, and what its runs leave behind."""

from __future__ import annotations

import itertools
import json
import threading
import time

from bluesky.utils import FailedStatus
from ophyd import Signal

from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.devices._status import ActionStatus
from sfdaq_ophyd.errors import ServiceTimeout
from sfdaq_ophyd.plans import sf_count
from sfdaq_ophyd.sim import Facility

from .run_engine_driver import drive, interruptible, streams

DETECTOR = "JF03T01V02"
"""One module: small files."""


class ClockPulseId:
    """What a device needs of `PulseId`, straight from the facility's clock."""

    name, parent = "pulse_id", None

    def __init__(self, clock):
        self.clock = clock
        self.broken: Exception | None = None
        self.closed, self.threads = threading.Event(), []

    def close(self):
        """End what still counts: the clock goes next."""
        self.closed.set()
        for thread in self.threads:
            thread.join()

    def get(self):
        if self.broken:
            raise self.broken
        return self.clock.now()

    def check(self, timeout=None, n_pulses=10):
        self.get()
        return 100.0

    def wait_past(self, pulse_id, timeout=None):
        now = self.get()
        status = ActionStatus(self, "pulse", 30, target=max(1, pulse_id + 1 - now), unit="pulses")

        def count():
            stop = threading.Event()
            status.add_callback(lambda _: stop.set())
            while not status.done and not self.closed.is_set():
                if self.broken:
                    return status.fail(ServiceTimeout("pulse id", 0.1, "disconnected"))
                if self.clock.wait_for(pulse_id + 1, 0.02, stop):
                    return status.succeed()
                status.progress(min(status.target, self.clock.now() - now))

        self.threads = [thread for thread in self.threads if thread.is_alive()]
        self.threads.append(threading.Thread(target=count, name="clock pulse id", daemon=True))
        self.threads[-1].start()
        return status


class BrokerBench:
    """One broker for many tests; each takes a new pgroup."""

    _numbers = itertools.count(20001)

    def __init__(self, directory, **options):
        self.directory, self.pulse_ids = directory, []
        settings = {"delays": 0.002, "running": [DETECTOR], "pedestal_frames": 2, **options}
        self.facility = Facility(
            only=["broker"],
            directory=directory,
            **{f"broker_{key}": value for key, value in settings.items()},
        )

    def __enter__(self):
        self.facility.__enter__()
        self.part = self.facility.broker
        return self

    def __exit__(self, *exc_info):
        for pulse_id in self.pulse_ids:
            pulse_id.close()
        self.facility.close()

    def device(self, **options):
        """A device on a new pgroup; what writers still did for the one before is done."""
        self.wait_for_writers()
        pgroup = f"p{next(self._numbers)}"
        self.raw = self.part.make_pgroup(pgroup)
        self.pulse_id = ClockPulseId(self.facility.clock)
        self.pulse_ids.append(self.pulse_id)
        given = {
            "detectors": [DETECTOR],
            "pulse_id": self.pulse_id,
            "beamline": "bernina",
            "event_code": "",  # here is no IOC
            "sf_root": self.part.root,
            "directory": self.directory / "runs",
            "n_pulses": 2,
            **options,
        }
        return SfDaqBroker(self.part.url, name="sfdaq", pgroup=pgroup, **given)

    def wait_for_writers(self):
        """Return once they are idle: a fault is for the next request then, and not for an old one."""
        deadline, clock = time.monotonic() + 60, self.facility.clock
        while self.part.n_waiting:
            assert time.monotonic() < deadline, "a writer does not end"
            clock.wait_for(clock.now() + 1, 1)

    def last_run(self):
        path = self.raw / "run_info" / "LAST_RUN"
        return int(path.read_text()) if path.exists() else 0

    def acquisitions(self, run_number=1):
        """The requests as the broker stored them."""
        return [
            json.loads(path.read_text()) for path in sorted(self.raw.glob(f"run{run_number:04}*/meta/acq*"))
        ]

    def scan_json(self, run_number=1):
        (path,) = self.raw.glob(f"run{run_number:04}*/meta/scan.json")
        return json.loads(path.read_text())


def run(plan):
    return drive(interruptible(), lambda: plan)


def cause(result):
    """The exception behind a failed status."""
    error = result.error
    return error.__cause__ or error.args[0].exception() if isinstance(error, FailedStatus) else error


def streams_of(result):
    """Rows of each stream, and (path, dataset) of each row by key; validates every document."""
    found = {}
    for name, stream in streams(result).items():
        parts = {
            key: [(path, dataset) for path, dataset, *_ in where] for key, where in stream.arrays.items()
        }
        found[name] = (stream.rows, parts)
    return found


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
