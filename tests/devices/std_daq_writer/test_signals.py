"""What the device shows while it writes."""

from __future__ import annotations

import math

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _rates
from sfdaq_ophyd.errors import RequestError, SfdaqError
from sfdaq_ophyd.sim.std_daq.redis_streams import STAT

from .documents import run


@pytest.mark.parametrize("source", ["Redis", "REST"])
def test_rates_when_an_acquisition_runs_then_they_are_live_and_unknown_before(
    daq, tmp_path, wait_for, monkeypatch, source
):
    def add(key, content):
        for whose in told if key == STAT else ():
            told[whose].add(content[whose]["images_per_second"])
        return store(key, content)

    def live(signal, whose):
        return signal.get() > 0 and signal.get() in told[whose]

    told, store = {"detector": set(), "writer": set()}, daq.service.store.add
    monkeypatch.setattr(daq.service.store, "add", add)
    monkeypatch.setattr(_rates, "PERIOD", 0.05)
    redis_url = daq.redis_url if source == "Redis" else None
    writer = StdDaqWriter(daq.url, name="writer", directory=tmp_path, redis_url=redis_url)
    assert math.isnan(writer.detector_rate.get()) and math.isnan(writer.writer_rate.get())
    writer.frames_per_trigger.put(10_000)
    writer.stage()
    try:
        writer.trigger()
        wait_for(lambda: live(writer.writer_rate, "writer"), "the writer's rate")
        wait_for(lambda: live(writer.detector_rate, "detector"), "the detector's rate")
    finally:
        writer.unstage()


def test_rates_when_nobody_knows_them_then_they_are_nan_and_the_scan_goes_on(writer, wait_for, monkeypatch):
    def fail():
        asked.append(1)
        raise SfdaqError("no stats")

    asked = []
    monkeypatch.setattr(_rates, "PERIOD", 0.02)
    monkeypatch.setattr(writer.client, "stats", fail)
    writer.writer_rate.put(5.0)
    writer.frames_per_trigger.put(10_000)
    writer.stage()
    try:
        status = writer.trigger()
        wait_for(lambda: asked and math.isnan(writer.writer_rate.get()), "a rate that nobody knows")
        written = writer.n_completed.get()
        wait_for(lambda: writer.n_completed.get() > written, "more images")
        assert not status.done
    finally:
        writer.unstage()


def test_times_when_a_point_is_written_then_they_are_those_of_its_file(daq, writer):
    documents, error = run(bp.count([writer], 2))
    stats = daq.service.status()["acquisition"]["stats"]
    data = documents["event"][-1]["data"]
    assert (data["writer_start_time"], data["writer_stop_time"]) == (stats["start_time"], stats["stop_time"])
    assert math.isnan(data["writer_timestamp"]), "nothing of the DAQ tells the time of a frame"


@pytest.mark.usefixtures("stops_are_answered")
def test_unused_when_a_point_is_taken_again_then_the_event_names_the_file_left_behind(daq, writer):
    writer.timeout.put(4.0)
    writer.loss_policy.put("retake")
    writer.frames_per_trigger.put(4)
    daq.fail_next("stall", after=2)
    documents, error = run(bp.count([writer], 1))
    assert error is None
    data = documents["event"][0]["data"]
    left = data["writer_unused"].splitlines()
    assert left and set(left) == {str(path) for path in writer.directory.glob("*.h5")} - {data["writer_file"]}


def test_settle_time_when_it_makes_no_sense_then_it_is_refused(writer):
    writer.settle_time.put(-1)
    with pytest.raises(RequestError, match="settle_time=-1"):
        writer.stage()
