"""One simulated broker per file of tests."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.devices._debts import keep_in

from .broker_bench import BrokerBench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with BrokerBench(tmp_path_factory.mktemp("broker")) as bench:
        yield bench


@pytest.fixture
def no_faults(bench):
    """Faults of one test do not wait for the next."""
    yield
    bench.part.site.faults.clear()


@pytest.fixture(autouse=True)
def debts_of_the_device():
    """No session says where debts are kept."""
    keep_in(None)
