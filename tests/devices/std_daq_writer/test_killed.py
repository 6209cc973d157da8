"""The DAQ, or its writer alone, killed in the middle of an acquisition, and started again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading

import bluesky.plans as bp
import psutil
import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _control
from sfdaq_ophyd.devices.std_daq_writer._control import Configuring
from sfdaq_ophyd.errors import StorageError
from sfdaq_ophyd.wire.std_daq_config import DaqConfig

from .documents import run


class Process:
    """``python -m sfdaq_ophyd.sim.std_daq`` on one port."""

    def __init__(self, port: int = 0):
        command = [sys.executable, "-m", "sfdaq_ophyd.sim.std_daq", "--port", str(port)]
        command += ["--settings", '{"image_shape": [8, 16]}', "--writable", tempfile.gettempdir()]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().removeprefix("READY ").strip()

    def end(self, how: str, wait_for) -> int:
        """End it, and wait until its writer process has gone too."""
        children = wait_for(lambda: psutil.Process(self.process.pid).children(), "the writer process")
        getattr(self.process, how)()
        with self.process.stdout:
            code = self.process.wait(60)
        wait_for(lambda: not any(child.is_running() for child in children), "the end of the writer process")
        return code


def test_scan_when_the_daq_is_killed_then_it_ends_with_one_message_and_the_next_one_works(tmp_path, wait_for):
    first = Process()
    device = StdDaqWriter(first.url, name="w", directory=tmp_path)
    device.frames_per_trigger.put(2000)
    killed = []

    def kill(value, **kwargs):
        if value > 2 and not killed:
            killed.append(first.end("kill", wait_for))

    device.n_completed.subscribe(kill, run=False)
    documents, error = run(bp.count([device], 2))
    assert killed
    reason = documents["stop"][0]["reason"]
    assert f"{first.url} is not reachable" in reason and reason.startswith("w:")
    assert "\n" not in reason and "stream_resource" not in documents

    second = Process(int(first.url.rsplit(":", 1)[1]))
    try:
        device.frames_per_trigger.put(2)
        documents, error = run(bp.count([device], 2))
        assert error is None and len(documents["event"]) == 2
    finally:
        assert second.end("terminate", wait_for) == 0


def test_unstage_when_the_writer_process_is_dead_then_a_person_is_asked_for(daq, writer, wait_for, caplog):
    writer.timeout.put(2.0)
    writer.frames_per_trigger.put(1000)
    writer.stage()
    status = writer.trigger()
    wait_for(lambda: writer.n_completed.get() > 0, "images")
    daq.fail_next("writer_dies")
    wait_for(lambda: status.done, "failure")
    assert "does not acknowledge" in str(status) and "the DAQ team must restart it" in str(status)
    writer.unstage()  # what the point's failure told is not told again
    writer.unstage()
    assert "while it was unstaged: writer: the writer did not become READY" in caplog.text
    daq.service.restart()
    daq.service.restart_writer()
    writer.unstage()


@contextlib.contextmanager
def stop_held_back(daq):
    """Have the service take for ever over a stop, for as long; yields what tells that one was answered."""
    stop, stopped, go_on = daq.service.stop, threading.Event(), threading.Event()

    def slow_stop():
        go_on.wait(300)
        stopped.set()
        return stop()

    daq.service.stop = slow_stop
    try:
        yield stopped
    finally:
        daq.service.stop = stop
        go_on.set()


def test_scan_when_the_writer_dies_then_it_ends_with_that_reason_before_the_service_gives_up(
    daq, writer, caplog, wait_for
):
    """The service waits for a dead writer before it says so; the scan does not wait for the service."""
    writer.timeout.put(4.0)
    writer.frames_per_trigger.put(1000)
    daq.fail_next("dies_writing", after=3)
    with stop_held_back(daq) as stopped:
        documents, error = run(bp.count([writer], 1))
        assert not stopped.is_set(), "the run ended before the stop of the writer did"
    assert "does not acknowledge the images it was given" in documents["stop"][0]["reason"]
    assert "does not acknowledge the images it was given" in str(error), "not what unstage found afterwards"
    wait_for(lambda: "did not become READY" in caplog.text, "the outcome of the stop")
    daq.service.restart()
    daq.service.restart_writer()


@pytest.mark.parametrize("held_back", [True, False])
def test_scan_when_the_writer_dies_before_any_image_then_the_reason_says_so_before_the_service_gives_up(
    daq, writer, caplog, wait_for, monkeypatch, held_back
):
    """Only the stop tells it apart from a detector that is silent."""
    monkeypatch.setattr(_control, "REACTION", 0.1 if held_back else 60.0)
    daq.service.source.silence()
    writer.timeout.put(2.0)

    def die(value, **kwargs):
        if value == "WRITING":
            daq.service.writer.kill()

    try:
        writer.writer_state.subscribe(die, run=False)
        with stop_held_back(daq) if held_back else contextlib.nullcontext(threading.Event()) as stopped:
            documents, error = run(bp.count([writer], 1))
            assert not stopped.is_set(), "the run ended before the stop of the writer did"
        assert "no image written" in str(error) and "the DAQ team must restart it" in str(error)
        why = "stop was not answered within 0.1 s" if held_back else "the writer did not become READY"
        assert why in str(error)
        if held_back:
            wait_for(lambda: "the writer did not become READY" in caplog.text, "the outcome of the stop")
    finally:
        daq.service.source.follow_clock()
        daq.service.restart()
        daq.service.restart_writer()
        daq.service.stop()


def test_config_when_the_session_is_killed_while_it_changes_then_the_next_one_knows(
    tmp_path, caplog, monkeypatch
):
    """What is on the disk meanwhile is all that a killed process leaves."""
    (tmp_path / "debts").mkdir()

    class Control:
        now, left = 16, {}

        def config(self):
            return DaqConfig("x", "eiger", self.now, 8, 16, 1, 0, 0, raw={"bit_depth": self.now})

        def change_config(self, changes, timeout, *, again):
            self.now = changes["bit_depth"]
            self.left = {path: path.read_text() for path in (tmp_path / "debts").iterdir()}
            return self.config()

    control = Control()
    Configuring("w", "http://h", tmp_path).change(control, {"bit_depth": 32}, 1.0)
    assert not Configuring("w", "http://h", tmp_path).unfinished, "it came to its end"
    for path, text in control.left.items():
        path.write_text(text.replace(f" {os.getpid()} ", " 999999999 "))
    after = Configuring("w", "http://h", tmp_path)
    assert "bit_depth was left at 32, not put back to 16" in after.unfinished
    after.compare(control.config())
    assert "give either value to configure_daq" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr("sfdaq_ophyd.devices.debts._load", not_read)
        with pytest.raises(StorageError, match="Stale file handle"):
            Configuring("w", "http://h", tmp_path).change(control, {"bit_depth": 8}, 1.0)
    assert control.now == 32 and after.unfinished, "what was not known to be owed is not taken for done"
    control.now = 16
    after.compare(control.config())
    assert not after.unfinished


def not_read(path):
    raise OSError(116, "Stale file handle")
