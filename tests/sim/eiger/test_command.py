"""``python -m sfdaq_ophyd.sim.eiger``: ready, serving, gone; and what it sends when told to replay."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys

import numpy as np

from sfdaq_ophyd.clients import SimplonClient

from .conftest import Pull


@contextlib.contextmanager
def running(number, *options):
    """Run the command, and end it with a signal: it leaves without a word."""
    command = [sys.executable, "-m", "sfdaq_ophyd.sim.eiger", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            word, *addresses = child.stdout.readline().split()
            assert word == "READY"
            yield addresses
            child.send_signal(number)
            out, err = child.communicate()
        finally:
            child.kill()
    assert (child.returncode, out, err) == (0, "", "")


def test_command_when_run_then_it_prints_ready_serves_and_leaves_on_ctrl_c():
    with running(signal.SIGINT, "--shape", "32x48", "--api-version", "1.6.0") as (url, *_):
        assert SimplonClient(url).version == "1.6.0"


def test_command_when_told_to_replay_a_16m_then_its_capture_comes_and_it_leaves_on_sigterm(data_dir):
    folder = data_dir / "eiger" / "stream2" / "diamond_16m"
    options = ["--initialized", "--shape", "64x80", "--stream-replay", str(folder)]
    with running(signal.SIGTERM, *options) as (url, stream, _):
        client = SimplonClient(url)
        client.put("stream", "format", "cbor")
        client.put("stream", "mode", "enabled")
        client.put("detector", "frame_time", 0.002)
        pull = Pull(stream)
        client.arm()
        client.trigger(0.002)
        start, frame, _ = pull.series()
        pull.close()
    expected = json.loads((folder.parent / "expected.json").read_bytes())
    assert expected and start["detector_description"] == "Dectris EIGER2 Si 16M"
    pixels = frame["data"]["threshold_1"].unpack()
    assert pixels.shape == (4362, 4148) and pixels[pixels != 65535].sum(dtype="u8") == 13712
    assert np.count_nonzero(pixels == 65535) == 1253075
