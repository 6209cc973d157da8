"""The broker device with the beamline's PVs: a real IOC, which may die."""

from __future__ import annotations

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.errors import PreflightFailed, ServiceTimeout
from sfdaq_ophyd.plans import power_on, run_number_wrapper, set_detector_settings, sf_count
from sfdaq_ophyd.sim import Facility

from .broker_bench import DETECTOR
from .run_engine_driver import drive, interruptible, streams


@pytest.fixture(scope="module")
def facility(tmp_path_factory):
    options = {"broker_delays": 0.002, "broker_running": [DETECTOR, "JF01T03V01"]}
    with Facility(only=["pvs", "broker"], directory=tmp_path_factory.mktemp("sf"), **options) as facility:
        yield facility


@pytest.fixture
def make(facility, tmp_path):
    made = []

    def device(pgroup, **options):
        facility.broker.make_pgroup(pgroup)
        given = {"pulse_id": facility.pvs["pulse_id"], "sf_root": facility.broker.root, "directory": tmp_path}
        given |= {"beamline": "bernina", "detectors": [DETECTOR], **options}
        made.append(SfDaqBroker(facility.broker.url, name="sfdaq", pgroup=pgroup, **given))
        made[-1].pulse_id.wait_for_connection(timeout=60)
        return made[-1]

    yield device
    for one in made:
        one.destroy()


def last_run(facility, pgroup):
    (path,) = facility.broker.root.glob(f"*/data/{pgroup}/raw/run_info/LAST_RUN")
    return int(path.read_text())


def test_preflight_when_the_beam_has_another_rate_then_no_number_and_the_right_multiplicator(facility, make):
    device = make("p21001", beam_rate=facility.pvs["beam_rate"])
    device.beam_rate.wait_for_connection(timeout=60)
    facility.pvs.write("beam_rate", 25)
    try:
        result = drive(interruptible(), lambda: sf_count([device], 1))
        assert isinstance(result.error, PreflightFailed)
        assert "the beam comes at 25 Hz. Set rate_multiplicator to 4." in str(result.error)
        assert not result.documents and last_run(facility, "p21001") == 0
        device.rate_multiplicator.put(4)
        assert drive(interruptible(), lambda: sf_count([device], 1)).error is None
    finally:
        facility.pvs.write("beam_rate", 100)


@pytest.mark.parametrize("rate", [0, None])
def test_preflight_when_the_rate_is_not_known_then_cannot_be_told_and_fails_nothing(facility, make, rate):
    device = make("p21002", beam_rate=facility.pvs["beam_rate"] if rate is not None else "NO:SUCH-RATE")
    if rate is not None:
        device.beam_rate.wait_for_connection(timeout=60)
        facility.pvs.write("beam_rate", rate)
    try:
        (check,) = [check for check in device.preflight() if check.what == "rate multiplicator"]
    finally:
        facility.pvs.write("beam_rate", 100)
    assert check.ok is None


def test_preflight_when_a_detector_limps_then_its_modules_are_named(facility, make):
    device = make("p21007", detectors=["JF01T03V01"])
    facility.broker.fail_next("limping", detector="JF01T03V01", modules=[1])
    with pytest.raises(PreflightFailed, match="JF01T03V01: limping: modules 1 do not write.*fibres"):
        device.stage()


def refuses_half_way(detector, monkeypatch, times=1):
    """The server has stopped the trigger, and then fails on the value."""
    original, left = detector.apply, [times]

    def apply(name, value):
        if left[0]:
            left[0] -= 1
            raise TypeError("incompatible function arguments")
        return original(name, value)

    monkeypatch.setattr(detector, "apply", apply)


def notes(result):
    error = result.error.args[0].exception()
    return " ".join(error.__notes__)


def test_settings_when_refused_half_way_then_the_trigger_runs_again_and_it_is_told(
    facility, make, monkeypatch
):
    device = make("p21003", event_code=facility.pvs["event_code"])
    hardware = facility.broker.site.hardware[DETECTOR]
    refuses_half_way(hardware, monkeypatch)
    result = drive(interruptible(), lambda: set_detector_settings(device, DETECTOR, {"exptime": 2e-5}))
    assert "has been started again" in notes(result) and "254: running" in notes(result)
    assert facility.pvs.read("event_code") == 254


def test_settings_when_the_trigger_cannot_be_started_again_then_says_so_and_the_next_stage_starts_it(
    facility, make, monkeypatch, caplog
):
    device = make("p21004", event_code=facility.pvs["event_code"])
    refuses_half_way(facility.broker.site.hardware[DETECTOR], monkeypatch)
    sent = facility.broker.requests("get_detector_settings")
    facility.broker.fail_next("refuse", endpoint="get_detector_settings", message="No modules added")
    try:
        result = drive(interruptible(), lambda: set_detector_settings(device, DETECTOR, {"exptime": 3e-5}))
        assert "could not be started again" in notes(result) and "No modules added" in notes(result)
        assert "255: NOT running" in notes(result)
        assert len(facility.broker.requests("get_detector_settings")) == len(sent) + 1
        assert facility.pvs.read("event_code") == 255
        device = make("p21004", event_code=facility.pvs["event_code"], check=False)
        device.stage()  # of a session of the next day
        device.unstage()
        assert facility.pvs.read("event_code") == 254
        assert "put JF" in caplog.text and "back to 'running'" in caplog.text
    finally:
        facility.pvs.write("event_code", 254)


def test_settings_when_the_trigger_stood_before_then_it_is_left_so(facility, make, monkeypatch):
    device = make("p21005", event_code=facility.pvs["event_code"])
    facility.pvs.write("event_code", 255)
    refuses_half_way(facility.broker.site.hardware[DETECTOR], monkeypatch)
    try:
        result = drive(interruptible(), lambda: set_detector_settings(device, DETECTOR, {"exptime": 4e-5}))
        assert "started again" not in notes(result) and "255: NOT running" in notes(result)
    finally:
        facility.pvs.write("event_code", 254)


def test_power_on_when_the_detector_runs_then_done_when_it_is_restarted_and_the_trigger_is_back(
    facility, make, monkeypatch
):
    monkeypatch.setattr("sfdaq_ophyd.devices.broker._hardware.LOOK_BACK", 0.1)
    device = make("p21008", event_code=facility.pvs["event_code"])
    (module,) = facility.broker.site.hardware[DETECTOR].modules
    for _ in range(2):
        module.exptime = 1e-3
        result = drive(interruptible(), lambda: power_on(device, DETECTOR))
        assert result.error is None and module.exptime == 5e-6
        assert facility.pvs.read("event_code") == 254


def test_acquisition_when_the_ioc_dies_meanwhile_then_one_message_and_nothing_is_asked_for(facility, make):
    device = make("p21006", n_pulses=30_000, check=False)
    device.pulse_id.timeout = 5.0
    asked = len(facility.broker.requests("retrieve_from_buffers"))
    trigger, killed = device.trigger, []

    def dies():
        status = trigger()
        status.watch(lambda *, current, **_: current > 5 and not killed and killed.append(kill()))
        return status

    def kill():
        facility.pvs.fail_next("disconnect")
        return True

    device.trigger = dies
    try:
        result = drive(interruptible(), lambda: run_number_wrapper(bp.count([device], 2), device))
    finally:
        facility.pvs.reconnect()
    error = result.error.args[0].exception()
    assert killed and isinstance(error, ServiceTimeout)
    assert "sfdaq_pulse_id: pulse id past" in str(error)
    assert str(error) in result.stop["reason"] and result.stop["exit_status"] == "fail"
    assert not streams(result)
    assert len(facility.broker.requests("retrieve_from_buffers")) == asked
    assert last_run(facility, "p21006") == 1
