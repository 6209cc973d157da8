"""BrokerClient against the simulated broker, in both dialects."""

from __future__ import annotations

import inspect
import itertools
import threading
import warnings

import pytest

from sfdaq_ophyd.clients import BrokerClient, BrokerTrap, pedestal_time
from sfdaq_ophyd.errors import BrokerRefused, RequestError
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.broker_operations import OPERATIONS
from sfdaq_ophyd.wire.broker_request import RetrieveRequest
from sfdaq_ophyd.wire.detector_name import DetectorName
from sfdaq_ophyd.wire.pulse_id import PulseRange

JF = "JF01T03V01"
SCRIPT = "def proc(meta, image, mask):\n    return {'total': 1.0}\n"


@pytest.fixture(scope="module", params=["current", "documented"])
def facility(request):
    with Facility(only=["broker"], broker_dialect=request.param, broker_delays=0.0) as facility:
        yield facility


@pytest.fixture(scope="module")
def client(facility):
    with BrokerClient(facility.broker.url, dialect=facility.broker.dialect) as client:
        yield client


_numbers = itertools.count(20_000)


@pytest.fixture
def pgroup(facility):
    """A fresh pgroup."""
    name = f"p{next(_numbers)}"
    facility.broker.make_pgroup(name)
    return name


def past(facility, n=10, **fields) -> RetrieveRequest:
    now = facility.clock.now()
    return RetrieveRequest(pulses=PulseRange(now - n + 1, now), **{"pvs": ["A:X"], **fields})


def test_client_when_made_then_nobody_is_contacted(facility):
    before = len(facility.broker.requests())
    BrokerClient(facility.broker.url, dialect="auto").close()
    assert len(facility.broker.requests()) == before


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_when_in_the_table_then_the_client_makes_it_with_its_arguments(name):
    method, wanted = getattr(BrokerClient, name), inspect.signature(OPERATIONS[name].request).parameters
    assert list(inspect.signature(method).parameters)[1 : 1 + len(wanted)] == list(wanted)
    assert method.__name__ == name and method.__doc__


def test_slow_url_when_not_given_then_next_port(facility, client):
    assert client.slow_url == facility.broker.slow_url
    assert BrokerClient("http://sf-daq:10002").slow_url == "http://sf-daq:10003"


@pytest.mark.parametrize(
    "url", ["", None, "ftp://sf-daq:1", "http://", "http://sf-daq:port", "http://sf-daq"]
)
def test_client_when_address_is_wrong_then_refused(url):
    with pytest.raises(RequestError, match="url"):
        BrokerClient(url)


def test_dialect_when_auto_then_found_by_the_safe_probe_only(facility):
    before = len(facility.broker.requests())
    with BrokerClient(facility.broker.url, dialect="auto") as client:
        assert client.dialect == facility.broker.dialect
        assert client.dialect == facility.broker.dialect
    assert [entry.endpoint for entry in facility.broker.requests()[before:]] == ["get_allowed_detectors"]


def test_run_number_when_advanced_then_counts_up_as_int(client, pgroup):
    assert client.get_current_run_number(pgroup) == 0
    assert client.advance_run_number(pgroup, extra={"run_uid": "u"}) == 1
    assert client.advance_run_number(pgroup) == 2
    assert client.get_current_run_number(pgroup) == 2


def test_run_number_when_two_clients_advance_at_once_then_never_the_same(facility, client, pgroup):
    taken = []

    def take():
        with BrokerClient(facility.broker.url, dialect=facility.broker.dialect) as other:
            taken.extend(other.advance_run_number(pgroup) for _ in range(10))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))


def test_retrieve_when_accepted_then_numbers_are_ints_and_files_in_order(facility, client, pgroup):
    run_number = client.advance_run_number(pgroup)
    request = past(
        facility,
        pgroup=pgroup,
        run_number=run_number,
        detectors={JF: {}},
        channels=["C"],
        cameras=["CAM:FPICTURE"],
    )
    first, second = client.retrieve_from_buffers(request), client.retrieve_from_buffers(request)
    assert (first.run_number, first.acquisition_number, first.unique_acquisition_number) == (1, 1, 1)
    assert (second.run_number, second.acquisition_number, second.unique_acquisition_number) == (1, 2, 2)
    sources = [file.rsplit("acq0001.", 1)[1] for file in first.files]
    assert sources == ["PVDATA.h5", "BSDATA.h5", "CAMERAS.h5", f"{JF}.h5"]


def test_retrieve_when_sent_then_each_request_has_an_id_of_its_own(facility, client, pgroup):
    run_number = client.advance_run_number(pgroup)
    request = past(facility, pgroup=pgroup, run_number=run_number, extra={"run_uid": "abc"})
    for _ in range(2):
        client.retrieve_from_buffers(request)
    sent = [entry.request for entry in facility.broker.requests("retrieve_from_buffers")[-2:]]
    assert sent[0]["client_request_id"] != sent[1]["client_request_id"]
    assert [body["run_uid"] for body in sent] == ["abc", "abc"]


def test_retrieve_when_compression_stands_alone_then_warned_and_sent(facility, client, pgroup):
    request = past(facility, pgroup=pgroup, detectors={JF: {"compression": True}})
    with pytest.warns(BrokerTrap, match="the announced file in data/ never appears"):
        assert client.retrieve_from_buffers(request).run_number == 1


def test_retrieve_when_scan_info_is_none_then_left_out_because_null_is_fatal(facility, client, pgroup):
    client.retrieve_from_buffers(past(facility, pgroup=pgroup, scan_info=None))
    assert "scan_info" not in facility.broker.requests("retrieve_from_buffers")[-1].request


def test_detectors_when_listed_then_typed(client):
    allowed = client.get_allowed_detectors()
    assert allowed.names[0] == JF
    assert len(allowed.names) == len(allowed.descriptions) == len(allowed.visualisation_addresses)
    running = client.get_running_detectors()
    assert running.running == (JF,)
    if client.dialect == "documented":
        assert running.limping is None and running.missing is None
    else:
        assert running.limping == {} and "JF07T32V02" in running.missing


def test_pvlist_when_set_then_duplicates_go_and_order_stays(client):
    assert client.set_pvlist(["B", "A", "B", "C"]) == ["B", "A", "C"]
    assert client.get_pvlist() == ["B", "A", "C"]


def test_pvlist_when_a_camera_is_among_them_then_refused(client):
    with pytest.raises(RequestError, match="cameras listed as cameras"):
        client.set_pvlist(["CAM:FPICTURE"])


def test_settings_when_changed_then_read_back(client):
    before = client.get_detector_settings(JF)
    assert set(before) == {"delay", "detector_mode", "exptime", "gain_mode"}
    changed = client.set_detector_settings(JF, {"exptime": 1e-5, "gain_mode": "fixed_gain1"})
    if client.dialect == "current":
        assert changed == {"exptime": (5e-6, 1e-5), "gain_mode": ("dynamic", "fixed_gain1")}
    else:
        assert changed is None
    after = client.get_detector_settings(JF)
    assert after["exptime"] == 1e-5 and after["gain_mode"] == "fixed_gain1"
    client.set_detector_settings(JF, {"exptime": 5e-6, "gain_mode": "dynamic"})


def test_settings_when_wrong_then_not_sent_and_trigger_runs_on(facility, client):
    before = len(facility.broker.requests())
    with pytest.raises(RequestError, match="gain_mode"):
        client.set_detector_settings(JF, {"gain_mode": "bogus"})
    assert len(facility.broker.requests()) == before
    assert facility.broker.trigger.running


@pytest.mark.parametrize("parameters", [{"delay": 0}, {"gain_mode": {"dynamic": [0], "fixed_gain1": [1, 2]}}])
def test_settings_when_the_documented_server_passes_them_over_then_refused_there_and_set_elsewhere(
    facility, client, parameters
):
    (name,), before = parameters, len(facility.broker.requests())
    if client.dialect == "documented":
        with pytest.raises(RequestError, match=f"{name}.*documented dialect"):
            client.set_detector_settings(JF, {"exptime": 1e-5, **parameters})
        assert len(facility.broker.requests()) == before
        return
    old = client.get_detector_settings(JF)
    client.set_detector_settings(JF, parameters)
    assert client.get_detector_settings(JF)[name] == parameters[name]
    client.set_detector_settings(JF, {name: old[name]})


def test_dap_when_merged_then_changes_and_settings(client):
    client.set_dap_settings(JF, {"detector_distance": 0.1})
    assert client.set_dap_settings(JF, {"detector_distance": 0.2, "laser_on": True}) == {
        "detector_distance": (0.1, 0.2),
        "laser_on": (None, True),
    }
    assert client.set_dap_settings(JF, {"laser_on": True}) == {}
    assert client.get_dap_settings(JF)["detector_distance"] == 0.2


def test_dap_when_the_beam_center_is_moved_then_the_old_and_the_new_place_are_told(client):
    found = client.get_dap_settings(JF)
    rows, columns = DetectorName.parse(JF).raw_shape
    assert (found["beam_center_x"], found["beam_center_y"]) == (columns / 2, rows / 2)
    moved = {"beam_center_x": 1119.5, "beam_center_y": 803}
    assert client.set_dap_settings(JF, moved) == {name: (found[name], value) for name, value in moved.items()}
    assert client.get_dap_settings(JF) == found | moved
    client.set_dap_settings(JF, {name: found[name] for name in moved})


def test_copy_when_one_file_is_missing_then_the_others_are_copied(facility, client, pgroup):
    client.retrieve_from_buffers(past(facility, pgroup=pgroup))
    source = facility.broker.root / f"bernina/data/{pgroup}/res/a.txt"
    source.parent.mkdir()
    source.write_text("a")
    base = f"/sf/bernina/data/{pgroup}/res"
    result = client.copy_user_files(pgroup, 1, [f"{base}/a.txt", f"{base}/b.txt"])
    assert result.copied == {f"{base}/a.txt": f"/sf/bernina/data/{pgroup}/raw/run0001/aux/a.txt"}
    assert list(result.failed) == [f"{base}/b.txt"]


@pytest.mark.parametrize(
    ("run_number", "files", "message"),
    [
        ("3", ["/sf/a"], "run_number='3'"),
        (3, ["a"], "absolute paths"),
        (3, ["/sf/x/a", "/sf/y/a"], "it would overwrite it"),
    ],
)
def test_copy_when_wrong_then_refused(client, pgroup, run_number, files, message):
    with pytest.raises(RequestError) as refused:
        client.copy_user_files(pgroup, run_number, files)
    assert message in str(refused.value)


def test_pedestal_when_taken_then_least_time_and_log_level(facility, client, pgroup):
    assert client.take_pedestal(pgroup, [JF], rate_multiplicator=4) == 130.0
    assert facility.broker.requests("take_pedestal")[-1].request["run_log_level"] == "INFO"


@pytest.mark.parametrize(("rate", "mode", "seconds"), [(1, False, 40), (2, False, 70), (1, True, 200)])
def test_pedestal_time_when_asked_then_the_contracts(rate, mode, seconds):
    assert pedestal_time(rate, mode) == seconds


def test_power_on_when_queued_then_the_brokers_words(client):
    assert "sent, wait" in client.power_on_detector("JF03T01V02")


def test_close_when_confirmed_then_everything_else_is_refused(facility, client, pgroup):
    client.close_pgroup_writing(pgroup, confirm=pgroup)
    for call in (client.get_current_run_number, client.advance_run_number):
        with pytest.raises(BrokerRefused, match="closed for writing") as refused:
            call(pgroup)
        assert refused.value.nothing_done
    with pytest.raises(BrokerRefused, match="already closed"):
        client.close_pgroup_writing(pgroup, confirm=pgroup)


def test_close_when_not_confirmed_then_not_sent(facility, client, pgroup):
    with pytest.raises(RequestError, match="cannot be undone"):
        client.close_pgroup_writing(pgroup, confirm="yes")
    assert client.get_current_run_number(pgroup) == 0


@pytest.mark.parametrize(
    ("endpoint", "call", "expected"),
    [
        ("get_detector_status", lambda c: c.get_detector_status(JF), {"running": [0, 1, 2]}),
        (
            "get_detector_temperatures",
            lambda c: c.get_detector_temperatures(JF)["TEMPERATURE_THRESHOLDS"],
            [55, 55, 55],
        ),
        ("get_detector_pings", lambda c: c.get_detector_pings(JF).responding, (0, 1, 2)),
        ("get_jfctrl_monitor", lambda c: c.get_jfctrl_monitor("JF07T32V02")["IOut [A]"], 5.4),
        ("get_jfstats", lambda c: c.get_jfstats(JF).writing, None),
        ("power_off_modules", lambda c: c.power_off_modules(JF, [2]), None),
        ("power_on_modules", lambda c: c.power_on_modules(JF, [2]), None),
        ("upload_custom_dap_script", lambda c: c.upload_custom_dap_script("total", SCRIPT), None),
    ],
)
def test_call_when_the_dialect_has_it_then_typed_else_refused(client, endpoint, call, expected):
    if getattr(OPERATIONS[endpoint], client.dialect) is None:
        with pytest.raises(RequestError, match=f"one that knows '{endpoint}'"):
            call(client)
    else:
        assert call(client) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, p: c.advance_run_number("p99999"), "not reachable"),
        (lambda c, p: c.get_detector_settings("JF15T08V01"), "bernina"),
        (lambda c, p: c.get_detector_settings("JF04T01V01"), "No modules added"),
        (lambda c, p: c.get_dap_settings("JF04T01V01"), "exist"),
        (lambda c, p: c.copy_user_files(p, 5, []), "run"),
        (lambda c, p: c.take_pedestal(p, ["JF15T08V01"]), "bernina"),
    ],
)
def test_call_when_the_broker_says_no_then_its_words_and_the_request(client, pgroup, call, message):
    with pytest.raises(BrokerRefused) as refused:
        call(client, pgroup)
    error = refused.value
    assert message in error.said and message in str(error)
    assert error.endpoint in str(error) and error.sent and error.reply


def test_requests_when_sent_then_no_client_forwards_an_address(facility, client):
    client.get_allowed_detectors()
    assert facility.broker.requests()[-1].client == "127.0.0.1"


def test_warnings_when_nothing_is_lost_then_none(facility, client, pgroup):
    request = past(facility, pgroup=pgroup, detectors={JF: {"adc_to_energy": True, "compression": True}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.retrieve_from_buffers(request)


def test_limits_when_not_given_then_10_and_30_seconds():
    client = BrokerClient("http://127.0.0.1:1")
    assert [service.timeout for service in client._services.values()] == [10.0, 30.0]
