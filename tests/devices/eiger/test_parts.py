"""Parts of the Eiger's logic, without a server: ids, plans of series, numbers of a frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.devices import Request
from sfdaq_ophyd.devices.eiger._numbers import BLOCK, FrameStatistics
from sfdaq_ophyd.devices.eiger._order import SeriesOrder
from sfdaq_ophyd.devices.eiger._series import Mode, SeriesPlan, plan_series


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


def order(*numbers, series_id=4, first=0, window=8):
    """Give images of one series, the first of all being `first`; return what passed, and what waits."""
    series = SeriesOrder()
    series.window = window
    series.start(1)
    series.accept(1, first, "first of all")
    series.start(series_id)
    passed = []
    for number in numbers:
        passed += series.accept(series_id, number, number, n_wanted=100) or []
    return [(event_id, frame) for event_id, frame in passed], series


def came(*numbers, series_id=4):
    return [(f"{series_id}_{number}", number) for number in numbers]


def test_series_when_frames_come_in_order_then_each_goes_on_at_once():
    passed, series = order(0, 1, 2)
    assert passed == came(0, 1, 2) and series.end(10) == []


def test_series_when_a_frame_comes_late_then_it_is_put_in_its_place():
    assert order(0, 2, 3, 1, 4)[0] == came(0, 1, 2, 3, 4)
    assert order(3, 2, 1, 0)[0] == came(0, 1, 2, 3)


@given(st.permutations(range(12)), st.sampled_from([0, 1]))
def test_series_when_frames_come_in_any_order_of_a_large_window_then_all_pass_in_theirs(numbers, first):
    numbers = [number + first for number in numbers]
    passed, series = order(*numbers, first=first, window=12)
    assert passed + series.end(100) == came(*sorted(numbers))


def test_series_when_more_wait_than_the_window_then_what_keeps_them_is_lost():
    passed, series = order(0, 2, 3, 4, window=2)
    assert passed == [*came(0), ("4_1", None), *came(2, 3, 4)]
    assert series.accept(4, 1, 1) is None, "too late"


def test_series_when_it_ends_then_what_waits_goes_on_and_the_rest_is_named():
    passed, series = order(0, 3)
    assert passed == came(0)
    assert series.end(2) == [("4_1", None), ("4_2", None)], "no more than asked for"
    passed, series = order(0, 3)
    assert series.end(10) == [("4_1", None), ("4_2", None), *came(3)]
    assert series.still_missing(2) == ["4_4", "4_5"]


def test_series_when_a_number_is_absurd_then_no_more_are_lost_than_were_wanted():
    _, series = order(0, 4_000_000_000)
    assert len(series.end(10)) == 10


def test_series_when_a_frame_is_of_another_one_or_comes_again_then_it_is_stale():
    series = order(0, 2)[1]
    assert series.accept(3, 1, 1) is None
    assert series.accept(4, 0, 0) is None
    assert series.accept(4, 2, 2) is None


@pytest.mark.parametrize("first", [0, 1])
def test_series_when_a_later_one_lacks_its_first_frame_then_it_is_missed(first):
    passed, series = order(first + 1, first=first)
    assert passed == []
    assert series.end(2) == [(f"4_{first}", None), *came(first + 1)]


@pytest.mark.parametrize("numbers", [(1, 0, 2), (0, 1, 2), (1, 2, 3), (2, 1, 3)])
def test_series_when_it_is_the_first_of_all_then_it_begins_where_its_numbers_do(numbers):
    series = SeriesOrder()
    series.start(4)
    passed = []
    for number in numbers:
        passed += series.accept(4, number, number, n_wanted=3) or []
    assert passed == came(*sorted(numbers))


def test_series_when_two_have_one_number_then_they_do_not_mix():
    series = SeriesOrder()
    series.start(1)
    assert series.accept(1, 0, "a", uid="A")
    series.start(1)
    assert series.accept(1, 0, "a", uid="A") is None
    assert series.accept(1, 0, "b", uid="B") == [("1_0", "b")]
    assert series.accept(1, 1, "c", uid="C") is None
    assert series.accept(1, 1, "b") == [("1_1", "b")], "one that does not tell"


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
    shape = (3, BLOCK + 17)
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
