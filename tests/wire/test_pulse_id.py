import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire.broker_parameters import check_int, check_modules, check_names
from sfdaq_ophyd.wire.pulse_id import MAX_PULSE_DISTANCE, RATE_MULTIPLICATORS, PulseRange

ids = st.integers(0, 2**40)
rates = st.sampled_from(RATE_MULTIPLICATORS)


def test_len_when_one_pulse_then_one():
    assert len(PulseRange(7, 7)) == 1


@pytest.mark.parametrize(
    ("first", "last", "r", "expected"),
    [
        (1000, 1009, 1, (1000, 1009)),
        (1000, 1010, 2, (1000, 1010)),
        (1001, 1009, 2, (1002, 1008)),
        (1000, 1010, 4, (1000, 1008)),
    ],
)
def test_aligned_when_contract_table_then_detector_column(first, last, r, expected):
    aligned = PulseRange(first, last).aligned(r)
    assert (aligned.first, aligned.last) == expected


def test_aligned_when_no_multiple_inside_then_refused():
    with pytest.raises(RequestError, match="at least one multiple of 4"):
        PulseRange(1001, 1002).aligned(4)


@given(ids, st.integers(1, 500), rates)
def test_next_frames_when_any_now_then_exactly_n_after_now(now, n, r):
    pulses = PulseRange.next_frames(now, n, r)
    assert pulses.first > now and pulses.first % r == 0 and pulses.last % r == 0
    assert pulses.n_frames(r) == n == len(range(pulses.first, pulses.last + 1, r))


@given(ids, st.integers(0, 300), rates)
def test_n_frames_when_any_range_then_counts_multiples(first, length, r):
    pulses = PulseRange(first, first + length)
    assert pulses.n_frames(r) == sum(p % r == 0 for p in range(pulses.first, pulses.last + 1))


@given(ids, st.integers(0, 400_000))
def test_split_when_long_then_covers_without_gap(first, length):
    parts = list(PulseRange(first, first + length).split())
    assert parts[0].first == first and parts[-1].last == first + length
    assert all(b.first == a.last + 1 for a, b in zip(parts, parts[1:]))
    assert all(p.last - p.first <= MAX_PULSE_DISTANCE for p in parts)


@given(
    first=st.integers(0, 10**9),
    length=st.integers(1, 400_000),
    r=st.sampled_from([1, 2, 4, 8, 10, 20, 40, 50, 100]),
    extra=st.integers(0, 70_000),
)
def test_split_when_detector_is_slower_then_every_part_has_a_frame(first, length, r, extra):
    whole = PulseRange(first, first + length + r)
    parts = list(whole.split(2 * r - 2 + extra if length < 2000 else 60_001, r))
    assert parts[0].first == whole.first and parts[-1].last == whole.last
    assert all(b.first == a.last + 1 for a, b in zip(parts, parts[1:]))
    assert all(part.n_frames(r) > 0 for part in parts)
    assert sum(part.n_frames(r) for part in parts) == whole.n_frames(r)


def test_split_when_parts_could_be_empty_then_refused():
    with pytest.raises(RequestError, match="max_distance=5"):
        list(PulseRange(0, 100).split(5, 4))


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (5, 4, "PulseRange.last=4"),
        (-1, 4, "PulseRange.first=-1"),
        (1.0, 4, "an integer"),
        (True, 4, "an integer"),
        ("1", 4, "an integer"),
        (None, 4, "an integer"),
    ],
)
def test_pulse_range_when_bad_then_names_the_field(first, last, message):
    with pytest.raises(RequestError, match=message):
        PulseRange(first, last)


@pytest.mark.parametrize("r", [0, 3, 5, 25, True, "2", None, 2.5])
def test_rate_multiplicator_when_not_allowed_then_refused(r):
    with pytest.raises(RequestError, match="rate_multiplicator"):
        PulseRange(0, 100).aligned(r)


ODD = [None, "x", b"x", math.nan, math.inf, 1j, [0.5], np.array([0.5, 2]), np.array("x"), Ellipsis]


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize(
    ("use", "field"),
    [
        (lambda value: PulseRange(value, 5), "first"),
        (lambda value: PulseRange.next_frames(value, 1), "now"),
        (lambda value: PulseRange.next_frames(1, value), "n_frames"),
        (lambda value: PulseRange.next_frames(1, 1, value), "rate_multiplicator"),
        (lambda value: next(PulseRange(1, 5).split(value)), "max_distance"),
        (lambda value: check_int(value, "run_number"), "run_number"),
        (lambda value: check_modules(value, "JF01T03V01"), "modules"),
        (lambda value: check_names(value, "pv_list"), "pv_list"),
    ],
)
def test_number_or_list_when_it_is_anything_else_then_the_field_is_named(use, field, value):
    with pytest.raises(RequestError, match=field):
        use(value)


@pytest.mark.parametrize("number", [2, 2.0, np.int64(2), np.float32(2), np.array(2)[()]])
def test_number_when_it_is_whole_then_any_type_of_it_is_taken(number):
    assert PulseRange.next_frames(number, number, number) == PulseRange(4, 6)
    assert type(PulseRange.next_frames(0, number).last) is int
