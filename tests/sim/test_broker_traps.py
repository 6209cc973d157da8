"""Traps of the contract's section 17 that no recording shows: the simulator has them all."""

from __future__ import annotations

import itertools
import json
import urllib.request

import pytest

from sfdaq_ophyd.sim import Facility

from .broker_http import ask, get, post

JF = "JF01T03V01"
_numbers = itertools.count(60_000)


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["broker"], broker_delays=0.0) as facility:
        yield facility


@pytest.fixture
def broker(facility):
    yield facility.broker
    facility.broker.site.faults.clear()


@pytest.fixture
def raw(broker):
    """Folder of a fresh pgroup."""
    return broker.make_pgroup(f"p{next(_numbers)}")


@pytest.fixture
def retrieve(broker, raw):
    def run(**fields):
        body = {"pgroup": raw.parent.name, "start_pulseid": 1000, "stop_pulseid": 1009, "pv_list": ["P"]}
        return post(broker.url, "retrieve_from_buffers", {**body, **fields})

    return run


def published(broker, raw) -> list[dict]:
    """Return the requests sent to writers for one pgroup, oldest first."""
    requests = [m for m in broker.messages() if m["exchange"] == "request"]
    return [m for m in requests if f"/{raw.parent.name}/" in (m["body"].get("output_file") or "")]


def last_run(raw) -> str:
    return (raw / "run_info/LAST_RUN").read_text()


@pytest.mark.parametrize(
    ("scan_info", "exception"), [(None, "TypeError"), (["Id"], "TypeError"), ([], "AttributeError")]
)
def test_scan_info_when_null_then_error_after_all_data_were_requested(
    broker, retrieve, raw, scan_info, exception
):
    assert retrieve(scan_info=scan_info)["exception"] == exception
    assert published(broker, raw)[0]["body"]["channels"] == ["P"]
    assert (raw / "run0001/meta/acq0001.json").exists()
    assert not (raw / "run0001/meta/scan.json").exists()


def test_run_number_when_missing_then_a_refused_request_burns_it(retrieve, raw):
    retrieve()
    for _ in range(2):
        assert retrieve(detectors={"JF15T08V01": {}})["status"] == "error"
    assert last_run(raw) == "3"
    assert retrieve(detectors={"JF15T08V01": {}}, run_number=1)["status"] == "error"
    assert last_run(raw) == "3"


@pytest.mark.parametrize(
    ("run_number", "shown", "directory"),
    [(True, "True", "run0001"), (-1, "-1", "run-001"), (0, "0", "run0000"), (1.0, "1.0", "run01.0")],
)
def test_run_number_when_odd_then_passes_as_measured(retrieve, raw, run_number, shown, directory):
    retrieve()
    assert retrieve(run_number=run_number)["run_number"] == shown
    assert (raw / directory).is_dir()


@pytest.mark.parametrize("run_number", ["1", None, [1]])
def test_run_number_when_no_number_then_type_error(retrieve, run_number):
    assert retrieve(run_number=run_number)["exception"] == "TypeError"


def test_run_directories_when_numbers_share_a_prefix_then_the_longer_one_is_found_too(retrieve, raw):
    retrieve()
    (raw / "run_info/LAST_RUN").write_text("10000")
    (raw / "run10000").mkdir()
    reply = retrieve(run_number=1000)
    assert "run 1000 exists already but with different tag(s)" in reply["message"]


@pytest.mark.parametrize(
    ("fields", "directory"),
    [
        ({"append_user_tag_to_data_dir": "false"}, "run0001-tag"),
        ({"append_user_tag_to_data_dir": 0}, "run0001"),
        ({}, "run0001"),
    ],
)
def test_tag_when_flag_is_a_string_then_it_is_true(retrieve, raw, fields, directory):
    assert retrieve(user_tag="tag", **fields)["status"] == "ok"
    assert (raw / directory).is_dir()


@pytest.mark.parametrize("tag", [["a", "long", 5, "b"], {"a": 1, "long": 2, "/": 3, "b": 4}])
def test_tag_when_it_is_a_list_then_each_item_counts_as_a_character(retrieve, raw, tag):
    assert retrieve(user_tag=tag, append_user_tag_to_data_dir=True)["status"] == "ok"
    assert (raw / "run0001-a__b").is_dir()


def test_tag_when_it_is_a_number_then_type_error(retrieve):
    assert retrieve(user_tag=5, append_user_tag_to_data_dir=True)["exception"] == "TypeError"


@pytest.mark.parametrize("rate", [2.0, True])
def test_rate_when_it_equals_an_allowed_value_then_passes(retrieve, rate):
    assert retrieve(rate_multiplicator=rate)["status"] == "ok"


@pytest.mark.parametrize("rate", [None, "2", 5, 0])
def test_rate_when_not_allowed_then_refused_with_the_unfilled_template(retrieve, rate):
    assert "{ALLOWED_RATE_MULTIPLICATORS}" in retrieve(rate_multiplicator=rate)["message"]


def test_lists_when_given_as_strings_then_letters(broker, retrieve, raw):
    retrieve(pv_list="ABA", channels_list=[])
    assert published(broker, raw)[0]["body"]["channels"] == ["A", "B"]
    assert post(broker.url, "set_pvlist", {"pv_list": "XYX"})["pv_list"] == ["X", "Y"]


@pytest.mark.parametrize("value", [None, [["A"]]])
def test_lists_when_null_or_nested_then_type_error(retrieve, value):
    assert retrieve(pv_list=value)["exception"] == "TypeError"


def test_cameras_when_named_twice_then_kept_twice(broker, retrieve, raw):
    retrieve(camera_list=["C:FPICTURE", "C:FPICTURE"])
    cameras = published(broker, raw)[1]
    assert cameras["body"]["channels"] == ["C:FPICTURE", "C:FPICTURE"]


@pytest.mark.parametrize(("start", "stop"), [("1000", 1009), (1000.9, 1009), (1000, "1009")])
def test_pulse_ids_when_int_takes_them_then_they_pass_as_ints(retrieve, raw, start, stop):
    assert retrieve(start_pulseid=start, stop_pulseid=stop)["status"] == "ok"
    stored = json.loads((raw / "run0001/meta/acq0001.json").read_text())
    assert (stored["start_pulseid"], stored["stop_pulseid"]) == (1000, 1009)


@pytest.mark.parametrize("value", [None, "1.0", [1]])
def test_pulse_ids_when_int_does_not_take_them_then_refused(retrieve, value):
    assert 'bad "start_pulseid" provided' in retrieve(start_pulseid=value)["message"]


def test_range_when_it_holds_no_multiple_then_detectors_are_asked_from_pulse_0(broker, retrieve, raw):
    retrieve(start_pulseid=1001, stop_pulseid=1002, rate_multiplicator=4, detectors={JF: {}})
    channels = published(broker, raw)[1]["body"]["channels"]
    assert (channels["det_start_pulse_id"], channels["det_stop_pulse_id"]) == (0, 1002)


@pytest.mark.parametrize("rate", [1, 8])
def test_range_when_it_begins_with_pulse_0_then_that_counts_as_not_found(broker, retrieve, raw, rate):
    retrieve(start_pulseid=0, stop_pulseid=16, rate_multiplicator=rate, detectors={JF: {}})
    channels = published(broker, raw)[1]["body"]["channels"]
    assert (channels["det_start_pulse_id"], channels["det_stop_pulse_id"]) == (rate, 16)


def test_scan_info_when_null_in_a_later_step_then_attribute_error_and_no_entry(retrieve, raw):
    retrieve()
    assert retrieve(run_number=1, scan_info=None)["exception"] == "AttributeError"
    assert len(json.loads((raw / "run0001/meta/scan.json").read_text())["pulseIds"]) == 1
    assert (raw / "run0001/meta/acq0002.json").exists()


def test_sources_when_all_are_empty_and_the_message_broker_is_down_then_an_error_all_the_same(
    broker, retrieve, raw
):
    broker.fail_next("message_broker_down")
    assert retrieve(pv_list=[])["exception"] == "AMQPConnectionError"
    assert (raw / "run_info/LAST_ARUN").read_text() == "1"


@pytest.mark.parametrize("file", ["run_info", "run0000", "run0000/meta", "JF_pedestals", "run0000/aux"])
def test_directory_when_a_file_stands_there_then_refused_with_the_servers_path(broker, retrieve, raw, file):
    """golden/found: sim-file-for-directory."""
    pgroup = raw.parent.name
    if file.endswith("aux"):
        retrieve(run_number=0)
    (raw / file).parent.mkdir(exist_ok=True)
    (raw / file).write_text("a file")
    if file == "JF_pedestals":
        reply = post(broker.url, "take_pedestal", {"pgroup": pgroup, "detectors": {"JF01T03V01": {}}})
    elif file.endswith("aux"):
        reply = post(broker.slow_url, "copy_user_files", {"pgroup": pgroup, "run_number": 0, "files": []})
    else:
        reply = retrieve(run_number=0)
    path = f"/sf/bernina/data/{pgroup}/raw/{file}"
    assert reply["exception"] == "ValidationError"
    assert reply["message"] == (
        f"cannot create directory {path} (due to: FileExistsError: [Errno 17] File exists: {path!r})"
    )


def test_directory_when_a_parent_is_a_file_then_refused(broker, raw):
    (raw.parent / "raw2").write_text("")
    (raw / "run_info").symlink_to(raw.parent / "raw2" / "x")
    reply = post(broker.url, "advance_run_number", {"pgroup": raw.parent.name})
    assert reply["exception"] == "ValidationError" and "cannot create directory" in reply["message"]


def test_server_fields_when_sent_by_a_client_then_overwritten(retrieve, raw):
    retrieve(beamline="mars", acquisition_number=99, request_time="never", comment="kept")
    stored = json.loads((raw / "run0001/meta/acq0001.json").read_text())
    assert (stored["beamline"], stored["acquisition_number"], stored["comment"]) == ("bernina", 1, "kept")
    assert stored["request_time"] != "never"


def test_copy_when_run_number_is_a_string_then_the_wrong_run_is_searched(broker, retrieve, raw):
    retrieve()
    body = {"pgroup": raw.parent.name, "run_number": "1", "files": []}
    assert (
        post(broker.slow_url, "copy_user_files", body)["message"] == "run 1000 does not exist in this pgroup"
    )


def test_pedestals_when_two_in_one_second_then_they_collide(broker, raw):
    broker.site.delays.wall_clock = lambda: 1.8e9
    body = {"pgroup": raw.parent.name, "detectors": [JF], "run_log_level": "INFO"}
    for _ in range(2):
        assert post(broker.url, "take_pedestal", body)["status"] == "ok"
    assert len(list((raw / "JF_pedestals").glob("*.json"))) == 1


def test_pedestal_when_rate_is_a_string_then_queued_and_an_error(broker, raw):
    body = {"pgroup": raw.parent.name, "detectors": [JF], "rate_multiplicator": "2"}
    assert post(broker.url, "take_pedestal", body)["exception"] == "TypeError"
    assert "2" in [message["body"].get("rate_multiplicator") for message in broker.messages()]


def test_body_when_it_holds_nan_then_the_servers_parser_takes_it(broker, raw):
    text = f'{{"pgroup": "{raw.parent.name}", "x": NaN}}'.encode()
    request = urllib.request.Request(
        f"{broker.url}/advance_run_number", text, {"Content-Type": "application/json; charset=utf-8"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert json.load(reply)["run_number"] == 1


@pytest.mark.parametrize("body", [{}, [], None])
def test_parameterless_call_when_the_body_is_empty_then_fine(broker, body):
    assert get(broker.url, "get_pvlist", body)["status"] == "ok"


def test_texts_when_they_show_a_string_then_without_quotes(broker, retrieve):
    assert "received more" in get(broker.url, "get_pvlist", "more")["message"]
    assert "request parameters (JF) is not" in retrieve(detectors="JF")["message"]


def test_path_when_it_starts_with_two_slashes_then_they_count_as_one(broker):
    assert ask("GET", broker.url + "/", "get_pvlist")["status"] == "ok"


def test_running_when_a_latest_file_is_from_the_future_then_it_counts(broker):
    broker.site.hardware.write_latest("JF14T01V01", 0, age=-1000)
    assert "JF14T01V01" in get(broker.url, "get_running_detectors")["running_detectors"]


def test_documented_when_pvlist_is_set_without_the_key_then_erased():
    with Facility(only=["broker"], broker_dialect="documented", broker_delays=0.0) as facility:
        broker = facility.broker
        assert get(broker.url, "get_pvlist")["pv_list"]
        assert post(broker.url, "set_pvlist", {"x": 1}) == {"status": "ok", "message": []}
        assert get(broker.url, "get_pvlist") == {"pv_list": []}
