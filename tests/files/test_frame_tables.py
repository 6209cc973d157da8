"""Tables of a series in a frame file: from which series on which holds, and what has no place."""

from __future__ import annotations

import logging

import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np

from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.wire.cbor import ArrayBytes
from sfdaq_ophyd.wire.compression import compress_bslz4
from sfdaq_ophyd.wire.frame import Frame, FrameFormat, Tables

FORMAT = FrameFormat((4, 6), "u2")


def packed(array, algorithm="none"):
    data = compress_bslz4(array) if algorithm == "bslz4" else memoryview(array.tobytes())
    size = array.itemsize if algorithm == "bslz4" else 0
    return ArrayBytes(array.shape, array.dtype, algorithm, size, data)


def tables(since, value, **more):
    mask = packed(np.full((4, 6), value, "<u4"))
    flat = packed(np.full((4, 6), value / 2, "<f4"), "bslz4")
    return Tables(since, {"pixel_mask/threshold_1": mask, "flatfield/threshold_1": flat, **more})


def frame(k):
    return Frame(np.full((4, 6), k, "u2"), 1.0 + k, f"1_{k}")


def told(path):
    with h5py.File(path, "r", swmr=True) as file:
        group = file["entry/instrument/detector"]
        values = {
            name: group[f"{name}/threshold_1"][:, 0, 0].tolist() for name in ("pixel_mask", "flatfield")
        }
        return [uid.decode() for uid in group["series_uid"]], values


def test_file_when_series_bring_tables_then_row_k_holds_from_its_series_on(tmp_path):
    file = FrameFile(tmp_path / "a.h5", FORMAT, tables=tables("A", 1))
    file.append(frame(0))
    file.add_tables(tables("B", 2))
    file.flush()
    assert told(file.path) == (["A", "B"], {"pixel_mask": [1, 2], "flatfield": [0.5, 1.0]})
    file.append(frame(1))
    tail = file.move_tail(1, tmp_path / "b.h5")
    assert told(tail.path) == (["B"], {"pixel_mask": [2], "flatfield": [1.0]})
    for one in (file, tail):
        one.close()
        with h5py.File(one.path) as closed:
            assert len(closed["entry/data/data"]) == 1


def test_file_when_a_table_is_missing_odd_or_new_then_the_others_are_kept_and_it_is_told(tmp_path, caplog):
    lying = ArrayBytes((4, 6), np.dtype("<u4"), "none", 0, memoryview(bytes(4)))
    file = FrameFile(tmp_path / "a.h5", FORMAT, tables=tables("A", 1, extra=lying))
    file.append(frame(0))
    with caplog.at_level(logging.WARNING):
        file.add_tables(
            Tables("B", {"pixel_mask/threshold_1": packed(np.full((4, 6), 2, "<u4")), "new": lying})
        )
        file.add_tables(tables("C", 3, new=packed(np.zeros((2, 2), "<u4"))))
    file.flush()
    assert told(file.path) == (["A", "B", "C"], {"pixel_mask": [1, 2, 3], "flatfield": [0.5, 0.0, 1.5]})
    assert "B came without a flatfield/threshold_1" in caplog.text and "no place for new of C" in caplog.text
    file.close()


def test_file_when_made_without_tables_then_later_ones_are_told_and_frames_go_on(tmp_path, caplog):
    file = FrameFile(tmp_path / "a.h5", FORMAT)
    file.add_tables(tables("A", 1))
    file.append(frame(0))
    assert file.flush() == 1 and "no place for tables of A" in caplog.text
    file.close()
