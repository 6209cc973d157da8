"""Status messages of the DAQ's writers, in whatever order they come."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire.broker_status import FileState, StatusBoard, read_status

FILE = "/sf/bernina/data/p12345/raw/run0001/data/acq0001.PVDATA.h5"


def message(action, file=FILE, text=None):
    headers = {"action": action, "source": "sf_daq_writer", "routing_key": "*", "message": text}
    return read_status(headers, json.dumps({"output_file": file}), "id")


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["write_request", "write_start", "write_finished"]))
)
def test_board_when_messages_come_in_any_order_then_finished(order):
    board = StatusBoard()
    board.watch([FILE])
    for action in order:
        board.receive(message(action))
    assert board.state(FILE) == (FileState.FINISHED, None)


@pytest.mark.parametrize(("action", "words"), [("write_rejected", "no\ndata"), ("request_fail", "late")])
def test_board_when_a_writer_failed_then_its_words(action, words):
    board = StatusBoard()
    board.receive(message("write_start"))
    assert board.state(FILE) == (FileState.STARTED, None)
    board.receive(message(action, text=words))
    assert board.state(FILE) == (FileState.FAILED, words)


def test_board_when_messages_overtake_the_reply_then_watching_later_still_knows():
    board = StatusBoard()
    board.receive(message("write_start"))
    board.watch([FILE])
    assert board.state(FILE)[0] is FileState.STARTED
    board.forget([FILE])
    assert board.state(FILE)[0] is FileState.UNKNOWN


def test_board_when_paths_and_words_are_longer_than_any_then_not_kept():
    board = StatusBoard()
    board.receive(message("write_start", file="/" * 4097))
    assert not board._states
    board.receive(message("write_rejected", file="/" * 4096, text="x" * 10**6))
    assert board.state("/" * 4096) == (FileState.FAILED, "x" * 1000)


def test_board_when_much_is_heard_then_memory_stays_bounded_and_watched_files_stay():
    board = StatusBoard(limit=50)
    board.watch([FILE])
    board.receive(message("write_start"))
    for number in range(500):
        board.receive(message("write_request", file=f"/sf/{number}"))
    assert len(board._states) <= 51
    assert board.state(FILE)[0] is FileState.STARTED


def test_board_when_a_message_has_no_file_then_passed_over():
    board = StatusBoard()
    board.receive(message("write_finished", file=None))
    assert board._states == {}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (None, b"{}"),
        ({}, b"{}"),
        ({"action": "dance"}, b"{}"),
        ({"action": "write_start"}, b""),
        ({"action": "write_start"}, b"[1]"),
        ({"action": "write_start"}, b"\xff"),
        ({"action": "write_start"}, b"[" * 100_000),
    ],
)
def test_message_when_malformed_then_wire_error(headers, body):
    with pytest.raises(WireError, match="status message"):
        read_status(headers, body, None)


@given(st.binary(max_size=100))
def test_message_when_the_body_is_anything_then_read_or_wire_error(body):
    try:
        assert isinstance(read_status({"action": "write_start"}, body, None).body, dict)
    except WireError:
        pass
