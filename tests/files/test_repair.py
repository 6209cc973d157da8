"""Files whose writer was killed, openable again by plain h5py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sfdaq_ophyd.cli import app
from sfdaq_ophyd.errors import FileFormatError, SfdaqError, StorageError
from sfdaq_ophyd.files.frame_file import FrameFile
from sfdaq_ophyd.files.repair import lookup3, repair, repair_if_ours
from sfdaq_ophyd.sim.stamp import read_stamp

from .test_frame_file import FORMAT, frame, numbers

WRITER = """
import sys
from tests.files.test_frame_file import *
file = FrameFile(sys.argv[1], FORMAT)
for number in range(1, 41):
    file.append(frame(number))
    if number == 25:
        file.truncate(20)
file.flush()
if sys.argv[2] == "ids":  # it dies between the two writes of a row
    from sfdaq_ophyd.files import frame_file
    stamps = file._columns["timestamp"]
    stamps.resize((36,))
    stamps[35] = 1.0
    stamps.flush()
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Start a process that writes 35 rows; kill it with ``writer.kill()``."""
    started = []

    def start(how=""):
        path = tmp_path / f"frames{len(started)}.h5"
        command = [sys.executable, "-c", WRITER, str(path), how]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd())
        started.append(process)
        assert process.stdout.readline() == b"written\n"
        return path, process

    yield start
    for process in started:
        kill(process)
        process.stdin.close()
        process.stdout.close()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def opens_plainly(path):
    try:
        h5py.File(path, "r").close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("how", ["", "ids"])
def test_repair_when_the_writer_was_killed_then_plain_h5py_reads_every_row(writer, how):
    path, process = writer(how)
    kill(process)
    assert not opens_plainly(path)
    assert repair(path)
    assert opens_plainly(path) and numbers(path) == [*range(1, 21), *range(26, 41)]
    before = path.read_bytes()
    assert not repair(path) and path.read_bytes() == before, "twice is harmless"


def test_repair_when_the_writer_lives_then_it_is_refused_and_nothing_changes(writer):
    path, process = writer()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"repairing .*frames0.h5: a process has it open.*writer lives"):
        repair(path)
    assert not repair_if_ours(path)
    assert path.read_bytes() == before
    kill(process)
    assert repair_if_ours(path) and opens_plainly(path)


def test_repair_when_written_on_another_host_then_only_a_person_repairs_it(writer, monkeypatch):
    path, process = writer()
    kill(process)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert not repair_if_ours(path)
    assert repair(path)


def test_repair_when_a_reader_has_it_open_then_it_waits_for_that(writer):
    path, process = writer()
    kill(process)
    with h5py.File(path, "r", swmr=True) as reader:
        with pytest.raises(StorageError, match="somebody reads it"):
            repair(path)
        assert read_stamp(reader["entry/data/data"][34]) == 40
    assert repair(path)


def test_command_when_files_differ_then_each_is_told_and_the_exit_code_says(writer, tmp_path):
    path, process = writer()
    kill(process)
    result = CliRunner().invoke(app, ["repair", str(path), str(path), str(tmp_path / "none.h5")])
    assert result.output.count(f"{path}: repaired") == result.output.count(f"{path}: nothing to do") == 1
    assert "none.h5: dataset '/': found no such file" in result.output and result.exit_code == 1
    assert opens_plainly(path)


def test_repair_when_the_file_is_of_an_old_format_then_there_is_nothing_to_do(tmp_path):
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x"] = 1
    assert not repair(tmp_path / "old.h5")


def test_repair_when_the_file_is_somebody_else_s_then_only_its_mark_is_changed(tmp_path):
    """Of whose columns nobody here knows which go with the images."""
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["entry/data/data"] = np.ones((3, 4, 5), "u2")
        file["entry/start_time"] = "2026-11-26T12:00:00"
        file["entry/data/axis"] = np.arange(7.0)
        file.create_dataset("entry/data/table", data=np.arange(9), maxshape=(None,), chunks=(4,))
    content = bytearray(path.read_bytes())
    content[11] |= 5
    content[44:48] = lookup3(bytes(content[:44])).to_bytes(4, "little")
    path.write_bytes(content)
    assert not opens_plainly(path)
    assert repair(path)
    with h5py.File(path, "r") as file:
        assert file["entry/start_time"].asstr()[()] == "2026-11-26T12:00:00"
        assert file["entry/data/axis"][()].tolist() == list(range(7))
        assert file["entry/data/table"][()].tolist() == list(range(9))
        assert len(file["entry/data/data"]) == 3


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    path = tmp_path_factory.mktemp("closed") / "frames.h5"
    file = FrameFile(path, FORMAT)
    file.append(frame(1))
    file.close()
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_repair_when_bytes_are_damaged_then_only_our_errors_come(closed, tmp_path, data):
    content = bytearray(closed.read_bytes())
    content[11] |= 5
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content[44:48] = lookup3(bytes(content[:44])).to_bytes(4, "little")
    path = tmp_path / "damaged.h5"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        repair(path)
    except SfdaqError:
        pass


def test_checksum_when_hdf5_wrote_a_superblock_then_ours_is_the_same(closed):
    head = closed.read_bytes()[:48]
    assert lookup3(head[:44]) == int.from_bytes(head[44:], "little")
    with pytest.raises(FileFormatError, match="wrong checksum"):
        broken = closed.with_name("broken.h5")
        broken.write_bytes(head[:20] + b"\x01" + head[21:] + np.zeros(100, "u1").tobytes())
        repair(broken)
