"""Requests to the broker are checked before they are sent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire.broker import MAX_BODY
from sfdaq_ophyd.wire.broker_operations import take_pedestal
from sfdaq_ophyd.wire.broker_parameters import check_detectors, plain, traps
from sfdaq_ophyd.wire.broker_request import RetrieveRequest, check_extra, encode_body
from sfdaq_ophyd.wire.pulse_id import RATE_MULTIPLICATORS, PulseRange

PULSES = PulseRange(21_000_000_000, 21_000_000_099)
JF = "JF01T03V01"


IDS = [21_000_000_000, 21_000_000_002, 21_000_000_005]


def request(**fields) -> RetrieveRequest:
    return RetrieveRequest(**{"pgroup": "p12345", "pulses": PULSES, "pvs": ["A:X"], **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pgroup": "12345"}, "pgroup='12345'"),
        ({"pgroup": "p1234567"}, "five digits"),
        ({"pgroup": "p١٢٣٤٥"}, "five digits"),
        ({"pulses": (1, 2)}, "pulses=(1, 2)"),
        ({"pulses": PulseRange(0, 60_002)}, "split() it"),
        ({"run_number": "3"}, "run_number='3'"),
        ({"run_number": 3.0}, "run_number=3.0"),
        ({"run_number": True}, "run_number=True"),
        ({"run_number": -1}, "run_number=-1"),
        ({"rate_multiplicator": 5}, "rate_multiplicator=5"),
        ({"rate_multiplicator": None}, "rate_multiplicator=None"),
        ({"pvs": "A:X"}, "splits a string into its letters"),
        ({"pvs": [["A"]]}, "pvs"),
        ({"pvs": [""]}, "non-empty names"),
        ({"pvs": ["A "]}, "without blanks"),
        ({"pvs": ["CAM:FPICTURE"]}, "cameras listed as cameras"),
        ({"channels": ["CAM:FPICTURE"]}, "cameras listed as cameras"),
        ({"cameras": ["CAM"]}, "ending in :FPICTURE"),
        ({"pvs": []}, "at least one source"),
        ({"user_tag": 5}, "user_tag=5"),
        ({"append_user_tag_to_data_dir": "false"}, "true or false"),
        ({"scan_info": [1]}, "fatal after the data were requested"),
        ({"scan_info": {"scan_values": [float("nan")]}}, "scan_info.scan_values[0]"),
        ({"scan_info": {1: 2}}, "keys that are strings"),
        ({"scan_info": {"a": object()}}, "plain numbers"),
        ({"selected_pulse_ids": [5]}, "selected_pulse_ids=5"),
        ({"selected_pulse_ids": [21_000_000_000.0]}, "an integer"),
        ({"selected_pulse_ids": 5}, "a list of pulse ids"),
        ({"extra": {"run_number": 1}}, "keys the broker does not use itself"),
        ({"extra": 5}, "extra=5"),
        ({"detectors": [JF]}, "{detector name: {parameters}}"),
        ({"detectors": {"JF1T3V1": {}}}, "a detector name like"),
        ({"detectors": {JF: None}}, "a dict of parameters"),
        ({"detectors": {"JF06T08V07": {}, "JF06T32V07": {}}}, "they share modules"),
        ({"detectors": {JF: {"compresion": True}}}, "compresion"),
        ({"detectors": {JF: {"selected_pulse_ids": [1]}}}, "at the top of the request"),
        ({"detectors": {JF: {"adc_to_energy": 1}}}, "true or false"),
        ({"detectors": {JF: {"disabled_modules": [3]}}}, "0 to 2"),
        ({"detectors": {JF: {"disabled_modules": 1}}}, "a list of module numbers"),
        ({"detectors": {JF: {"roi": [1, 2, 3, 4]}}}, "fails on a flat list"),
        ({"detectors": {JF: {"roi": {"a": [5, 2, 3, 4]}}}}, "y1 < y2"),
        ({"detectors": {JF: {"roi": {"a": [1, 2, 3]}}}}, "four integers"),
        ({"detectors": {JF: {"roi": {"a": [-1, 2, 3, 4]}}}}, "at least 0"),
        ({"detectors": {JF: {"downsample": 2}}}, "two integers"),
        ({"detectors": {JF: {"downsample": [0, 2]}}}, "at least 1"),
        ({"detectors": {JF: {"downsample": [2, 2], "roi": {"a": [1, 2, 3, 4]}}}}, "no roi beside it"),
        ({"detectors": {JF: {"factor": True}}}, "a number above 0"),
        ({"detectors": {JF: {"factor": 0}}}, "a number above 0"),
        ({"detectors": {JF: {"double_pixels_action": "split"}}}, "one of keep, mask, interp"),
        ({"detectors": {JF: {"double_pixels_action": "interp", "factor": 2}}}, "no factor"),
        ({"detectors": {JF: {"module_edge_pixels": "interp"}}}, "one of keep, mask"),
        (
            {"detectors": {JF: {}}, "rate_multiplicator": 4, "selected_pulse_ids": IDS},
            "[21000000002, 21000000005]: expected multiples of 4: at 21000000002 no detector has a frame",
        ),
    ],
)
def test_request_when_wrong_then_names_field_and_expectation(fields, message):
    with pytest.raises(RequestError, match="expected") as refused:
        request(**fields)
    assert message in str(refused.value)


def test_request_when_range_holds_no_frame_then_refused_before_the_server_reads_from_pulse_0():
    with pytest.raises(RequestError, match="at least one multiple of 4"):
        request(pulses=PulseRange(1001, 1002), rate_multiplicator=4, detectors={JF: {}})
    assert request(pulses=PulseRange(1001, 1002), rate_multiplicator=4)  # PVs do not mind


def test_request_when_of_numpy_types_then_plain_on_the_wire():
    made = request(
        run_number=np.int64(7),
        scan_info={"scan_values": np.arange(2.0), "n": np.int32(3), "ok": np.bool_(True)},
        selected_pulse_ids=np.array([21_000_000_001]),
        detectors={JF: {"factor": np.float32(0.25)}},
    )
    body = json.loads(json.dumps(made.to_wire()))
    assert body["run_number"] == 7
    assert body["scan_info"] == {"scan_values": [0.0, 1.0], "n": 3, "ok": True}
    assert body["selected_pulse_ids"] == [21_000_000_001]
    assert body["detectors"] == {JF: {"factor": 0.25}}


def test_wire_when_fields_are_not_given_then_absent():
    assert request().to_wire() == {
        "pgroup": "p12345",
        "start_pulseid": PULSES.first,
        "stop_pulseid": PULSES.last,
        "rate_multiplicator": 1,
        "pv_list": ["A:X"],
    }


def test_from_wire_when_read_from_meta_then_same_request_without_the_servers_fields():
    made = request(run_number=3, detectors={JF: {"adc_to_energy": True}}, extra={"run_uid": "u"})
    stored = made.to_wire() | {
        "beamline": "bernina",
        "acquisition_number": 4,
        "unique_acquisition_run_number": 9,
        "request_time": "2026-11-20 20:04:04.822271",
        "appended_directory_suffix": "x",
        "client_request_id": "of the request that was stored",
    }
    assert RetrieveRequest.from_wire(stored) == made


def test_from_wire_when_no_object_then_refused():
    with pytest.raises(RequestError, match="a JSON object"):
        RetrieveRequest.from_wire(["pgroup"])


def test_from_wire_when_keys_are_missing_then_named():
    with pytest.raises(RequestError, match="start_pulseid, stop_pulseid"):
        RetrieveRequest.from_wire({"pgroup": "p12345"})


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=9)
texts = st.text(max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


@given(
    first=st.integers(0, 2**40),
    length=st.integers(0, 60_001),
    rate=st.sampled_from(RATE_MULTIPLICATORS),
    run_number=st.none() | st.integers(0, 10**6),
    pvs=st.lists(names.filter(lambda name: name != ":FPICTURE"), min_size=1, max_size=5),
    scan_info=st.none() | st.dictionaries(texts, json_values, max_size=4),
)
def test_request_when_written_and_read_then_the_same(first, length, rate, run_number, pvs, scan_info):
    made = RetrieveRequest(
        pgroup="p12345",
        pulses=PulseRange(first, first + length),
        rate_multiplicator=rate,
        run_number=run_number,
        pvs=pvs,
        scan_info=scan_info,
    )
    assert RetrieveRequest.from_wire(json.loads(json.dumps(made.to_wire()))) == made


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"compression": True}, ["never appears", "raw_data/"]),
        ({"roi": {"a": [0, 2, 0, 2]}}, ["never appears"]),
        ({"compression": True, "remove_raw_files": True}, ["never appears", "temporary storage"]),
        ({"save_ppicker_events_only": True}, ["open for no pulse", "never appears"]),
        ({"geometry": True}, ["geometry without adc_to_energy: ignored"]),
    ],
)
def test_traps_when_data_would_be_lost_then_the_sentence_says_what_happens(parameters, words):
    (sentence,) = traps(check_detectors({JF: parameters}))
    assert JF in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("detector", "parameters", "limits"),
    [
        (JF, {"roi": {"a": [0, 1536, 0, 9]}}, "y2 below 1536 and x2 below 1024"),
        (JF, {"roi": [[0, 1542, 0, 9]], "adc_to_energy": True}, "y2 below 1542 and x2 below 1030"),
        (JF, {"roi": {"a": [0, 9, 0, 1030]}, "adc_to_energy": True}, "x2 below 1030"),
        (JF, {"roi": {"a": [0, 1027, 0, 9]}, "disabled_modules": [0]}, "y2 below 1024"),
        (JF, {"roi": {"a": [0, 1541, 0, 1029]}, "adc_to_energy": True}, None),
        (JF, {"roi": {"a": [0, 9999, 0, 9999]}, "adc_to_energy": True, "geometry": True}, None),
        ("JF18T01V01", {"roi": {"a": [0, 1400, 0, 99]}, "adc_to_energy": True}, None),
    ],
)
def test_roi_when_outside_the_image_then_refused_where_its_size_is_known(detector, parameters, limits):
    if limits is None:
        assert check_detectors({detector: parameters})
        return
    with pytest.raises(RequestError, match=limits):
        check_detectors({detector: parameters})


def test_traps_when_only_a_raw_file_is_written_then_says_what_is_ignored():
    (sentence,) = traps({JF: {"downsample": [2, 2], "crystfel_lists_laser": True}})
    assert "downsample, crystfel_lists_laser without a processed file" in sentence
    assert traps({JF: {"downsample": [2, 2], "adc_to_energy": True}}) == []


@pytest.mark.parametrize("rescue", ["adc_to_energy", "disabled_modules"])
def test_traps_when_a_processed_file_is_made_then_none(rescue):
    value = [1] if rescue == "disabled_modules" else True
    assert traps({JF: {"compression": True, "roi": {"a": [0, 2, 0, 2]}, rescue: value}}) == []
    assert traps({JF: {"compression": True}}, selected_pulse_ids=True) == []


def test_body_when_larger_than_the_server_reads_then_the_largest_field_is_named():
    ids = list(range(PULSES.first, PULSES.first + 9000))
    made = request(pulses=PulseRange(ids[0], ids[-1]), selected_pulse_ids=ids)
    with pytest.raises(RequestError, match=f"selected_pulse_ids.*at most {MAX_BODY} bytes"):
        encode_body(made.to_wire())


def test_plain_when_nested_too_deep_then_refused():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(RequestError, match="levels of nesting"):
        plain(deep, "scan_info")


@pytest.mark.parametrize("key", ["pgroup", "detectors", "beamline", "directory_name"])
def test_extra_when_it_shadows_the_brokers_own_then_refused(key):
    with pytest.raises(RequestError, match="keys the broker does not use itself"):
        check_extra({key: 1})


def test_pedestal_when_asked_then_carries_what_todays_writer_needs():
    body = take_pedestal.request("p12345", [JF], rate_multiplicator=2, extra={"client_request_id": "r"})
    assert body["run_log_level"] == "INFO"
    assert body["detectors"] == {JF: {}}
    assert body["client_request_id"] == "r"


@pytest.mark.parametrize(
    ("detectors", "fields"),
    [(JF, {}), ([], {}), (["X"], {}), ([JF], {"pedestalmode": "yes"}), ([JF], {"rate_multiplicator": "2"})],
)
def test_pedestal_when_wrong_then_refused(detectors, fields):
    with pytest.raises(RequestError):
        take_pedestal.request("p12345", detectors, **fields)
