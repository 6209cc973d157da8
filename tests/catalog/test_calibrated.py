"""Calibrated images of raw runs, lazily, by the constants the run recorded."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.catalog.pictures import calibrated_images
from sfdaq_ophyd.errors import ConstantsMissing, RequestError
from sfdaq_ophyd.files.constants import load_calibration
from tests.files.jungfrau_files import DETECTOR, write_constants
from tests.jungfrau_recordings import golden_folder

from .composed import Composed, image_key, scalar, write_frames


@pytest.fixture(scope="module")
def golden(pytestconfig):
    folder = golden_folder(pytestconfig)
    return dict(np.load(folder / "calibration_input.npz")) | dict(
        np.load(folder / "calibration_expected.npz")
    )


@pytest.fixture(scope="module")
def constants(golden, tmp_path_factory):
    return write_constants(tmp_path_factory.mktemp("constants"), golden)


def record(catalog, tmp_path, constants, frames, daq_rec, *, per_event=1, **changes):
    """Write a run of a raw Jungfrau called jf; returns its uid."""
    gain, pedestal = constants
    settings = {
        "jf_detector_name": DETECTOR,
        "jf_gain_file": str(gain),
        "jf_pedestal_file": str(pedestal),
        "jf_constants_hash": load_calibration(DETECTOR, gain, pedestal, engine="numpy").constants_hash,
        "jf_calibration": json.dumps({}),
    } | changes
    keys = {
        "jf_image": image_key(512, 1024, "<u2", per_event),
        "jf_daq_rec": scalar("integer") if per_event == 1 else scalar("array") | {"shape": [per_event]},
    }
    run = Composed(catalog)
    stream = run.stream(
        "primary",
        keys,
        configuration={
            "jf": {
                "data": settings,
                "timestamps": dict.fromkeys(settings, 0.0),
                "data_keys": {name: scalar("string") for name in settings},
            }
        },
        object_keys={"jf": list(keys)},
    )
    resource = run.frames(
        "jf_image", write_frames(tmp_path / "frames.h5", frames), per_event=per_event, y=512, x=1024
    )
    for i in range(len(frames) // per_event):
        words = daq_rec[i * per_event : (i + 1) * per_event]
        stream.event(jf_daq_rec=words[0] if per_event == 1 else words)
        stream.datum(resource, i, i + 1)
    run.stop()
    catalog.flush()
    return run.uid


def test_raw_run_when_calibrated_then_golden_and_nothing_is_read_before(catalog, tmp_path, constants, golden):
    frames = np.stack([golden["raw"], golden["raw"][::-1]])
    uid = record(catalog, tmp_path, constants, frames, [3872, 3872])
    images = calibrated_images(catalog[uid], "jf", gap_pixels=False)
    assert images.shape == (2, 512, 1024)
    assert images.chunks[0] == (1, 1)
    assert images.dtype == np.float32
    (tmp_path / "frames.h5").rename(tmp_path / "away.h5")
    lazy = images[0]
    (tmp_path / "away.h5").rename(tmp_path / "frames.h5")
    image = lazy.compute()
    kept = np.r_[0:100, 104:512]  # rows 100 to 103 are lost packets
    np.testing.assert_array_equal(image[kept], golden["conv_mask"][kept])
    assert np.all(image[100:104] == 0)


def test_gain_mode_when_it_changes_from_frame_to_frame_then_each_has_its_constants(
    catalog, tmp_path, constants, golden
):
    frames = np.stack([golden["raw"], golden["raw_hg"]])
    uid = record(catalog, tmp_path, constants, frames, [3872, 3873])
    images = calibrated_images(catalog[uid], "jf", gap_pixels=False, mask=False).compute()
    calibration = load_calibration(DETECTOR, *constants, gap_pixels=False, mask=False, mask_lost_packets=True)
    np.testing.assert_array_equal(images[0], calibration(golden["raw"]))
    np.testing.assert_array_equal(images[1], calibration.with_options(highgain=True)(golden["raw_hg"]))


def test_frames_per_trigger_when_several_then_one_more_axis(catalog, tmp_path, constants, golden):
    frames = np.stack([golden["raw"]] * 4)
    uid = record(catalog, tmp_path, constants, frames, [3872] * 4, per_event=2)
    images = calibrated_images(catalog[uid], "jf", factor=9.3, gap_pixels=False)
    assert images.shape == (2, 2, 512, 1024)
    assert images.dtype == np.int32
    assert images[1].compute().shape == (2, 512, 1024)


def test_constants_when_they_changed_since_the_run_then_refused(catalog, tmp_path, constants, golden):
    uid = record(catalog, tmp_path, constants, golden["raw"][None], [0], jf_constants_hash="0" * 64)
    with pytest.raises(ConstantsMissing, match="have changed since the run"):
        calibrated_images(catalog[uid], "jf")
    calibration = load_calibration(DETECTOR, *constants)
    assert calibrated_images(catalog[uid], "jf", calibration=calibration).shape == (1, 514, 1030)


def test_constants_when_they_are_made_anew_under_the_same_names_then_the_new_ones(catalog, tmp_path, golden):
    gain, pedestal = write_constants(tmp_path / "constants", golden)
    uid = record(catalog, tmp_path, (gain, pedestal), golden["raw"][None], [3872])
    calibrated_images(catalog[uid], "jf")
    with h5py.File(pedestal, "a") as file:
        file["gains"][0] += 8
    with pytest.raises(ConstantsMissing, match="have changed since the run"):
        calibrated_images(catalog[uid], "jf")
    later = record(catalog, tmp_path, (gain, pedestal), golden["raw"][None], [3872])
    image = calibrated_images(catalog[later], "jf").compute()[0]
    now = load_calibration(DETECTOR, gain, pedestal, mask_lost_packets=True)
    np.testing.assert_array_equal(image, now(golden["raw"]))


def test_constants_when_files_are_per_module_and_the_mask_apart_then_the_run_finds_them_again(
    catalog, tmp_path, constants, golden
):
    maps, mask = tmp_path / "gainMaps, M045 [1].bin", tmp_path / "pixel_mask.h5"
    golden["gain"].astype("<f8").tofile(maps)
    with h5py.File(mask, "w") as file:
        file["pixel_mask"] = np.eye(512, 1024, dtype="u1")
    files = ([maps], constants[1], mask)
    calibration = load_calibration(DETECTOR, *files)
    names = {
        f"jf_{name}": getattr(calibration, name)
        for name in ("gain_file", "pedestal_file", "pixel_mask_file", "constants_hash")
    }
    uid = record(catalog, tmp_path, constants, golden["raw"][None], [3872], **names)
    image = calibrated_images(catalog[uid], "jf").compute()[0]
    again = calibration.with_options(mask_lost_packets=True)
    np.testing.assert_array_equal(image, again(golden["raw"]))
    assert not again.pixel_mask[7, 7]


def test_run_when_it_names_no_constants_or_no_such_device_then_refused(catalog, tmp_path, constants, golden):
    uid = record(catalog, tmp_path, constants, golden["raw"][None], [0], jf_gain_file="")
    with pytest.raises(ConstantsMissing, match="names no gain and pedestal"):
        calibrated_images(catalog[uid], "jf")
    with pytest.raises(
        RequestError, match=r"device='eiger': expected a device of stream 'primary': \['jf'\]"
    ):
        calibrated_images(catalog[uid], "eiger")
    with pytest.raises(RequestError, match="stream='dark'"):
        calibrated_images(catalog[uid], "jf", stream="dark")


def test_run_when_its_images_are_calibrated_already_then_refused(catalog, tmp_path):
    run = Composed(catalog)
    stream = run.stream(
        "primary",
        {"jf_image": image_key(6, 8, "<f4")},
        configuration={"jf": {"data": {}, "timestamps": {}, "data_keys": {}}},
        object_keys={"jf": ["jf_image"]},
    )
    resource = run.frames("jf_image", write_frames(tmp_path / "f.h5", np.ones((1, 6, 8), "f4")))
    stream.event()
    stream.datum(resource, 0, 1)
    run.stop()
    catalog.flush()
    with pytest.raises(RequestError, match="expected raw images"):
        calibrated_images(catalog[run.uid], "jf")
