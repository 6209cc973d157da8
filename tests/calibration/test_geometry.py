"""Where pixels go: every detector of the table, with and without gaps, with modules switched off."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration, pixel_coordinates
from sfdaq_ophyd.calibration.geometry import TABLE, make_layout

from .conftest import plain

FLAT = [name for name, row in TABLE.items() if not row.strip]
DIFFERENT = {TABLE[name]: name for name in FLAT}.values()
"""One detector of each geometry; that of the others is the same row of the table."""


@pytest.fixture(scope="module")
def table(golden_dir):
    return json.loads((golden_dir / "geometry_table.json").read_text())


@pytest.fixture(scope="module")
def points(golden_dir):
    return json.loads((golden_dir / "geometry_points.json").read_text())


def full_name(name):
    return name if "V" in name else f"{name}V03"


def test_table_when_compared_then_holds_every_detector_of_the_contract(table):
    assert set(TABLE) == set(table)
    for name, row in TABLE.items():
        theirs = table[name]
        assert [list(o) for o in row.origins] == [
            list(o) for o in zip(theirs["origin_y"], theirs["origin_x"])
        ]
        assert list(row.module_turns) == theirs["mod_rot90"]
        assert (row.turns, row.strip) == (theirs["det_rot90"], theirs["stripsel"])


@pytest.mark.parametrize("gap", [True, False])
@pytest.mark.parametrize("name", FLAT)
def test_layout_when_made_then_has_the_shape_of_the_contract(table, name, gap):
    n = len(TABLE[name].origins)
    layout = make_layout(full_name(name), range(n), gap_pixels=gap, geometry=True)
    assert list(layout.shape) == table[name]["shape_gap" if gap else "shape_nogap"]


@pytest.mark.parametrize("gap", [True, False])
def test_pixels_when_marked_then_both_engines_have_them_where_the_facility_does(points, gap):
    for name, both in points.items():
        marks, n = both["gap" if gap else "nogap"], len(TABLE[name].origins)
        raw = np.zeros((512 * n, 1024), dtype=np.uint16)
        for i, (module, row, column, _, _) in enumerate(marks, 1):
            raw[512 * module + row, column] = i
        words = JungfrauCalibration(full_name(name), conversion=False, gap_pixels=gap)
        small = n <= 16 and name in DIFFERENT  # larger ones are laid out as their smaller sisters
        engines = ["numba", "numpy"] if small else []
        calibrations = [plain(full_name(name), n, gap_pixels=gap, engine=engine) for engine in engines]
        for calibration in (words, *calibrations[:1]):
            image = calibration(raw)  # and the other engine has all pixels where this one has them
            assert np.count_nonzero(image) == len(marks)
            for i, (_, _, _, y, x) in enumerate(marks, 1):
                assert image[y, x] == i, (name, marks[i - 1])
        if calibrations:
            fused, numpy = calibrations
            raw = np.random.default_rng(n).integers(0, 2**16, raw.shape, dtype=np.uint16)
            out = fused.empty()
            out.fill(np.nan)
            np.testing.assert_array_equal(fused(raw, out=out), numpy(raw), err_msg=name)


@pytest.mark.parametrize("offset", [1, 3, 16, 31])
@pytest.mark.parametrize("gap", [True, False])
def test_output_when_not_on_a_cache_line_then_nothing_beside_it_is_touched(offset, gap):
    calibration = plain("JF01T03V01", 3, gap_pixels=gap, engine="numba")
    raw = np.random.default_rng(0).integers(1, 2**14, (1536, 1024), dtype=np.uint16)
    size = int(np.prod(calibration.shape))
    memory = np.full(size + 64, -1, dtype="f4")
    out = memory[offset : offset + size].reshape(calibration.shape)
    calibration(raw, out=out)
    np.testing.assert_array_equal(out, calibration(raw))
    assert np.all(memory[:offset] == -1)
    assert np.all(memory[offset + size :] == -1)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("geometry", [True, False])
def test_disabled_modules_when_data_hold_all_or_active_ones_then_same_image(engine, geometry):
    calibration = plain("JF01T03V01", 3, geometry=geometry, disabled_modules=(1,), engine=engine)
    everything = plain("JF01T03V01", 3, geometry=geometry, engine=engine)
    assert calibration.module_map == (0, -1, 1)
    raw = np.random.default_rng(0).integers(1, 2**14, (1536, 1024), dtype=np.uint16)
    image = calibration(raw)
    np.testing.assert_array_equal(image, calibration(np.concatenate([raw[:512], raw[1024:]])))
    whole = everything(raw)
    if geometry:
        assert np.all(image[550:1064] == 0)
        np.testing.assert_array_equal(image[:514], whole[:514])
        np.testing.assert_array_equal(image[1100:], whole[1100:])
        assert not calibration.pixel_mask[550:1064].any()
    else:
        np.testing.assert_array_equal(image, np.concatenate([whole[:514], whole[1028:]]))


def test_module_map_when_modules_change_places_then_data_follow_and_constants_stay():
    raw = np.random.default_rng(0).integers(1, 2**14, (1024, 1024), dtype=np.uint16)
    calibration = plain("JF01T03V01", 3, module_map=(1, -1, 0))
    image = calibration(raw)
    np.testing.assert_array_equal(image[:256, :256], raw[512:768, :256])
    np.testing.assert_array_equal(image[1100:1356, :256], raw[:256, :256])


def test_strip_sensor_when_stacked_then_gaps_have_no_effect():
    calibration = plain("JF05T01V01", 1, geometry=False, double_pixels="interp", engine="numpy")
    assert calibration.shape == (512, 1024)


def test_detector_when_it_is_in_no_table_then_stacked_plainly_and_says_so(caplog):
    calibration = plain("JF99T02V01", 2)
    assert "JF99T02V01 is in no geometry table: its modules are stacked in y" in caplog.text
    assert calibration.shape == (1028, 1030) and calibration.options.to_json() == '{"geometry": false}'
    raw = np.random.default_rng(0).integers(1, 2**14, (1024, 1024), dtype=np.uint16)
    np.testing.assert_array_equal(calibration(raw), plain("JF99T02V01", 2, geometry=False)(raw))
    x, y, _ = calibration.get_pixel_coordinates()
    assert (y[512, 0], x[1023, 1023]) == (514, 1029)


@pytest.mark.parametrize("name", DIFFERENT)
def test_coordinates_when_pixels_are_marked_then_facility_and_image_have_them_there(points, name):
    x, y, z = pixel_coordinates(full_name(name))
    assert x.shape == y.shape == z.shape == (512 * len(TABLE[name].origins), 1024) and not z.any()
    for module, row, column, image_y, image_x in points.get(name, {}).get("gap", ()):
        at = (512 * module + row, column)
        double = [row in (255, 256), column % 256 in (0, 255) and column not in (0, 1023)]
        moved = abs(y[at] - image_y) + abs(x[at] - image_x)
        assert moved == 0.5 * sum(double), (module, row, column)
    n = len(TABLE[name].origins)
    if n > 16:  # as its smaller sisters
        return
    marks = np.arange(1, 512 * 1024 * n + 1, dtype="i4").reshape(-1, 1024)
    image = JungfrauCalibration(full_name(name), conversion=False, engine="numpy")(marks)
    whole = (x % 1 == 0) & (y % 1 == 0)
    np.testing.assert_array_equal(image[y[whole].astype(int), x[whole].astype(int)], marks[whole])
    for module in range(n):  # the two halves of a pair of double pixels touch
        block = slice(512 * module, 512 * (module + 1))
        for seam in (256, 512, 768):
            apart = np.hypot(*(a[block][:, seam] - a[block][:, seam - 1] for a in (x, y)))
            assert np.all(apart == 2)


@pytest.mark.parametrize("name", ["JF1T3V1", "JF01T03V99", "JF01T03V01"])
def test_name_when_digits_or_version_differ_then_found(name):
    assert make_layout(name, range(3), gap_pixels=True, geometry=True).shape == (1614, 1030)


@pytest.mark.parametrize("name", ["JF99T03V01", "JF01T03", "Eiger", "", "JF01T00V01", None])
def test_name_when_unknown_then_value_error(name):
    with pytest.raises(ValueError, match="detector_name"):
        make_layout(name, [0], gap_pixels=True, geometry=True)


def test_stack_when_it_is_part_of_a_larger_array_then_written_in_place():
    calibration = plain("JF02T09V03", 9, gap_pixels=True, engine="numba", disabled_modules=(8,))
    raw = np.random.default_rng(0).integers(0, 2**14, (4, 512 * 9, 1024), dtype=np.uint16)
    ring = np.full((4, *calibration.shape), -1, dtype="f4")
    calibration(raw[::2], out=ring[1::2])
    assert np.all(ring[::2] == -1)
    np.testing.assert_array_equal(ring[1], calibration(raw[0]))
    np.testing.assert_array_equal(ring[3], calibration(raw[2]))


def test_threads_when_several_share_a_calibration_then_each_gets_its_own_image():
    from concurrent.futures import ThreadPoolExecutor

    calibration = plain("JF01T03V01", 3, engine="numba", n_threads=3)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 2**14, (2, 1536, 1024), dtype=np.uint16) for _ in range(6)]
    alone = plain("JF01T03V01", 3, engine="numpy")
    with ThreadPoolExecutor(4) as pool:
        for frame, image in zip(frames, pool.map(calibration, frames)):
            np.testing.assert_array_equal(image, alone(frame))
