"""``sfdaq convert``: files as the facility's, resumed, never overwritten unasked."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from sfdaq_ophyd.cli import app
from sfdaq_ophyd.errors import FileFormatError
from sfdaq_ophyd.files.gain_file import write_gain
from sfdaq_ophyd.files.pedestal_file import Pedestal, write_pedestal
from sfdaq_ophyd.files.swissfel_file import SwissfelFile
from tests.files.jungfrau_files import DETECTOR, PULSE, write_constants, write_raw
from tests.jungfrau_recordings import golden_folder


@pytest.fixture(scope="module")
def golden(pytestconfig):
    folder = golden_folder(pytestconfig)
    names = {"given": "calibration_input", "expected": "calibration_expected"}
    return {key: dict(np.load(folder / f"{name}.npz")) for key, name in names.items()} | {"folder": folder}


@pytest.fixture
def run(golden, tmp_path):
    """A pgroup with one run of two files, and ``run(*arguments)`` that converts it."""
    raw = golden["given"]["raw"]
    gain, _ = write_constants(tmp_path / "raw" / "JF_pedestals", golden["given"])
    gain = gain.rename(tmp_path / "gains.h5")
    data = tmp_path / "raw" / "run0007" / "data"
    for k in (1, 2):
        write_raw(data / f"acq{k:04}.{DETECTOR}.h5", [raw] * 3, good=[1, 0, 1])

    def convert(*arguments, source=tmp_path / "raw" / "run0007", out="out"):
        words = ["convert", str(source), str(tmp_path / out), "--gain", str(gain), *map(str, arguments)]
        return CliRunner().invoke(app, words)

    convert.out = tmp_path / "out" / "data"
    convert.data = data
    return convert


def names(folder):
    return sorted(path.name for path in folder.rglob("*.h5"))


def datasets(file):
    found = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_folder_when_converted_then_good_frames_calibrated_beside_their_ids(run, golden):
    result = run()
    assert result.exit_code == 0, result.output
    assert names(run.out) == names(run.data)
    with SwissfelFile(run.out / f"acq0001.{DETECTOR}.h5") as file:
        assert file.processed
        assert file.pulse_id.tolist() == [PULSE, PULSE + 2]
        assert file.is_good_frame.all()
        for frame in file.frames():
            np.testing.assert_array_equal(frame.image, golden["expected"]["gap_keep"])


def test_region_when_exported_then_byte_for_byte_the_facilitys_file(run, golden):
    result = run("--factor", 0.25, "--roi", "spot=100,140,200,300")
    assert result.exit_code == 0, result.output
    with (
        h5py.File(golden["folder"] / f"processed_roi.{DETECTOR}.h5") as theirs,
        h5py.File(run.out / f"acq0001.{DETECTOR}.h5") as ours,
    ):
        theirs, ours = datasets(theirs), datasets(ours)
        assert set(ours) == set(theirs)
        per_frame = {
            f"data/{DETECTOR}:ROI_spot/{k}" for k in ("data", "pulse_id", "daq_rec", "is_good_frame")
        }
        for name, dataset in theirs.items():
            assert ours[name].dtype == dataset.dtype, name
            assert ours[name].chunks == dataset.chunks, name
            value = ours[name][:1] if name in per_frame else ours[name][()]
            np.testing.assert_array_equal(value, dataset[()], err_msg=name)
        image = f"data/{DETECTOR}:ROI_spot/data"
        assert (
            ours[image].id.read_direct_chunk((1, 0, 0))[1] == theirs[image].id.read_direct_chunk((0, 0, 0))[1]
        )
        filters = [d.id.get_create_plist().get_filter(0) for d in (ours[image], theirs[image])]
        assert filters[0][0] == filters[1][0] == 32008
        assert filters[0][2][2:] == filters[1][2][2:] == (4, 32768, 2)


def test_whole_image_when_exported_then_meta_describes_it(run, golden):
    assert run("--double-pixels", "mask", "--module-edge-pixels", "mask").exit_code == 0
    with h5py.File(run.out / f"acq0002.{DETECTOR}.h5") as file:
        group = file[f"data/{DETECTOR}"]
        assert "frame_index" not in group
        np.testing.assert_array_equal(group["data"][0], golden["expected"]["gap_mask_edge"])
        np.testing.assert_array_equal(group["meta/pixel_mask"], golden["expected"]["pixelmask_mask_edge"])
        assert np.isnan(group["meta/conversion_factor"][()])
        assert group["meta/good_pixels_fraction"].dtype == np.float64
        assert group["meta/double_pixels"].asstr()[()] == "mask"
        header = group["data"].id.read_direct_chunk((0, 0, 0))[1][:12]
        assert header.hex() == "000000000020503000020000"


def test_conversion_when_repeated_then_goes_on_and_leaves_what_is_there(run):
    assert run().exit_code == 0
    first = run.out / f"acq0001.{DETECTOR}.h5"
    (run.out / f"acq0002.{DETECTOR}.h5").unlink()
    (run.out / f"acq0002.{DETECTOR}.h5.part").write_bytes(b"stopped in the middle")
    before = first.stat()
    result = run("--json")
    assert {r["source"][-16:-3]: r["state"] for r in json.loads(result.stdout)} == {
        "1." + DETECTOR + ".": "present",
    } or sorted(r["state"] for r in json.loads(result.stdout)) == ["converted", "present"]
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    assert first.stat().st_ino == before.st_ino
    assert names(run.out) == names(run.data)
    assert not list(run.out.glob("*.part"))


def test_options_when_they_change_then_refused_until_overwrite(run):
    assert run().exit_code == 0
    changed = run("--factor", 9.3)
    assert changed.exit_code == 1
    assert "made with the same settings" in str(changed.exception)
    assert run("--factor", 9.3, "--overwrite").exit_code == 0
    with SwissfelFile(run.out / f"acq0001.{DETECTOR}.h5") as file:
        assert file.conversion_factor == 9.3
        assert file.dtype == np.int32


def without_ids(group):
    del group["pulse_id"]
    return "pulse_id"


def without_a_good_frame(group):
    group["is_good_frame"][...] = 0
    return "good frames"


@pytest.mark.parametrize("spoil", [without_ids, without_a_good_frame])
def test_file_when_broken_or_of_bad_frames_then_named_and_the_others_converted(run, spoil, caplog):
    caplog.set_level("INFO", logger="sfdaq_ophyd")
    with h5py.File(run.data / f"acq0001.{DETECTOR}.h5", "a") as file:
        word = spoil(file[f"data/{DETECTOR}"])
    result = run()
    assert result.exit_code == 1
    assert f"acq0001.{DETECTOR}.h5" in result.stderr
    assert word in result.stderr
    (message,) = [each for each in caplog.messages if "Traceback (most recent call last)" in each]
    assert word in message and "in _convert" in message
    assert names(run.out) == [f"acq0002.{DETECTOR}.h5"]


@pytest.mark.parametrize("name", [f"acq0003.{DETECTOR}.h5", "acq0003.h5"])
@pytest.mark.parametrize("content", [b"", b"# no HDF5"])
def test_file_when_it_cannot_be_opened_then_named_and_the_others_converted(run, name, content):
    (run.data / name).write_bytes(content)
    for other in ("BSDATA", "PVDATA", "CAMERAS"):
        (run.data / f"acq0003.{other}.h5").write_bytes(content)
    (run.data / "folder.h5").mkdir()
    with h5py.File(run.data / "of-another-kind.h5", "w") as file:
        file["entry/data"] = [1]
    result = run("--disabled-modules", "")
    assert result.exit_code == 1
    line, to_do, last = result.stderr.splitlines()
    assert line.count(f"{run.data / name}: ") == 1 and "no readable HDF5" in line
    assert to_do == f"  What to do: {FileFormatError.advice}"
    assert last.startswith("sfdaq: 1 of 3 files failed; all are in ")
    assert names(run.out) == [f"acq000{k}.{DETECTOR}.h5" for k in (1, 2)]


def test_file_when_it_is_truncated_and_is_all_there_is_then_named(run):
    path = run.data / f"acq0001.{DETECTOR}.h5"
    path.write_bytes(path.read_bytes()[:3000])
    result = run(source=path)
    assert result.exit_code == 1
    assert f"sfdaq: {path}: " in result.stderr


def test_file_when_its_group_has_no_images_then_named(run):
    with h5py.File(run.data / f"acq0001.{DETECTOR}.h5", "a") as file:
        del file[f"data/{DETECTOR}/data"]
    result = run()
    assert result.exit_code == 1
    assert f"acq0001.{DETECTOR}.h5" in result.stderr
    assert names(run.out) == [f"acq0002.{DETECTOR}.h5"]


def test_high_gain_file_when_converted_then_its_own_constants(run, golden):
    path = run.data / f"acq0003.{DETECTOR}.h5"
    write_raw(path, [golden["given"]["raw_hg"]], daq_rec=3873)
    assert run("--no-mask", "--no-gap-pixels", source=path, out="out/data").exit_code == 0
    with SwissfelFile(run.out / path.name) as file:
        np.testing.assert_array_equal(file.images(0), golden["expected"]["hg_gain6_ped3"])


def test_pedestal_when_a_folder_then_nearest_in_time(run, golden, tmp_path):
    folder = tmp_path / "pedestals"
    _, far = write_constants(folder, golden["given"])
    near = folder / f"20250101_000000.{DETECTOR}.res.h5"
    near.write_bytes(far.read_bytes())
    with h5py.File(near, "a") as file:
        file["gains"][0] += 8
    taken = (run.data / f"acq0001.{DETECTOR}.h5").stat().st_mtime
    os.utime(far, (taken - 5000, taken - 5000))
    os.utime(near, (taken + 100, taken + 100))
    assert run("--pedestal", folder, "--no-gap-pixels", "--no-mask").exit_code == 0
    with SwissfelFile(run.out / f"acq0001.{DETECTOR}.h5") as file:
        g0 = golden["given"]["raw"] < 0x4000
        assert np.all(file.images(0)[g0] < golden["expected"]["conv"][g0])


@pytest.mark.parametrize("given", [False, True])
def test_pedestal_when_a_detector_has_none_then_named_and_the_others_converted(run, golden, tmp_path, given):
    path = write_raw(run.data / "acq0001.JF07T01V01.h5", [golden["given"]["raw"]], detector="JF07T01V01")
    result = run(*(["--pedestal", tmp_path / "raw" / "JF_pedestals"] if given else []))
    assert result.exit_code == 1
    assert f"sfdaq: {path}: " in result.stderr and "*.JF07T01V01.res.h5" in result.stderr
    assert names(run.out) == [f"acq000{k}.{DETECTOR}.h5" for k in (1, 2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--downsample", "2"], "--downsample='2': expected 2 integers"),
        (["--roi", "a=1,2,3"], "--roi='1,2,3': expected 4 integers"),
        (["--double-pixels", "no"], "double_pixels='no': expected one of"),
        (["--disabled-modules", "0,x"], "--disabled-modules='0,x': expected 2 integers"),
        (["--disabled-modules", "4"], "disabled_modules=(4,): expected modules from 0 to 0"),
    ],
)
def test_argument_when_wrong_then_refused_before_anything_is_made(run, tmp_path, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 1
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_source_when_absent_or_empty_or_target_then_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, out in (("empty", "out"), ("nothing", "out"), ("raw", "raw")):
        result = run(source=tmp_path / source, out=out)
        assert result.exit_code == 1
        assert "expected" in str(result.exception)


def test_constants_when_they_are_made_anew_under_the_same_names_then_the_new_ones(run, golden):
    assert run("--no-gap-pixels", "--no-mask").exit_code == 0
    (pedestal,) = (run.data.parents[1] / "JF_pedestals").glob("*.res.h5")
    with SwissfelFile(run.out / f"acq0001.{DETECTOR}.h5") as file:
        before = file.images(0)
    with h5py.File(pedestal, "a") as file:
        file["gains"][0] += 8
    assert run("--no-gap-pixels", "--no-mask", "--overwrite").exit_code == 0
    with SwissfelFile(run.out / f"acq0001.{DETECTOR}.h5") as file:
        g0 = golden["given"]["raw"] < 0x4000
        assert np.all(file.images(0)[g0] < before[g0])


def test_pipe_when_output_is_no_terminal_then_no_progress_bar(run):
    result = run()
    assert "━" not in result.output
    assert result.stderr == ""


def test_scheduler_when_a_cluster_is_given_then_its_workers_convert(run):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    ) as cluster:
        result = run("--scheduler", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert names(run.out) == names(run.data)


def test_disabled_modules_when_the_file_lacks_another_then_each_module_has_its_own_constants(tmp_path):
    """JF01T03 without its module 1: every module's pixels are its number, by its own gain."""
    name = "JF01T03V01"
    of_module = np.repeat([1.0, 2.0, 3.0], 512)[:, None] * np.ones(1024)
    signs = (10, -1, -0.1, 25, -1, -0.1)
    write_gain(tmp_path / "gains.h5", np.stack([gain * of_module for gain in signs]))
    dark = tmp_path / f"20240101_000000.{name}.res.h5"
    write_pedestal(dark, Pedestal(np.full((3, 1536, 1024), 2000.0), None, None))
    raw = (2000 + 10 * of_module**2).astype("u2")
    without_1 = np.delete(raw, np.s_[512:1024], axis=0)
    sources = {
        "acq1": {"images": [without_1] * 2, "module_map": [0, -1, 1]},
        "acq2": {"images": [raw] * 2, "module_map": [0, 1, 2]},
        "acq3": {"images": [raw] * 2},
        "acq4": {"images": [without_1] * 2},
        "acq5": {"images": [without_1] * 2, "module_map": [0, 1, 2]},
    }
    for source, more in sources.items():
        images = more.pop("images")
        write_raw(tmp_path / "raw" / f"{source}.{name}.h5", images, detector=name, **more)

    def converted(source, off):
        path, out = tmp_path / "raw" / f"{source}.{name}.h5", tmp_path / f"out{source}{off}"
        words = ["convert", path, out, "--gain", tmp_path / "gains.h5", "--pedestal", dark, "--no-mask"]
        words += ["--no-gap-pixels", "--no-geometry", *(["--disabled-modules", off] if off else [])]
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exit_code:
            return result.stderr
        with SwissfelFile(out / path.name) as file:
            blocks = file.images(1).reshape(-1, 512, 1024)
            assert all((block == block[0, 0]).all() for block in blocks)
            return [round(float(block[0, 0])) for block in blocks], file.module_map

    assert converted("acq1", "") == converted("acq1", "1") == ([1, 3], (0, -1, 1))
    assert converted("acq1", "0") == ([3], (-1, -1, 0))
    assert converted("acq2", "0") == converted("acq3", "0") == ([2, 3], (-1, 0, 1))
    assert converted("acq4", "1") == ([1, 3], (0, -1, 1))  # nothing else tells
    assert "module_map': found (0, 1, 2), and images of 2 modules" in converted("acq5", "1")
    assert "at least one place" in converted("acq1", "0,2")
