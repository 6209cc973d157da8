"""What the simulated detectors see at a pulse, now and later."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.sim.clock import CENTRE, PulseClock, View, sample_at
from sfdaq_ophyd.sim.jungfrau.scene import REFLECTION, Scene


@pytest.fixture
def clock():
    clock = PulseClock()
    clock.pause()
    yield clock
    clock.close()


def test_view_when_it_changes_then_from_the_next_pulse_on_and_the_past_stays(clock):
    first = clock.now()
    clock.show(sample=0.25)
    second = clock.step(5)
    clock.light = False
    third = clock.step(5)
    clock.show(light=True, sample=0.5)
    clock.step(1)
    other = PulseClock(clock.path)  # as in another process
    for each in (clock, other):
        assert each.view(first - 10**6) == each.view(first) == View(True, 1.0)
        assert each.view(first + 1) == each.view(second) == View(True, 0.25)
        assert each.view(second + 1) == each.view(third) == View(False, 0.25)
        assert each.view(third + 1) == each.view(third + 10**6) == View(True, 0.5)
    other.close()


def test_view_when_the_trigger_stops_then_from_the_next_pulse_on_until_it_starts(clock):
    first = clock.now()
    clock.show(triggered=False)
    last = clock.step(5)
    clock.show(triggered=True)
    triggered = [clock.view(pulse_id).triggered for pulse_id in range(first, last + 2)]
    assert triggered == [True, *[False] * 5, True]


def test_view_when_it_changed_more_often_than_is_kept_then_the_oldest_known(clock):
    first = clock.now()
    for k in range(1, 2**14 + 100):
        clock.show(sample=k / 2**15)
        clock.step()
    last = clock.now()
    assert clock.view(last).sample == (2**14 + 99) / 2**15
    assert clock.view(last - 16000).sample == (2**14 + 99 - 16000) / 2**15
    assert 0 < clock.view(first).sample < 200 / 2**15


def test_sample_when_at_its_place_then_all_of_it_and_less_to_both_sides():
    assert sample_at(CENTRE) == 1 and sample_at(CENTRE - 0.7) == pytest.approx(sample_at(CENTRE + 0.7))
    assert sample_at(CENTRE + 2) < sample_at(CENTRE + 1) < 1


def test_scene_when_the_sample_leaves_the_light_then_its_reflection_goes_and_nothing_else():
    views = {8 * k: View(True, share) for k, share in enumerate((1.0, 0.5, 0.0))} | {24: View(False, 1.0)}
    scene = Scene("JF03T01V02", 3, views.get)
    scene._index = lambda pulse_id: 2  # the same rendered frame, so that only the view differs
    frames = {pulse_id: scene.raw(pulse_id) for pulse_id in views}
    outside = np.ones(scene.shape, bool)
    outside[REFLECTION] = outside[0, :8] = False
    assert all(np.array_equal(frames[p][outside], frames[0][outside]) for p in (8, 16))
    photons = [scene.photons(p).astype(int) for p in views]
    whole, half, none = (int(each[REFLECTION].sum()) for each in photons[:3])
    assert half - none == pytest.approx((whole - none) / 2, rel=0.01) and whole > 20 * none
    assert {1} < set(np.unique(frames[0][REFLECTION] >> 14)), "it is bright enough for another gain"
    assert not photons[3].any() and np.array_equal(frames[24], scene.dark(0, 24))


def test_scene_when_half_the_sample_is_in_the_light_then_calibrated_it_gives_back_the_photons():
    scene = Scene("JF03T01V02", 3, lambda pulse_id: View(True, 0.5))
    raw, photons = scene.raw(7)[REFLECTION], scene.photons(7)[REFLECTION]
    stage = np.minimum(raw >> 14, 2).astype("i8")
    gain, pedestal = (
        np.choose(stage, planes[(slice(3), *REFLECTION)].astype("f8"))
        for planes in (scene.constants.gain, scene.constants.pedestal)
    )
    good = scene.constants.mask[REFLECTION] == 0
    found = ((raw & 0x3FFF) - pedestal) / gain / 9.3
    assert np.abs(found - photons)[good].max() < 1
