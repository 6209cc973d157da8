"""The scene is Poisson noise around a profile that depends on the distance from the beam alone."""

import numpy as np
import pytest

from sfdaq_ophyd.sim.eiger.frames import Scene


@pytest.fixture(scope="module")
def scene():
    options = {"energy_ev": 8047.78, "distance": 0.05, "masked_value": 65535, "mask_version": 1, "seed": 3}
    return Scene((600, 700), 16, 0.5, 5000, beam_center=(350.0, 300.0), **options)


@pytest.fixture(scope="module")
def mask(scene):
    mask = np.zeros(scene.shape, "u4")
    mask[100:120] = 1
    return mask


def test_render_when_drawn_then_each_ring_has_the_mean_and_the_variance_of_its_rate(scene, mask):
    images = scene.render(mask)
    y, x = np.indices(scene.shape)
    distance = np.hypot(x - 350, y - 300).astype(int)
    rates = scene._radial_profile() * scene.count_time
    for r in (60, 120, 200, 250):
        pixels = np.stack([image[(distance == r) & (mask == 0)] for image in images]).astype("f8")
        pixels = pixels[pixels < 2 * rates[r] + 50]  # without the peaks
        assert pixels.mean() == pytest.approx(rates[r], rel=0.05)
        assert pixels.var() == pytest.approx(rates[r], rel=0.5)


def test_render_when_repeated_then_the_same_and_its_images_differ_from_one_another(scene, mask):
    images = scene.render(mask)
    assert all(np.array_equal(one, other) for one, other in zip(images, scene.render(mask)))
    assert not any(np.array_equal(images[0], other) for other in images[1:])
    assert all((image[100:120] == 65535).all() and image.dtype == "u2" for image in images)
