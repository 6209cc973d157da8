"""Replies of both dialects become typed values; HTTP 200 says nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire import broker_reply as wire
from sfdaq_ophyd.wire.broker import dialect_of

HTML = b"<html><title>Error: 405 Method Not Allowed</title><pre>Method not allowed.</pre></html>"


def read(reply, dialect="current", code=200, expected=None):
    return wire.read_reply(code, json.dumps(reply).encode(), dialect, expected)


@pytest.mark.parametrize(
    ("reply", "dialect", "expected"),
    [
        ({"status": "ok", "message": ""}, "current", None),
        ({"status": "ok", "message": "3"}, "documented", None),
        ({"detectors": []}, "documented", "detectors"),
    ],
)
def test_reply_when_it_says_ok_in_its_dialect_then_success(reply, dialect, expected):
    assert read(reply, dialect, expected=expected) == reply


@pytest.mark.parametrize(
    ("reply", "dialect", "message", "exception"),
    [
        ({"status": "error", "message": "no", "exception": "ValueError"}, "current", "no", "ValueError"),
        (
            {"status": "error", "message": "", "exception": "AMQPConnectionError"},
            "current",
            "",
            "AMQPConnectionError",
        ),
        ({"status": "failed", "message": "no"}, "documented", "no", ""),
        ({"status": "pass", "message": "fine"}, "documented", "fine", ""),
        ({"status": "failure, no config"}, "documented", "failure, no config", ""),
        ({"state": "error", "status": "boom"}, "documented", "boom", ""),
    ],
)
def test_reply_when_it_says_anything_else_then_refusal_with_its_words(reply, dialect, message, exception):
    refusal = read(reply, dialect, expected="pv_list")
    assert (refusal.message, refusal.exception, refusal.reply) == (message, exception, reply)


def test_reply_when_html_with_an_error_code_then_refusal_with_the_title():
    refusal = wire.read_reply(405, HTML, "current")
    assert refusal.message == "Error: 405 Method Not Allowed: Method not allowed."


@pytest.mark.parametrize("body", [HTML, b"", b"\xff\xfe", b"[1]", b'"ok"', b"{}", b"[" * 100_000])
def test_reply_when_200_and_no_object_with_status_then_wire_error(body):
    with pytest.raises(WireError):
        wire.read_reply(200, body, "current")


@given(st.binary(max_size=200), st.sampled_from([200, 404, 500]))
def test_reply_when_anything_comes_then_success_refusal_or_wire_error(body, code):
    try:
        answer = wire.read_reply(code, body, "current")
    except WireError:
        return
    assert isinstance(answer, dict | wire.Refusal)


@pytest.mark.parametrize(("value", "number"), [(7, 7), ("7", 7), ("-1", -1), ("12345", 12345)])
def test_number_when_int_or_string_then_int(value, number):
    assert wire.number(value, "run_number") == number


@pytest.mark.parametrize("value", [None, True, "True", 1.0, [], "seven"])
def test_number_when_neither_then_wire_error(value):
    with pytest.raises(WireError, match="run_number"):
        wire.number(value, "run_number")


FILE = "/sf/alvra/data/p12345/raw/run0001/data/acq0001.PVDATA.h5"


@pytest.mark.parametrize(
    "files",
    [
        None,
        "f",
        [1],
        ["f"],
        [FILE, "/sf/acq0001"],
        [FILE[1:]],
        [FILE.replace("raw", "..")],
        [FILE + "\0"],
    ],
)
def test_retrieval_when_files_are_no_paths_of_an_acquisition_then_wire_error(files):
    numbers = dict.fromkeys(("run_number", "acquisition_number", "unique_acquisition_number"), "1")
    with pytest.raises(WireError, match="files"):
        wire.retrieval({**numbers, "files": files}, "current")


@pytest.mark.parametrize("changed", [{"a": 1}, {"a": [1]}, [1], None])
def test_changes_when_no_pairs_then_wire_error(changed):
    with pytest.raises(WireError, match="changed_parameters"):
        wire.changes({"changed_parameters": changed}, "changed_parameters")


@pytest.mark.parametrize(
    ("reply", "dialect"),
    [
        ({"status": "ok", "descriptions": []}, "current"),
        ({"status": "error", "exception": "RuntimeError"}, "current"),
        ({"detectors": [], "names": []}, "documented"),
        ({"detectors": []}, None),
        ({"status": "failed", "message": ""}, None),
        ([], None),
    ],
)
def test_dialect_when_told_by_the_safe_probe_then_known(reply, dialect):
    assert dialect_of(reply) == dialect
