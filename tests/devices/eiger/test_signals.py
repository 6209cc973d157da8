"""Signals of the Eiger: read from the server, written with read-back, described without asking."""

from __future__ import annotations

import math

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.utils import FailedStatus
from ophyd.utils import ReadOnlyError

from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.errors import RequestError, ServiceRefused

from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import make_eiger, stamp_of


def test_device_when_made_and_described_then_nothing_is_contacted(part, tmp_path):
    eiger = Eiger(part.url, name="eiger", directory=tmp_path)
    eiger.describe_configuration()
    eiger.describe()
    assert part.requests.entries() == []
    Eiger("http://no-such-host.invalid", name="eiger", directory=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_configuration_when_read_then_every_described_key_has_a_value_of_its_type(part, eiger):
    described, values = eiger.describe_configuration(), eiger.read_configuration()
    assert list(described) == list(values)
    types = {"number": (int, float), "integer": int, "string": str, "boolean": bool}
    for key, description in described.items():
        assert isinstance(values[key]["value"], types[description["dtype"]]), key
    for key in (
        "photon_energy",
        "exposure_time",
        "trigger_mode",
        "bit_depth",
        "temperature",
        "humidity",
        "state",
    ):
        assert f"eiger_{key}" in values
    assert described["eiger_exposure_time"]["units"] == "s"
    assert described["eiger_photon_energy"]["source"] == "SIMPLON:detector/config/photon_energy"


def test_put_when_a_time_changes_then_the_others_are_read_back_and_listed(part, eiger):
    seen = []
    eiger.frame_time.subscribe(lambda value, **kwargs: seen.append(value), run=False)
    eiger.exposure_time.put(0.05)
    assert {"count_time", "frame_time", "bit_depth_image"} <= set(eiger.changed_parameters.get())
    assert eiger.frame_time.get() == seen[-1] == pytest.approx(0.0500001)
    eiger.exposure_time.put(0.01)  # the frame time follows down as well
    assert eiger.frame_time.get() == pytest.approx(0.0100001)
    eiger.frame_time.put(0.02)
    assert (eiger.exposure_time.get(), eiger.frame_time.get()) == (pytest.approx(0.01), 0.02)


def test_put_when_the_energy_changes_then_threshold_and_wavelength_follow(part, eiger):
    eiger.photon_energy.set(12700).wait(60)
    assert eiger.threshold_energy.get() == 6350.0
    assert eiger.wavelength.get() == pytest.approx(0.97625, rel=1e-4)


@pytest.mark.parametrize("name", ["photon_energy", "wavelength", "threshold_energy"])
def test_energy_when_put_as_it_is_then_it_is_not_sent_and_a_threshold_set_by_hand_stays(part, eiger, name):
    eiger.photon_energy.put(9000)
    eiger.threshold_energy.put(6000)
    part.requests.clear()
    interruptible()(bps.mv(getattr(eiger, name), getattr(eiger, name).get()))
    assert eiger.threshold_energy.get() == 6000.0 and eiger.changed_parameters.get() == ()
    assert not [
        entry for entry in part.requests.entries() if "/config/" in entry.path and entry.method == "PUT"
    ]
    eiger.photon_energy.put(9001)
    assert eiger.threshold_energy.get() == 4500.5


@pytest.mark.parametrize("wavelength", [0.97625, 1.0, 1.3])
def test_wavelength_when_put_again_then_what_the_server_made_of_it_is_the_same(part, eiger, wavelength):
    eiger.wavelength.put(wavelength)
    eiger.threshold_energy.put(6000)
    eiger.wavelength.put(wavelength)
    assert eiger.threshold_energy.get() == 6000.0


def test_put_when_the_detector_was_never_initialized_then_it_is_first(make_part, tmp_path):
    part = make_part()
    eiger = Eiger(part.url, name="eiger", directory=tmp_path)
    with pytest.raises(ServiceRefused, match="does not exist"):
        eiger.exposure_time.get()
    eiger.exposure_time.put(0.003)
    assert eiger.exposure_time.get() == 0.003


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exposure_time", 1e6, "1e-07 to 3600 s"),
        ("exposure_time", -1, "1e-07 to 3600 s"),
        ("exposure_time", "long", "type number"),
        ("exposure_time", float("nan"), "finite number"),
        ("trigger_mode", "now", "one of eies"),
        ("buffer_size", 2.5, "a whole number"),
        ("buffer_size", 0, "1 to"),
        ("images_per_file", float("inf"), "type integer"),
        ("pixel_mask_applied", 1, "true or false"),
    ],
)
def test_put_when_the_server_would_refuse_then_nothing_is_sent(part, eiger, name, value, words):
    part.requests.clear()
    with pytest.raises(RequestError) as info:
        getattr(eiger, name).put(value)
    assert f"eiger_{name}=" in str(info.value) and words in str(info.value)
    assert not [entry for entry in part.requests.entries() if entry.method == "PUT"]


def test_set_when_refused_in_a_plan_then_the_run_engine_says_why_and_goes_on(eiger):
    engine = interruptible()
    with pytest.raises(FailedStatus, match="1e-07 to 3600 s"):
        engine(bps.mv(eiger.exposure_time, 1e6))
    assert engine.state == "idle"
    engine(bps.mv(eiger.exposure_time, 0.002))


@pytest.mark.parametrize("name", ["nimages", "bit_depth", "state", "temperature"])
def test_put_when_the_parameter_is_only_read_then_read_only_error(eiger, name):
    with pytest.raises(ReadOnlyError, match="only read here"):
        getattr(eiger, name).put(1)


def test_missing_parameters_when_read_on_the_first_generation_then_they_are_unknown_not_invented(
    make_part, tmp_path
):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path)
    assert math.isnan(eiger.trigger_start_delay.get())
    assert eiger.high_voltage.get() == ""
    assert eiger.bit_depth.get() == 16
    eiger.read_configuration()


@pytest.mark.parametrize("name", ["temperature", "humidity"])
def test_temperature_when_read_on_the_first_generation_then_it_is_measured_for_that_while_idle(
    make_part, tmp_path, name
):
    eiger = make_eiger(make_part(api_version="1.6.0"), tmp_path, legacy_ids="status")
    signal, client = getattr(eiger, name), eiger.client

    def measured():
        return client.get("detector", "status", name).time

    before = measured()
    assert measured() == before, "by itself nothing is measured"
    signal.get()
    when_read = measured()
    assert when_read > before
    eiger.stage()
    when_staged = measured()
    assert when_staged > when_read
    eiger.trigger().wait(60)
    assert client.state() == "ready"
    signal.get()
    assert measured() == when_staged, "a series is open"
    eiger.unstage()


def test_temperature_when_it_cannot_be_measured_anew_then_the_last_one_is_read_and_that_is_said(
    make_part, tmp_path, caplog
):
    part = make_part(api_version="1.6.0")
    eiger = make_eiger(part, tmp_path)
    part.fail_next("error", path="status_update", code=404)
    assert 20 < eiger.temperature.get() < 30
    assert "eiger_temperature: the value may be an old one" in caplog.text


def test_temperature_when_read_on_the_second_generation_then_nothing_is_sent_before(part, eiger):
    eiger.temperature.get()
    assert [entry.path.rsplit("/", 1)[1] for entry in part.requests.entries()][-1] == "temperature"
    assert not [entry for entry in part.requests.entries() if "/command/" in entry.path]


def test_energy_when_scanned_then_the_series_is_ended_before_each_write(part, eiger):
    energies = [9000.0, 10000.0, 11000.0]
    run = drive(interruptible(), lambda: bp.list_scan([eiger], eiger.photon_energy, energies))
    check_run(run, 3, stamp_of=stamp_of)
    rows = streams(run)["primary"].rows
    assert len({row["eiger_event_id"].split("_")[0] for row in rows}) == 3


def test_exposure_when_scanned_to_long_times_then_deadlines_follow(part, eiger):
    eiger.exposure_time.put(0.02)  # of the same bit depth as all that follow
    eiger.timeout.put(2.0)
    run = drive(interruptible(), lambda: bp.list_scan([eiger], eiger.exposure_time, [0.02, 2.5]))
    check_run(run, 2, stamp_of=stamp_of)


@pytest.mark.parametrize("staged", [False, True], ids=["before staging", "staged"])
def test_trigger_delay_when_it_is_long_then_every_limit_of_a_point_is_longer_by_that(part, eiger, staged):
    try:
        eiger.stage()
        usual = eiger._rules()
        if not staged:
            eiger.unstage()
        eiger.trigger_start_delay.put(30.0)
        if not staged:
            eiger.stage()
        rules = eiger._rules()
        assert rules.limit == pytest.approx(usual.limit + 30.0)
        assert rules.longest(1) >= usual.longest(1) + 30.0
    finally:
        eiger.unstage()
        eiger.trigger_start_delay.put(0.0)


def test_prepare_when_given_signals_then_they_are_written_before_the_flight(part, eiger):
    eiger.prepare({"n_points": 7, "exposure_time": 0.004}).wait(60)
    assert (eiger.n_points.get(), eiger.exposure_time.get()) == (7, 0.004)
    eiger.prepare(3).wait(60)
    assert eiger.n_points.get() == 3


SEVERAL = {
    "frame_time": 0.03,
    "exposure_time": 0.02,
    "threshold_energy": 6000.0,
    "photon_energy": 9000.0,
    "detector_distance": 0.2,
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("verb", ["prepare", "configure"])
def test_several_settings_when_in_any_order_then_none_undoes_another(part, eiger, verb, turned):
    eiger.photon_energy.put(8000.0)
    settings = dict(reversed(SEVERAL.items())) if turned else SEVERAL
    if verb == "prepare":
        eiger.prepare(settings).wait(60)
    else:
        eiger.configure(settings)
    assert {name: getattr(eiger, name).get() for name in SEVERAL} == pytest.approx(SEVERAL)


@pytest.mark.parametrize(
    "value", [{"n_points": 0}, {"exposure": 1}, {"exposure_time": -1.0}, {"state": "idle"}]
)
def test_prepare_when_something_is_wrong_then_request_error(eiger, value):
    with pytest.raises(RequestError):
        eiger.prepare(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "automatic"),
        ("n_triggers", 0),
        ("frames_per_trigger", 0),
        ("timeout", -1),
        ("legacy_ids", "guess"),
        ("timestamp_source", "banana"),
        ("timestamp_source", None),
    ],
)
def test_stage_when_a_setting_makes_no_sense_then_request_error_names_it(eiger, name, value):
    getattr(eiger, name).put(value)
    with pytest.raises(RequestError, match=f"eiger.{name}"):
        eiger.stage()
    eiger.unstage()
