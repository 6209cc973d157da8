"""Strip sensors: every pixel where its strip is, checked pixel by pixel against the rule in words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration, pixel_coordinates
from sfdaq_ophyd.calibration.geometry import TABLE
from sfdaq_ophyd.calibration.placing import NOTHING, module_map

from .conftest import plain

STRIPS = [name for name, row in TABLE.items() if row.strip]


def full_name(name):
    return f"{name}V01"


def by_the_rule(raw):
    """Re-sort one module of a sensor of one row of chips, pixel by pixel."""
    image = np.zeros((84, 3090))
    for y in range(252):
        for x in range(1024):
            if x in (255, 511, 767):
                seam = x // 256 * 774 + 765
                for below in (0, 1):
                    image[y // 6 * 2 + below, seam + y % 6] = raw[y, x] / 2
            elif x in (256, 512, 768):
                seam = (x // 256 - 1) * 774 + 765
                for below in (0, 1):
                    image[y // 6 * 2 + below, seam + 11 - y % 6] = raw[y, x] / 2
            else:
                image[y // 3, x // 256 * 774 + x % 256 * 3 + y % 3] = raw[y, x]
    return image


@pytest.mark.parametrize("name", STRIPS)
def test_image_when_made_then_has_the_shape_of_the_contract(golden_dir, name):
    table = json.loads((golden_dir / "geometry_table.json").read_text())
    n = len(TABLE[name].origins)
    calibration = plain(full_name(name), n, engine="numpy", double_pixels="interp")
    assert list(calibration.shape) == table[name]["shape"]
    assert calibration.pixel_mask.shape == calibration.pixel_mask_reasons.shape == calibration.shape


@pytest.mark.parametrize("name", ["JF05T01", "JF11T04", "JF12T04"])
def test_pixels_when_calibrated_then_lie_where_the_rule_says(name):
    n = len(TABLE[name].origins)
    raw = np.random.default_rng(n).integers(1, 2**14, (512 * n, 1024), dtype=np.uint16)
    numba, numpy = (plain(full_name(name), n, engine=engine) for engine in ("numba", "numpy"))
    expected = np.zeros(numba.shape)
    for module, (y, x) in enumerate(TABLE[name].origins):
        expected[y : y + 84, x : x + 3090] = by_the_rule(raw[512 * module : 512 * (module + 1)])
    for calibration in (numba, numpy):
        image = calibration(raw)
        np.testing.assert_array_equal(image, expected.astype("f4"))
        np.testing.assert_array_equal(calibration(raw[None])[0], image)
    assert image.sum() == pytest.approx(sum(raw[512 * k : 512 * k + 252].sum(dtype="i8") for k in range(n)))


def test_pixels_when_masked_or_counted_then_cells_follow_their_pixel():
    mask = np.zeros((512, 1024), "i8")
    mask[10, 20] = mask[12, 255] = 1
    raw = np.full((512, 1024), 101, "u2")
    gain, pedestal = np.ones((6, 512, 1024)), np.zeros((3, 512, 1024))
    calibration = JungfrauCalibration("JF05T01V01", gain, pedestal, mask, engine="numpy", factor=1.0)
    image, good = calibration(raw), calibration.pixel_mask
    assert image.dtype == np.int32 and set(np.unique(image)) == {0, 50, 101}
    assert np.argwhere(~good).tolist() == [[3, 61], [4, 765], [5, 765]]
    assert not image[~good].any()
    assert set(np.unique(calibration.gain_codes(raw | 1 << 14))) == {1}, "a code is not halved"
    nan = calibration.with_options(factor=None, masked_value=np.nan)(raw)
    np.testing.assert_array_equal(np.isnan(nan), ~good)


def test_quad_when_mapped_then_each_cell_has_one_pixel_of_the_four_chips():
    pixels = module_map("JF18T01V01")
    used = pixels[pixels != NOTHING]
    y, x = used // 1024, used % 1024
    assert len(np.unique(used)) == len(used) == 2 * 246 * 494
    assert (x.min(), x.max(), y.min(), y.max()) == (265, 758, 9, 502)
    assert not np.isin(y, (255, 256)).any() and (pixels[738:750] == NOTHING).all()
    assert pixels[0, 1] == 1024 * 9 + 267 and pixels[2, 1] == 1024 * 9 + 269
    assert pixels[750, 1] == 1024 * 257 + 269 and pixels[1487, 164] == 1024 * 502 + 756


@pytest.mark.parametrize("name", STRIPS)
def test_coordinates_when_a_pixel_fills_cells_then_they_are_the_middle_of_those(name):
    n = len(TABLE[name].origins)
    x, y, z = pixel_coordinates(full_name(name))
    assert x.shape == (512 * n, 1024) and not z.any()
    marks = np.random.default_rng(0).permutation(512 * 1024 * n).reshape(-1, 1024) + 1
    calibration = JungfrauCalibration(full_name(name), conversion=False, engine="numpy")
    image = calibration(marks)
    for row, column in ((9, 267), (12, 300), (20, 255 + 256), (100, 512), (251, 600)):
        cells = np.argwhere(image == marks[row, column])
        if len(cells):
            np.testing.assert_allclose((y[row, column], x[row, column]), cells.mean(axis=0))
        else:
            assert np.isnan(x[row, column])
    assert np.isnan(x[511]).all()
