"""``python -m sfdaq_ophyd.sim.eiger``: ready, serving, gone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from sfdaq_ophyd.clients import SimplonClient


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_when_run_then_it_prints_ready_serves_and_leaves_on_a_signal(number):
    command = [sys.executable, "-m", "sfdaq_ophyd.sim.eiger", "--shape", "32x48", "--api-version", "1.6.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            word, url, *_ = child.stdout.readline().split()
            assert word == "READY"
            assert SimplonClient(url).version == "1.6.0"
            child.send_signal(number)
            out, err = child.communicate()
        finally:
            child.kill()
    assert (child.returncode, out, err) == (0, "", "")
