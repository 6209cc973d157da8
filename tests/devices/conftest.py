"""One simulated broker per file of tests."""

from __future__ import annotations

import pytest

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
