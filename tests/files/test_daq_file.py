"""Files of the DAQ: what is in them, whether they are done, and their view pulse by pulse."""

from __future__ import annotations

import os
import time
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import FileFormatError
from sfdaq_ophyd.files.daq_file import look_at, read_daq_file, read_texts
from sfdaq_ophyd.files.held_values import write_aligned

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


def foreign(file, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x/data"], other["x/pulse_id"] = [7.0, 8.0], [10, 11]
    return h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")


def virtual(file, tmp_path):
    foreign(file, tmp_path)
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x/data", (2,), "f8")
    file.create_virtual_dataset("ODD/data", layout)
    file["ODD/pulse_id"] = [10, 11]


def columns(**given):
    """An odd channel: what is given, beside data and pulse ids that are right."""

    def make(file, _):
        for name, values in {"data": [1.0, 2.0], "pulse_id": [10, 11], **given}.items():
            file[f"ODD/{name}"] = values

    return make


def rows(n):
    def make(file, _):
        for name in ("data", "pulse_id"):
            file.create_dataset(f"ODD/{name}", (n,), "i8", chunks=(1024,))

    return make


ODD = {
    "a link into another file": lambda file, tmp_path: file.__setitem__("ODD", foreign(file, tmp_path)),
    "data of another file": virtual,
    "10^13 rows": rows(10**13),
    "10^9 rows": rows(10**9),
    "compound ids": columns(pulse_id=np.zeros(2, [("a", "i4")])),
    "ids that are no integers": columns(pulse_id=[10.0, 11.0]),
    "ids of another length": columns(pulse_id=[10, 11, 12]),
    "ids that are nothing": columns(pulse_id=h5py.Empty("i8")),
    "compound data": columns(data=np.zeros(2, [("a", "i4")])),
    "rows of nothing": columns(data=np.zeros((2, 0))),
    "two texts per row": columns(data=np.array([[b"a", b"b"], [b"c", b"d"]])),
    "connected of another length": columns(connected=[1, 1, 1]),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("source", ["BSDATA", "CAMERAS", "PVDATA"])
def test_channel_when_it_is_odd_then_costs_itself_and_is_named(tmp_path, source, odd):
    """golden/found: odd-hdf5, in files of channels."""
    path = tmp_path / f"acq0001.{source}.h5"
    with h5py.File(path, "w") as file:
        file["GOOD/data"], file["GOOD/pulse_id"] = [1.0, 2.0], [10, 11]
        ODD[odd](file, tmp_path)
    found = {one.key: one for one in read_daq_file(path, source)}
    assert found["GOOD"].pulse_ids.tolist() == [10, 11] and not found["GOOD"].problem
    assert found["ODD"].problem
    with pytest.raises(FileFormatError, match="ODD"):
        read_daq_file(path, source, names=["GOOD", "ODD"])


def test_texts_when_they_are_as_wide_as_can_be_then_few_are_read_at_a_time_and_wider_ones_refused(tmp_path):
    path = tmp_path / "acq0001.BSDATA.h5"
    with h5py.File(path, "w") as file:
        for name, width in ("WIDE", 1 << 20), ("WIDER", 1 << 26):
            file.create_dataset(f"{name}/data", (256,), f"S{width}", chunks=(1,))
            file[f"{name}/pulse_id"] = np.arange(256)
    found = {one.key: one for one in read_daq_file(path, "BSDATA")}
    tracemalloc.start()
    try:
        assert read_texts(path, found["WIDE"]) == [""] * 256
        with pytest.raises(FileFormatError, match="WIDER/data.*longer texts"):
            read_texts(path, found["WIDER"])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_channels_when_none_is_in_the_file_then_none_but_an_empty_file_is_no_such_file(tmp_path):
    with h5py.File(tmp_path / "a.BSDATA.h5", "w") as file:
        file.attrs["file_create_datetime"] = "2026-11-26 19:00:00"
    assert read_daq_file(tmp_path / "a.BSDATA.h5", "BSDATA") == []
    h5py.File(tmp_path / "b.BSDATA.h5", "w").close()
    with pytest.raises(FileFormatError):
        read_daq_file(tmp_path / "b.BSDATA.h5", "BSDATA")


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


def test_look_when_the_file_server_s_clock_is_ahead_then_looks_tell_that_it_stands_still(run):
    path = detector_file(run / "data" / f"acq0001.{DETECTOR}.h5", [10])
    aged(path, -3600)
    assert look_at(path, DETECTOR, still=1.0).found is None
    assert look_at(path, DETECTOR, still=60.0).found


def test_look_when_the_log_is_not_closed_then_a_writer_that_pauses_is_waited_for(run):
    path = detector_file(run / "data" / f"acq0001.{DETECTOR}.h5", [10])
    (run / "logs" / f"acq0001.{DETECTOR}.log").write_text("retrieving\n")
    aged(path, 10)
    assert look_at(path, DETECTOR).seen.startswith("being written")
    aged(path, 60)
    assert look_at(path, DETECTOR).found


def test_look_when_only_the_writer_s_log_or_times_move_then_that_is_something_new(run):
    path, log = run / "data" / f"acq0001.{DETECTOR}.h5", run / "logs" / f"acq0001.{DETECTOR}.log"
    log.write_text("attempt 1 of 15\n")
    seen = [look_at(path, DETECTOR).seen, look_at(path, DETECTOR).seen]
    aged(log, -1)
    seen.append(look_at(path, DETECTOR).seen)
    path.write_bytes(bytes(8))  # of the size it will have
    seen += [look_at(path, DETECTOR).seen, look_at(path, DETECTOR).seen]
    aged(path, -1)
    seen.append(look_at(path, DETECTOR).seen)
    assert [before == after for before, after in zip(seen, seen[1:])] == [True, False, False, True, False]


def test_look_when_there_is_an_error_file_then_quotes_the_log(run):
    path = run / "data" / f"acq0001.{DETECTOR}.h5"
    (run / "data" / f"acq0001.{DETECTOR}.h5.err").write_text("{}")
    (run / "logs" / f"acq0001.{DETECTOR}.log").write_text("start\nRuntimeError: buffer is empty\n")
    assert look_at(path, DETECTOR).failure == "the writer failed: RuntimeError: buffer is empty"


def test_look_when_the_raw_file_of_a_converted_one_grows_then_that_is_something_new(run):
    path, log = run / "data" / f"acq0001.{DETECTOR}.h5", run / "logs" / f"acq0001.{DETECTOR}.log"
    raw = run / "raw_data" / path.name
    raw.parent.mkdir()
    seen = [look_at(path, DETECTOR).seen]
    log.write_text("retrieving\n")
    for size in (0, 8):
        raw.write_bytes(bytes(size))
        seen.append(look_at(path, DETECTOR).seen)
    aged(raw, -1)
    seen += [look_at(path, DETECTOR).seen, look_at(path, DETECTOR).seen]
    assert len(set(seen)) == 4 and seen[-1] == seen[-2]
    assert "begun, no file yet" in seen[-1] and "its raw file: 8 bytes" in seen[-1]


def test_look_when_only_the_raw_file_is_expected_then_the_error_file_is_that_of_the_announced_one(run):
    path = run / "raw_data" / f"acq0001.{DETECTOR}.h5"
    path.parent.mkdir()
    detector_file(path, [10])
    aged(path, 60)
    (run / "data" / f"{path.name}.err").write_text("{}")
    (run / "logs" / f"acq0001.{DETECTOR}.log").write_text("start\nRuntimeError: buffer is empty\n")
    assert look_at(path, DETECTOR).failure == "the writer failed: RuntimeError: buffer is empty"


@pytest.mark.parametrize("filtered", [True, False])
def test_look_when_no_frame_passed_the_filters_then_that_is_no_failure_where_frames_are_left_out(
    run, filtered
):
    path, log = run / "data" / f"acq0001.{DETECTOR}.h5", run / "logs" / f"acq0001.{DETECTOR}.log"
    log.write_text("retrieving\nprocessing request took 1.2 seconds\n")
    aged(log, 60)
    assert look_at(path, DETECTOR, filtered=filtered).failure  # nor is there a raw file
    (run / "raw_data").mkdir()
    detector_file(run / "raw_data" / path.name, [10])
    look = look_at(path, DETECTOR, filtered=filtered)
    assert (look.found, bool(look.failure)) == (([], False) if filtered else (None, True))
