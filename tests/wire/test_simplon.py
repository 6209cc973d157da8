"""SIMPLON envelopes, replies, states, times, arrays and pixel flags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import RequestError, ShapeError, WireError
from sfdaq_ophyd.wire import simplon
from sfdaq_ophyd.wire.simplon import (
    COMMANDS,
    DetectorState,
    Parameter,
    decode_darray,
    encode_darray,
    first_sentinel,
    frames_of,
    invalid_pixels,
)
from sfdaq_ophyd.wire.tiff import format_time_ns, parse_time_ns
from sfdaq_ophyd.wire.ulid import make_ulid, ulid_time_ns

COUNT_TIME = {
    "access_mode": "rw", "max": 3600.0, "min": 1e-07, "unit": "s", "value": 0.5, "value_type": "float",
}  # fmt: skip
TRIGGER_MODE = {
    "access_mode": "rw",
    "allowed_values": ["exts", "ints"],
    "value": "ints",
    "value_type": "string",
}
STATE_16 = {
    "value": "idle", "state": "normal", "value_type": "string", "critical_limits": [None, None],
    "critical_values": ["na", "error"], "unit": "", "time": "2019-07-29T18:24:34.755835",
}  # fmt: skip


def test_parameter_when_read_from_the_manuals_envelope_then_holds_its_limits():
    parameter = Parameter.from_json(COUNT_TIME)
    assert (parameter.value, parameter.minimum, parameter.maximum, parameter.unit) == (0.5, 1e-7, 3600.0, "s")
    assert parameter.to_json() == COUNT_TIME


def test_parameter_when_read_from_a_first_generation_status_then_holds_its_time():
    parameter = Parameter.from_json(STATE_16)
    assert (parameter.value, parameter.state, parameter.time) == (
        "idle",
        "normal",
        "2019-07-29T18:24:34.755835",
    )


@pytest.mark.parametrize(
    ("extra", "limits"),
    [
        ({"value_type": "bool", "value": True, "min": -2147483647, "max": 2147483647}, (None, None)),
        ({"value_type": "float", "value": 1.0, "min": -3.4028235e38, "max": 3.4028235e38}, (None, None)),
        ({"value_type": "uint", "value": 1, "min": 0, "max": 10}, (0, 10)),
    ],
)
def test_parameter_when_limits_mean_nothing_then_there_are_none(extra, limits):
    parameter = Parameter.from_json(extra)
    assert (parameter.minimum, parameter.maximum) == limits


def test_parameter_when_allowed_values_is_bare_text_then_it_is_the_only_one():
    parameter = Parameter.from_json(
        {"value": "disabled", "value_type": "string", "allowed_values": "disabled"}
    )
    assert parameter.allowed_values == ("disabled",)


@pytest.mark.parametrize("reply", [None, [], "idle", 3, {}, {"val": 1}])
def test_parameter_when_the_reply_is_no_envelope_then_wire_error(reply):
    with pytest.raises(WireError, match="not a SIMPLON parameter"):
        Parameter.from_json(reply)


@pytest.mark.parametrize(
    ("envelope", "value", "words"),
    [
        (COUNT_TIME, 0.0, "expected 1e-07 to 3600 s"),
        (COUNT_TIME, 4000, "expected 1e-07 to 3600 s"),
        (COUNT_TIME, "long", "finite number"),
        (COUNT_TIME, float("nan"), "finite number"),
        (COUNT_TIME, True, "finite number"),
        (TRIGGER_MODE, "now", "one of exts, ints"),
        ({"value": 1, "value_type": "uint"}, -1, "0 or more"),
        ({"value": True, "value_type": "bool"}, 1, "true or false"),
        ({"value": True, "value_type": "bool"}, "enabled", "true or false"),
        ({"value": "disabled", "value_type": "bool"}, 1, "true or false"),
        (
            {"value": "disabled", "value_type": "bool", "allowed_values": ["disabled", "enabled"]},
            "on",
            "one of",
        ),
        ({"value": 1, "value_type": "uint", "access_mode": "r"}, 2, "read-only"),
    ],
)
def test_check_when_the_server_would_refuse_then_the_error_names_field_value_and_limits(
    envelope, value, words
):
    with pytest.raises(RequestError) as info:
        Parameter.from_json(envelope).check("name", value)
    assert "name=" in str(info.value) and words in str(info.value)


def test_check_when_an_integer_is_given_for_a_float_then_it_passes():
    Parameter.from_json(COUNT_TIME).check("count_time", 2)


@pytest.mark.parametrize(
    "envelope",
    [
        {"value": "disabled", "value_type": "bool", "access_mode": "rw"},
        {"value": None, "value_type": "bool", "allowed_values": ["disabled", "enabled"]},
    ],
)
def test_check_when_the_first_generation_calls_a_mode_bool_then_its_words_pass(envelope):
    for value in ("enabled", "disabled"):
        Parameter.from_json(envelope).check("mode", value)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'["bit_depth_image","count_time"]', ["bit_depth_image", "count_time"]),
        (b'["difference_mode"]', ["threshold/difference/mode", "count_time"]),
        (b"[]", ["count_time"]),
        (b"", ["count_time"]),
        (b'""', ["count_time"]),
    ],
)
def test_parse_changed_when_given_each_form_of_reply_then_names_are_paths(body, changed):
    assert simplon.parse_changed(body, "count_time") == changed


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"oops"])
def test_parse_changed_when_the_reply_is_no_list_of_names_then_wire_error(body):
    with pytest.raises(WireError):
        simplon.parse_changed(body, "count_time")


@pytest.mark.parametrize("key", ["sequence id", "series id", "sequence_id"])
def test_parse_sequence_id_when_any_of_its_names_is_used_then_it_is_found(key):
    assert simplon.parse_sequence_id(f'{{"{key}": 12}}'.encode()) == 12


def test_parse_sequence_id_when_there_is_none_then_none_and_when_it_is_text_then_wire_error():
    assert simplon.parse_sequence_id(b"") is None
    with pytest.raises(WireError, match="expected an integer"):
        simplon.parse_sequence_id(b'{"sequence id": "12"}')


def test_parse_image_list_when_several_series_are_buffered_then_all_pairs_come():
    assert simplon.parse_image_list([[3, [0, 1]], [4, [0]]]) == [(3, 0), (3, 1), (4, 0)]
    with pytest.raises(WireError):
        simplon.parse_image_list([[3, 4]])


def test_uri_when_the_module_is_unknown_then_request_error():
    assert simplon.uri("monitor", "images", version="1.6.0") == "/monitor/api/1.6.0/images"
    with pytest.raises(RequestError, match="module"):
        simplon.uri("detektor", "config", "x", version="1.8.0")


def test_states_when_followed_by_command_then_lead_only_to_known_states():
    for command, moves in COMMANDS.items():
        assert all(isinstance(state, DetectorState) for pair in moves.items() for state in pair), command
    assert COMMANDS["arm"][DetectorState.IDLE] is DetectorState.READY
    assert DetectorState.IDLE not in COMMANDS["trigger"]


def test_frames_of_when_the_mode_is_gated_then_nimages_counts_as_one():
    assert [frames_of(mode, 5) for mode in ("ints", "exts", "inte", "exte")] == [5, 5, 1, 1]


@given(st.integers(0, 4 * 10**18))
def test_time_when_written_and_read_then_no_nanosecond_is_lost(time_ns):
    assert parse_time_ns(format_time_ns(time_ns)) == time_ns
    in_ms = time_ns // 10**6 * 10**6
    assert parse_time_ns(format_time_ns(time_ns, offset_minutes=-330)) == in_ms


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2024-05-14", "2024-13-14T08:00:00Z", "2024-05-14T08:00:00+99:00"]
)
def test_parse_time_when_it_is_none_then_wire_error(text):
    with pytest.raises(WireError, match="not a time"):
        parse_time_ns(text)


@pytest.mark.parametrize("dtype", ["u4", "f4"])
def test_darray_when_written_and_read_then_the_array_is_the_same(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    form = encode_darray(array)
    assert form["shape"] == [3, 4]  # rows, columns, as real replies
    np.testing.assert_array_equal(decode_darray(form), array)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3, 5]}, {"shape": [3]}, {"shape": [-3, -4]}, {"shape": [2**30, 2**30]}, {"type": "O"},
        {"filters": ["zip"]}, {"data": "@@@"}, {"data": 3}, {"shape": None},
    ],
)  # fmt: skip
def test_darray_when_a_field_is_wrong_then_wire_error(change):
    with pytest.raises(WireError):
        decode_darray(encode_darray(np.zeros((3, 4), "u4")) | change)


@given(st.integers(0, 2**47), st.integers(0, 2**80 - 1))
def test_ulid_when_made_then_its_first_ten_characters_are_the_time(time_ms, randomness):
    ulid = make_ulid(time_ms * 10**6, randomness)
    assert len(ulid) == 26 and ulid_time_ns(ulid) == time_ms * 10**6


def test_ulid_when_compared_with_a_real_one_then_the_time_is_of_that_year():
    assert parse_time_ns("2023-10-01T00:00:00Z") < ulid_time_ns("01HBV3JPF9T4ZDPADX6EMK6XMZ")
    with pytest.raises(WireError):
        ulid_time_ns("not a ulid")


@pytest.mark.parametrize(("dtype", "value"), [("u1", 254), ("u2", 65534), ("u4", 4294967294)])
def test_invalid_pixels_when_flagged_or_masked_then_true(dtype, value):
    assert first_sentinel(dtype) == value
    image = np.array([[0, value - 1, value, value + 1]], dtype)
    assert invalid_pixels(image).tolist() == [[False, False, True, True]]
    assert invalid_pixels(image, np.array([[8, 0, 0, 0]], "u4")).tolist() == [[True, False, True, True]]


def test_invalid_pixels_when_shapes_or_types_do_not_fit_then_shape_error():
    with pytest.raises(ShapeError):
        first_sentinel("i4")
    with pytest.raises(ShapeError):
        invalid_pixels(np.zeros((2, 3), "u2"), np.zeros((3, 2), "u4"))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("number", [(1, 1), (0.5, 0.5), (True, None), ("0.5", None), ([], None), (float("nan"), None)]),
        ("number", [(float("inf"), None), (10**400, None), (-3.4e38, None), (None, None)]),
        ("integer", [(7, 7), (7.0, 7), (7.5, None), (2**63, None), (True, None), ("7", None), ({}, None)]),
        ("boolean", [(True, True), (0, False), (1.0, True), (2, None), ("true", None)]),
        ("string", [("", ""), ("ints", "ints"), (1.8, "1.8"), ([], None), (None, None)]),
    ],
)
def test_typed_when_a_value_is_of_another_kind_then_none_of_ours_is_made_up(kind, values):
    for value, expected in values:
        found = simplon.typed(value, kind)
        assert (found, type(found)) == (expected, type(expected)), value
