"""A simulated broker for the plans of a module."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.devices.broker import _follower, _hardware, _runner

from ..devices.broker_bench import BrokerBench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with BrokerBench(tmp_path_factory.mktemp("broker")) as bench:
        yield bench


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look more often: every plan is run dozens of times."""
    for module in (_follower, _runner, _hardware):
        monkeypatch.setattr(module, "PERIOD", 0.01)
    monkeypatch.setattr(_hardware, "FILE_PERIOD", 0.01)
    monkeypatch.setattr(_hardware, "LOOK_BACK", 0.1)
