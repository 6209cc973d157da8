"""The facility's library, bit for bit (contract jungfrau.md, section 6)."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration

IMAGES = {
    "conv": {"gap_pixels": False, "mask": False},
    "conv_mask": {"gap_pixels": False},
    "gap_keep": {},
    "gap_mask": {"double_pixels": "mask"},
    "gap_interp": {"double_pixels": "interp"},
    "gap_mask_edge": {"double_pixels": "mask", "module_edge_pixels": "mask"},
    "gap_keep_factor9p3": {"factor": 9.3},
    "gap_keep_factor0p25": {"factor": 0.25},
    "raw_gap": {"conversion": False, "mask": False},
}


@pytest.mark.parametrize("key", IMAGES)
def test_image_when_calibrated_then_equals_golden(golden, given, expected, key):
    image = golden(**IMAGES[key])(given["raw"])
    assert image.dtype == expected[key].dtype
    np.testing.assert_array_equal(image, expected[key])


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("keep", {}),
        ("mask", {"double_pixels": "mask"}),
        ("interp", {"double_pixels": "interp"}),
        ("mask_edge", {"double_pixels": "mask", "module_edge_pixels": "mask"}),
    ],
)
def test_pixel_mask_when_processed_then_equals_golden(golden, expected, key, options):
    np.testing.assert_array_equal(golden(**options).pixel_mask, expected[f"pixelmask_{key}"])


def test_reasons_when_processed_then_equal_golden(golden, expected):
    reasons = golden().pixel_mask_reasons
    assert reasons.dtype == np.int64
    np.testing.assert_array_equal(reasons, expected["pixelmask_reasons"])


@pytest.mark.parametrize(("key", "n_gain", "n_pedestal"), [("hg_gain6_ped3", 6, 3), ("hg_gain4_ped4", 4, 4)])
def test_high_gain_when_planes_differ_then_each_is_chosen_by_itself(
    golden, given, expected, key, n_gain, n_pedestal
):
    calibration = golden(
        gain=given["gain"][:n_gain],
        pedestal=given["pedestal"][:n_pedestal],
        highgain=True,
        gap_pixels=False,
        mask=False,
    )
    np.testing.assert_array_equal(calibration(given["raw_hg"]), expected[key])


def test_gain_codes_when_placed_then_equal_golden(golden, given, expected):
    np.testing.assert_array_equal(golden().gain_codes(given["raw"]), expected["gains"])


@pytest.mark.parametrize(
    ("raw", "key", "highgain"), [("raw", "saturated_yx", False), ("raw_hg", "hg_saturated_yx", True)]
)
def test_saturated_pixels_when_placed_then_equal_golden(golden, given, expected, raw, key, highgain):
    found = np.stack(golden(highgain=highgain).saturated_pixels(given[raw]))
    np.testing.assert_array_equal(found, expected[key])


def test_downsample_when_pixels_are_masked_then_equals_golden_to_rounding(golden, given, exported):
    calibration = golden(downsample=(2, 2))
    image = calibration(given["raw"])
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, exported["ds22"], rtol=2e-6, atol=1e-3)
    np.testing.assert_array_equal(calibration.pixel_mask, exported["ds22_mask"])
    np.testing.assert_allclose(calibration.good_fraction, exported["ds22_fraction"])


def test_downsample_when_factor_is_set_then_within_one_count_at_ties(golden, given, exported):
    calibration = golden(downsample=(3, 4), factor=9.3)
    image = calibration(given["raw"])
    assert image.dtype == np.int32
    difference = np.abs(image - exported["ds34_factor"])
    assert difference.max() <= 1
    assert np.count_nonzero(difference) < 0.005 * image.size
    np.testing.assert_array_equal(calibration.pixel_mask, exported["ds34_factor_mask"])


def test_regions_when_two_are_set_then_equal_golden(golden, given, exported):
    rois = {"a": (100, 140, 200, 300), "b": (250, 266, 250, 266)}
    regions = golden(roi=rois).regions(given["raw"])
    assert list(regions) == ["a", "b"]
    for label, region in regions.items():
        np.testing.assert_array_equal(region, exported[f"roi_{label}"])


def test_worked_pixels_when_calibrated_then_equal_to_the_last_bit(golden, given, worked):
    kev = golden(gap_pixels=False, mask=False)(given["raw"])
    counts = golden(gap_pixels=False, mask=False, factor=9.3)(given["raw"])
    assert len(worked) > 10
    for pixel in worked:
        at = pixel["y"], pixel["x"]
        assert given["raw"][at] == pixel["raw"]
        assert float(kev[at]) == pixel["keV"]
        assert counts[at] == pixel["factor9p3"]


def test_om_when_divided_by_photon_energy_then_same_within_rounding(golden, given, golden_dir):
    photons = np.load(golden_dir / "om_expected.npz")["om_int16_photons"]
    ours = golden(gap_pixels=False, mask=False)(given["raw"]) / np.float32(9.3)
    plain_codes = given["raw"] >> 14 != 2
    np.testing.assert_allclose(ours[plain_codes], photons[plain_codes], rtol=5e-7)
    assert np.all(np.abs(ours[~plain_codes] - photons[~plain_codes]) > 1)


def test_stack_when_calibrated_then_each_image_as_alone(golden, given):
    calibration = golden(double_pixels="interp")
    stack = np.stack([given["raw"], np.roll(given["raw"], 7, axis=1), given["raw_hg"]])
    together = calibration(stack)
    for image, raw in zip(together, stack):
        np.testing.assert_array_equal(image, calibration(raw))


def test_arithmetic_when_checked_against_the_formula_then_no_multiply_add_was_fused(golden, given):
    raw = given["raw"]
    stage = np.array([0, 1, 2, 2])[raw >> 14]
    pedestal = np.take_along_axis(given["pedestal"], stage[None], 0)[0]
    gain = np.take_along_axis(given["gain"], stage[None], 0)[0]
    exact = (np.float32(raw & 0x3FFF) - pedestal) * (np.float32(1) / gain)
    divided = (np.float32(raw & 0x3FFF) - pedestal) / gain
    image = golden(gap_pixels=False, mask=False)(raw)
    np.testing.assert_array_equal(image, exact)
    assert np.count_nonzero(image != divided) > 0.1 * image.size


def test_constants_hash_when_a_constant_changes_then_differs(golden, given):
    pedestal = given["pedestal"][:3].copy()
    same = golden(pedestal=pedestal.copy()).constants_hash
    pedestal[1, 100, 100] += 1
    assert golden().constants_hash == same != golden(pedestal=pedestal).constants_hash


def test_engine_when_numba_is_absent_then_numpy_is_chosen(monkeypatch, given, expected):
    monkeypatch.setattr("sfdaq_ophyd.calibration.jungfrau.is_installed", lambda name: name != "numba")
    calibration = JungfrauCalibration("JF03T01V02", given["gain"], given["pedestal"][:3], given["pixel_mask"])
    assert calibration.engine == "numpy"
    np.testing.assert_array_equal(calibration(given["raw"]), expected["gap_keep"])
