"""The newest image of a Jungfrau as the page shows it."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.clients import StreamFrame
from sfdaq_ophyd.web.jungfrau import JungfrauSource
from sfdaq_ophyd.wire.detector_name import DaqRec
from sfdaq_ophyd.wire.image_header import ImageHeader
from tests.clients.stream_peers import Publisher

NAME, N = "JF01T03V01", 3


def constants(**options):
    gain = np.stack([np.full((512 * N, 1024), value) for value in (41.0, -1.4, -0.1, 100.0, -1.4, -0.1)])
    pedestal = np.stack([np.full((512 * N, 1024), value) for value in (2000.0, 14500.0, 14500.0)])
    return JungfrauCalibration(NAME, gain=gain, pedestal=pedestal, **options)


def facts(raw, load=constants, **fields):
    fields = {"is_good": True, "daq_rec": 0} | fields
    frame = StreamFrame(image=raw, timestamp=0.0, event_id="1", pulse_id=1, frame_number=1, **fields)
    source = JungfrauSource("jf", NAME, [f"tcp://127.0.0.1:{port}" for port in (1, 2, 3)], load=load)
    if load is not None:
        source._calibrate()
    live = source._frame(frame)
    return live.facts, live


@pytest.mark.parametrize("padding", [0xFFFF, 0], ids=["of slsReceiver", "of sf-daq"])
@pytest.mark.parametrize("load", [constants, None], ids=["calibrated", "raw"])
def test_picture_when_a_module_is_lost_then_it_is_bad_and_in_no_statistics(padding, load):
    """live-lost-module"""
    raw = np.full((512 * N, 1024), 2000 + 41 * 5, np.uint16)
    whole, _ = facts(raw.copy(), load)
    raw[1024:] = padding
    lost, live = facts(raw, load, is_good=False)
    expected = 5 if load else 2205
    assert lost["mean"] == whole["mean"] == pytest.approx(expected) and lost["max"] == pytest.approx(expected)
    assert lost["n_bad"] - whole["n_bad"] == 512 * 1024
    y = live.image.shape[0] - 5
    assert live.pixel(3, y)["condition"] == "bad" and live.pixel(3, 5)["condition"] == "good"


def test_picture_when_taken_in_high_gain_then_has_its_constants():
    raw = np.full((512 * N, 1024), 2500, np.uint16)
    high, _ = facts(raw, daq_rec=DaqRec(high_gain=True).encode())
    assert high["mean"] == pytest.approx(5)


def test_picture_when_the_image_says_that_a_module_is_off_then_the_others_are_in_their_places():
    raw = np.full((512 * N, 1024), 2000 + 41 * 5, np.uint16)
    whole, live = facts(raw)
    less, without = facts(raw[:1024], extra={"module_map": [0, -1, 1]})
    assert less["shape"] == whole["shape"] and less["mean"] == whole["mean"]
    of_module = {0: 5, 1: 600, 2: 1150}  # rows
    assert [live.pixel(3, y)["condition"] for y in of_module.values()] == ["good"] * 3
    assert [without.pixel(3, y)["condition"] for y in of_module.values()] == ["good", "bad", "good"]


def test_picture_when_an_image_is_of_another_detector_then_it_is_counted_and_not_shown(wait_for):
    pixels = np.zeros((512, 1024), np.uint16)
    header = ImageHeader(frame_number=1, shape=pixels.shape, pulse_id=7, detector_name="JF04T01V01")
    with Publisher() as sender:
        source = JungfrauSource("jf", NAME, sender.endpoints, stream="assembled")
        source.take()
        try:
            sender.wait_subscribed()
            sender.send(0, header.encode(), pixels.tobytes())
            wait_for(lambda: source.take()[1]["counters"] == {"foreign": 1})
            assert source.take()[0] is None
        finally:
            source.rest()


def test_picture_when_the_mode_is_not_known_then_is_that_of_the_calibration():
    raw = np.full((512 * N, 1024), 2500, np.uint16)
    high, _ = facts(raw, lambda: constants(highgain=True), daq_rec=None)
    low, _ = facts(raw, daq_rec=None)
    assert high["mean"] == pytest.approx(5) and low["mean"] == pytest.approx(500 / 41, rel=1e-4)


@pytest.mark.parametrize(
    "options", [{"roi": (10, 50, 20, 90)}, {"downsample": (2, 2)}], ids=["roi", "blocks"]
)
def test_picture_when_the_calibration_is_for_less_than_the_image_then_is_whole_all_the_same(options):
    raw = np.full((512 * N, 1024), 2000 + 41 * 5, np.uint16)
    whole, _ = facts(raw)
    good = np.zeros(raw.shape, np.int64)
    found, _ = facts(raw, lambda: constants(pixel_mask=good, **options))
    assert (found["shape"], found["mean"]) == (whole["shape"], whole["mean"])


def test_lost_frames_when_an_image_has_no_number_then_it_is_no_jump():
    source = JungfrauSource("jf", NAME, ["tcp://127.0.0.1:1"], stream="assembled", frame_step=1)
    for number in (5_000_000, 0, 5_000_002, 5_000_004):
        fields = {"pulse_id": number or None, "is_good": number > 0}
        source._keep(StreamFrame(image=None, timestamp=0.0, event_id="1", frame_number=number, **fields))
    assert source.n_lost({}) == 1
