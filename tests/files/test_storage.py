"""Disks and folders that do not take what is written: our errors, with path, free space and what to do."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from sfdaq_ophyd.errors import StorageError
from sfdaq_ophyd.files import storage
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.files.storage import check_folder, make_folder, refused, sync, writing
from sfdaq_ophyd.wire.frame import Frame, FrameFormat

from .test_frame_file import FORMAT, frame, numbers

NOISE = FrameFormat((64, 64), "u2")


def noise(number):
    image = np.random.default_rng(number).integers(0, 60_000, NOISE.shape, "u2")
    return Frame(image, 1.0, str(number))


@pytest.fixture
def mounted(tmp_path):
    """Mount a small disk; needs the right to."""
    places = []

    def mount(options):
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user cannot mount")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture
def small_files():
    """No file may become larger than 200 kB: refused by the system, as on a full disk, for any user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def fill(file):
    for number in range(1, 1000):
        file.append(noise(number))
        file.flush()


def test_disk_full_when_frames_are_written_then_error_says_path_space_and_what_to_do(mounted):
    path = mounted("size=1m") / "frames.h5"
    file = FrameFile(path, NOISE)
    with pytest.raises(StorageError) as caught:
        fill(file)
    said = str(caught.value)
    assert said.startswith(f"writing {path}: No space left on device (0 GB free of 0.00")
    assert said.endswith("Free space there, or set another directory")
    assert caught.value.errno == errno.ENOSPC and "0x" not in said
    file.close()
    check_in_another_process(path, file.n_flushed)


def test_file_when_the_system_refuses_to_let_it_grow_then_what_was_flushed_is_there(tmp_path, small_files):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, NOISE)
    with pytest.raises(StorageError, match=f"writing {path}: File too large .* free of .*log says"):
        fill(file)
    file.close()
    assert file.n_flushed >= 10
    check_in_another_process(path, file.n_flushed)


READER = """
import h5py
from tests.files.test_storage import *
path, n = sys.argv[1], int(sys.argv[2])
with h5py.File(path, swmr=True) as stored:
    group = stored["entry/data"]
    assert [int(i) for i in group["event_id"][:n]] == list(range(1, n + 1))
    for k in range(n):
        np.testing.assert_array_equal(group["data"][k], noise(k + 1).image)
"""


def check_in_another_process(path, n):
    """In the one that wrote it, HDF5 would take a file for the one it could not write."""
    subprocess.run([sys.executable, "-c", READER, str(path), str(n)], cwd=os.getcwd(), check=True)


LIFE_GOES_ON = """
import gc
from pathlib import Path
from tests.files.test_storage import *
from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.files.convert import ProcessedFile
from sfdaq_ophyd.files.held_values import write_columns, write_empty

folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
maps = np.ones((6, 512, 1024)), np.zeros((3, 512, 1024))
calibration = JungfrauCalibration("JF03T01V02", *maps, engine="numpy")
raw = np.random.default_rng(0).integers(0, 2**14, (2, 512, 1024), dtype="u2")


def frames(path):
    file = FrameFile(path, NOISE)
    try:
        fill(file)
    except StorageError:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        file.close()


def converted(path):
    with ProcessedFile(path, calibration, 2) as file:
        file.write(0, raw)


def columns(path):
    write_columns(path, {"a": range(3000), "b": range(3000)})


def empty(path):
    write_empty(path, "data/A/data", (3000,), "f8", ("data/A/pulse_id", (3000,), "i8"))


for k in range(12):
    makers = {columns: 500 * k, empty: 500 * k} | ({converted: 1_000_000} if k < 6 else {})
    for make, limit in makers.items():
        limit = limit if k % 2 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            make(folder / f"{make.__name__}{k}.h5")
        except StorageError as exc:
            assert "File too large" in str(exc) and k % 2
for k in range(4):
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    frames(folder / f"full{k}.h5")
    gc.collect()
    for n in range(10):
        file = FrameFile(folder / f"next{k}_{n}.h5", FORMAT)
        file.append(frame(1))
        file.close()
print("lives")
"""


def test_process_when_the_disk_was_full_then_it_makes_further_files_and_ends_well(tmp_path):
    """HDF5 2.0 frees half of a file that it could not flush: the process died with one of the next."""
    result = subprocess.run(
        [sys.executable, "-c", LIFE_GOES_ON, str(tmp_path)], capture_output=True, text=True, cwd=os.getcwd()
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "lives\n", "")
    whole = {f"{name}{k}.h5" for name in ("columns", "empty") for k in range(0, 12, 2)}
    assert whole | {"converted0.h5", "converted2.h5", "converted4.h5"} <= set(os.listdir(tmp_path))


def test_folder_when_its_disk_is_read_only_then_it_is_refused_before_a_frame(mounted):
    place = mounted("size=1m,ro")
    with pytest.raises(
        StorageError, match=f"making files in {place}/new: Read-only file system .* read-only"
    ):
        check_folder(place / "new")
    with pytest.raises(StorageError, match="making the folder .*: Read-only file system"):
        make_folder(place / "new")


def test_folder_when_somebody_else_owns_it_then_error_says_who(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    with pytest.raises(StorageError) as caught:
        check_folder(tmp_path / "a" / "b")
    owner = tmp_path.owner()
    assert f"making files in {tmp_path}/a/b: Permission denied" in str(caught.value)
    assert f"{tmp_path} is {owner}'s, mode 700, and this process is {owner}'s" in str(caught.value)


def test_folder_when_a_file_stands_there_then_error_says_so(tmp_path):
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(StorageError, match="A file stands where a folder should be"):
            check_folder(folder)
        with pytest.raises(StorageError, match=f"making the folder {folder}"):
            make_folder(folder)


def test_folder_removed_when_frames_are_flushed_then_error_names_the_file(tmp_path):
    path = tmp_path / "run" / "frames.h5"
    make_folder(path.parent)
    file = FrameFile(path, FORMAT)
    file.append(frame(1))
    assert file.flush() == 1
    shutil.rmtree(path.parent)
    file.append(frame(2))
    with pytest.raises(StorageError, match=f"writing {path}: No such file .*Was the folder moved or removed"):
        file.flush()
    assert file.broken and file.n_flushed == 0
    with pytest.raises(StorageError, match="Was the folder moved or removed"):
        file.append(frame(3))
        file.flush()
    file.close()


def test_file_replaced_when_frames_are_flushed_then_error_says_so_and_the_other_stays(tmp_path):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, FORMAT)
    file.append(frame(1))
    path.rename(tmp_path / "moved.h5")
    path.write_bytes(b"another's")
    with pytest.raises(StorageError, match="another file stands there now"):
        file.flush()
    file.close()
    assert path.read_bytes() == b"another's" and numbers(tmp_path / "moved.h5") == [1]


def test_sync_when_the_disk_fails_then_error_is_ours(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sync([tmp_path / "x"])
    assert len(synced) == 2, "the file, and its name in the folder"

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="syncing .*/x: Input/output error .*log says"):
        sync([tmp_path / "x"])


def test_write_whole_when_the_disk_fails_then_the_old_file_stays_and_nothing_half(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    storage.write_whole(path, "old")

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output"):
        storage.write_whole(path, "new")
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["x.json"]
    monkeypatch.undo()
    storage.write_whole(path, "new")
    assert path.read_text() == "new"


def test_writing_when_the_fault_is_not_the_disks_then_it_passes(tmp_path):
    with pytest.raises(RuntimeError, match="of our own"), writing(tmp_path):
        raise RuntimeError("of our own")
    with pytest.raises(StorageError, match="No space left"), writing(tmp_path):
        raise RuntimeError("Can't decrement id ref count (file write failed: ..., errno = 28, buf = 0x7f)")
    assert refused(tmp_path, errno.EDQUOT).hint.startswith("The quota")


def test_append_line_when_the_disk_takes_a_part_then_it_is_told_and_the_next_line_is_whole(tmp_path):
    path = tmp_path / "run.jsonl"
    storage.append_line(path, "a" * 90)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(StorageError, match="writing .*run.jsonl"):
            storage.append_line(path, "b" * 90)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    storage.append_line(path, "c")
    assert path.read_text().split("\n")[1::2] == ["a" * 90, "c"]


LEAVING = """
import atexit
import threading
from sfdaq_ophyd.files._hdf5 import h5py

begun, leaving = threading.Event(), threading.Event()

def write():
    with h5py.File("kept", "w", driver="core", backing_store=False) as file, h5py._objects.phil:
        begun.set()
        leaving.wait()
        for n in range(1000):
            file[str(n)] = ["text"] * 10  # is converted
            assert file[str(n)].asstr()[0] == "text"
        print("whole", flush=True)
    while True:
        with h5py.File("kept", "w", driver="core", backing_store=False) as file:
            for n in range(50):
                file[str(n)] = range(1000)

threading.Thread(target=write, daemon=True).start()
begun.wait()
atexit.register(leaving.set)
"""


def test_process_when_it_ends_while_a_thread_is_in_hdf5_then_it_ends_after_it():
    """A daemon thread, as where a session is left while its simulators start, would end with h5py's lock.

    And h5py itself takes back how it converts, in the middle of what the thread does.
    """
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING], check=True, timeout=300, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("whole\n", "")
