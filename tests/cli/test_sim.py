import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ..ports import free_ports


class Sim:
    """``sfdaq sim`` in a child; its output is read in a thread, so that no wait hangs on a silent child."""

    def __init__(self, *words):
        self.lines, self._new = [], threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from sfdaq_ophyd.cli import main; main()", "sim", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._new:
                self.lines.append(line.rstrip("\n"))
                self._new.notify_all()

    def wait_line(self, condition, timeout=300):
        with self._new:
            found = self._new.wait_for(lambda: next((x for x in self.lines if condition(x)), None), timeout)
        assert found is not None, (self.lines, self.process.poll())
        return found

    def has_children(self):
        found = ""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended
                found += (task / "children").read_text()
        return bool(found)

    def end(self, number):
        self.process.send_signal(number)
        errors = self.process.stderr.read()
        self.process.stderr.close()
        code = self.process.wait(timeout=60)
        self._reader.join(60)
        self.process.stdout.close()
        return code, errors


@pytest.fixture
def sim():
    started = []

    def start(*words):
        started.append(Sim(*words))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.end(signal.SIGKILL)


def test_sim_when_ready_then_ready_is_the_first_line_and_a_table_follows(sim):
    child = sim("--only", "pvs,eiger", "--option", "eiger_model=500K")
    child.wait_line(lambda line: "Ctrl-C" in line)
    assert child.lines[0] == "READY"
    text = "\n".join(child.lines)
    assert re.search(r"eiger .* stream .*tcp://127\.0\.0\.1:\d+", text)
    assert "pulse_id" in text and ":RX-PULSEID" in text and "EPICS_CA_ADDR_LIST=127.0.0.1:" in text
    assert child.end(signal.SIGINT) == (0, "")


def test_sim_when_json_then_one_line_with_the_addresses_that_another_process_can_use(sim, wait_for):
    child = sim(
        *("--only", "std-daq,pvs", "--json", "--speed", "10", "--option", "std_daq_dialect=websocket")
    )
    addresses = json.loads(child.wait_line(lambda line: line.startswith("{")))
    assert child.lines[0] == "READY" and len(child.lines) == 2
    assert set(addresses) == {"pvs", "std_daq"}
    assert {role: url.split("//")[0] for role, url in addresses["std_daq"].items()} == {
        "url": "http:",
        "ws_url": "ws:",
    }
    environment = {
        **os.environ,
        "EPICS_CA_ADDR_LIST": addresses["pvs"]["ca"],
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
    }
    # a repeater it started would outlive it and hold its output open
    code = (
        "import sys; from caproto.sync.client import read;"
        "print(int(read(sys.argv[1], repeater=False).data[0]))"
    )
    command = [sys.executable, "-c", code, addresses["pvs"]["pulse_id"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10**9
    assert child.end(signal.SIGTERM) == (0, "")


def test_sim_when_options_are_given_then_they_hold_and_speed_auto_says_once_the_rate_of_the_pulse_clock(sim):
    (base,) = free_ports(1)
    options = ["--port-base", str(base), "--option", "pvs_prefix=MY:", "--speed", "auto"]
    child = sim("--only", "pvs", "--json", *options)
    addresses = json.loads(child.wait_line(lambda line: line.startswith("{")))
    assert (addresses["pvs"]["ca"], addresses["pvs"]["motor"]) == (f"127.0.0.1:{base}", "MY:M1")
    said = child.process.stderr.readline()
    assert said.startswith("The pulse clock runs at ") and " Hz" in said
    assert child.end(signal.SIGINT)[0] == 0


def test_sim_when_interrupted_while_it_starts_then_ends_at_once_and_leaves_nothing(
    sim, tmp_path, monkeypatch, wait_for
):
    hanging = tmp_path / "hanging"
    hanging.mkdir()
    (hanging / "caproto.py").write_text("import time\nprint('STEP hanging', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hanging), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    child = sim("--only", "pvs")
    wait_for(child.has_children, "a child that starts")
    assert list(tmp_path.glob("sfdaq-clock-*"))
    code, _ = child.end(signal.SIGINT)
    assert code != 0 and child.lines == []
    assert [path.name for path in tmp_path.iterdir()] == ["hanging"], "neither folder nor clock"
