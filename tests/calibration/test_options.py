"""Options: what is refused, with which words, before anything is calibrated; JSON and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.calibration import CalibrationOptions, JungfrauCalibration
from sfdaq_ophyd.errors import DtypeError, RequestError, ShapeError

from .conftest import plain

REFUSED = [
    ({"double_pixels": "half"}, "double_pixels"),
    ({"module_edge_pixels": True}, "module_edge_pixels"),
    ({"conversion": 1}, "conversion"),
    ({"mask": "yes"}, "mask"),
    ({"factor": 0}, "factor"),
    ({"factor": -1.5}, "factor"),
    ({"factor": math.nan}, "factor"),
    ({"factor": "9.3 keV"}, "factor"),
    ({"factor": True}, "factor"),
    ({"double_pixels": "interp", "gap_pixels": False}, "gap_pixels"),
    ({"double_pixels": "interp", "factor": 9.3}, "factor"),
    ({"double_pixels": "interp", "conversion": False}, "conversion"),
    ({"double_pixels": "mask", "mask": False}, "mask"),
    ({"factor": 9.3, "conversion": False}, "factor"),
    ({"downsample": (2, 2), "roi": (0, 1, 0, 1)}, "roi"),
    ({"downsample": (2, 2), "mask": False}, "downsample"),
    ({"downsample": (2, 2), "conversion": False}, "downsample"),
    ({"downsample": (0, 2)}, "downsample"),
    ({"downsample": 2}, "downsample"),
    ({"masked_value": 1.0}, "masked_value"),
    ({"masked_value": "nan"}, "masked_value"),
    ({"masked_value": math.nan, "factor": 9.3}, "masked_value"),
    ({"masked_value": math.nan, "conversion": False}, "masked_value"),
    ({"module_map": (0, 0, 1)}, "module_map"),
    ({"module_map": (-1, -1, -1)}, "module_map"),
    ({"module_map": (0, 3, -1)}, "module_map"),
    ({"module_map": (0, -2, 1)}, "module_map"),
    ({"module_map": 3}, "module_map"),
    ({"roi": (5, 5, 0, 1)}, "roi"),
    ({"roi": (0, 1, -1, 1)}, "roi"),
    ({"roi": (0, 1, 2)}, "roi"),
    ({"roi": ()}, "roi"),
    ({"roi": {"a": "1,2,3,4"}}, "roi"),
    ({"bad_constants": "ignore"}, "bad_constants"),
    ({"gap_pixel": True}, "option"),
]


@pytest.mark.parametrize(("options", "field"), REFUSED)
def test_option_when_wrong_then_refused_by_name(options, field):
    with pytest.raises(RequestError) as caught:
        CalibrationOptions().with_(**options)
    assert caught.value.field.startswith(field)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"module_map": (0, 1)}, "3 values from -1 to 2"),
        ({"disabled_modules": (3,)}, "modules from 0 to 2"),
        ({"disabled_modules": (1,), "module_map": (0, -1, 1)}, "none beside a module_map"),
        ({"disabled_modules": (0, 1, 2)}, "at least one place"),
        ({"roi": (0, 1615, 0, 10)}, "inside the image of 1614 x 1030"),
        ({"engine": "cuda"}, "'auto', 'numba' or 'numpy'"),
        ({"n_threads": 0}, "at least 1"),
    ],
)
def test_option_when_it_does_not_fit_the_detector_then_refused(options, match):
    with pytest.raises(RequestError, match=match):
        plain("JF01T03V01", 3, **({"engine": "numpy"} | options))


def test_roi_when_it_ends_at_the_last_row_then_allowed():
    assert plain("JF03T01V02", 1, roi=(0, 514, 0, 1030), engine="numpy").shape == (514, 1030)


def test_factor_when_counts_would_overflow_then_refused():
    with pytest.raises(RequestError, match=r"below 2\*\*31"):
        plain("JF03T01V02", 1, factor=1e-6, engine="numpy")


@pytest.mark.parametrize(
    ("name", "change", "error", "match"),
    [
        ("gain", np.ones((3, 512, 1024)), ShapeError, r"found shape \(3, 512, 1024\), expected \(4 or 6"),
        ("gain", np.ones((4, 1024, 1024)), ShapeError, r"expected \(4 or 6, 512, 1024\)"),
        ("gain", np.ones((4, 512, 1024), "c8"), DtypeError, "gain of JF03T01V02: found complex64"),
        ("gain", "gains.h5", DtypeError, "expected real numbers"),
        ("pedestal", np.ones((6, 512, 1024)), ShapeError, r"expected \(3 or 4, 512, 1024\)"),
        ("pixel_mask", np.zeros((512, 1024), "u1"), TypeError, "found uint8, expected int64"),
        ("pixel_mask", np.zeros((512, 512), "i8"), ShapeError, r"found shape \(512, 512\)"),
    ],
)
def test_constants_when_of_wrong_shape_or_dtype_then_refused(name, change, error, match):
    maps = {"gain": np.ones((4, 512, 1024)), "pedestal": np.zeros((3, 512, 1024)), "pixel_mask": None}
    with pytest.raises(error, match=match):
        JungfrauCalibration("JF03T01V02", **(maps | {name: change}), engine="numpy")


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize(
    ("raw", "error", "match"),
    [
        (np.zeros((512, 1024), "i2"), TypeError, "found int16, expected uint16"),
        (np.zeros((512, 1024), ">u2"), TypeError, "expected uint16"),
        (np.zeros((512, 1024), "f4"), DtypeError, "found float32"),
        (np.zeros((511, 1024), "u2"), ShapeError, r"found shape \(511, 1024\), expected \(512, 1024\)"),
        (np.zeros((1024, 512), "u2"), ShapeError, "found shape"),
        (np.zeros((2, 3, 512, 1024), "u2"), ShapeError, "or a stack"),
        (np.zeros(512 * 1024, "u2"), ShapeError, "found shape"),
    ],
)
def test_raw_when_not_an_image_of_the_detector_then_refused(engine, raw, error, match):
    with pytest.raises(error, match=match):
        plain("JF03T01V02", 1, engine=engine)(raw)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_raw_when_not_contiguous_then_calibrated_all_the_same(engine):
    calibration = plain("JF03T01V02", 1, engine=engine)
    raw = np.random.default_rng(0).integers(0, 2**14, (2, 512, 1024), dtype=np.uint16)
    np.testing.assert_array_equal(calibration(np.asfortranarray(raw[0])), calibration(raw[0]))
    np.testing.assert_array_equal(calibration(raw[::-1]), calibration(raw.copy())[::-1])


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros((514, 1030), "f8"), DtypeError),
        (np.zeros((512, 1024), "f4"), ShapeError),
        (np.zeros((1030, 514), "f4").T, ShapeError),
        (np.zeros((514, 2060), "f4")[:, ::2], ShapeError),
        (np.broadcast_to(np.zeros((), "f4"), (514, 1030)), ShapeError),
        ([[0.0]], DtypeError),
    ],
)
def test_out_when_it_cannot_take_the_image_then_refused(out, error):
    with pytest.raises(error, match="out"):
        plain("JF03T01V02", 1)(np.zeros((512, 1024), "u2"), out=out)


def test_options_when_written_as_json_then_read_back_equal():
    options = CalibrationOptions(
        factor=9.3,
        module_map=[0, -1, 1],
        roi={"spot": (1, 2, 3, 4)},
        double_pixels="mask",
    )
    assert CalibrationOptions.from_json(options.to_json()) == options
    nan = CalibrationOptions.from_json(CalibrationOptions(masked_value=math.nan).to_json())
    assert math.isnan(nan.masked_value)
    assert CalibrationOptions().to_json() == "{}"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"gap": 1}', '{"factor": "x"}', "null"])
def test_json_when_not_options_then_refused(text):
    with pytest.raises(RequestError):
        CalibrationOptions.from_json(text)


@given(st.text(max_size=60) | st.dictionaries(st.text(max_size=12), st.integers()).map(str))
def test_json_when_arbitrary_then_options_or_a_clear_error(text):
    try:
        CalibrationOptions.from_json(text)
    except RequestError:
        pass


def test_with_options_when_changed_then_constants_stay():
    calibration = plain("JF03T01V02", 1, engine="numpy")
    other = calibration.with_options(factor=2.0)
    assert other.dtype == np.int32
    assert other.constants_hash == calibration.constants_hash
    assert other.unit == "2 keV"


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_factor_when_not_rounded_then_photons_are_float32(engine):
    raw = np.random.default_rng(0).integers(0, 2**16, (512, 1024), dtype=np.uint16)
    photons = plain("JF03T01V02", 1, factor=9.3, rounded=False, engine=engine)
    assert photons.dtype == np.float32 and photons.unit == "9.3 keV"
    keV = plain("JF03T01V02", 1, engine=engine)(raw)
    np.testing.assert_allclose(photons(raw), keV / 9.3, rtol=3e-7)
    rounded = plain("JF03T01V02", 1, factor=9.3, engine=engine)(raw)
    assert np.abs(photons(raw) - rounded).max() <= 0.5 + 1e-3
    blocks = plain("JF03T01V02", 1, factor=9.3, rounded=False, downsample=(2, 2), engine=engine)
    assert blocks.dtype == np.float32


def test_factor_when_not_rounded_then_interpolation_and_nan_are_allowed():
    options = CalibrationOptions(factor=9.3, rounded=False, double_pixels="interp", masked_value=math.nan)
    assert not options.counts
    assert CalibrationOptions.from_json(options.to_json()) == options or math.isnan(options.masked_value)
    with pytest.raises(RequestError, match="rounded=False"):
        CalibrationOptions(factor=9.3, double_pixels="interp")
