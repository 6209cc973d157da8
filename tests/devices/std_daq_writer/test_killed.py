"""The whole DAQ killed in the middle of an acquisition, and started again."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.devices import StdDaqWriter

from .documents import run


class Process:
    """``python -m sfdaq_ophyd.sim.std_daq`` on one port."""

    def __init__(self, port: int = 0):
        command = [sys.executable, "-m", "sfdaq_ophyd.sim.std_daq", "--port", str(port)]
        command += ["--settings", '{"image_shape": [8, 16]}', "--writable", tempfile.gettempdir()]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().removeprefix("READY ").strip()

    def end(self, how: str) -> int:
        getattr(self.process, how)()
        with self.process.stdout:
            return self.process.wait(60)


def test_scan_when_the_daq_is_killed_then_it_ends_with_one_message_and_the_next_one_works(tmp_path, wait_for):
    first = Process()
    device = StdDaqWriter(first.url, name="w", directory=tmp_path)
    device.frames_per_trigger.put(2000)
    killed = []

    def kill(value, **kwargs):
        if value > 2 and not killed:
            killed.append(first.end("kill"))

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
        assert second.end("terminate") == 0


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_process_when_it_ends_then_its_writer_process_goes_too(how, wait_for):
    import psutil

    process = Process()
    children = wait_for(lambda: psutil.Process(process.process.pid).children(), "the writer process")
    process.end(how)
    wait_for(lambda: not any(child.is_running() for child in children), "its end")
