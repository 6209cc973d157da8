"""``sfdaq doctor``, for the simulated facility and for a half-dead one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from typer.testing import CliRunner

from sfdaq_ophyd.cli.app import app
from sfdaq_ophyd.devices.debts import Debts, keep_in
from sfdaq_ophyd.errors import ConfigError
from sfdaq_ophyd.sim import Facility

PROFILE = Path(__file__).parents[2] / "profile_collection"


def doctor(*words, home):
    return subprocess.run(
        [sys.executable, "-c", "from sfdaq_ophyd.cli import main; main()", "doctor", "--limit", "90", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(home), "COLUMNS": "300", "SFDAQ_LOG": str(home / "log")},
    )


def test_doctor_when_sim_then_a_line_per_address_and_pv_and_all_well(tmp_path):
    done = doctor("--config", "sim", "--json", home=tmp_path)
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["name"] for each in findings if not each["ok"]] == [], done.stdout
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((PROFILE / "sim.yaml").read_text())
    assert set(config["devices"]) <= {each["name"] for each in findings}
    assert all(each["latency"] > 0 for each in findings)
    by_name = {each["name"]: each for each in findings}
    assert by_name["eiger"]["version"].startswith("SIMPLON 1.8.0")
    assert by_name["writer"]["version"] == "flask"
    assert "counts at" in by_name["pulse_id"]["found"]


def test_doctor_when_a_real_beamline_is_well_then_exit_code_0(tmp_path):
    """The shipped example with addresses of running services in it, as a controls engineer makes it."""
    text = (PROFILE / "facility.example.yaml").read_text()
    with Facility("auto", tmp_path, eiger_model="500K", pvs_prefix="SLAAR21-LTIM01-EVR0:") as facility:
        constants = facility.jungfrau.scene.write_constants(tmp_path / "constants")
        addresses = {
            "SARES20-MF1:MOT_1": facility.pvs["motor"],
            "SAROP21-OSHU131:SHUTTER": facility.pvs["shutter"],
            "SAR-EVPO-010:DELTA-RATE": facility.pvs["beam_rate"],
            "http://eiger-dcu": facility.eiger.url,
            "http://std-daq:5000": facility.std_daq.url,
            "redis://std-daq:6379": facility.std_daq.redis_url,
            "http://sf-daq:10002": f"{facility.broker.url}\n    slow_url: {facility.broker.slow_url}"
            f"\n    event_code: {facility.pvs['event_code']}",
            "/sf/jungfrau/config/gainMaps/JF01T03V01/gains.h5": constants.gain,
            "/sf/jungfrau/data/pedestal/JF01T03V01/20260101_000000.h5": constants.pedestal,
            **{f"tcp://sf-daqsync-05:3000{i}": each for i, each in enumerate(facility.jungfrau.endpoints)},
            "/sf/bernina/applications/sfdaq": tmp_path / "sfdaq",
            "/sf/bernina/data/p12345/work/eiger": tmp_path / "work" / "eiger",
            "/gpfs/sf/std-daq": tmp_path,
        }
        for example, real in addresses.items():
            assert example in text, example
            text = text.replace(example, str(real))
        (tmp_path / "sfdaq.yaml").write_text(text)
        done = doctor("--config", str(tmp_path / "sfdaq.yaml"), "--json", home=tmp_path)
    found = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert [each for each in found.values() if not each["ok"]] == [] and done.returncode == 0, done.stderr
    for name in ("eiger", "writer", "sfdaq", "pulse_id"):
        assert "its clock is ours within" in found[name]["found"], found[name]
    assert found["jf"]["found"].startswith("3 of 3 endpoints answer, frame ")
    assert found["directory"]["found"].endswith(" GiB free")


def test_doctor_when_half_the_facility_is_dead_then_says_which_and_what_to_do(tmp_path, closed_port):
    dead = f"http://127.0.0.1:{closed_port}"
    with Facility(only=["pvs", "eiger"], eiger_model="500K") as facility:
        devices = {
            "pulse_id": {"class": "PulseId", "pv": facility.pvs["pulse_id"]},
            "lost": {"class": "Motor", "pv": "NO:SUCH:PV"},
            "eiger": {"class": "Eiger", "url": facility.eiger.url},
            "eiger2": {"class": "Eiger", "url": dead},
            "jf": {
                "class": "Jungfrau",
                "detector_name": "JF01T01V01",
                "endpoints": [dead.replace("http", "tcp")],
                "constants": {"gain_file": "/none/gains.h5", "pedestal_file": "/none/p.h5"},
            },
            "writer": {"class": "StdDaqWriter", "url": dead, "redis_url": dead.replace("http", "redis")},
            "sfdaq": {"class": "SfDaqBroker", "url": dead},
        }
        path = tmp_path / "sfdaq.yaml"
        path.write_text(
            yaml.safe_dump({"directory": str(tmp_path), "control_layer": "caproto", "devices": devices})
        )
        keep_in(tmp_path / "debts")
        Debts("eiger", facility.eiger.url, tmp_path).owe("nimages", left=1, back=7, reason="no network")
        keep_in(None)
        done = doctor("--config", str(path), home=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    state = {line[17:].split()[0]: line.split()[0] for line in reversed(lines[:-1])}
    assert state["pulse_id"] == state["eiger"] == state["directory"] == "ok", lines
    for name in ("debts", "lost", "eiger2", "jf", "writer", "sfdaq"):
        assert state[name] == "FAILED", (name, lines)
    (line,) = [line for line in lines if " eiger2   " in line]
    assert dead in line and "Connection refused" in line and "detector control unit on" in line
    (line,) = [line for line in lines if " debts " in line]
    assert "eiger: nimages was left at 1, not put back to 7" in line and "by hand" in line
    assert any(" jf " in line and "none of 1 endpoints answers" in line for line in lines), lines
    n_failed = sum(line.startswith("FAILED") for line in lines)
    assert lines[-1] == f"{n_failed} failed; their tracebacks, and what to do, are in {tmp_path / 'log'}"
    assert "Traceback" not in done.stdout + done.stderr
    log = (tmp_path / "log").read_text()
    assert "Connection refused. Is the detector control unit on" in " ".join(log.split()).replace(")", "")
    assert "Traceback (most recent call last)" in log and "sfdaq_ophyd.errors.ServiceUnreachable: " in log


def test_doctor_when_the_file_is_wrong_then_one_line_and_code_1(tmp_path):
    path = tmp_path / "sfdaq.yaml"
    path.write_text("devices:\n  eiger: {class: Eiger}\n")
    done = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert (done.exit_code, done.output) == (1, "")
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"{path}:2: devices.eiger.url: missing"
