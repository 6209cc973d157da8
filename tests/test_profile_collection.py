"""The startup files, in a real IPython: simulated, with dead hardware, and with a wrong file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROFILE = Path(__file__).parents[1] / "profile_collection"


def profile_in(folder):
    """Make a folder for IPython's history, with the startup files of the repository."""
    folder = folder / "profile"
    folder.mkdir()
    for name in ("startup", "sim.yaml"):
        (folder / name).symlink_to(PROFILE / name)
    return folder


@pytest.fixture
def profile(tmp_path):
    return profile_in(tmp_path)


def ipython(profile, code, config=None, **more):
    env = {**os.environ, "HOME": str(profile.parent), "MPLBACKEND": "Agg", "IPYTHONDIR": str(profile.parent)}
    env.pop("SFDAQ_CONFIG", None)
    if config is not None:
        env["SFDAQ_CONFIG"] = str(config)
    done = subprocess.run(
        [sys.executable, "-m", "IPython", f"--profile-dir={profile}", "--colors=nocolor", "-c", code],
        capture_output=True,
        text=True,
        env={**env, **more},
    )
    return done.stdout, done.stderr


SCAN = (
    "uid, = RE(scan([*{}, pulse_id], motor, 0, 1, 2))\n"
    "image = catalog[uid]['primary']['eiger_image'].read()\n"
    "import json; print('RESULT', json.dumps([catalog[uid].start['scan_id'], len(image), "
    "catalog[uid].start['facility'], sorted(catalog[uid])]), flush=True)\n"
    "get_ipython().run_line_magic('wa', '')\n"
)
SUSPENDED = (
    "import threading\n"
    "facility.pvs.write('shutter', 'Closed')\n"
    "threading.Timer(3, facility.pvs.write, ('shutter', 'Open')).start()\n"
    "token = RE.subscribe(lambda n, d: print('STARTED', facility.pvs.read('shutter'), flush=True), 'start')\n"
    "RE(count([diode]))\n"
    "RE.unsubscribe(token)\n"
)
FAILING = {
    "plan": "RE(scan([eiger], motor, 0, 1, 2))",
    "device": "eiger.stage(); eiger.stage()",
    "catalog": "catalog['nothing']",
    "cell": "1 / 0",
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Two simulated sessions in one folder, as (output, errors), and the log: a start takes seconds.

    The first scans, waits for the shutter, and scans again; the second scans, and then all fails. This one
    has only the simulators that it scans; its other devices do not answer.
    """
    folder = tmp_path_factory.mktemp("simulated")
    path, log = profile_in(folder), folder / "sfdaq.log"
    text = (PROFILE / "sim.yaml").read_text().replace("eiger_model: 1M", "eiger_model: 500K")
    (path / "sim.yaml").unlink()
    (path / "sim.yaml").write_text(text.replace("500K", "500K\n    jungfrau_rate_multiplicator: 10"))
    small = folder / "small.yaml"
    small.write_text(text.replace("500K", "500K\n  only: [pvs, eiger]").replace("{port+6}", "{port+1}"))
    failing = "import sys\nfacility.eiger.fail_next('drop', count=9)\n"
    for name, cell in FAILING.items():
        failing += f"print('BEGIN {name}', file=sys.stderr, flush=True)\nget_ipython().run_cell({cell!r})\n"
    sessions = (("sim", "[eiger, jf]", SUSPENDED), (small, "[eiger]", failing))
    return [
        ipython(path, SCAN.format(scanned) + more, config, SFDAQ_LOG=str(log))
        for config, scanned, more in sessions
    ], log


def test_session_when_sim_then_scans_are_in_the_catalog_and_scan_id_goes_on(simulated):
    found = []
    for session in simulated[0]:
        said = "".join(session)
        (line,) = [line for line in said.splitlines() if line.startswith("RESULT")] or [said]
        found.append(json.loads(line.removeprefix("RESULT")))
        assert "motor2" in said, said[-3000:]
    assert found == [[scan_id, 2, "simulated", ["baseline", "primary"]] for scan_id in (1, 3)]
    assert "Traceback" not in "".join(simulated[0][0])


def test_session_when_hardware_is_dead_or_impossible_then_it_starts_and_lists_it(profile):
    path = profile.parent / "mine.yaml"
    path.write_text(
        "control_layer: caproto\npgroup: p12345\ndevices:\n"
        "  eiger: {class: Eiger, url: 'http://192.0.2.1'}\n"
        "  lost: {class: Motor, pv: 'NO:SUCH'}\n"
        "  sfdaq: {class: SfDaqBroker, url: 'http://192.0.2.1:10002', pulse_id: eiger}\n"
        "  jf: {class: Jungfrau, detector_name: JF01T01V01, endpoints: ['tcp://192.0.2.1:1'],\n"
        "       constants: {gain_file: none.h5, pedestal_file: none.h5}}\n"
    )
    code = "print('UP', eiger.name, lost.name, jf.name, 'sfdaq' in globals(), catalog, RE.md['pgroup'])"
    said = "".join(ipython(profile, code, path))
    assert "UP eiger lost jf False <catalog in" in said, said[-3000:]
    assert "3 of 4 devices" in said and "NOT MADE: ConfigError: pulse_id: 'eiger'" in said
    assert "files missing: " in said and "Traceback" not in said


def test_session_when_the_file_is_wrong_then_file_line_and_key(profile):
    path = profile.parent / "mine.yaml"
    path.write_text("pgroup: p12345\ndevices:\n  eiger: {class: Eiger, url: dcu}\n")
    said = "".join(ipython(profile, "pass", path))
    assert f"{path}:3: devices.eiger.url: String should match" in said


def test_session_when_the_suspender_trips_then_a_plan_waits_for_the_shutter(simulated):
    said = "".join(simulated[0][0])
    assert "STARTED" in said, said[-3000:]
    assert "STARTED Closed" not in said and "STARTED 0" not in said


def test_session_when_something_fails_then_one_screen_and_mistakes_in_a_cell_as_ever(simulated):
    (_, (out, said)), log = simulated
    shown = {part.splitlines()[0]: part.splitlines()[1:] for part in said.split("BEGIN ")[1:]}
    assert all(len(lines) <= 12 for lines in shown.values()), shown
    slow = "warning: The pulse clock"  # on a busy machine, at any time
    shown = {name: [line for line in lines if not line.startswith(slow)] for name, lines in shown.items()}
    assert shown["plan"][0] == "scan 4 (scan) failed:" and shown["plan"][1].startswith(
        "  eiger: 0 of 1 frames"
    )
    assert shown["plan"][-1] == shown["device"][-1] == f"  Traceback: {log}"
    assert "is already staged" in shown["device"][1]
    assert "no run 'nothing'" in shown["catalog"][1]
    assert shown["cell"] == [] and "----> 1 1 / 0" in out, "IPython shows its own on standard output"
