from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from sfdaq_ophyd.sim.pvs.__main__ import travel_time, travelled

positive = st.floats(1e-3, 1e3)


def test_travel_time_when_long_then_distance_at_velocity_and_one_ramp():
    assert travel_time(10, velocity=2, ramp=1) == approx(6)


def test_travel_time_when_short_then_full_velocity_is_never_reached():
    assert travel_time(0.5, velocity=2, ramp=1) == approx(1.0)


@given(positive, positive, positive, st.floats(0, 1))
def test_travelled_when_any_moment_then_between_start_and_end_and_symmetric(distance, velocity, ramp, part):
    total = travel_time(distance, velocity, ramp)
    there = travelled(distance, velocity, ramp, part * total)
    assert -1e-9 * distance <= there <= distance * (1 + 1e-9)
    mirrored = travelled(distance, velocity, ramp, (1 - part) * total)
    assert there + mirrored == approx(distance, rel=1e-6, abs=1e-9)


@given(positive, positive, positive)
def test_travelled_when_time_is_up_then_exactly_there(distance, velocity, ramp):
    assert travelled(distance, velocity, ramp, travel_time(distance, velocity, ramp)) == distance
