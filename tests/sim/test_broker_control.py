"""Detectors behind the simulated broker: settings, trigger, power, pedestals, states."""

from __future__ import annotations

import itertools
import threading

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.broker import http

from .broker_http import get, post

JF = "JF01T03V01"
ONE = "JF03T01V02"
_numbers = itertools.count(50_000)


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["broker"], broker_delays=0.005, broker_pedestal_frames=4) as facility:
        yield facility


@pytest.fixture
def broker(facility):
    yield facility.broker
    facility.broker.site.faults.clear()


@pytest.fixture
def pgroup(broker):
    name = f"p{next(_numbers)}"
    broker.make_pgroup(name)
    return name


def status(broker, detector=JF):
    return get(broker.slow_url, "get_detector_status", {"detector_name": detector})


def actions(broker, writer_type):
    return [
        m["headers"]["action"]
        for m in broker.messages()
        if m["exchange"] == "status" and m["body"]["writer_type"] == writer_type
    ]


@pytest.fixture
def in_waits(broker, monkeypatch):
    """Have a function called in each wait of the services and writers, in place of the wait."""
    return lambda look: monkeypatch.setattr(broker.site.delays, "wait", look)


def test_power_on_when_queued_then_trigger_stops_memory_goes_and_states_follow(broker, in_waits, wait_for):
    seen, codes = [], set()

    def look(seconds):
        reply = status(broker, ONE)
        codes.add(broker.trigger.value)
        state = reply.get("message") if reply["status"] == "error" else next(iter(reply["detector_status"]))
        if not seen or seen[-1] != state:
            seen.append(state)

    assert status(broker, ONE)["message"] == "No modules added"
    in_waits(look)
    post(broker.url, "power_on_detector", {"detector_name": ONE})
    wait_for(lambda: actions(broker, "detector_power_on")[-1:] == ["write_finished"], "finished")
    assert seen == ["No modules added", "error", "idle", "running"] and broker.trigger.running
    assert codes == {254, 255}
    assert ONE in get(broker.url, "get_running_detectors")["running_detectors"]


@pytest.mark.parametrize("how", ["fault", "unreachable"])
def test_power_on_when_it_fails_then_rejected_and_the_trigger_runs_again(broker, wait_for, how):
    if how == "fault":
        broker.fail_next("power_on_fails", message="no power")
    else:
        broker.site.hardware["JF04T01V01"].modules[0].reachable = False
    before = len(actions(broker, "detector_power_on"))
    post(broker.url, "power_on_detector", {"detector_name": "JF04T01V01"})
    wait_for(lambda: len(actions(broker, "detector_power_on")) == before + 3, "the end")
    rejected = [m for m in broker.messages() if (m["headers"] or {}).get("action") == "write_rejected"][-1]
    assert ("no power" if how == "fault" else "could not apply config") in rejected["headers"]["message"]
    assert broker.trigger.value == 254
    assert status(broker, "JF04T01V01")["message"] == "No modules added"


def test_pedestal_when_taken_then_files_come_in_order_and_become_active(broker, pgroup, in_waits, wait_for):
    before, modes = actions(broker, "pedestal"), set()
    in_waits(lambda seconds: modes.add(str(broker.site.hardware[JF].readback("gain_mode"))))
    body = {"pgroup": pgroup, "detectors": [JF], "run_log_level": "INFO", "client_request_id": "mine"}
    assert "wait at least 40.0 seconds" in post(broker.url, "take_pedestal", body)["message"]
    folder = broker.root / f"bernina/data/{pgroup}/raw/JF_pedestals"

    def done():
        logs = list(folder.glob(f"*.{JF}.log"))
        return logs and "processing request took" in logs[0].read_text()

    wait_for(done, "the log's closing line")
    assert {"dynamic", "fixed_gain1", "fixed_gain2"} <= modes
    assert broker.site.hardware[JF].readback("gain_mode") == "dynamic"
    assert actions(broker, "pedestal")[len(before) :] == ["write_request", "write_start", "write_finished"]
    (stored,) = folder.glob("*.json")
    request = broker.site.tree.read_json(broker.site.tree.remote(stored))
    assert request["client_request_id"] == "mine"
    assert request["stop_pulseid"] - request["start_pulseid"] == 2999
    scene = broker._scenes[JF]
    with h5py.File(folder / f"{stored.stem}.{JF}.res.h5") as file:
        assert file["gains"].shape == (3, 1536, 1024) and file["gains"].dtype == np.float64
        good = scene.constants.mask == 0
        good[::512, :8] = False  # the stamps
        assert np.abs(file["gains"][0] - scene.constants.pedestal[0])[good].mean() < 15
        assert file["pixel_mask"].dtype == np.int64
    with h5py.File(folder / f"gainMaps/{JF}.h5") as file:
        assert np.array_equal(file["gains"][:], scene.constants.gain.astype("f8"))
    active = broker.site.tree.read_json(f"/gpfs/photonics/swissfel/buffer/config/{JF}.json")["pedestal_file"]
    assert active == f"/sf/jungfrau/data/pedestal/{JF}/{stored.stem}.h5"
    assert broker.site.tree.exists(active)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Level not an integer or a valid string: None"),
        ({"run_log_level": "LOUD"}, "Unknown level: 'LOUD'"),
        ({"run_log_level": "INFO", "detectors": ["JF04T01V01"]}, "No modules added"),
    ],
)
def test_pedestal_when_the_writer_cannot_then_rejected_though_the_reply_was_ok(
    broker, pgroup, wait_for, fields, words
):
    before = len(actions(broker, "pedestal"))
    reply = post(broker.url, "take_pedestal", {"pgroup": pgroup, "detectors": {JF: {}}, **fields})
    assert reply["status"] == "ok"
    wait_for(lambda: len(actions(broker, "pedestal")) == before + 3, "the end")
    rejected = broker.messages()[-1]["headers"]
    assert rejected["action"] == "write_rejected"
    assert rejected["message"] == words


def test_pedestal_when_it_fails_then_gains_are_as_before(broker, pgroup, wait_for):
    broker.fail_next("pedestal_fails", message="detector gone")
    before = len(actions(broker, "pedestal"))
    post(broker.url, "take_pedestal", {"pgroup": pgroup, "detectors": [JF], "run_log_level": "INFO"})
    wait_for(lambda: len(actions(broker, "pedestal")) == before + 3, "the end")
    assert broker.messages()[-1]["headers"]["message"] == "detector gone"
    assert broker.site.hardware[JF].readback("gain_mode") == "dynamic"


def test_pedestalmode_when_taken_then_detectors_stop_meanwhile(broker, pgroup, in_waits, wait_for):
    seen = []
    in_waits(lambda seconds: seen.append((seconds, status(broker)["detector_status"])))
    body = {"pgroup": pgroup, "detectors": [JF], "run_log_level": "INFO", "pedestalmode": True}
    post(broker.url, "take_pedestal", body)
    wait_for(lambda: actions(broker, "pedestal")[-1:] == ["write_finished"], "the end")
    assert seen[0] == (200, {"stopped": [0, 1, 2]})
    assert status(broker)["detector_status"] == {"running": [0, 1, 2]}


def test_settings_when_an_unknown_mode_comes_then_earlier_values_stay_and_the_trigger_is_off(broker):
    body = {"detector_name": JF, "parameters": {"delay": 0.001, "gain_mode": "bogus"}}
    reply = post(broker.slow_url, "set_detector_settings", body)
    assert reply["exception"] == "TypeError"
    assert broker.trigger.value == 255
    assert broker.site.hardware[JF].readback("delay") == 0.001
    post(broker.slow_url, "set_detector_settings", {"detector_name": JF, "parameters": {"delay": 0.00089}})
    assert broker.trigger.value == 254


def test_slow_service_when_busy_then_everybody_waits_and_the_broker_answers(broker, monkeypatch):
    begun, ends, answer = threading.Event(), threading.Event(), http.HANDLERS["get_detector_status"]
    order = []

    def slow(*asked):
        order.append("begun")
        begun.set()
        assert ends.wait(60)
        order.append("ended")
        return answer(*asked)

    monkeypatch.setitem(http.HANDLERS, "get_detector_status", slow)
    callers = [threading.Thread(target=status, args=(broker,)) for _ in range(2)]
    for caller in callers:
        caller.start()
    assert begun.wait(60)
    assert get(broker.url, "get_pvlist")["status"] == "ok" and order == ["begun"]
    ends.set()
    for caller in callers:
        caller.join(60)
    assert order == ["begun", "ended"] * 2


@pytest.mark.parametrize("module", range(3))
def test_running_when_a_module_stops_writing_then_limping_until_it_runs(broker, module):
    broker.fail_next("limping", modules=[module])
    limping = get(broker.url, "get_running_detectors")["limping_detectors"][JF]
    assert limping["missing_modules"] == [module]
    broker.site.hardware[JF].set_state("running")
    assert JF in get(broker.url, "get_running_detectors")["running_detectors"]


def test_running_when_the_detector_stopped_then_missing(broker):
    broker.fail_next("detector_stopped", detector=JF)
    assert JF in get(broker.url, "get_running_detectors")["missing_detectors"]
    broker.site.hardware[JF].set_state("running")


def test_trigger_when_there_are_pvs_then_it_is_the_pv():
    with Facility(only=["broker", "pvs"], broker_delays=0.01) as facility:
        broker, pvs = facility.broker, facility._parts["pvs"]
        body = {"detector_name": JF, "parameters": {"gain_mode": "bogus"}}
        assert pvs.read("event_code") == 254
        post(broker.slow_url, "set_detector_settings", body)
        assert pvs.read("event_code") == 255
        stopped = facility.clock.now() + 1
        assert not facility.clock.view(stopped).triggered and broker.trigger.missed([stopped]) == {stopped}
        pvs.write("event_code", 254)
        assert broker.trigger.running


def test_fault_when_refused_on_request_then_words_and_class_as_told(broker):
    broker.fail_next("refuse", endpoint="get_pvlist", message="not today", exception="OSError")
    assert get(broker.url, "get_pvlist") == {
        "status": "error",
        "message": "not today",
        "exception": "OSError",
    }
    assert get(broker.url, "get_pvlist")["status"] == "ok"


def test_fault_when_run_info_cannot_be_made_then_refused(broker, pgroup):
    broker.fail_next("run_info_unwritable", endpoint="advance_run_number")
    reply = post(broker.url, "advance_run_number", {"pgroup": pgroup})
    assert "cannot create directory" in reply["message"] and reply["exception"] == "ValidationError"


def test_fault_when_a_stray_file_lies_in_meta_then_numbers_drift(facility, broker, pgroup):
    now = facility.clock.now()
    body = {"pgroup": pgroup, "start_pulseid": now, "stop_pulseid": now, "pv_list": ["P"]}
    run = post(broker.url, "retrieve_from_buffers", body)["run_number"]
    broker.fail_next("stray_meta_file")
    reply = post(broker.url, "retrieve_from_buffers", {**body, "run_number": int(run)})
    assert reply["acquisition_number"] == "3"


def test_stop_when_a_request_hangs_then_the_facility_still_ends():
    with Facility(only=["broker"]) as facility:
        facility.broker.fail_next("hang", endpoint="get_pvlist")
        caller = threading.Thread(target=_ignore_errors, args=(facility.broker.url,))
        caller.start()
    caller.join(60)
    assert not caller.is_alive()


def _ignore_errors(url):
    try:
        get(url, "get_pvlist")
    except OSError:
        pass


def test_head_when_sent_then_executed_like_get(broker):
    import urllib.request

    before = len(broker.requests("get_pvlist"))
    urllib.request.urlopen(
        urllib.request.Request(f"{broker.url}/get_pvlist", method="HEAD"), timeout=60
    ).close()
    assert len(broker.requests("get_pvlist")) == before + 1


@pytest.mark.parametrize("path", ["/etc/passwd", "/sf/../../etc/passwd", "etc/passwd", "/tmp/x"])
def test_tree_when_asked_for_the_hosts_files_then_not_there(broker, path):
    assert not broker.site.tree.exists(path)
    with pytest.raises(FileNotFoundError):
        broker.site.tree.local(path)


@pytest.mark.parametrize("option", [{"dialect": "old"}, {"beamline": "x"}, {"delays": -1}])
def test_part_when_option_is_wrong_then_named(option):
    from sfdaq_ophyd.errors import RequestError

    name = next(iter(option))
    with pytest.raises(RequestError, match=name):
        with Facility(only=["broker"], **{f"broker_{name}": option[name]}):
            pass


def test_part_when_the_live_detector_is_in_no_table_then_it_is_added_and_runs():
    with Facility(only=["jungfrau", "broker"], jungfrau_name="JF99T01V01") as facility:
        broker = facility.broker
        assert broker.beamline == "bernina"
        assert "JF99T01V01" in get(broker.url, "get_allowed_detectors")["detectors"]
        assert get(broker.url, "get_running_detectors")["running_detectors"] == ["JF99T01V01"]
        assert broker._scenes["JF99T01V01"] is facility.jungfrau.scene


def test_part_when_its_directory_is_used_again_then_counters_and_lists_go_on(tmp_path):
    for number in (1, 2):
        with Facility(only=["broker"], directory=tmp_path) as facility:
            url = facility.broker.url
            assert post(url, "advance_run_number", {"pgroup": "p12345"})["run_number"] == number
            if number == 1:
                post(url, "set_pvlist", {"pv_list": ["MINE"]})
            assert get(url, "get_pvlist")["pv_list"] == ["MINE"]
