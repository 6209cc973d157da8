"""One simulated broker per file of tests; one Tiled server for all."""

from __future__ import annotations

import warnings

import pytest

from sfdaq_ophyd.devices.debts import keep_in

from .broker_bench import BrokerBench
from .fake import FakeDetector
from .run_engine_driver import interruptible


@pytest.fixture(scope="session")
def tiled_server(tmp_path_factory):
    """A Tiled server as it comes, which may read all folders of the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tiled.server import SimpleTiledServer

        server = SimpleTiledServer(readable_storage=[tmp_path_factory.getbasetemp()])
        yield server
        server.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with BrokerBench(tmp_path_factory.mktemp("broker")) as bench:
        yield bench


@pytest.fixture
def engine():
    return interruptible()


@pytest.fixture
def det(tmp_path):
    return FakeDetector(name="det", directory=tmp_path)


@pytest.fixture
def no_faults(bench):
    """Faults of one test do not wait for the next."""
    yield
    bench.part.site.faults.clear()


@pytest.fixture(autouse=True)
def debts_of_the_device():
    """No session says where debts are kept."""
    keep_in(None)
