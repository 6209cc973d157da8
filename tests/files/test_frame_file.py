"""Frame files: whole frames with their ids, for other processes, and after a kill.

Found faults: image-before-ids.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfdaq_ophyd.errors import RequestError, ShapeError, StorageError
from sfdaq_ophyd.files._hdf5 import chunk_filter
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.sim.stamp import read_stamp, write_stamp
from sfdaq_ophyd.wire import compression
from sfdaq_ophyd.wire.frame import Frame, FrameFormat, MissingFrame

FORMAT = FrameFormat((16, 20), "u4", has_pulse_id=True, scalars={"total": "i8"})


def frame(number, fmt=FORMAT):
    image = np.zeros(fmt.shape, fmt.dtype)
    image[1:] = number % 5
    write_stamp(image, number)
    return Frame(
        image, 1e9 + number, f"7:{number}", 100 + number, number % 3 > 0, {"total": int(image.sum())}
    )


def stored(path, **kwargs):
    with h5py.File(path, "r", **kwargs) as file:
        return {name: column[()] for name, column in file["entry/data"].items()}


def numbers(path, **kwargs):
    """Check every row of a file; return the numbers stamped into its frames."""
    columns = stored(path, **kwargs)
    found = [read_stamp(image) for image in columns["data"]]
    assert len({len(column) for column in columns.values()}) == 1
    assert [f"7:{n}".encode() for n in found] == columns["event_id"].tolist()
    assert [100 + n for n in found] == columns["pulse_id"].tolist()
    assert [1e9 + n for n in found] == columns["timestamp"].tolist()
    assert [n % 3 > 0 for n in found] == columns["is_good"].tolist()
    assert columns["data"].sum(axis=(1, 2), dtype="i8").tolist() == columns["total"].tolist()
    return found


@pytest.fixture
def file(path):
    file = FrameFile(path, FORMAT)
    yield file
    file.close()


def test_file_when_closed_then_every_frame_has_its_ids(file, path):
    for number in range(1, 51):
        file.append(frame(number))
    assert file.n_frames == 50
    file.close()
    file.close()
    assert numbers(path) == list(range(1, 51))


def test_file_when_opened_by_a_viewer_then_it_finds_the_image(file, path):
    file.append(frame(1))
    file.close()
    with h5py.File(path) as opened:
        entry = opened[opened.attrs["default"]]
        data = entry[entry.attrs["default"]]
        classes = [one.attrs["NX_class"] for one in (opened, entry, data)]
        assert classes == ["NXroot", "NXentry", "NXdata"]
        images = data[data.attrs["signal"]]
        assert images.attrs["interpretation"] == "image"
        assert images.chunks == (1, 16, 20)
        assert list(images._filters) == ["32008"]
        assert data["timestamp"].attrs["units"] == "s"


def test_file_when_written_then_another_process_reads_it_meanwhile(file, path):
    code = (
        "import h5py, hdf5plugin, sys\n"
        "with h5py.File(sys.argv[1], 'r', swmr=True) as f:\n"
        "    data, ids = f['entry/data/data'], f['entry/data/event_id']\n"
        "    for line in sys.stdin:\n"
        "        ids.refresh(); data.refresh()\n"
        "        n = len(data)\n"
        "        print(n, [int(v) for v in data[:, 0, 0]], [i.decode() for i in ids[:n]], flush=True)\n"
    )
    file.append(frame(1))
    file.flush()
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with reader:
        for n in range(1, 6):
            reader.stdin.write("\n")
            reader.stdin.flush()
            ids = [f"7:{k}" for k in range(1, n + 1)]
            assert reader.stdout.readline().strip() == f"{n} {list(range(1, n + 1))} {ids}"
            file.append(frame(n + 1))
            file.flush()
        reader.stdin.close()
    assert reader.returncode == 0


WRITER = """
import sys
from tests.files.test_frame_file import *
file = FrameFile(sys.argv[1], FORMAT)
number = taken_back = 0
while True:
    number += 1
    file.append(frame(number))
    if number % 7 == 0:
        file.flush()
    if number == 20:
        print("started", flush=True)
    if number % 31 == 0 and number > taken_back:
        taken_back = number
        file.truncate(file.n_frames - 3)
        number -= 3
"""


@pytest.mark.parametrize("more_lines", range(4))
def test_file_when_its_writer_is_killed_then_every_frame_is_whole(path, more_lines, wait_for):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    try:
        assert writer.stdout.readline() == b"started\n"
        size = path.stat().st_size
        wait_for(lambda: path.stat().st_size > size + more_lines * 30_000, "the file to grow")
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    with h5py.File(path, "r", swmr=True) as file:
        n = len(file["entry/data/data"])
        found = [read_stamp(image) for image in file["entry/data/data"]]
        assert n >= 7
        assert found == list(range(1, n + 1))
        assert [f"7:{k}" for k in found] == [i.decode() for i in file["entry/data/event_id"][:n]]


DYING = """
import os, sys
from sfdaq_ophyd.files import frame_file, storage
from tests.files.test_frame_file import *

def die_after(limit, path):
    file = FrameFile(path, FORMAT)
    file.append(frame(1))
    file.flush()
    append, n = frame_file._append, 0

    def dying(*args):
        nonlocal n
        append(*args)
        n += 1
        if n == limit:
            file._file.flush()
            os._exit(9)

    frame_file._append = dying
    file.append(frame(2))
    file.flush()
    os._exit(0)

for limit in range(1, 8):
    child = os.fork()
    if not child:
        die_after(limit, f"{sys.argv[1]}/{limit}.h5")
    os.waitpid(child, 0)
"""


def test_image_before_ids_when_the_writer_dies_between_the_writes_of_a_row_then_never(tmp_path):
    """A pin: with the order of the writes turned round, every other test here stayed green."""
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], cwd=os.getcwd(), check=True)
    rows = []
    for limit in range(1, 8):
        with h5py.File(tmp_path / f"{limit}.h5", "r", swmr=True) as file:
            group = file["entry/data"]
            rows.append(len(group["data"]))
            assert all(len(column) >= rows[-1] for column in group.values())
            ids = [int(i.decode().split(":")[1]) for i in group["event_id"][: rows[-1]]]
            assert ids == [read_stamp(image) for image in group["data"]] == list(range(1, rows[-1] + 1))
    assert rows[0] == 1 and rows[-1] == 2, "some die before the image, one lives"


def test_truncate_when_frames_are_taken_back_then_the_next_take_their_rows(file, path):
    for number in range(1, 9):
        file.append(frame(number))
    file.truncate(5)
    assert file.n_frames == 5
    for number in range(20, 23):
        file.append(frame(number))
    file.truncate(7)
    file.truncate(100)
    file.close()
    assert numbers(path) == [1, 2, 3, 4, 5, 20, 21]


@pytest.mark.parametrize("dtype, nothing", [("u2", 0), ("f4", np.nan)])
def test_gap_when_appended_then_it_is_marked_and_holds_no_pixel(path, dtype, nothing):
    fmt = FrameFormat((8, 8), dtype, has_pulse_id=True, scalars={"mean": "f8", "n": "i4"})
    file = FrameFile(path, fmt)
    whole = Frame(np.ones((8, 8), dtype), 5.0, "a", 3, True, {"mean": 1.0, "n": 64})
    file.append(whole)
    file.append(whole)
    file.truncate(1)
    file.append(MissingFrame("b"))
    file.close()
    columns = stored(path)
    np.testing.assert_array_equal(columns["data"][1], np.full((8, 8), nothing, dtype))
    assert columns["event_id"].tolist() == [b"a", b""]
    assert columns["is_good"].tolist() == [True, False]
    assert columns["pulse_id"].tolist() == [3, -1]
    assert np.isnan(columns["timestamp"][1]) and np.isnan(columns["mean"][1]) and columns["n"][1] == 0


def test_move_tail_when_asked_then_the_rest_is_in_a_new_file(file, path, tmp_path):
    for number in range(1, 6):
        file.append(frame(number))
    tail = file.move_tail(3, tmp_path / "tail.h5")
    tail.append(frame(6))
    tail.close()
    file.close()
    assert numbers(path) == [1, 2, 3]
    assert numbers(tail.path) == [4, 5, 6]


def test_file_when_it_has_no_frame_then_it_is_removed(file, path):
    file.append(frame(1))
    file.truncate(0)
    file.close()
    assert not path.exists()


def test_file_when_path_exists_then_it_is_not_touched(path):
    path.write_bytes(b"precious")
    with pytest.raises(StorageError, match="File exists .* is not replaced"):
        FrameFile(path, FORMAT)
    assert path.read_bytes() == b"precious"


def compressing():
    return [t for t in threading.enumerate() if t.name.startswith("compress")]


def test_append_when_frames_come_one_by_one_then_no_thread_is_woken_for_them(file, path, wait_for):
    for n in range(3):
        file.append(frame(n))
        file.flush()
    assert numbers(path, swmr=True) == [0, 1, 2] and not compressing()
    file.append(frame(3))
    wait_for(lambda: file.flush(wait=False) == 4)  # whoever looks need not wait for its successor
    for n in range(4, 12):
        file.append(frame(n))
    assert compressing()
    file.flush()
    assert numbers(path, swmr=True) == list(range(12))
    file.close()
    assert not compressing(), "no thread is left"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"image": np.zeros((16, 21), "u4")},
            "frame 7:1: uint32 (16, 21) came, uint32 (16, 20) was announced",
        ),
        ({"image": np.zeros((16, 20), "u2")}, "uint16 (16, 20) came"),
        ({"event_id": ""}, "expected 1 to 64 bytes"),
        ({"event_id": "x" * 65}, "expected 1 to 64 bytes"),
        ({"pulse_id": None}, "carries no pulse id"),
        ({"pulse_id": 2**63}, "pulse id 9223372036854775808, expected a signed 64-bit integer"),
        ({"scalars": {"total": 2**63}}, "total 9223372036854775808, expected a signed 64-bit integer"),
    ],
)
def test_append_when_frame_is_not_as_announced_then_nothing_is_written(file, path, change, message):
    good = frame(1)
    fields = {name: getattr(good, name) for name in Frame.__slots__} | change
    with pytest.raises(ShapeError) as caught:
        file.append(Frame(**fields))
    assert message in str(caught.value)
    file.append(frame(2))
    file.close()
    assert numbers(path) == [2]


@pytest.mark.parametrize(
    "shape, dtype, field",
    [((16,), "u2", "shape"), ((0, 16), "u2", "shape"), ((4, 4), "U3", "dtype"), ((4, 4), "O", "dtype")],
)
def test_format_when_impossible_then_refused(shape, dtype, field):
    with pytest.raises(RequestError, match=field):
        FrameFormat(shape, dtype)


@settings(max_examples=60, deadline=None)
@given(
    image=st.sampled_from(["u1", "u2", "u4", "i4", "f4", "f8"]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
    )
)
def test_compress_when_any_image_then_the_filter_reads_it_back(image):
    with h5py.File("compressed", "w", driver="core", backing_store=False) as file:
        shape = (1, *image.shape)
        data = file.create_dataset("data", shape, image.dtype, chunks=shape, **chunk_filter())
        data.id.write_direct_chunk((0, 0, 0), compression.compress_bslz4(image))
        np.testing.assert_array_equal(data[0], image)


def test_file_when_library_hides_its_functions_then_hdf5_compresses(path, monkeypatch):
    monkeypatch.setattr(compression, "available", lambda: False)
    file = FrameFile(path, FORMAT)
    for number in range(1, 4):
        file.append(frame(number))
    file.close()
    assert numbers(path) == [1, 2, 3]


def test_append_when_a_frame_cannot_be_written_then_those_before_stay_whole(file, path, monkeypatch):
    for number in range(1, 4):
        file.append(frame(number))
    file.flush()

    def full(image):
        raise OSError("no space left on device")

    monkeypatch.setattr(compression, "compress_bslz4", full)
    with pytest.raises(OSError, match="no space left"):
        file.append(frame(4))
        file.flush()
    monkeypatch.undo()
    file.append(frame(5))
    file.close()
    assert numbers(path) == [1, 2, 3, 5]
