"""Numbers of parts of a frame: nothing that was not measured is in any of them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.clients import StreamFrame
from sfdaq_ophyd.devices.eiger._numbers import FrameStatistics
from sfdaq_ophyd.devices.jungfrau._source import CalibratedImages, RawImages
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.web.eiger import EigerSource
from sfdaq_ophyd.web.live_frame import N_BINS, histogram, profile, region
from sfdaq_ophyd.web.picture import Wishes, frame_message

from .test_jungfrau import N, constants, facts
from .test_picture import frame_of

WHOLE = slice(None), slice(None)
IMAGE = np.array([[1, 2, 3, 65535], [10, 20, 30, 40]], "u2")


def test_region_when_pixels_are_bad_or_saturated_then_only_measured_ones_are_summed():
    frame = frame_of(IMAGE, IMAGE == 65535, IMAGE == 40)
    assert region(frame, WHOLE) == {"sum": 106, "mean": 15.1429, "n": 7, "n_bad": 1, "n_saturated": 1}
    assert region(frame, (slice(0, 1), slice(3, 4)))["sum"] is None


def test_profile_when_it_crosses_bad_pixels_and_the_edge_then_none_there():
    frame = frame_of(IMAGE, IMAGE == 65535)
    assert profile(frame, (1, 0, 5, 0)) == [2, 3, None, None, None]
    assert profile(frame, (0, 1, 0, 1)) == [10]


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_histogram_when_pixels_are_bad_then_not_counted(scale):
    seen = histogram(frame_of(IMAGE, IMAGE == 65535), WHOLE, scale)
    assert (sum(seen["counts"]), len(seen["counts"])) == (7, N_BINS)
    assert (seen["low"], seen["high"]) == pytest.approx((1, 40))
    assert histogram(frame_of(IMAGE, IMAGE > 0), WHOLE, scale)["low"] is None


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(
    st.dictionaries(
        st.sampled_from(["detector", "region", "side", "scale", "low", "high", "line", "cursor", "regions"]),
        st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=5),
    )
)
def test_wishes_when_anything_is_sent_then_a_message_or_a_request_error(wish):
    frame = frame_of(IMAGE, IMAGE == 65535)
    try:
        message = frame_message(
            frame, {}, Wishes.read(json.dumps({"detector": "d", **wish})), with_picture=True
        )
    except RequestError:
        return
    length = int.from_bytes(message[:4], "big")
    assert json.loads(message[4 : 4 + length])["facts"] == frame.facts
    assert message[4 + length :].startswith(b"\x89PNG")


def test_eiger_when_its_mask_is_not_applied_then_the_numbers_are_the_device_s():
    image = np.random.default_rng(0).integers(0, 1000, (30, 40)).astype("u4")
    image[0, :5], image[1, :5] = 2**32 - 1, 2**32 - 2
    mask = np.zeros(image.shape, "u4")
    mask[10:12] = 2
    source = EigerSource("eiger", "http://127.0.0.1:1")
    source._mask, source._cutoff = mask, 900

    class Found:
        series_id, image_id, event_id, timestamp = 1, 1, "1_1", 0.0

    Found.image = image
    live = source._frame(Found)
    expected = FrameStatistics("u4", 900, True, mask).of(image)
    assert (live.facts["total"], live.facts["n_saturated"]) == (expected["total"], expected["n_saturated"])
    assert live.facts["n_bad"] == 2 * 40 + 10 and live.pixel(3, 10)["condition"] == "bad"


@pytest.mark.parametrize("load", [constants, None], ids=["calibrated", "raw"])
def test_jungfrau_when_packets_are_lost_then_the_numbers_are_the_device_s(load):
    raw = np.full((512 * N, 1024), 2300, np.uint16)
    raw[3, 4], raw[600, 7] = 0xC000, 0x4000 | 14000
    raw[1024:1028] = 0xFFFF
    shown, _ = facts(raw, load, is_good=False)
    process = RawImages(raw.shape) if load is None else CalibratedImages(constants(masked_value=np.nan))
    frame = StreamFrame(image=raw, timestamp=0.0, event_id="1", pulse_id=1, frame_number=1, is_good=False)
    scalars = process(frame).scalars
    assert shown["total"] == pytest.approx(scalars["total"], rel=1e-5)
    assert shown["n_saturated"] == scalars["n_saturated"] == 1
    n_gaps = 0 if load is None else np.count_nonzero(~constants().pixel_mask)
    assert shown["n_bad"] == scalars["n_lost_pixels"] + n_gaps


def test_jungfrau_when_converted_images_lack_packets_then_bad_and_in_no_statistics():
    image = np.full((512, 1024), 5.0, "f4")
    image[:4] = 0.0
    shown, _ = facts(image, None, is_good=False)
    assert (shown["n_bad"], shown["mean"]) == (4096, 5.0)
    assert facts(image, None)[0]["n_bad"] == 0  # a whole frame may be dark
