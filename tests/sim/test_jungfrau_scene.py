import h5py
import numpy as np
import pytest

from sfdaq_ophyd.sim.jungfrau.scene import DEAD, PHOTON_ENERGY_KEV, SATURATED, STUCK, Scene
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.detector_name import DaqRec


@pytest.fixture(scope="module")
def scene():
    return Scene("JF03T01V02", seed=3)


def kev(scene, raw):
    """The textbook formula, in float64."""
    stage = np.minimum(raw >> 14, 2)
    gain, pedestal = scene.constants.gain[:3].astype("f8"), scene.constants.pedestal.astype("f8")
    chosen = [np.take_along_axis(planes, stage[None].astype("i8"), 0)[0] for planes in (gain, pedestal)]
    return ((raw & 0x3FFF) - chosen[1]) / chosen[0]


def test_raw_when_asked_twice_then_is_the_same_and_differs_by_pulse(scene):
    other = Scene("JF03T01V02", seed=4)
    raw = scene.raw(21125820000)
    assert raw.dtype == np.uint16 and raw.shape == (512, 1024)
    assert np.array_equal(raw, Scene("JF03T01V02", seed=3).raw(21125820000))
    assert not np.array_equal(raw[1:], scene.raw(21125820003)[1:])
    assert not np.array_equal(raw[1:], other.raw(21125820000)[1:])


def test_raw_when_calibrated_then_gives_back_the_photons(scene):
    pulse_id = 21125820007
    raw, photons = scene.raw(pulse_id), scene.photons(pulse_id)
    good = (scene.constants.mask == 0) & (raw != SATURATED)
    good[0, :8] = False
    found = np.rint(kev(scene, raw) / PHOTON_ENERGY_KEV)
    stage = np.minimum(raw >> 14, 2)
    for number, tolerance in ((0, 0), (1, 1), (2, 12)):
        where = good & (stage == number)
        assert where.any() and np.abs(found[where] - photons[where]).max() <= tolerance
    assert (raw == SATURATED).any() and not (raw >> 14 == 2).any()


def test_stamp_when_calibrated_then_is_kept_in_every_module():
    scene = Scene("JF01T03V01")
    image = kev(scene, scene.raw(21125820009))
    assert [read_stamp(image[512 * m :]) for m in range(3)] == [21125820009] * 3


def test_beam_when_off_then_frames_are_dark_and_daq_rec_says_so(scene):
    dark = Scene("JF03T01V02", seed=3)
    dark.beam = False
    raw = dark.raw(8)
    assert not (raw[dark.constants.mask == 0] >> 14).any() and not dark.photons(8).any()
    assert np.array_equal(raw, scene.dark(0, 8))
    assert DaqRec.decode(dark.daq_rec(8)).dark_shot and not DaqRec.decode(scene.daq_rec(8)).dark_shot


@pytest.mark.parametrize(("stage", "code"), [(0, 0), (1, 1), (2, 3)])
def test_pedestal_run_when_averaged_then_gives_the_constants(scene, monkeypatch, stage, code):
    monkeypatch.setattr(scene, "forced_stage", stage)
    mask = scene.constants.mask
    frames = np.stack([scene.raw(pulse_id) for pulse_id in range(160)])
    good = mask == 0
    good[0, :8] = False
    assert {int(scene.daq_rec(p)) >> 12 & 3 for p in range(5)} == {code}
    assert set(np.unique(frames[0][good] >> 14)) == {code}
    mean = (frames & 0x3FFF).mean(0)
    assert np.abs(mean - scene.constants.pedestal[stage])[good].max() < 1.5
    assert np.abs((mean - scene.constants.pedestal[stage])[good].mean()) < 0.05
    assert not frames[:, mask == DEAD].std(0).any()
    assert set(np.unique(frames[:, mask == STUCK] >> 14)) == {3}


@pytest.mark.parametrize("step", [1, 2, 4, 10, 100])
def test_rendered_frames_when_pulses_come_in_steps_then_are_used_evenly(scene, step):
    counts = np.bincount([scene._index(pulse_id * step) for pulse_id in range(800)], minlength=8)
    assert counts.min() > 80


def test_constants_when_written_then_files_hold_them_in_every_form(scene, tmp_path):
    files = scene.write_constants(tmp_path)
    constants = scene.constants
    with h5py.File(files.gain) as file:
        assert file["gains"].dtype == "f8" and np.array_equal(file["gains"][:], constants.gain)
    with h5py.File(files.pedestal) as file:
        assert np.array_equal(file["gains"][:], constants.pedestal)
        assert file["gainsRMS"].shape == (3, 512, 1024) and file["pixel_mask"].dtype == "i8"
        assert np.array_equal(file["pixel_mask"][:], constants.mask)
    maps = np.fromfile(files.gain_maps[0], "<f8").reshape(6, 512, 1024)
    assert np.array_equal(maps, constants.gain) and (maps[1:3, 1:] < 0).all()
    with h5py.File(files.om_darks[0]) as file:
        assert np.array_equal(file["gain1"][:], constants.pedestal[1] + 16384)
        assert np.array_equal(file["gain2"][:], constants.pedestal[2] - 16384)
    assert files.pedestal.name.endswith(".JF03T01V02.res.h5")
