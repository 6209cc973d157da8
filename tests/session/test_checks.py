"""What the doctor asks is what it shows, and what it says is true when nothing answers.

Found faults: doctor-pulse-id.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sfdaq_ophyd.errors import DetectorStateError, ServiceTimeout
from sfdaq_ophyd.session import checks, load_config
from sfdaq_ophyd.session.checks import Check, Finding, checks_of, run_checks
from sfdaq_ophyd.session.magics import line_of

PROFILE = Path(__file__).parents[2] / "profile_collection"


@pytest.mark.parametrize("extra", ["", "    event_code: SOME:EVENT-CODE\n"])
def test_doctor_pulse_id_when_checked_then_every_check_asks_the_address_it_shows(
    tmp_path, monkeypatch, extra
):
    asked = []
    for name in (
        "probe_debts",
        "probe_pulse_id",
        "probe_pv",
        "probe_tcp",
        "probe_redis",
        "probe_folder",
        "probe_catalog",
    ):
        monkeypatch.setattr(checks, name, lambda address, *more: (asked.append(str(address)), ("", ""))[1])
    for cls in checks.PROBES:
        monkeypatch.setitem(checks.PROBES, cls, lambda block, *more: ("", ""))
    text = (PROFILE / "facility.example.yaml").read_text()
    text = text.replace("    detectors:\n", f"{extra}    detectors:\n").replace(
        "  directory: catalog\n", "  uri: http://tiled:8000\n"
    )
    path = tmp_path / "sfdaq.yaml"
    path.write_text(text.replace("  file: metadata.json\n", "  redis: redis://somewhere/0\n"))
    found = {}
    for check in checks_of(load_config(path)):
        before = len(asked)
        check.probe()
        found[check.name] = (check.address, asked[before:])
    assert found["sfdaq pulse_id"] == ("SLAAR21-LTIM01-EVR0:RX-PULSEID", ["SLAAR21-LTIM01-EVR0:RX-PULSEID"])
    assert ("sfdaq event_code" in found) == bool(extra)
    for name, (shown, of) in found.items():
        assert of == [shown] or name in {"eiger", "jf", "writer", "sfdaq", "sfdaq pgroup"} and of == [], name


def test_doctor_when_nothing_answers_then_no_text_says_that_something_does(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{probe.getsockname()[1]}"
    path = tmp_path / "sfdaq.yaml"
    path.write_text(
        "pgroup: p12345\ndirectory: new\ndevices:\n"
        f"  jf: {{class: Jungfrau, detector_name: JF01T01V01, endpoints: ['tcp://{dead}']}}\n"
        f"  writer: {{class: StdDaqWriter, url: 'http://{dead}', redis_url: 'redis://{dead}'}}\n"
        f"  eiger: {{class: Eiger, url: 'http://{dead}'}}\n"
        f"  sfdaq: {{class: SfDaqBroker, url: 'http://{dead}', detectors: {{JF01T01V01: {{}}}}}}\n"
    )
    findings = {finding.name: finding for finding in run_checks(checks_of(load_config(path)))}
    assert [name for name, finding in findings.items() if finding.ok] == ["directory", "debts"]
    assert findings["directory"].found.startswith("will be made, ")
    for name, finding in findings.items():
        line = line_of(finding)
        assert ".." not in line.replace(str(tmp_path), "") and "\n" not in line, line
        assert (
            name in ("directory", "debts") or "refused" in line or name == "jf" and "no frame yet" in line
        ), line
    assert findings["jf"].advice.startswith("Do all its endpoints answer?")
    assert findings["sfdaq pgroup"].advice.startswith("Does the broker answer?")


def test_doctor_when_an_error_has_a_hint_then_it_is_said_once():
    def fails():
        raise ServiceTimeout("jf: stage", 3, "idle", "Turn it on")

    (finding,) = run_checks([Check("jf", "here", fails, "Do nothing")])
    assert line_of(finding).endswith("not done after 3 s; last state idle. Turn it on")


def test_doctor_when_a_check_hangs_then_said_and_the_others_shown(wait_for):
    import threading

    done = threading.Event()
    hangs = Check("a", "here", lambda: done.wait(30), "Kick it")
    well = Check("b", "there", lambda: ("1", "fine"), "")
    found = list(run_checks([hangs, well], limit=0.3))
    done.set()
    assert [(each.name, each.ok) for each in found] == [("a", False), ("b", True)]
    assert isinstance(found[0], Finding) and found[0].found == "no answer in 0.3 s"


def test_broker_when_a_detector_does_not_run_then_said_in_these_words(monkeypatch):
    from sfdaq_ophyd.session import _probes
    from sfdaq_ophyd.sim import Facility

    with Facility(only=["broker"]) as facility:
        block = load_block(facility.broker.url, "JF17T16V01")
        with pytest.raises(DetectorStateError, match=r"not running: JF17T16V01; running: JF01T03V01"):
            _probes.PROBES["SfDaqBroker"](block)


def load_block(url, detector):
    from sfdaq_ophyd.session._device_config import SfDaqBrokerConfig

    return SfDaqBrokerConfig.model_validate({"class": "SfDaqBroker", "url": url, "detectors": {detector: {}}})
