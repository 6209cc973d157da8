"""Simulated Eigers for the tests of the simulator itself."""

from __future__ import annotations

import contextlib

import pytest
import requests
import zmq

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.eiger import EigerPart
from sfdaq_ophyd.sim.facility import World
from sfdaq_ophyd.wire import cbor, tiff


class Rest:
    """The simulator as any HTTP client sees it."""

    def __init__(self, part, version="1.8.0"):
        self.part, self.version = part, version
        self.session = requests.Session()

    def url(self, path):
        module, _, rest = path.partition("/")
        return f"{self.part.url}/{module}/api/{self.version}/{rest}"

    def get(self, path, **options):
        return self.session.get(self.url(path), timeout=60, **options)

    def put(self, path, value=None, **options):
        payload = {} if value is None else {"json": {"value": value}}
        return self.session.put(self.url(path), timeout=60, **payload, **options)

    def value(self, path):
        reply = self.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()["value"]

    def set(self, path, value):
        reply = self.put(path, value)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def command(self, path, value=None):
        reply = self.put(path, value)
        assert reply.status_code == 200, reply.text
        return reply.json().get("sequence id") if reply.content else None

    def stream(self, **detector):
        """Enable the stream's version 2, with some of the detector's config."""
        for path, value in {
            "stream/config/format": "cbor",
            "stream/config/mode": "enabled",
            **{f"detector/config/{name}": value for name, value in detector.items()},
        }.items():
            self.set(path, value)

    def state(self):
        return self.value("detector/status/state")


@pytest.fixture
def make_part(tmp_path):
    """Start simulated Eigers: ``make_part(shape=(32, 48), ...)``; all are stopped at the end."""
    with contextlib.ExitStack() as stack:
        clock = PulseClock()
        stack.callback(clock.close)

        def make(**options):
            options = {"shape": (32, 48), "dwell": 0.0} | options
            part = EigerPart(World(clock, tmp_path), **options)
            part.start()
            stack.callback(part.stop)
            return part

        yield make


@pytest.fixture
def rest(make_part):
    """One initialized detector with the monitor enabled and short frames."""
    rest = Rest(make_part(initialized=True))
    rest.set("detector/config/count_time", 0.002)
    rest.set("detector/config/frame_time", 0.002)
    rest.set("monitor/config/mode", "enabled")
    return rest


@pytest.fixture(scope="module")
def shared_rest(tmp_path_factory):
    """One initialized detector for tests that only read."""
    with Facility(only=["eiger"], eiger_shape=(32, 48), eiger_initialized=True) as facility:
        yield Rest(facility.eiger)


class Pull:
    """A client of the stream: one PULL socket, connected."""

    def __init__(self, endpoint, hwm=1000):
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PULL)
        self.socket.set(zmq.RCVHWM, hwm)
        events = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.socket.connect(endpoint)
        assert events.poll(60_000), "connected"
        self.socket.disable_monitor()

    def parts(self):
        assert self.socket.poll(60_000), "a message"
        return self.socket.recv_multipart()

    def message(self):
        """The fields of the next message of version 2."""
        (data,) = self.parts()
        assert data.startswith(cbor.SELF_DESCRIBED)
        return cbor.decode(data)

    def series(self):
        """The messages up to an end."""
        messages = [self.message()]
        while messages[-1]["type"] != "end":
            messages.append(self.message())
        return messages

    def silent(self, ms=50):
        return not self.socket.poll(ms)

    def close(self):
        self._context.destroy(linger=0)


@pytest.fixture
def make_pull():
    """Connect clients of the stream: ``make_pull(rest)``; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(rest, legacy=False, **options):
            pull = Pull(rest.part.stream_legacy_endpoint if legacy else rest.part.stream_endpoint, **options)
            stack.callback(pull.close)
            return pull

        yield make


@pytest.fixture
def pull(rest, make_pull):
    """The only client of `rest`'s stream, which is enabled."""
    rest.stream()
    return make_pull(rest)


def images(rest, n, wait=30_000):
    frames = [rest.get(f"monitor/images/next?timeout={wait}") for _ in range(n)]
    assert all(reply.status_code == 200 for reply in frames), [reply.status_code for reply in frames]
    return [tiff.decode(reply.content) for reply in frames]


def arm(rest, nimages=1, ntrigger=1, mode="ints"):
    rest.set("detector/config/nimages", nimages)
    rest.set("detector/config/ntrigger", ntrigger)
    rest.set("detector/config/trigger_mode", mode)
    return rest.command("detector/command/arm")


def take(rest, *args, **options):
    """Arm, and expose one trigger; the series' number."""
    series_id = arm(rest, *args, **options)
    rest.command("detector/command/trigger")
    return series_id
