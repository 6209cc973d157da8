"""SwissFEL data files, raw and processed, read back as frames."""

from __future__ import annotations

import math
import re
import tracemalloc

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.errors import FileFormatError
from sfdaq_ophyd.files.convert import ProcessedFile
from sfdaq_ophyd.files.swissfel_file import SwissfelFile

from .jungfrau_files import DETECTOR, PULSE, write_raw


@pytest.fixture
def raw_file(given, tmp_path):
    images = np.stack([given["raw"], np.zeros_like(given["raw"]), given["raw_hg"]])
    return write_raw(tmp_path / f"acq0001.{DETECTOR}.h5", images, good=[1, 0, 1])


def test_raw_file_when_read_then_good_frames_with_their_ids(raw_file, given):
    with SwissfelFile(raw_file) as file:
        assert (len(file), file.shape, file.dtype, file.processed) == (3, (512, 1024), np.uint16, False)
        assert (file.detector_name, file.highgain, file.module_map) == (DETECTOR, False, None)
        frames = list(file.frames())
        assert [f.pulse_id for f in frames] == [PULSE, PULSE + 2]
        assert [f.event_id for f in frames] == [str(PULSE), str(PULSE + 2)]
        assert all(f.is_good and math.isnan(f.timestamp) for f in frames)
        np.testing.assert_array_equal(frames[0].image, given["raw"])
        np.testing.assert_array_equal(frames[1].image, given["raw_hg"])
        assert [f.is_good for f in file.frames(good_only=False)] == [True, False, True]
    file.close()


def test_frame_when_no_pulse_arrived_then_it_has_none(given, tmp_path):
    path = write_raw(tmp_path / "a.h5", [given["raw"]], good=[0], pulse_id=np.zeros((1, 1), "u8"))
    with SwissfelFile(path) as file:
        (frame,) = file.frames(good_only=False)
    assert (frame.pulse_id, frame.is_good, frame.event_id) == (None, False, "frame 1000")


def test_processed_file_when_read_then_kev(jungfrau_dir, expected):
    with SwissfelFile(jungfrau_dir / "processed_roi.JF03T01V02.h5") as file:
        assert (file.group_name, file.detector_name) == ("JF03T01V02:ROI_spot", "JF03T01V02")
        assert (file.processed, file.conversion_factor, file.frame_index) == (True, 0.25, None)
        assert file.unit == "keV"
        (frame,) = file.frames()
    counts = expected["gap_keep_factor0p25"][100:140, 200:300]
    assert frame.image.dtype == np.float32
    np.testing.assert_array_equal(frame.image, counts * np.float32(0.25))
    assert frame.pulse_id == PULSE


def test_processed_file_when_it_was_not_converted_then_says_so(given, tmp_path):
    calibration = JungfrauCalibration(DETECTOR, conversion=False, gap_pixels=False)
    path = tmp_path / "a.h5"
    with ProcessedFile(path, calibration, 1) as file:
        ids = {"pulse_id": [[PULSE]], "daq_rec": [[0]], "is_good_frame": [[1]]}
        file.write_columns(**{name: np.array(value, "u8") for name, value in ids.items()})
        file.write(0, given["raw"][None])
    with SwissfelFile(path) as file:
        (frame,) = file.frames()
        assert (file.processed, file.unit, frame.image.dtype) == (True, "ADU", np.uint16)
    np.testing.assert_array_equal(frame.image, given["raw"])


def test_highgain_when_left_over_words_precede_then_first_good_frame_speaks(given, tmp_path):
    path = write_raw(tmp_path / "a.h5", [given["raw"]] * 3, good=[0, 1, 1])
    change(path, "daq_rec", np.array([[0], [1], [0]], "u4"))
    with SwissfelFile(path) as file:
        assert file.highgain


@pytest.mark.parametrize("shape", [(1,), (2, 1)])
def test_older_file_when_words_and_map_are_per_module_then_read(given, tmp_path, shape):
    path = write_raw(tmp_path / "a.h5", [given["raw"]] * 2, module_map=np.zeros(shape, "i8"))
    with SwissfelFile(path) as file:
        assert file.module_map == (0,)


def test_file_when_it_has_no_rows_then_has_no_frames(given, tmp_path):
    path = write_raw(tmp_path / "a.h5", np.empty((0, 512, 1024), "u2"), module_map=np.zeros((0, 1), "i8"))
    with SwissfelFile(path) as file:
        assert (len(file), list(file.frames()), file.highgain, file.module_map) == (0, [], False, None)


def test_several_detectors_when_in_one_file_then_one_must_be_named(raw_file, given):
    write_raw(raw_file, [given["raw_hg"]], detector="JF04T01V01")
    with pytest.raises(FileFormatError, match="found JF03T01V02, JF04T01V01, expected one of them"):
        SwissfelFile(raw_file)
    with SwissfelFile(raw_file, "JF04T01V01") as file:
        assert len(file) == 1


def change(path, name, data=None):
    with h5py.File(path, "a") as file:
        del file[f"data/{DETECTOR}/{name}"]
        if data is not None:
            file[f"data/{DETECTOR}/{name}"] = data


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("pulse_id", None, "pulse_id': found nothing, expected a dataset of shape (3, 1)"),
        ("is_good_frame", None, "is_good_frame': found nothing"),
        ("daq_rec", None, "daq_rec': found nothing"),
        ("data", None, "data': found nothing, expected a dataset of shape (frames, y, x)"),
        ("pulse_id", np.zeros((2, 1), "u8"), "found uint64 (2, 1), expected"),
        ("pulse_id", np.zeros((3, 1), "f8"), "found float64 (3, 1)"),
        ("data", np.zeros((3, 8, 8), "f4"), "found float32, expected uint16 in a raw file"),
        ("data", np.zeros((3, 8), "u2"), "found uint16 (3, 8)"),
        ("data", np.zeros((3, 1024, 1024), "u2"), "found images of (1024, 1024), expected 1 to 1 modules"),
        ("data", np.zeros((3, 512, 1030), "u2"), "found images of (512, 1030)"),
    ],
)
def test_file_when_a_dataset_is_missing_or_wrong_then_named_before_the_first_frame(
    raw_file, name, data, words
):
    change(raw_file, name, data)
    with pytest.raises(FileFormatError, match=re.escape(words)) as caught:
        SwissfelFile(raw_file)
    assert caught.value.path == str(raw_file)


@pytest.fixture
def long_file(tmp_path):
    """60 000 frames, of which nothing takes place on the disk."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, shape, dtype in [
            ("data", (60_000, 512, 1024), "u2"),
            ("pulse_id", (60_000, 1000), "u8"),
            ("frame_index", (60_000, 1000), "u8"),
            ("module_map", (60_000, 1000), "i8"),
            ("is_good_frame", (60_000, 1), "u1"),
            ("daq_rec", (60_000, 1), "u4"),
        ]:
            file.create_dataset(f"data/{DETECTOR}/{name}", shape, dtype, chunks=(1, *shape[1:]))
    return tmp_path / "a.h5"


def test_file_when_a_column_is_as_wide_as_can_be_then_only_what_is_needed_is_read(long_file):
    tracemalloc.start()
    try:
        with SwissfelFile(long_file) as file:
            assert file.module_map == (0,) * 1000 and file.pulse_id.shape == file.frame_index.shape == (
                60_000,
            )
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["is_good_frame", "daq_rec"])
def test_file_when_a_column_is_too_large_to_be_read_then_refused(long_file, name):
    with h5py.File(long_file, "a") as file:
        del file[f"data/{DETECTOR}/{name}"]
        file.create_dataset(f"data/{DETECTOR}/{name}", (60_000, 1000), "u4", chunks=(1, 1000))
    with pytest.raises(FileFormatError, match=re.escape(f"{name}': found uint32 (60000, 1000), expected")):
        SwissfelFile(long_file)


def test_file_when_not_a_data_file_then_named(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(FileFormatError, match="'/data': found nothing, expected a group per detector"):
        SwissfelFile(tmp_path / "other.h5")
    with pytest.raises(FileFormatError, match="no such file"):
        SwissfelFile(tmp_path / "none.h5")


def test_chunk_when_corrupt_then_the_dataset_is_named(jungfrau_dir, tmp_path):
    path = tmp_path / "corrupt.h5"
    content = bytearray((jungfrau_dir / "processed_roi.JF03T01V02.h5").read_bytes())
    start = content.index((16000).to_bytes(8, "big") + (131072).to_bytes(4, "big"))
    content[start + 16 : start + 400] = b"\xff" * 384
    path.write_bytes(content)
    with SwissfelFile(path) as file, pytest.raises(FileFormatError, match="ROI_spot/data.*unreadable"):
        next(file.frames())
