"""Rings: Bragg's law, and none where the geometry was never set."""

import math

import pytest

from sfdaq_ophyd.web.live_frame import MAX_RINGS, Geometry


def test_radius_when_bragg_is_turned_round_then_the_resolution():
    geometry = Geometry((500, 500), 0.2, 75e-6, 1.0)
    angle = math.atan(geometry.radius(2.0) * 75e-6 / 0.2)
    assert 1.0 / (2 * math.sin(angle / 2)) == pytest.approx(2.0)


def test_radius_when_scattered_by_90_degrees_or_more_then_none():
    assert Geometry((0, 1), 0.2, 75e-6, 1.0).radius(0.7) is None


def test_rings_when_drawn_then_few_apart_and_on_the_image():
    rings = Geometry((500, 500), 0.2, 75e-6, 1.0).rings((1000, 1000))
    radii = [ring["radius"] for ring in rings]
    assert 3 <= len(rings) <= MAX_RINGS
    assert radii == sorted(radii) and radii[-1] <= math.hypot(500, 500)


@pytest.mark.parametrize(
    "numbers",
    [
        ((0, 0), 0.2, 75e-6, 1.0),
        ((5, 5), 0.0, 75e-6, 1.0),
        ((5, 5), 0.2, 75e-6, 0.0),
        ((5, 5), math.nan, 75e-6, 1.0),
    ],
)
def test_geometry_when_a_number_was_never_set_then_not_known(numbers):
    assert not Geometry(*numbers).is_known
