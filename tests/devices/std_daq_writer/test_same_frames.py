"""The DAQ and live devices in one scan: the same frame has the same number and the same pixels in both."""

from __future__ import annotations

import tempfile

import bluesky.plans as bp
import numpy as np
import pytest

from sfdaq_ophyd.devices import Eiger, Jungfrau, StdDaqWriter
from sfdaq_ophyd.plans import fly, std_daq_wrapper
from sfdaq_ophyd.sim import Facility

from .documents import data_of, events_of, run

DETECTOR = "JF04T01V01"
N = 40


@pytest.fixture(scope="module")
def facility():
    """A Jungfrau at 25 Hz that the DAQ writes too, and an Eiger."""
    options = {"jungfrau_name": DETECTOR, "jungfrau_rate_multiplicator": 4, "eiger_model": "500K"}
    options["std_daq_writable"] = tempfile.gettempdir()
    with Facility(only=["jungfrau", "std_daq", "eiger"], speed="auto", **options) as facility:
        yield facility


@pytest.fixture
def jungfrau(facility, tmp_path):
    endpoints = facility.jungfrau.endpoints
    return Jungfrau(endpoints, name="jf", detector_name=DETECTOR, directory=tmp_path)


@pytest.fixture
def writer(facility, tmp_path):
    """Make a writer, with detectors inside."""

    def make(*detectors):
        url, redis_url = facility.std_daq.url, facility.std_daq.redis_url
        return StdDaqWriter(
            url, name="writer", redis_url=redis_url, directory=tmp_path / "raw", detectors=detectors
        )

    return make


def numbers(documents):
    """Return the frame numbers of the file and those of the live Jungfrau, as text."""
    rows = events_of(documents)
    live = [str(row["jf_frame_number"]) for row in rows if "jf_frame_number" in row]
    if any(doc["data_key"] == "writer_image_id" for doc in documents["stream_resource"]):
        return [str(number) for number in data_of(documents, "writer_image_id")], live
    return [number for row in rows for number in row["writer_event_id"]], live


def check_pixels(documents, written, live):
    """Check that frames both have are the same; return how many that were."""
    of_daq = dict(zip(written, data_of(documents, "writer_image"), strict=True))
    of_jf = dict(zip(live, data_of(documents, "jf_image"), strict=True))
    for number in set(of_daq) & set(of_jf):
        assert np.array_equal(of_daq[number], of_jf[number]), number
    return len(set(of_daq) & set(of_jf))


@pytest.mark.parametrize("how", ["inside", "wrapped"])
def test_step_scan_when_live_devices_and_the_daq_take_a_point_then_their_frames_agree(
    facility, jungfrau, writer, tmp_path, how
):
    eiger = Eiger(facility.eiger.url, name="eiger", directory=tmp_path)
    daq = writer(*[jungfrau, eiger] if how == "inside" else [])
    daq.frames_per_trigger.put(N)
    plan = bp.count([daq], 2) if how == "inside" else std_daq_wrapper(bp.count([jungfrau, eiger], 2), daq)
    documents, error = run(plan)
    assert error is None
    for event in documents["event"]:
        data = event["data"]
        assert str(data["jf_frame_number"]) in data["writer_event_id"], "taken while the writer was open"
        assert data["eiger_event_id"]
    assert check_pixels(documents, *numbers(documents)) == 2


@pytest.mark.parametrize("how", ["inside", "wrapped"])
def test_fly_scan_when_a_live_device_and_the_daq_fly_then_their_frames_agree(jungfrau, writer, how):
    n = 3 * N  # so many that some are in both, however late either of them begins
    daq = writer(*[jungfrau] if how == "inside" else [])
    plan = fly([daq], n) if how == "inside" else std_daq_wrapper(fly([jungfrau], n), daq)
    documents, error = run(plan)
    assert error is None
    written, live = numbers(documents)
    assert len(written) == len(live) == n
    assert int(written[0]) <= int(live[0]), "the writer was open before"
    assert check_pixels(documents, written, live) > 0
    streams = {doc["name"] for doc in documents["descriptor"]}
    assert streams == ({"primary"} if how == "inside" else {"primary", "writer"})
