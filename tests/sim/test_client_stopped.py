"""Our own process is stopped in the middle of a scan, for longer than any of its limits: no point is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest

from sfdaq_ophyd.sim import Facility

from ..devices.suspended import suspended

N_POINTS = 6
STOPPED_AT = 2
"""The point in which it is stopped, counted from 0."""

LIMIT = 10.0
"""s; the stop is longer than this and than every other limit of the devices."""

STOP = 15.0
"""s."""

SCAN = """
import json, sys, threading
import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import RunEngine
from sfdaq_ophyd.session.config import SfdaqConfig
from sfdaq_ophyd.session.devices import make_devices

told = json.loads(sys.argv[1])
made = {entry.name: entry.device for entry in make_devices(SfdaqConfig.model_validate(told["config"]))}
eiger, jf, writer, pulse_id, motor = (made[name] for name in ("eiger", "jf", "writer", "pulse_id", "motor"))

from ophyd import EpicsSignalRO  # as a user of a session does

diode = EpicsSignalRO(told["diode"], name="diode", timeout=told["limit"])
for device in (eiger, jf, writer):
    device.timeout.put(told["limit"])
    device.frames_per_trigger.put(3)
eiger.exposure_time.put(0.1)
for device in (diode, pulse_id, motor):
    device.wait_for_connection(timeout=60)

def show(name, document):
    if name == "event":
        data = document["data"]
        ids = [data["eiger_event_id"], data["jf_event_id"], data["writer_event_id"]]
        print("EVENT", json.dumps([*ids, data["pulse_id"], data["motor"]], default=list), flush=True)
    elif name == "stop":
        print("STOP", json.dumps([document["exit_status"], document["reason"]]), flush=True)

def is_asked():
    frame = sys._current_frames()[RE._th.ident]
    while frame is not None and frame.f_code.co_name != "get_with_metadata":
        frame = frame.f_back
    return frame is not None

def tell():
    while not is_asked():
        threading.Event().wait(0.001)
    print("ASKED", flush=True)

@bpp.run_decorator()
def scan():
    for point in range(told["n_points"]):
        yield from bps.checkpoint()
        yield from bps.abs_set(motor, point, group="point")
        for device in (eiger, jf, writer, pulse_id):
            yield from bps.trigger(device, group="point")
        yield from bps.create("primary")
        if point == told["stopped_at"]:
            print("MEASURES", flush=True)
            sys.stdin.readline()
            threading.Thread(target=tell, daemon=True).start()
        yield from bps.read(diode)
        yield from bps.wait("point")
        for device in (eiger, jf, writer, pulse_id, motor):
            yield from bps.read(device)
        yield from bps.save()

RE = RunEngine(context_managers=[])
RE.subscribe(show)
RE(bpp.stage_wrapper(scan(), [eiger, jf, writer, pulse_id, motor]))
"""


@pytest.fixture(scope="module")
def facility():
    options = {"eiger_shape": (64, 80), "jungfrau_name": "JF04T01V01", "jungfrau_rate_multiplicator": 4}
    options["std_daq_writable"] = tempfile.gettempdir()
    with Facility(speed="auto", only=["eiger", "jungfrau", "std_daq", "pvs"], **options) as facility:
        yield facility


@pytest.fixture
def scan(facility, tmp_path):
    """Start the scan in a child; returns the process."""
    devices = {
        "eiger": {"class": "Eiger", "url": facility.eiger.url},
        "jf": {
            "class": "Jungfrau",
            "detector_name": facility.jungfrau.detector_name,
            "endpoints": facility.jungfrau.endpoints,
        },
        "writer": {"class": "StdDaqWriter", "url": facility.std_daq.url},
        "pulse_id": {"class": "PulseId", "pv": facility.pvs["pulse_id"]},
        "motor": {"class": "Motor", "pv": facility.pvs["motor"]},
    }
    told = {
        "config": {"directory": str(tmp_path), "devices": devices},
        "diode": facility.pvs["diode"],
        "limit": LIMIT,
        "n_points": N_POINTS,
        "stopped_at": STOPPED_AT,
    }
    command = [sys.executable, "-c", SCAN, json.dumps(told)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_scan_when_its_process_is_stopped_longer_than_its_limits_then_no_point_is_lost(facility, scan):
    said = [scan.stdout.readline() for _ in range(STOPPED_AT + 1)]
    assert said[-1] == "MEASURES\n", said
    with suspended(psutil.Process(facility.pvs._child.pid), 0):  # so that a PV is asked when it is stopped
        scan.stdin.write("\n")
        scan.stdin.flush()
        assert scan.stdout.readline() == "ASKED\n"
        scan.send_signal(signal.SIGSTOP)
    with suspended(scan, STOP):
        pass
    said += scan.communicate()[0].splitlines()
    events = [json.loads(line.removeprefix("EVENT")) for line in said if line.startswith("EVENT")]
    ends = [json.loads(line.removeprefix("STOP")) for line in said if line.startswith("STOP")]
    assert ends == [["success", ""]]
    assert [event[-1] for event in events] == list(range(N_POINTS)), "where the motor was"
    pulses = [event[-2] for event in events]
    assert pulses == sorted(set(pulses))
    for eiger, jungfrau, written, *_ in events:
        assert len(eiger) == len(set(eiger)) == 3 and len(written) == len(set(written)) == 3
        assert [int(event_id) for event_id in jungfrau] == list(
            range(int(jungfrau[0]), int(jungfrau[0]) + 12, 4)
        )
