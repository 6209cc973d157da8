from __future__ import annotations

import pytest

from sfdaq_ophyd.devices import StdDaqWriter

from ...std_daq import simulated_daq


@pytest.fixture(scope="session", params=["flask", "fastapi"])
def daq(request):
    """A running DAQ, one per dialect and session; a test leaves it READY."""
    with simulated_daq(dialect=request.param) as server:
        server.service.stop()
        yield server


@pytest.fixture
def writer(daq, tmp_path, wait_for):
    """A writer of the DAQ, READY before and after."""
    wait_for(lambda: daq.service.writer.listening, "the writer process", timeout=30)
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
