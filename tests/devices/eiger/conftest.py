"""Simulated Eigers and devices on them."""

from __future__ import annotations

import contextlib
import threading

import bluesky.plan_stubs as bps
import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.simplon import DetectorState

from .stream_line import Line, as_it_is

SHAPE = (32, 48)


def stamp_of(event_id: str) -> int:
    """Return what the simulator stamps into the frame of this id."""
    series_id, image_id = event_id.split("_")
    return int(series_id) << 32 | int(image_id)


@pytest.fixture(scope="module")
def shared_part():
    """One simulated Eiger for the tests of a module, initialized; each leaves it as it found it."""
    with Facility(only=["eiger"], eiger_shape=SHAPE, eiger_dwell=0) as facility:
        SimplonClient(facility.eiger.url).initialize()
        yield facility.eiger


@pytest.fixture
def make_part():
    """Start a simulated Eiger of one's own: ``make_part(api_version="1.6.0")``."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            options = {"shape": SHAPE, "dwell": 0} | options
            eiger = {f"eiger_{name}": value for name, value in options.items()}
            return stack.enter_context(Facility(only=["eiger"], **eiger)).eiger

        yield make


@pytest.fixture
def part(shared_part):
    """The shared detector, without faults pending and its log empty."""
    shared_part.faults.clear()
    shared_part.requests.clear()
    return shared_part


def make_eiger(part, directory, *, exposure_time=0.002, **options):
    """Return a device with short exposures."""
    eiger = Eiger(part.url, name="eiger", directory=directory, timeout=60, **options)
    if exposure_time is not None:
        eiger.exposure_time.put(exposure_time)
    eiger.timeout.put(30.0)
    return eiger


@pytest.fixture
def eiger(part, tmp_path):
    """A device on the shared detector."""
    return make_eiger(part, tmp_path)


LOOKS = "from sfdaq_ophyd.clients import SimplonClient; looks = SimplonClient(det.client.url)"
EXPOSES = 'looks.state().value == "acquire"'
"""For `scan_suspended`: what it makes besides `det`, and what tells that this exposes."""


class Operator:
    """Somebody else who runs the detector: a series of short frames until stopped."""

    def __init__(self, part, nimages=100000):
        self.client = SimplonClient(part.url)
        self.client.put("detector", "nimages", nimages)
        self.client.put("monitor", "mode", "enabled")
        self.client.put("monitor", "discard_new", False)
        self.series_id = self.client.arm()
        self._thread = threading.Thread(target=self._trigger, daemon=True)
        self._thread.start()

    def _trigger(self):
        self.client.trigger(60.0)

    def stop(self):
        self.client.abort()
        self._thread.join(60)
        for module, name, value in (
            ("detector", "nimages", 1), ("monitor", "mode", "disabled"), ("monitor", "discard_new", True),
        ):  # fmt: skip
            self.client.put(module, name, value)
        self.client.clear_monitor()


def dark_and_primary(eiger):
    """Take points of two streams in turns, staged once."""
    yield from bps.stage(eiger)
    yield from bps.open_run()
    for stream in ("dark", "primary", "dark", "primary"):
        yield from bps.trigger_and_read([eiger], name=stream)
    yield from bps.close_run()
    yield from bps.unstage(eiger)


def check_as_found(part, client):
    """Assert that the detector is disarmed and the monitor as it was."""
    assert client.state() is DetectorState.IDLE
    found = {"mode": "disabled", "discard_new": True, "buffer_size": 100}
    assert {name: client.get("monitor", "config", name).value for name in found} == found
    for name, value in (("nimages", 1), ("ntrigger", 1), ("trigger_mode", "ints")):
        assert client.get("detector", "config", name).value == value


@pytest.fixture
def make_writer(part, tmp_path):
    """Make a device that reads out by files; what a test set on the unit is as before afterwards."""
    made = []

    def make(**options):
        made.append(make_eiger(part, tmp_path / "here", readout="filewriter", **options))
        return made[-1]

    yield make
    for eiger in made:
        eiger.client.command("filewriter", "initialize")
        eiger.client.command("filewriter", "clear")
        eiger.client.close()


@pytest.fixture(scope="module")
def shared_line(shared_part):
    line = Line(shared_part.stream_endpoint)
    yield line
    line.close()


@pytest.fixture
def line(shared_line):
    shared_line.change = as_it_is
    return shared_line


@pytest.fixture
def streamed(part, line, tmp_path, monkeypatch):
    monkeypatch.setattr("sfdaq_ophyd.devices.eiger._stream.LONGEST_REST", 2.0)
    return make_eiger(part, tmp_path, readout="stream", stream=line.endpoint)
