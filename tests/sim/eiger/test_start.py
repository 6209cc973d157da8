"""A start of the simulated Eiger takes as long as it goes on; one that stands still says where."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sfdaq_ophyd.errors import ServiceTimeout
from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.eiger import EigerPart
from sfdaq_ophyd.sim.facility import World


@pytest.fixture
def part(tmp_path, request):
    """A part that was not started, with a limit of 0.6 s, or the one asked for; ended after the test."""
    clock = PulseClock()
    limit = getattr(request, "param", 0.6)
    part = EigerPart(World(clock, tmp_path, start_timeout=limit), shape=(32, 48), initialized=True)
    yield part
    part.stop()
    clock.close()


def test_start_when_it_does_nothing_more_then_fails_at_its_limit_with_step_time_and_what_to_do(
    part, monkeypatch
):
    released = threading.Event()

    async def hang():
        while not released.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(part.detector, "initialize", hang)
    expected = (
        r"start of the simulated Eiger: not done after 0\.6 s; "
        r"last state step 'initializing the detector', \d+ s after the beginning"
    )
    with pytest.raises(ServiceTimeout, match=expected) as caught:
        part.start()
    released.set()
    assert "start_timeout" in caught.value.hint


@pytest.mark.parametrize("part", [3.0], indirect=True)
def test_start_when_all_takes_longer_than_its_limit_but_every_step_less_then_it_serves(part, monkeypatch):
    restart, bind = part.detector.restart, part.detector.stream.bind

    async def initialize():
        await asyncio.sleep(1.2)

    monkeypatch.setattr(part.detector, "initialize", initialize)
    monkeypatch.setattr(part.detector, "restart", lambda: (time.sleep(1.2), restart()))
    monkeypatch.setattr(part.detector.stream, "bind", lambda: (time.sleep(1.2), bind()))
    part.start()
    assert part.url.startswith("http://")
