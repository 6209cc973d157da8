"""Parts of the Eiger's logic, without a server: ids, plans of series, numbers of a frame."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.devices import Request
from sfdaq_ophyd.devices.eiger._plan import SeriesPlan, plan_series
from sfdaq_ophyd.devices.eiger._series import SeriesFilter
from sfdaq_ophyd.devices.eiger._settings import Mode
from sfdaq_ophyd.devices.eiger._statistics import BLOCK_BYTES, FrameStatistics


@pytest.mark.parametrize(
    ("mode", "trigger_mode", "request_", "plan"),
    [
        (Mode.INTERNAL, "ints", Request(3, 3), SeriesPlan(3, 1000, 1)),
        (Mode.INTERNAL, "inte", Request(3, 3), SeriesPlan(1, 1000, 3)),
        (Mode.INTERNAL, "ints", Request(30, 3, flying=True), SeriesPlan(30, 1, 1)),
        (Mode.INTERNAL, "inte", Request(30, 3, flying=True), SeriesPlan(1, 30, 30)),
        (Mode.EXTERNAL, "exts", Request(3, 3), SeriesPlan(3, 1, 1)),
        (Mode.EXTERNAL, "exts", Request(30, 3, flying=True), SeriesPlan(3, 10, 10)),
        (Mode.EXTERNAL, "exte", Request(3, 3), SeriesPlan(1, 3, 3)),
        (Mode.EXTERNAL, "eies", Request(3, 3), SeriesPlan(1, 4, 4)),
    ],
)
def test_plan_when_asked_for_each_mode_then_images_and_triggers_fit(mode, trigger_mode, request_, plan):
    assert plan_series(mode, trigger_mode, 1000, request_) == plan


def test_filter_when_frames_come_in_order_then_none_is_missing():
    series = SeriesFilter()
    series.start(4)
    assert [series.accept(4, k) for k in range(3)] == [[], [], []]


def test_filter_when_a_frame_is_of_another_series_or_comes_again_then_it_is_stale():
    series = SeriesFilter()
    series.start(4)
    series.accept(4, 0)
    assert series.accept(3, 1) is None
    assert series.accept(4, 0) is None


def test_filter_when_ids_jump_then_the_missing_ones_are_named():
    series = SeriesFilter()
    series.start(4)
    series.accept(4, 0)
    assert series.accept(4, 3) == ["4_1", "4_2"]
    assert series.still_missing(2) == ["4_4", "4_5"]


@pytest.mark.parametrize("first", [0, 1])
def test_filter_when_a_later_series_lacks_its_first_frame_then_it_is_missed(first):
    series = SeriesFilter()
    series.start(1)
    assert series.accept(1, first) == []
    series.start(2)
    assert series.accept(2, first + 1) == [f"2_{first}"]


def brute_force(image, cutoff, bad):
    good = image[~bad].astype("u8")
    return {
        "total": int(good.sum()),
        "max": int(good.max(initial=0)),
        "n_saturated": int((good > cutoff).sum()),
    }


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
def test_numbers_when_computed_in_blocks_then_they_are_those_of_plain_numpy(dtype, masked, exclude):
    rng = np.random.default_rng(1)
    top = 2 ** (8 * np.dtype(dtype).itemsize) - 1
    shape = (3, BLOCK_BYTES // np.dtype(dtype).itemsize + 17)
    image = rng.integers(0, 200, shape).astype(dtype)
    image[0, ::5], image[1, ::7], image[2, 3] = top, top - 1, top - 2
    mask = (rng.random(shape) < 0.1).astype("u4") if masked else None
    bad = np.zeros(shape, bool)
    if exclude:
        bad = (image >= top - 1) | (mask != 0 if masked else False)
    numbers = FrameStatistics(dtype, 150, exclude, mask)
    assert numbers.of(image) == brute_force(image, 150, bad)
    assert set(numbers.names) == {"total", "max", "n_saturated"}


def test_numbers_when_no_pixel_is_valid_or_no_cutoff_known_then_zero_and_no_saturation():
    image = np.full((4, 4), 65535, "u2")
    assert FrameStatistics("u2", None, True).of(image) == {"total": 0, "max": 0}
    assert FrameStatistics("u2", 10, True).of(image) == {"total": 0, "max": 0, "n_saturated": 0}
