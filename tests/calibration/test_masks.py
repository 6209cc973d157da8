"""Masked pixels, NaN on request, undefined gain, lost packets; the caller's arrays stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.calibration import count_words
from sfdaq_ophyd.calibration.raw_pixels import with_lost_packets
from sfdaq_ophyd.errors import BadConstant, ConstantsMissing, RequestError

from .conftest import plain


def test_caller_arrays_when_calibrated_then_untouched(golden, given):
    before = {name: array.copy() for name, array in given.items()}
    calibration = golden(double_pixels="mask", module_edge_pixels="mask", masked_value=np.nan)
    given["raw"].flags.writeable = False
    try:
        calibration(given["raw"])
        calibration.with_options(factor=9.3, masked_value=0)(given["raw"])
    finally:
        given["raw"].flags.writeable = True
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("double_pixels", ["keep", "mask", "interp"])
def test_nan_when_requested_then_exactly_where_the_pixel_mask_is_bad(golden, given, double_pixels):
    zero = golden(double_pixels=double_pixels)
    nan = golden(double_pixels=double_pixels, masked_value=np.nan)
    image = nan(given["raw"])
    np.testing.assert_array_equal(np.isnan(image), ~nan.pixel_mask)
    np.testing.assert_array_equal(image[nan.pixel_mask], zero(given["raw"])[nan.pixel_mask])


def test_out_when_reused_then_no_pixel_of_the_frame_before_remains(golden, given):
    calibration = golden(double_pixels="mask")
    out = calibration.empty()
    out.fill(777)
    image = calibration(given["raw"], out=out)
    assert image is out
    np.testing.assert_array_equal(out, calibration(given["raw"]))
    assert np.all(out[~calibration.pixel_mask] == 0)
    assert not np.signbit(out[~calibration.pixel_mask]).any()


def test_bool_mask_when_edges_are_to_be_masked_then_only_its_own_pixels_are(golden, given):
    mask = np.zeros((512, 1024), dtype=bool)
    mask[7, 9] = True
    calibration = golden(pixel_mask=mask, double_pixels="mask", module_edge_pixels="mask", gap_pixels=False)
    assert np.argwhere(~calibration.pixel_mask).tolist() == [[7, 9]]
    assert calibration(given["raw"])[7, 9] == 0


def test_raw_images_when_masked_then_zero_at_bad_pixels_and_words_elsewhere(golden, given):
    calibration = golden(conversion=False, gap_pixels=False)
    image = calibration(given["raw"])
    assert (image.dtype, calibration.unit) == (np.uint16, "ADU")
    np.testing.assert_array_equal(image, np.where(calibration.pixel_mask, given["raw"], 0))


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_code_2_when_masked_on_request_then_bad_in_that_frame_only(golden, given, fill):
    raw = given["raw"]
    keep = golden(gap_pixels=False, mask=None, masked_value=fill)(raw)
    masked = golden(gap_pixels=False, masked_value=fill, mask_undefined_gain=True)(raw)
    undefined = raw >> 14 == 2
    assert np.count_nonzero(undefined) == 8
    np.testing.assert_array_equal(masked[undefined], np.float32(fill))
    np.testing.assert_array_equal(masked[~undefined], keep[~undefined])


def test_lost_packets_when_masked_on_request_then_no_pixel_passes_as_signal(golden, given):
    raw = given["raw"]
    image = golden(gap_pixels=False, mask_lost_packets=True)(raw)
    assert np.all(image[100:104] == 0)
    rest = np.r_[0:100, 104:512]
    np.testing.assert_array_equal(image[rest], golden(gap_pixels=False)(raw)[rest])


def test_lost_packets_when_padded_with_zeros_then_marked_in_a_copy(given):
    raw = given["raw"].copy()
    assert with_lost_packets(raw) is raw
    raw[4:8] = 0
    raw[101] = 0  # a quarter of a packet proves nothing
    marked = with_lost_packets(np.stack([raw, given["raw"]]))
    assert (marked[0, 4:8] == 0xFFFF).all() and not raw[4:8].any() and not marked[0, 101].any()
    rest = np.r_[0:4, 8:512]
    np.testing.assert_array_equal(marked[0, rest], raw[rest])
    np.testing.assert_array_equal(marked[1], given["raw"])


def test_counts_when_words_are_known_then_exact(given):
    raw = given["raw"]
    counts = count_words(raw)
    assert counts.n_undefined_gain == 8
    assert counts.n_saturated == np.count_nonzero(raw == 0xC000) == 88
    assert counts.n_lost == 4 * 1024
    assert counts.n_g1 == np.count_nonzero(raw >> 14 == 1)
    assert counts.n_g2 == np.count_nonzero(raw >> 14 == 3)
    assert count_words(given["raw_hg"], highgain=True).n_saturated == np.count_nonzero(
        given["raw_hg"] == 0x3FFF
    )


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_gain_when_not_masked_then_refused_and_when_masked_then_harmless(golden, given, value):
    gain = given["gain"].copy()
    gain[1, 33, 44] = value
    with pytest.raises(BadConstant, match=r"gain of JF03T01V02 \(gains\.h5\), G1 at row 33, column 44"):
        golden(gain=gain, gain_file="gains.h5")
    masked = golden(gain=gain, bad_constants="mask", gap_pixels=False)
    assert masked(given["raw"])[33, 44] == 0
    assert not masked.pixel_mask[33, 44]
    assert masked.pixel_mask_reasons[33, 44] & 1 << 23
    mask = given["pixel_mask"].copy()
    mask[33, 44] = 1
    assert golden(gain=gain, pixel_mask=mask, gap_pixels=False)(given["raw"])[33, 44] == 0


def test_bad_gain_when_its_plane_is_not_used_then_no_matter(golden, given, expected):
    gain = given["gain"].copy()
    gain[3:] = np.nan
    np.testing.assert_array_equal(golden(gain=gain)(given["raw"]), expected["gap_keep"])
    with pytest.raises(BadConstant, match="HG0 at row"):
        golden(gain=gain, highgain=True)


def test_bad_gain_when_its_module_is_switched_off_then_no_matter():
    gain, pedestal = np.ones((4, 1536, 1024), "f4"), np.zeros((3, 1536, 1024), "f4")
    gain[:, 600:700] = 0
    from sfdaq_ophyd.calibration import JungfrauCalibration

    JungfrauCalibration("JF01T03V01", gain, pedestal, disabled_modules=(1,), engine="numpy")
    with pytest.raises(RequestError, match="102400 have others"):
        JungfrauCalibration("JF01T03V01", gain, pedestal, engine="numpy")


def test_constants_when_missing_then_refused_and_never_passed_through(given):
    from sfdaq_ophyd.calibration import JungfrauCalibration

    gain, pedestal = given["gain"], given["pedestal"]
    for args, match in [((), "gain maps"), ((gain,), "pedestal maps"), ((None, pedestal), "gain maps")]:
        with pytest.raises(ConstantsMissing, match=match):
            JungfrauCalibration("JF03T01V02", *args)
    for options in ({"mask": True}, {"downsample": (2, 2)}, {"double_pixels": "mask"}):
        with pytest.raises(RuntimeError, match="pixel mask"):
            JungfrauCalibration("JF03T01V02", gain, pedestal, **options)


def test_downsample_when_a_pixel_is_bad_then_the_rest_is_scaled_up():
    calibration = plain("JF03T01V02", 1, gap_pixels=False, downsample=(2, 2), engine="numpy")
    raw = np.zeros((512, 1024), dtype=np.uint16)
    raw[:2, :2] = [[1, 2], [3, 4]]
    assert calibration(raw)[0, 0] == 10
    mask = np.zeros((512, 1024), dtype=np.int64)
    mask[0, 0], mask[2:4, 2:4] = 1, 1
    from sfdaq_ophyd.calibration import JungfrauCalibration

    options = {"gap_pixels": False, "downsample": (2, 2), "engine": "numpy"}
    ones, zeros = np.ones((4, 512, 1024)), np.zeros((3, 512, 1024))
    masked = JungfrauCalibration("JF03T01V02", ones, zeros, mask, **options)
    assert masked(raw)[0, 0] == 12
    assert masked(raw)[1, 1] == 0
    assert masked.good_fraction[0, 0] == 0.75
    assert np.isnan(
        JungfrauCalibration("JF03T01V02", ones, zeros, mask, masked_value=np.nan, **options)(raw)[1, 1]
    )


def test_interpolation_when_worked_by_hand_then_equal_and_charge_is_kept():
    calibration = plain("JF03T01V02", 1, double_pixels="interp", engine="numpy")
    raw = np.zeros((512, 1024), dtype=np.uint16)
    raw[254:258, 100] = [150, 200, 250, 100]
    column = calibration(raw)[254:260, 100]
    np.testing.assert_allclose(column, [150, 103.0303, 96.9697, 125, 125, 100], rtol=1e-6)
    rng = np.random.default_rng(1)
    raw = rng.integers(1, 1000, (512, 1024), dtype=np.uint16)
    np.testing.assert_allclose(calibration(raw).sum(dtype="f8"), raw.sum(dtype="f8"), rtol=1e-6)
