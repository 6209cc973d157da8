"""Misbehaviour of the stream, by name: what the simulator then sends, and what our reading makes of it."""

from __future__ import annotations

import contextlib
import json

import pytest

from sfdaq_ophyd.errors import RequestError, WireError
from sfdaq_ophyd.wire import cbor
from sfdaq_ophyd.wire.eiger_stream import (
    FrameRefused,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
    UnknownMessage,
    decode_message,
)

from .conftest import arm, take


def started_by(parts):
    """Return the number of the series that a message starts; None if it does not."""
    with contextlib.suppress(WireError):
        message = decode_message(parts[0])
        return message.series_id if isinstance(message, SeriesStart) else None


def started_by_legacy(parts):
    head = json.loads(parts[0])
    return head["series"] if head["htype"] == "dheader-1.0" else None


def told(rest, pull, nimages=4, started_by=started_by):
    """Take one series, and begin another to know that all came; a word for each message, and the parts."""
    take(rest, nimages)
    after, messages = arm(rest), []
    while not messages or started_by(messages[-1]) != after:
        messages.append(pull.parts())
    rest.command("detector/command/disarm")
    pull.parts()
    return " ".join(word(parts) for parts in messages[:-1]), messages[:-1]


def word(parts):
    if len(parts) > 1:
        return f"{len(parts)}parts"
    try:
        message = decode_message(parts[0])
    except FrameRefused as exc:
        return f"!{exc.image_id}"
    except UnknownMessage:
        return "?"
    except WireError:
        return "!"
    if isinstance(message, SeriesImage):
        return str(message.image_id)
    return "start" if isinstance(message, SeriesStart) else "end"


@pytest.mark.parametrize(
    ("what", "details", "expected"),
    [
        ("lost_start", {}, "0 1 2 3 end"),
        ("lost_image", {"image_id": 2}, "start 0 1 3 end"),
        ("lost_image", {"image_id": 3}, "start 0 1 2 end"),
        ("lost_image", {}, "start 1 2 3 end"),
        ("lost_end", {}, "start 0 1 2 3"),
        ("duplicate", {"image_id": 1}, "start 0 1 1 2 3 end"),
        ("swapped", {"image_id": 1}, "start 0 2 1 3 end"),
        ("swapped", {"image_id": 3}, "start 0 1 2 3 end"),
        ("early_end", {}, "start 0 1 2 end 3"),
        ("early_end", {"before": 3}, "start 0 end 1 2 3"),
        ("new_unique_id", {"image_id": 2}, "start 0 1 start 2 3 end"),
        ("extra_part", {"image_id": 1}, "start 0 2parts 2 3 end"),
        ("cut_message", {"image_id": 1}, "start 0 ! 2 3 end"),
        ("cut_message", {"image_id": 1, "keep": 3}, "start 0 ! 2 3 end"),
        ("wrong_length", {"image_id": 1}, "start 0 !1 2 3 end"),
        ("huge_prefix", {"image_id": 1}, "start 0 !1 2 3 end"),
        ("missing_field", {"image_id": 1, "field": "data"}, "start 0 !1 2 3 end"),
        ("unknown_algorithm", {"image_id": 1}, "start 0 !1 2 3 end"),
        ("missing_field", {"image_id": 1, "field": "image_id"}, "start 0 ! 2 3 end"),
        ("missing_field", {"image_id": 1}, "start 0 1 2 3 end"),
        ("unknown_key", {"image_id": 1}, "start 0 1 2 3 end"),
        ("unknown_tag", {"image_id": 1}, "start 0 1 2 3 end"),
        ("unknown_type", {"image_id": 1}, "start 0 ? 1 2 3 end"),
        ("integers_for_floats", {}, "start 0 1 2 3 end"),
        ("no_self_described", {}, "start 0 1 2 3 end"),
        ("no_image_dtype", {}, "start 0 1 2 3 end"),
        ("clock_offset", {"seconds": -3600.5}, "start 0 1 2 3 end"),
        ("silent", {}, ""),
    ],
)
def test_stream_fault_when_named_then_it_happens_once(rest, pull, what, details, expected):
    rest.part.fail_next(what, **details)
    words, _ = told(rest, pull)
    assert words == expected
    assert not rest.part.faults.armed and rest.value("stream/status/dropped") == 0
    assert told(rest, pull)[0] == "start 0 1 2 3 end", "the next series is in order"


def test_stream_fault_when_it_leaves_frames_good_then_it_can_be_seen_all_the_same(rest, pull):
    def fields(what, k, **details):
        rest.part.fail_next(what, **details)
        return told(rest, pull)[1][k][0]

    assert type(cbor.decode(fields("integers_for_floats", 0))["beam_center_x"]) is int
    assert "image_dtype" not in cbor.decode(fields("no_image_dtype", 0))
    assert not fields("no_self_described", 1).startswith(cbor.SELF_DESCRIBED)
    assert "unknown_key" in cbor.decode(fields("unknown_key", 1))
    assert b"unknown_tag\xd9\xfd\xe8" in fields("unknown_tag", 1)
    assert decode_message(fields("missing_field", 1)).time_ns is None
    rest.part.fail_next("new_unique_id", image_id=2)
    messages = [decode_message(parts[0]) for parts in told(rest, pull)[1]]
    assert len({message.series_id for message in messages}) == 1
    assert len({message.series_unique_id for message in messages}) == 2
    assert isinstance(messages[-1], SeriesEnd)
    assert messages[-1].series_unique_id == messages[-2].series_unique_id != messages[0].series_unique_id


def test_clock_when_offset_then_dates_are_off_and_ticks_are_not(rest, pull):
    right = decode_message(told(rest, pull)[1][2][0])
    rest.part.fail_next("clock_offset", seconds=-86400)
    wrong = decode_message(told(rest, pull)[1][2][0])
    assert wrong.series_date_ns < right.series_date_ns - 8e13 and wrong.start_time[0] > 0


def test_same_time_when_named_then_the_stream_says_so_too(rest, pull):
    rest.part.fail_next("same_time")
    frames = [decode_message(parts[0]) for parts in told(rest, pull)[1][1:-1]]
    assert len({frame.time_ns for frame in frames}) == 1


def test_stream_fault_when_of_version_1_then_it_happens_there_too(rest, make_pull):
    rest.set("stream/config/mode", "enabled")
    pull = make_pull(rest, legacy=True)
    for what in ("lost_start", "lost_end"):
        rest.part.fail_next(what)
    for what, image_id in (("lost_image", 0), ("duplicate", 1), ("swapped", 2), ("extra_part", 3)):
        rest.part.fail_next(what, image_id=image_id)
    messages = told(rest, pull, started_by=started_by_legacy)[1]
    heads = [json.loads(parts[0])["frame"] for parts in messages]
    assert heads == [1, 1, 3, 2] and len(messages[2]) == 5


@pytest.mark.parametrize(("what", "details"), [("lost_image", {"id": 1}), ("silent", {"image_id": 1})])
def test_fault_when_given_a_detail_it_does_not_take_then_refused(rest, what, details):
    with pytest.raises(RequestError):
        rest.part.fail_next(what, **details)
