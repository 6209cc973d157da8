"""Files of the DAQ: what is in them, whether they are done, and their view pulse by pulse."""

from __future__ import annotations

import os
import time

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import FileFormatError
from sfdaq_ophyd.files.aligned_file import write_aligned
from sfdaq_ophyd.files.daq_file import read_daq_file
from sfdaq_ophyd.files.daq_watch import look_at

DETECTOR = "JF03T01V02"


def detector_file(path, pulse_ids, good=None, dtype="f4"):
    with h5py.File(path, "w") as file:
        group = file.create_group(f"data/{DETECTOR}")
        images = np.ones((len(pulse_ids), 2, 3), dtype) * np.arange(len(pulse_ids))[:, None, None]
        group["data"] = images.astype(dtype)
        group["pulse_id"] = np.asarray(pulse_ids, "u8").reshape(-1, 1)
        if good is not None:
            group["is_good_frame"] = np.asarray(good, "u1").reshape(-1, 1)
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.integers(1, 40), unique=True, min_size=1, max_size=12).map(sorted),
    came=st.lists(st.integers(1, 40), unique=True, max_size=12),
)
def test_aligned_view_when_rows_are_in_any_order_then_row_k_is_pulse_k(tmp_path, asked, came):
    if not came:
        return
    source = detector_file(tmp_path / "raw.h5", came)
    (found,) = read_daq_file(source, DETECTOR)
    view = tmp_path / "view.h5"
    write_aligned(view, source, found, asked)
    with h5py.File(view) as file:
        images, ids = file[found.dataset][()], file[found.ids][:, 0]
    for image, one, pulse_id in zip(images, ids, asked):
        if pulse_id in came:
            assert one == pulse_id and (image == came.index(pulse_id)).all()
        else:
            assert one == 0 and np.isnan(image).all()
    assert found.missing(asked).tolist() == [one for one in asked if one not in came]
    assert found.in_rows(asked) == (came == asked)


def test_read_when_a_frame_is_not_good_then_its_pulse_is_missing(tmp_path):
    path = detector_file(tmp_path / "a.h5", [10, 11, 12], good=[1, 0, 1])
    (found,) = read_daq_file(path, DETECTOR)
    assert found.missing([10, 11, 12]).tolist() == [11]


def test_read_when_rows_and_ids_disagree_then_names_file_and_dataset(tmp_path):
    path = detector_file(tmp_path / "a.h5", [10, 11])
    with h5py.File(path, "r+") as file:
        del file[f"data/{DETECTOR}/pulse_id"]
        file[f"data/{DETECTOR}/pulse_id"] = np.zeros((5, 1), "u8")
    with pytest.raises(FileFormatError, match="5 rows"):
        read_daq_file(path, DETECTOR)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 4000), noise=st.binary(max_size=64))
def test_read_when_file_is_damaged_then_an_os_error_or_a_format_error(tmp_path, cut, noise):
    path = detector_file(tmp_path / "a.h5", [10, 11, 12])
    content = path.read_bytes()
    path.write_bytes(content[:cut] + noise)
    with pytest.raises((OSError, FileFormatError)):
        read_daq_file(path, DETECTOR)


@pytest.fixture
def run(tmp_path):
    for folder in ("data", "logs"):
        (tmp_path / folder).mkdir()
    return tmp_path


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_look_when_nothing_is_there_then_not_begun(run):
    assert "not begun" in look_at(run / "data" / f"acq0001.{DETECTOR}.h5", DETECTOR).seen


def test_look_when_log_is_closed_then_whole(run):
    path = detector_file(run / "data" / f"acq0001.{DETECTOR}.h5", [10])
    log = run / "logs" / f"acq0001.{DETECTOR}.log"
    log.write_text("retrieving\n")
    assert look_at(path, DETECTOR).found is None
    log.write_text("retrieving\nprocessing request took 1.2 seconds\n")
    assert look_at(path, DETECTOR).found[0].pulse_ids.tolist() == [10]


def test_look_when_there_is_no_log_then_whole_once_it_stands_still(run):
    path = detector_file(run / "data" / f"acq0001.{DETECTOR}.h5", [10])
    assert look_at(path, DETECTOR).seen.startswith("being written")
    aged(path, 60)
    assert look_at(path, DETECTOR).found


def test_look_when_the_log_is_not_closed_then_a_writer_that_pauses_is_waited_for(run):
    path = detector_file(run / "data" / f"acq0001.{DETECTOR}.h5", [10])
    (run / "logs" / f"acq0001.{DETECTOR}.log").write_text("retrieving\n")
    aged(path, 10)
    assert look_at(path, DETECTOR).seen.startswith("being written")
    aged(path, 60)
    assert look_at(path, DETECTOR).found


def test_look_when_there_is_an_error_file_then_quotes_the_log(run):
    path = run / "data" / f"acq0001.{DETECTOR}.h5"
    (run / "data" / f"acq0001.{DETECTOR}.h5.err").write_text("{}")
    (run / "logs" / f"acq0001.{DETECTOR}.log").write_text("start\nRuntimeError: buffer is empty\n")
    assert look_at(path, DETECTOR).failure == "the writer failed: RuntimeError: buffer is empty"
