"""A page over a small simulated facility, in threads of this process."""

import contextlib
import functools
import socket
import threading

import pytest
import uvicorn

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.web import config_of, make_app
from sfdaq_ophyd.web.sources import watch_of

SETTINGS = {
    "photon_energy": 12400.0,
    "beam_center_x": 120.0,
    "beam_center_y": 100.0,
    "detector_distance": 0.1,
    "count_time": 0.04,
    "frame_time": 0.05,
    "nimages": 1_000_000,
    "trigger_mode": "ints",
}


@pytest.fixture(scope="session")
def wait_for(wait_for):
    """Wait as everywhere, but look seldom: browsers and pages share the processor with the tests."""
    return functools.partial(wait_for, period=0.05)


@pytest.fixture(scope="package")
def facility(tmp_path_factory):
    options = {"eiger_shape": (200, 240), "jungfrau_name": "JF03T01V02", "jungfrau_rate_multiplicator": 10}
    with Facility(speed=20, directory=tmp_path_factory.mktemp("facility"), **options) as facility:
        yield facility


@pytest.fixture
def eiger(facility):
    """A client of the Eiger, which is set up and has its monitor on."""
    client = SimplonClient(facility.eiger.url)
    client.initialize()
    for name, value in SETTINGS.items():
        client.put("detector", name, value)
    client.put("monitor", "mode", "enabled")
    client.clear_monitor()
    yield client
    client.abort()
    client.close()


@pytest.fixture
def series(eiger):
    """The Eiger takes images until the test is over."""
    eiger.arm()
    thread = threading.Thread(target=_trigger, args=(eiger,), daemon=True)
    thread.start()
    yield eiger
    eiger.abort()
    thread.join(60)


def _trigger(client):
    with contextlib.suppress(Exception):  # it is aborted
        client.trigger(60_000.0)


@pytest.fixture
def watch(facility, tmp_path):
    return watch_of(config_of(facility, tmp_path), rate=10)


@contextlib.contextmanager
def served(watch, token=""):
    """Serve a page; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {"log_level": "error", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(make_app(watch, token), **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


@pytest.fixture
def url(watch):
    with served(watch) as url:
        yield url
