"""Gain and pedestal files of every kind, and what is said of bad ones."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.calibration import PedestalEvaluation
from sfdaq_ophyd.errors import FileFormatError, RequestError
from sfdaq_ophyd.files.constants import files_of, load_calibration, names_of
from sfdaq_ophyd.files.gain_file import read_gain, read_gain_binary, write_gain
from sfdaq_ophyd.files.pedestal_file import (
    Pedestal,
    read_om_darks,
    read_pedestal,
    write_pedestal,
)
from sfdaq_ophyd.sim.jungfrau.scene import Scene

from .jungfrau_files import DETECTOR


def test_calibration_when_loaded_from_files_then_golden(constants, given, expected):
    calibration = load_calibration(DETECTOR, *constants)
    np.testing.assert_array_equal(calibration(given["raw"]), expected["gap_keep"])
    assert calibration.gain_file == str(constants[0])
    assert calibration.pedestal_file == str(constants[1])


def test_permanent_mask_when_given_then_bit_0_is_added(constants, tmp_path):
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        mask = file.create_dataset("pixel_mask", shape=(512, 1024), dtype="u1")
        mask[3, 4] = 7
    plain = load_calibration(DETECTOR, *constants, gap_pixels=False)
    masked = load_calibration(DETECTOR, *constants, tmp_path / "mask.h5", gap_pixels=False)
    assert plain.pixel_mask[3, 4]
    assert not masked.pixel_mask[3, 4]
    assert masked.pixel_mask_reasons[3, 4] & 1
    assert masked.pixel_mask_file == str(tmp_path / "mask.h5") and plain.pixel_mask_file == ""


@pytest.mark.parametrize(
    ("n", "planes"), [(3, [0, 1, 2, 0, 1, 2]), (4, [0, 1, 2, 3, 1, 2]), (6, [0, 1, 2, 3, 4, 5])]
)
def test_binary_gain_when_old_or_new_then_six_maps(given, tmp_path, n, planes):
    path = tmp_path / "gainMaps_M045_2020-01-01.bin"
    given["gain"][:n].astype("<f8").tofile(path)
    maps = read_gain_binary(path)
    np.testing.assert_array_equal(maps, given["gain"][:n][planes])
    np.testing.assert_array_equal(read_gain([path], DETECTOR), maps)
    assert maps[1].max() < 0


def test_gain_and_pedestal_when_written_then_read_back(given, tmp_path):
    write_gain(tmp_path / "g.h5", given["gain"], input_files=["a.bin"])
    np.testing.assert_array_equal(read_gain(tmp_path / "g.h5", DETECTOR), given["gain"])
    rms = np.full((3, 512, 1024), 2.5)
    pedestal = Pedestal(given["pedestal"][:3], rms, given["pixel_mask"])
    write_pedestal(tmp_path / "p.res.h5", pedestal)
    back = read_pedestal(tmp_path / "p.res.h5", DETECTOR)
    for ours, theirs in zip(back, pedestal):
        np.testing.assert_array_equal(ours, theirs)
    assert (back.mean.dtype, back.rms.dtype, back.pixel_mask.dtype) == (np.float64, np.float64, np.int64)
    with pytest.raises(FileExistsError):
        write_pedestal(tmp_path / "p.res.h5", pedestal)


def test_scene_when_calibrated_with_its_own_files_then_the_photons_come_back(tmp_path):
    scene = Scene("JF01T03V01", seed=4)
    files = scene.write_constants(tmp_path)
    calibration = load_calibration("JF01T03V01", files.gain, files.pedestal, geometry=False, gap_pixels=False)
    binary = load_calibration("JF01T03V01", files.gain_maps, files.pedestal, geometry=False, gap_pixels=False)
    raw, photons = scene.raw(12345), scene.photons(12345)
    kev = calibration(raw)
    np.testing.assert_array_equal(kev, binary(raw))
    good = calibration.pixel_mask.copy()
    good[::512, :8] = False
    good &= raw != 0xC000
    deviation = kev[good] / 9.3 - photons[good]
    small = photons[good] < 30
    assert small.sum() > 1e6
    assert abs(deviation[small].mean()) < 0.01
    assert np.abs(deviation[small]).max() < 0.6
    large = ~small
    assert np.all(np.abs(deviation[large]) < 0.05 * photons[good][large] + 2)


def test_om_darks_when_converted_then_same_pedestals(tmp_path):
    scene = Scene("JF03T01V02", seed=4)
    files = scene.write_constants(tmp_path)
    pedestal = read_om_darks(files.om_darks, "JF03T01V02")
    stamp = np.zeros((512, 1024), dtype=bool)
    stamp[0, :8] = True
    np.testing.assert_array_equal(pedestal.mean[:, ~stamp], scene.constants.pedestal[:, ~stamp])
    with pytest.raises(FileFormatError, match="gain2.*found .* as uint16 words"):
        read_om_darks(files.om_darks, "JF03T01V02", words="uint16")
    with h5py.File(files.om_darks[0], "a") as file:  # as OM's own tool makes them
        file["gain2"][...] += np.float32(65536)
    np.testing.assert_array_equal(read_om_darks(files.om_darks, "JF03T01V02").mean, pedestal.mean)
    with pytest.raises(RequestError, match="1 files, one per module"):
        read_om_darks(files.om_darks * 2, "JF03T01V02")


def test_om_darks_when_a_stage_holds_nothing_then_warned_that_the_pixels_are_masked(tmp_path, caplog):
    files = Scene("JF03T01V02", seed=4).write_constants(tmp_path)
    read_om_darks(files.om_darks, "JF03T01V02")
    assert not caplog.text
    with h5py.File(files.om_darks[0], "a") as file:
        file["gain2"][...] = 0
    assert read_om_darks(files.om_darks, "JF03T01V02").pixel_mask.all()
    assert f"{files.om_darks[0]}: dataset 'gain2': G2 holds nothing" in caplog.text
    assert "These pixels are masked" in caplog.text


def test_pedestal_run_when_evaluated_and_written_then_calibrates(tmp_path):
    scene = Scene("JF03T01V02", seed=1)
    gain = scene.write_constants(tmp_path / "true").gain
    evaluation = PedestalEvaluation("JF03T01V02")
    for stage in range(3):
        scene.forced_stage = stage
        for pulse in range(8):
            assert evaluation.add(scene.raw(pulse), scene.daq_rec(pulse))
    path = tmp_path / "run.res.h5"
    write_pedestal(path, Pedestal(evaluation.mean, evaluation.rms, evaluation.pixel_mask))
    scene.forced_stage, scene.beam = None, False
    calibration = load_calibration("JF03T01V02", gain, path, gap_pixels=False)
    dark = calibration(scene.raw(3))
    good = calibration.pixel_mask.copy()
    good[0, :8] = False
    assert good.mean() > 0.97
    assert abs(dark[good].mean()) < 0.1


def rewritten(source, target, change):
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        change(file)
    return target


def without(name):
    return lambda file: file.__delitem__(name)


def replaced(name, data):
    def change(file):
        del file[name]
        file[name] = data

    return change


BAD = [
    ("gain", without("gains"), "'gains': found nothing, expected a dataset"),
    ("gain", replaced("gains", np.ones((4, 1024, 1024))), "found float64 (4, 1024, 1024), expected"),
    ("gain", replaced("gains", np.ones((3, 512, 1024))), "(4 or 6, 512, 1024) for JF03T01V02"),
    ("gain", replaced("gains", np.ones((4, 512, 1024), "i4")), "found int32 (4, 512, 1024), expected floats"),
    ("pedestal", without("gains"), "'gains': found nothing"),
    ("pedestal", replaced("gains", np.ones((3, 1536, 1024))), "found float64 (3, 1536, 1024)"),
    ("pedestal", replaced("gainsRMS", np.ones((3, 512))), "'gainsRMS': found float64 (3, 512)"),
    ("pedestal", replaced("pixel_mask", np.ones((512, 512), "i8")), "'pixel_mask': found int64 (512, 512)"),
    ("pedestal", replaced("pixel_mask", np.ones((512, 1024), "f4")), "found float32 (512, 1024), expected"),
]


@pytest.mark.parametrize(("which", "change", "words"), BAD)
def test_constants_file_when_wrong_then_named_with_found_and_expected(
    constants, tmp_path, which, change, words
):
    paths = dict(zip(("gain", "pedestal"), constants))
    paths[which] = rewritten(paths[which], tmp_path / f"{which}.h5", change)
    with pytest.raises(FileFormatError, match=re.escape(words)) as caught:
        load_calibration(DETECTOR, paths["gain"], paths["pedestal"])
    assert caught.value.path == str(paths[which])


def test_constants_file_when_absent_truncated_or_foreign_then_named(constants, tmp_path):
    gain, pedestal = constants
    absent = tmp_path / "absent.h5"
    with pytest.raises(FileFormatError, match=r"absent\.h5.*no such file"):
        load_calibration(DETECTOR, absent, pedestal)
    foreign = tmp_path / "foreign.h5"
    foreign.write_bytes(b"not HDF5" * 100)
    with pytest.raises(FileFormatError, match=r"foreign\.h5.*no readable HDF5"):
        load_calibration(DETECTOR, gain, foreign)
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(gain.read_bytes()[: -(1 << 20)])
    with pytest.raises(FileFormatError, match=r"truncated\.h5"):
        load_calibration(DETECTOR, truncated, pedestal)
    short = tmp_path / "short.bin"
    short.write_bytes(b"\0" * 1000)
    with pytest.raises(FileFormatError, match=r"short\.bin.*found 1000 bytes, expected 3, 4 or 6 maps"):
        load_calibration(DETECTOR, [short], pedestal)
    with pytest.raises(RequestError, match="3 files, one per module of JF01T03V01"):
        read_gain([short], "JF01T03V01")


@pytest.mark.parametrize(
    ("which", "stage", "value"),
    [
        ("gain", 1, 0),
        ("gain", 0, np.nan),
        ("gain", 2, np.inf),
        ("pedestal", 2, np.nan),
        ("pedestal", 0, np.inf),
    ],
)
def test_constant_when_it_is_no_number_then_named_with_file_dataset_and_pixel(
    constants, tmp_path, which, stage, value
):
    def spoil(file):
        file["gains"][stage, 5, 6] = value

    paths = dict(zip(("gain", "pedestal"), constants))
    paths[which] = rewritten(paths[which], tmp_path / "bad.h5", spoil)
    with pytest.raises(FileFormatError, match="expected finite numbers and no gain of 0") as caught:
        load_calibration(DETECTOR, *paths.values())
    assert (caught.value.path, caught.value.dataset) == (str(paths[which]), "gains")
    assert caught.value.found == f"{value:g} in G{stage} at row 5, column 6"
    load_calibration(DETECTOR, *paths.values(), bad_constants="mask")


def test_constant_when_the_files_are_per_module_then_the_modules_file_is_named(tmp_path):
    name = "JF04T02V01"
    files = Scene(name, seed=4).write_constants(tmp_path)
    maps = np.fromfile(files.gain_maps[1], "<f8")
    maps[2 * 512 * 1024 + 3 * 1024 + 8] = 0
    maps.tofile(files.gain_maps[1])
    options = {"geometry": False, "gap_pixels": False, "mask": False}
    with pytest.raises(FileFormatError) as caught:
        load_calibration(name, files.gain_maps, files.om_darks, **options)
    assert (caught.value.path, caught.value.dataset) == (str(files.gain_maps[1]), "gain maps")
    assert caught.value.found == "0 in G2 at row 3, column 8"


@pytest.mark.parametrize("where", ["20240101_000000.JF04T01V01.res.h5", "JF04T01V01/gains.h5"])
def test_constants_file_when_it_is_named_after_another_detector_then_refused(constants, tmp_path, where):
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(constants[where.endswith(".res.h5")].read_bytes())
    paths = [path, constants[1]] if "gains" in where else [constants[0], path]
    with pytest.raises(FileFormatError, match="constants of JF04T01V01, by its name") as caught:
        load_calibration(DETECTOR, *paths)
    assert caught.value.path == str(path)


def test_names_when_several_files_are_written_down_then_read_back(tmp_path):
    files = [tmp_path / "a,b [1].bin", tmp_path / "c d.bin"]
    assert files_of(names_of(files)) == [str(path) for path in files]
    assert files_of(names_of(files[0])) == str(files[0])
