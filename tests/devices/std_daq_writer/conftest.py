from __future__ import annotations

import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _control, _daq_file

from ...std_daq import simulated_daq, simulated_websocket_daq
from .documents import websocket_device


@pytest.fixture(scope="package")
def flask_daq():
    """A running DAQ of the first generation with REST, one for these tests; a test leaves it READY."""
    with simulated_daq(dialect="flask") as server:
        server.service.stop()
        yield server


@pytest.fixture(scope="package")
def fastapi_daq():
    """A running DAQ of the second generation with REST, one for these tests; a test leaves it READY."""
    with simulated_daq(dialect="fastapi") as server:
        server.service.stop()
        yield server


@pytest.fixture(scope="package")
def daq(request):
    """The DAQ of the generation that a test is parametrized with; else the first one."""
    return request.getfixturevalue(f"{getattr(request, 'param', 'flask')}_daq")


@pytest.fixture
def writer(request, daq):
    """A writer of the DAQ, which is READY, or idle, before and after."""
    return request.getfixturevalue("websocket_writer" if hasattr(daq, "ws_url") else "rest_writer")


@pytest.fixture
def stops_are_answered(monkeypatch):
    """However long a living DAQ takes to answer to a stop, it is not taken for dead."""
    monkeypatch.setattr(_control, "REACTION", 60.0)


@pytest.fixture(autouse=True)
def ring_is_large(request, monkeypatch):
    """A simulated writer that had no CPU for a second is behind by a whole ring; its pixels are right."""
    if request.module.__name__.rpartition(".")[2] not in ("test_ring_overrun", "test_killed"):
        monkeypatch.setattr(_daq_file, "RING_SLOTS", 10_000)


@pytest.fixture
def rest_writer(daq, tmp_path, wait_for):
    """A writer of a DAQ with control by REST, READY before and after."""
    wait_for(lambda: daq.service.settled, "the writer process")
    device = StdDaqWriter(daq.url, name="writer", directory=tmp_path / "raw", restart_time=4.0)
    device.timeout.put(30.0)
    yield device
    try:
        device.unstage()
        assert daq.service.status()["state"] == "READY"
    except BaseException:  # tests after this one shall not suffer
        daq.service.restart()
        daq.service.restart_writer()
        daq.service.stop()
        raise


@pytest.fixture(scope="package")
def websocket_daq():
    """A running DAQ of the websocket generation, with two writers, one for these tests."""
    with simulated_websocket_daq() as server:
        yield server


@pytest.fixture
def websocket_writer(websocket_daq, tmp_path):
    """A writer of that DAQ, idle before and after; whatever a test did, all processes live."""
    device = websocket_device(websocket_daq, tmp_path)
    yield device
    try:
        device.unstage()
        device.unstage()
    finally:
        websocket_daq._faults.clear()
        websocket_daq.source.follow_clock()
        websocket_daq.restart_driver()  # first: a writer that is back dies of an image for its file of before
        websocket_daq.restart_writer()
