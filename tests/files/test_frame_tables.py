"""Tables of a series in a frame file: from which series on which holds, and what has no place."""

from __future__ import annotations

import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np

from sfdaq_ophyd.devices._store import FrameStore
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.wire.compression import ArrayBytes, compress_bslz4
from sfdaq_ophyd.wire.eiger_stream import decode_message, encode_message
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


def test_file_when_tables_are_not_like_its_own_then_refused_and_unreadable_ones_are_told(tmp_path, caplog):
    lying = ArrayBytes((4, 6), np.dtype("<u4"), "none", 0, memoryview(bytes(4)))
    file = FrameFile(tmp_path / "a.h5", FORMAT, tables=tables("A", 1, extra=lying))
    file.append(frame(0))
    mask, flat = tables("B", 2).arrays.values()
    small = packed(np.zeros((2, 2), "<u4"))
    for odd in (
        {"pixel_mask/threshold_1": mask},
        {"flatfield/threshold_1": flat, "pixel_mask/threshold_1": small},
    ):
        assert not file.add_tables(Tables("B", odd))
    assert not file.add_tables(tables("B", 2, new=small))
    assert file.add_tables(tables("C", 3, new=lying))
    file.flush()
    assert told(file.path) == (["A", "C"], {"pixel_mask": [1, 3], "flatfield": [0.5, 1.5]})
    assert "extra of series A is not readable" in caplog.text and "new of series C is not" in caplog.text
    file.close()


def test_file_when_made_without_tables_then_refuses_them_and_the_next_is_made_with_them(tmp_path):
    file = FrameFile(tmp_path / "a.h5", FORMAT)
    file.append(frame(0))
    assert not file.add_tables(tables("A", 1))
    tail = file.move_tail(0, tmp_path / "b.h5")
    assert told(tail.path)[0] == ["A"] and len(h5py.File(tail.path, swmr=True)["entry/data/data"]) == 1
    file.close()
    tail.close()
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5"]


def test_store_when_tables_come_between_points_then_the_file_of_those_not_saved_has_them(tmp_path):
    store = FrameStore(tmp_path, "det", FORMAT, 1)
    store.append(frame(0))
    store.append(tables("A", 1))
    store.append(frame(1))
    store.append(tables("B", 2))
    store.flush()
    assert store.n_ready == 2
    (uri,) = (doc["uri"] for name, doc in store.documents(2) if name == "stream_resource")
    (path,) = tmp_path.iterdir()
    assert uri.endswith(path.name) and told(path)[0] == ["A", "B"]
    with h5py.File(path, "r", swmr=True) as file:
        assert file["entry/data/event_id"][:].tolist() == [b"1_0", b"1_1"]
    store.close()


def test_file_when_a_series_begins_with_odd_tables_then_its_frames_are_kept_with_the_good_ones(tmp_path):
    mask = np.ones((4, 6), "<u4")
    start = decode_message(
        encode_message(
            {"type": "start", "series_id": 1, "series_unique_id": "A", "channels": ["threshold_1"]}
            | {
                "image_size_x": 6,
                "image_size_y": 4,
                "pixel_mask": dict.fromkeys(("threshold_1", "a\0"), mask),
            }
            | {"flatfield": {"": mask, "threshold_1": packed(np.full((4, 6), 0.5, "<f4"), "bslz4")}}
            | {"countrate_correction_lookup_table": np.zeros(0, "<u4")}
        )
    )
    file = FrameFile(tmp_path / "a.h5", FORMAT, tables=Tables("A", start.tables))
    file.append(frame(0))
    file.flush()
    assert told(file.path) == (["A"], {"pixel_mask": [1], "flatfield": [0.5]})
    file.close()
