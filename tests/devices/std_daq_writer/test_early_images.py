"""The driver takes images a moment after it says WRITING: nobody is triggered before; losses are named."""

from __future__ import annotations

import threading

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _rates
from sfdaq_ophyd.plans import std_daq_wrapper

from ..fake import FakeDetector, FakeSource
from .documents import images_of, run

N = 20


@pytest.fixture
def triggered(daq, wait_for):
    """Make the DAQ's detector send images only when it is told to."""
    daq.service.source.silence()
    counted = lambda: daq.service.stats()["detector"] or {}  # noqa: E731
    wait_for(lambda: counted().get("images_per_second") == 0, "a second without images")
    yield lambda: daq.service.source.burst(N, rate=500.0, first_id=1000)
    daq.service.source.follow_clock()


@pytest.fixture
def camera(daq, tmp_path):
    """A detector that notes what the DAQ had taken when it was triggered, and then acts."""

    class Camera(FakeSource):
        n_taken: list = []
        act = staticmethod(lambda: None)

        def frames(self, request):
            self.n_taken.append(daq.service.status()["acquisition"]["stats"]["n_write_requested"])
            self.act()
            yield from super().frames(request)

    source = Camera()
    source.n_taken = []
    return FakeDetector(name="camera", directory=tmp_path, source=source)


@pytest.fixture
def writer_around(daq, tmp_path):
    def make(*detectors, **signals):
        device = StdDaqWriter(daq.url, name="w", directory=tmp_path / "raw", detectors=detectors)
        for name, value in {"frames_per_trigger": N, "timeout": 30.0, **signals}.items():
            getattr(device, name).put(value)
        return device

    return make


def plan_of(how, writer_around, camera, **signals):
    if how == "inside":
        device = writer_around(camera, **signals)
        return device, bp.count([device], 1)
    device = writer_around(**signals)
    return device, std_daq_wrapper(bp.count([camera], 1), device)


@pytest.mark.parametrize("how", ["inside", "wrapped"])
def test_others_when_images_flow_and_the_driver_is_late_then_they_wait_until_it_takes_them(
    daq, writer_around, camera, how, wait_for, monkeypatch
):
    monkeypatch.setattr(_rates, "QUIET", 60.0)  # the machine may be too busy to send any for a while
    wait_for(lambda: (stats := daq.service.stats()) and stats["detector"]["images_per_second"] > 0, "images")
    daq.fail_next("late_subscription", seconds=0.6)
    _, plan = plan_of(how, writer_around, camera, settle_time=0.05)
    documents, error = run(plan)
    assert error is None
    assert camera.source.n_taken[0] > 0


@pytest.mark.parametrize("how", ["inside", "wrapped"])
def test_others_when_they_make_the_images_then_they_wait_for_the_settle_time_and_none_is_lost(
    daq, writer_around, camera, triggered, how
):
    camera.source.act = triggered
    daq.fail_next("late_subscription", seconds=0.1)
    _, plan = plan_of(how, writer_around, camera, settle_time=3.0)
    documents, error = run(plan)
    assert error is None and camera.source.n_taken == [0]
    assert images_of(documents, "w_image") == [str(1000 + k) for k in range(N)]


class SubscribesWhen(threading.Event):
    """In place of what closes a driver: it subscribes to the images once a condition is met."""

    LATE = 600.0

    def __init__(self, closing, condition):
        super().__init__()
        self._closing, self._condition = closing, condition
        self.set, self.is_set = closing.set, closing.is_set

    def wait(self, timeout=None):
        if timeout != self.LATE:
            return self._closing.wait(timeout)
        while not self._condition() and not self._closing.wait(0.01):
            pass
        return self.is_set()


@pytest.mark.parametrize("how", ["inside", "wrapped"])
@pytest.mark.parametrize("n_lost", ["some", "all"])
def test_stall_when_the_first_images_were_lost_then_it_says_so_and_what_to_do(
    daq, writer_around, camera, triggered, how, n_lost, monkeypatch
):
    monkeypatch.setattr(_rates, "QUIET", 0.0)
    slowly = lambda: daq.service.source.burst(N, rate=8.0)  # noqa: E731  some come after the subscription
    camera.source.act = triggered if n_lost == "all" else slowly
    driver, sent = daq.service._driver, daq.service.source.n_images + (N if n_lost == "all" else N // 2)
    late = SubscribesWhen(driver._closing, lambda: daq.service.source.n_images >= sent)
    monkeypatch.setattr(driver, "_closing", late)
    daq.fail_next("late_subscription", seconds=late.LATE)
    _, plan = plan_of(how, writer_around, camera, settle_time=0.0, timeout=3.0)
    documents, error = run(plan)
    assert "raise w.settle_time, 0 s" in str(error) and "0.1 s, more on a busy host" in str(error)
    expected = "so images were lost, most likely the first ones" if how == "inside" else "sent them too early"
    assert expected in str(error)


def test_points_when_only_others_make_images_then_no_point_after_the_first_waits_for_a_quiet_second(
    daq, writer_around, camera, triggered, monkeypatch
):
    """The stats still show the images of the point before; that these do not come by themselves is known."""
    camera.source.act = triggered
    device = writer_around(camera)
    asked, stats = [], device.client.stats
    monkeypatch.setattr(device.client, "stats", lambda: asked.append(len(camera.source.n_taken)) or stats())
    monkeypatch.setattr("sfdaq_ophyd.devices.std_daq_writer._rates.PERIOD", 100.0)
    documents, error = run(bp.count([device], 3))
    assert error is None and camera.source.n_taken == [0, 0, 0]
    assert set(asked) <= {0}
