"""A Jungfrau whose settings and power come from the broker while it is staged."""

from __future__ import annotations

import json
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest

from sfdaq_ophyd.devices import Jungfrau, SfDaqBroker
from sfdaq_ophyd.devices.jungfrau import BrokerControl
from sfdaq_ophyd.errors import (
    BrokerRefused,
    DetectorStateError,
    RequestError,
    ServiceUnreachable,
    StorageError,
)
from sfdaq_ophyd.sim import Facility

NAME = "JF03T01V02"
SETTINGS = {"gain_mode": "fixed_gain1", "exptime": 1e-5, "detector_mode": "normal"}


@pytest.fixture(scope="module")
def facility():
    options = {"speed": "auto", "broker_delays": 0.002, "broker_running": [NAME]}
    with Facility(
        only=["broker", "jungfrau"], jungfrau_name=NAME, jungfrau_rate_multiplicator=4, **options
    ) as facility:
        facility.broker.make_pgroup("p20001")
        yield facility


@pytest.fixture
def hardware(facility):
    """The simulated module; as new afterwards."""
    (module,) = facility.broker.site.hardware[NAME].modules
    before = dict(vars(module))
    yield module
    vars(module).update(before)


@pytest.fixture
def sfdaq(facility, tmp_path):
    pulse_id = type("Never", (), {"name": "pulse_id", "parent": None})()
    options = {"beamline": "bernina", "pulse_id": pulse_id, "directory": tmp_path}
    return SfDaqBroker(facility.broker.url, name="sfdaq", pgroup="p20001", **options)


@pytest.fixture
def make(facility, sfdaq, tmp_path):
    def make(*arguments, **options):
        control = BrokerControl(sfdaq, NAME, *arguments, **options)
        endpoints = facility.jungfrau.endpoints
        return Jungfrau(endpoints, name="jf", directory=tmp_path, detector_name=NAME, control=control)

    return make


def changes(facility):
    return len(facility.broker.requests("set_detector_settings"))


def test_scan_when_settings_differ_then_set_recorded_and_set_back(facility, hardware, make, engine):
    hardware.delay = 0.0007
    seen = []
    engine.RE.subscribe(lambda name, doc: seen.append((hardware.gain_mode, hardware.exptime)), "event")
    before = changes(facility)
    engine(bp.count([make(SETTINGS)], 2))
    assert seen == [("fixed_gain1", 1e-5)] * 2
    assert (hardware.gain_mode, hardware.exptime, hardware.delay) == ("dynamic", 5e-6, 0.0007)
    recorded = engine.named("descriptor")[0]["configuration"]["jf"]["data"]["jf_hardware"]
    assert json.loads(recorded) == SETTINGS | {"delay": 0.0007}
    assert changes(facility) == before + 2


def test_staging_when_nothing_differs_then_nothing_is_sent(facility, hardware, make):
    before = changes(facility)
    jungfrau = make({"exptime": hardware.exptime, "gain_mode": "dynamic"})
    jungfrau.stage()
    jungfrau.unstage()
    jungfrau.unstage()
    assert changes(facility) == before


def test_stage_when_a_setting_could_not_be_set_back_then_refused_before_anything_is_sent(
    facility, hardware, make
):
    hardware.gain_mode = "unknown"
    before = changes(facility)
    with pytest.raises(DetectorStateError, match="gain_mode reads 'unknown', which cannot be set back"):
        make(SETTINGS).stage()
    assert changes(facility) == before and hardware.exptime == 5e-6


def test_stage_when_modules_do_not_run_then_refused_and_named(facility, hardware, make):
    hardware.state = "stopped"
    with pytest.raises(DetectorStateError, match=r"JF03T01V02: stopped: modules \[0\]; expected all running"):
        make(SETTINGS).stage()
    assert hardware.gain_mode == "dynamic"


def test_stage_when_the_change_fails_half_way_then_all_is_set_back_and_the_trigger_runs(
    facility, hardware, make, monkeypatch
):
    apply = type(facility.broker.site.hardware[NAME]).apply

    def once(detector, setting, value):
        if setting == "gain_mode" and value == "fixed_gain1":
            raise RuntimeError("setGainMode(): no answer")
        apply(detector, setting, value)

    monkeypatch.setattr(type(facility.broker.site.hardware[NAME]), "apply", once)
    with pytest.raises(BrokerRefused, match="no answer"):
        make(SETTINGS).stage()
    assert (hardware.gain_mode, hardware.exptime) == ("dynamic", 5e-6)
    assert facility.broker.trigger.running


def test_stage_when_the_streams_do_not_answer_then_the_settings_are_set_back(hardware, sfdaq, tmp_path):
    control = BrokerControl(sfdaq, NAME, SETTINGS)
    deaf = Jungfrau(["tcp://127.0.0.1:1"], name="jf", directory=tmp_path, detector_name=NAME, control=control)
    deaf.connect_timeout.put(0.1)
    with pytest.raises(TimeoutError, match="connecting to"):
        deaf.stage()
    assert (hardware.gain_mode, hardware.exptime) == ("dynamic", 5e-6) and control.in_force == {}


@pytest.mark.parametrize(
    "error",
    [
        RequestError("delay", 0.0, "above 0: the documented dialect passes 0 over"),
        ServiceUnreachable("set", url="http://away", reason="refused"),
    ],
)
def test_stage_when_the_change_was_not_sent_then_nothing_is_set_back_either(
    facility, hardware, make, sfdaq, monkeypatch, error
):
    """Each setting back stops the trigger of the whole beamline."""
    sent = sfdaq.client.set_detector_settings

    def fails_once(*arguments):
        monkeypatch.setattr(sfdaq.client, "set_detector_settings", sent)
        raise error

    monkeypatch.setattr(sfdaq.client, "set_detector_settings", fails_once)
    jungfrau, before = make(SETTINGS), changes(facility)
    with pytest.raises(type(error)):
        jungfrau.stage()
    jungfrau.unstage()
    assert changes(facility) == before and not jungfrau._control.debts.owed()


def test_stage_when_the_documented_server_does_not_take_a_setting_then_the_trigger_runs_on(tmp_path):
    with Facility(only=["broker"], broker_dialect="documented", broker_delays=0.0) as facility:
        pulse_id = type("Never", (), {"name": "pulse_id", "parent": None})()
        options = {"beamline": "bernina", "pulse_id": pulse_id, "directory": tmp_path}
        url, name = facility.broker.url, "JF01T03V01"
        sfdaq = SfDaqBroker(url, name="sfdaq", pgroup="p20001", dialect="documented", **options)
        control = BrokerControl(sfdaq, name, {"delay": 0, "exptime": 1e-5})
        with pytest.raises(RequestError, match="delay.*the documented dialect passes 0 over"):
            control.prepare()
        control.restore()
        assert not changes(facility) and not control.debts.owed()
        control.settings = {"exptime": 1e-5}
        control.prepare()
        control.restore()
        assert changes(facility) == 2


def test_plan_when_it_fails_then_the_settings_are_set_back(hardware, make, engine):
    jungfrau, seen = make(SETTINGS), []

    def broken():
        seen.append(hardware.gain_mode)
        yield from bps.null()
        raise KeyError("lost the sample")

    with pytest.raises(KeyError):
        engine(bpp.stage_wrapper(broken(), [jungfrau]))
    assert seen == ["fixed_gain1"] and hardware.gain_mode == "dynamic"


@pytest.mark.parametrize("who", ["the same", "another process"])
@pytest.mark.parametrize("verb", ["unstage", "stage"])
def test_unstage_when_the_broker_is_away_then_it_is_owed_and_the_next_verb_sets_back(
    hardware, make, sfdaq, monkeypatch, caplog, who, verb
):
    hardware.powered = False
    jungfrau = make(SETTINGS, power_on=[0])
    jungfrau.stage()
    with monkeypatch.context() as away:
        away.setattr(sfdaq.hardware, "set_detector_settings", unreachable)
        away.setattr(sfdaq.client, "power_off_modules", unreachable)
        jungfrau.unstage()
    assert hardware.gain_mode == "fixed_gain1" and hardware.powered
    assert "gain_mode was left at 'fixed_gain1', not put back to 'dynamic'" in caplog.text
    assert "power was left at [0]" in caplog.text
    if who == "another process":
        jungfrau = make()
    getattr(jungfrau, verb)()
    jungfrau.unstage()
    assert hardware.gain_mode == "dynamic" and not hardware.powered
    assert not jungfrau._control.debts.owed()


def test_stage_when_it_cannot_be_read_what_is_owed_then_refused_before_anything_is_set(
    facility, hardware, make, sfdaq, monkeypatch
):
    jungfrau = make(SETTINGS)
    jungfrau.stage()
    with monkeypatch.context() as away:
        away.setattr(sfdaq.hardware, "set_detector_settings", unreachable)
        jungfrau.unstage()
    jungfrau = make(SETTINGS | {"gain_mode": "fixed_gain2"})  # another process
    before = changes(facility)
    with monkeypatch.context() as closed:
        closed.setattr("sfdaq_ophyd.devices.debts._load", not_read)
        with pytest.raises(StorageError, match="reading the debts in .*: Stale file handle"):
            jungfrau.stage()
    assert changes(facility) == before and hardware.gain_mode == "fixed_gain1"
    jungfrau.stage()
    jungfrau.unstage()
    assert (hardware.gain_mode, hardware.exptime) == ("dynamic", 5e-6)
    assert not jungfrau._control.debts.owed()


def not_read(path):
    raise OSError(116, "Stale file handle")


def unreachable(*arguments, **more):
    raise ServiceUnreachable("broker", url="http://away", reason="refused")


def test_modules_when_named_then_have_power_only_while_staged(hardware, make):
    hardware.powered = False
    jungfrau = make(power_on=[0])
    jungfrau.stage()
    assert hardware.powered
    jungfrau.unstage()
    assert not hardware.powered


@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        (({"exposure_time": 1},), {}, "parameters"),
        (({"gain_mode": "high"},), {}, "gain_mode"),
        (({"exptime": -1},), {}, "exptime"),
        ((), {"power_on": [1]}, "power_on"),
    ],
)
def test_control_when_wrong_then_refused_when_made(sfdaq, arguments, options, field):
    with pytest.raises(RequestError) as error:
        BrokerControl(sfdaq, NAME, *arguments, **options)
    assert error.value.field.startswith(field)


def test_control_when_of_another_detector_then_refused(sfdaq, tmp_path):
    control = BrokerControl(sfdaq, "JF04T01V01")
    with pytest.raises(RequestError, match="control='JF04T01V01': expected one of JF03T01V02"):
        Jungfrau(["tcp://a:1"], name="jf", directory=tmp_path, detector_name=NAME, control=control)


def test_setting_when_the_documented_server_would_not_set_it_back_then_refused(tmp_path):
    client = SimpleNamespace(url="http://sf-daq:10002", dialect="documented")
    control = BrokerControl(SimpleNamespace(client=client, runner=SimpleNamespace(directory=tmp_path)), NAME)
    assert control._restorable("delay", 0.00089) == 0.00089
    with pytest.raises(DetectorStateError, match=r"delay reads 0.0, which cannot be set back"):
        control._restorable("delay", 0.0)
