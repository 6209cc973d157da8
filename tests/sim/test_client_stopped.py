"""Our own process is stopped in the middle of a scan, for longer than any of its limits: no point is lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sfdaq_ophyd.sim import Facility

from ..devices.suspended import suspended

N_POINTS = 6
LIMIT = 10.0
"""s; the stop is longer than this and than every other limit of the devices."""

STOP = 15.0
"""s."""

SCAN = """
import json, sys
from bluesky import RunEngine
from bluesky.plans import count
from sfdaq_ophyd.devices import Eiger, Jungfrau

told = json.loads(sys.argv[1])
eiger = Eiger(told["eiger"], name="eiger", directory=told["directory"])
jf = Jungfrau(told["jungfrau"], name="jf", detector_name=told["detector_name"], directory=told["directory"])
for device in (eiger, jf):
    device.timeout.put(told["limit"])
eiger.exposure_time.put(0.1)
eiger.frames_per_trigger.put(3)
jf.frames_per_trigger.put(3)

def show(name, document):
    if name == "event":
        data = document["data"]
        print("EVENT", json.dumps([data["eiger_event_id"], data["jf_event_id"]], default=list), flush=True)
    elif name == "stop":
        print("STOP", json.dumps([document["exit_status"], document["reason"]]), flush=True)

RE = RunEngine(context_managers=[])
RE.subscribe(show)
RE(count([eiger, jf], told["n_points"]))
"""


@pytest.fixture(scope="module")
def facility():
    options = {"eiger_shape": (64, 80), "jungfrau_name": "JF04T01V01", "jungfrau_rate_multiplicator": 4}
    with Facility(speed="auto", only=["eiger", "jungfrau"], **options) as facility:
        yield facility


@pytest.fixture
def scan(facility, tmp_path):
    """Start the scan in a child; returns the process."""
    told = {
        "eiger": facility.eiger.url,
        "jungfrau": facility.jungfrau.endpoints,
        "detector_name": facility.jungfrau.detector_name,
        "directory": str(tmp_path),
        "limit": LIMIT,
        "n_points": N_POINTS,
    }
    command = [sys.executable, "-c", SCAN, json.dumps(told)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_scan_when_its_process_is_stopped_longer_than_its_limits_then_no_point_is_lost(scan):
    said = [scan.stdout.readline() for _ in range(2)]  # two points are done
    assert all(line.startswith("EVENT") for line in said), said
    with suspended(scan, STOP):
        pass
    said += scan.communicate()[0].splitlines()
    events = [json.loads(line.removeprefix("EVENT")) for line in said if line.startswith("EVENT")]
    ends = [json.loads(line.removeprefix("STOP")) for line in said if line.startswith("STOP")]
    assert ends == [["success", ""]]
    assert len(events) == N_POINTS
    for eiger, jungfrau in events:
        assert len(eiger) == len(set(eiger)) == 3 and len(jungfrau) == len(set(jungfrau)) == 3
        assert [int(event_id) for event_id in jungfrau] == list(
            range(int(jungfrau[0]), int(jungfrau[0]) + 12, 4)
        )
