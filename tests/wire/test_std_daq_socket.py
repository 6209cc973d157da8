"""Control of the standard DAQ by websocket: commands that cannot kill it, and what pushed statuses say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import RequestError, WireError
from sfdaq_ophyd.wire.std_daq import WritingState
from sfdaq_ophyd.wire.std_daq_config import WEBSOCKET_KEYS, check_config
from sfdaq_ophyd.wire.std_daq_socket import (
    PushedState,
    PushedStatus,
    Tracker,
    number_of_writers,
    start_command,
)


def tracked(n_images, *statuses):
    """Return a tracker that saw statuses, each a state or a state and a count."""
    tracker = Tracker(n_images)
    for status in statuses:
        state, count = status if isinstance(status, tuple) else (status, None)
        tracker.see(PushedStatus(PushedState(state), count))
    return tracker


BEGUN = ("idle", "creating_file", "waiting_for_first_image")
SAVED = (("recording", 7), ("saving_file", 10), "file_saved")


@pytest.mark.parametrize(
    ("statuses", "state", "count", "is_exact"),
    [
        ((*BEGUN, *SAVED), WritingState.FINISHED, 10, True),
        (("file_saved",), WritingState.INTERRUPTED, 0, False),
        ((*BEGUN, ("recording", 7), "idle"), WritingState.INTERRUPTED, 7, False),
        ((*BEGUN, ("recording", 7), ("saving_file", 10), "idle"), WritingState.FINISHED, 10, True),
        (
            (*BEGUN, ("recording", 7), "stop", ("saving_file", 8), "file_saved"),
            WritingState.INTERRUPTED,
            8,
            True,
        ),
        ((*BEGUN, ("recording", 7), "creating_file"), WritingState.INTERRUPTED, 7, False),
        ((*BEGUN, ("recording", 7), ("recording", 2)), WritingState.INTERRUPTED, 7, False),
        ((*BEGUN, ("recording", 7), ("recording", 11)), WritingState.INTERRUPTED, 7, False),
        ((*BEGUN[:2], "error"), WritingState.FAILED, 0, False),
        (("rejected",), WritingState.FAILED, 0, False),
    ],
)
def test_tracker_when_an_acquisition_ends_then_its_end_and_count_are_known(statuses, state, count, is_exact):
    tracker = tracked(10, *statuses)
    assert (tracker.ended, tracker.state, tracker.count, tracker.is_exact) == (True, state, count, is_exact)
    before = vars(tracker).copy()
    tracker.see(PushedStatus(PushedState.RECORDING, 3))
    assert vars(tracker) == before, "what comes after is somebody else's"


def test_tracker_when_a_stop_is_forgotten_then_the_acquisition_goes_on():
    tracker = tracked(10, "creating_file", "stop", "waiting_for_first_image", ("recording", 3))
    assert (tracker.ended, tracker.state, tracker.count) == (False, WritingState.WRITING, 3)


def test_tracker_when_the_driver_is_still_idle_then_nothing_has_begun():
    assert tracked(10, "idle", "idle").state is WritingState.IDLE


@pytest.mark.parametrize(
    ("recording", "state", "count", "text"),
    [
        ("w02_complete", "finished", 20, "file_saved"),
        ("w03_stop_midway", "interrupted", 25, "stop"),
        ("w06_no_such_folder", "failed", 0, "error"),
        ("w08_default_prefix", "finished", 4, "file_saved"),
        ("w10_overwrite", "finished", 2, "file_saved"),
        ("w11_one_writer_dead", "starting", 0, "creating_file"),
    ],
)
def test_tracker_when_a_recorded_acquisition_is_seen_then_its_end_is_known(
    data_dir, recording, state, count, text
):
    lines = (data_dir / "std_daq" / "websocket-2025" / f"{recording}.jsonl").read_text().splitlines()
    tracker = None
    for row in map(json.loads, lines):
        if isinstance(row.get("send"), dict) and row["send"].get("command") == "start":
            tracker = Tracker(row["send"]["n_image"])
        elif "recv" in row and tracker is not None:
            tracker.see(PushedStatus.from_text(json.dumps(row["recv"])))
    assert (tracker.state, tracker.count, tracker.text) == (state, count, text)
    assert tracker.is_exact == (state in ("finished", "interrupted"))


@given(st.lists(st.tuples(st.sampled_from(PushedState), st.integers(0, 20))))
def test_tracker_when_anything_is_pushed_then_it_never_comes_back_from_its_end(pushed):
    tracker, ended = Tracker(10), False
    for state, count in pushed:
        tracker.see(PushedStatus(state, count))
        assert tracker.ended >= ended
        ended = tracker.ended
        assert tracker.ended == (tracker.state in ("finished", "failed", "interrupted"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((5, "x", 1), "path=5"),
        (("data", "x", 1), "path='data'"),
        (("/data", 7, 1), "file_prefix=7"),
        (("/data", "a/b", 1), "file_prefix='a/b'"),
        (("/data", "x", "ten"), "n_images='ten'"),
        (("/data", "x", 0), "n_images=0"),
        (("/data", "x", True), "n_images=True"),
        (("/data", "x", None), "n_images=None"),
        (("/data", "x", 1, -1), "writer_id=-1"),
        (("/data\n", "x", 1), "path="),
    ],
)
def test_start_command_when_a_value_would_kill_the_driver_then_it_is_refused(given, expected):
    with pytest.raises(RequestError, match=expected):
        start_command(*given)


@given(st.tuples(*[st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans())] * 3))
def test_start_command_when_anything_is_given_then_all_that_is_sent_has_the_right_type(values):
    try:
        command = json.loads(start_command(*values))
    except RequestError:
        return
    assert {key: type(value) for key, value in command.items()} == {
        "command": str, "path": str, "file_prefix": str, "n_image": int
    }  # fmt: skip


@pytest.mark.parametrize("count", [-1, 1.5, "7", True, 2**63])
def test_pushed_status_when_the_count_is_none_then_it_is_refused(count):
    with pytest.raises(WireError, match="count"):
        PushedStatus.from_text(json.dumps({"status": "recording", "count": count}))


@pytest.mark.parametrize(
    "changes",
    [
        {"number_of_writers": 0},
        {"number_of_writers": "x"},
        {"use_all_forwarders": 1},
        {"bit_depth": "x"},
        {"nosuch": 1},
        [1],
    ],
)
def test_config_when_a_key_or_value_is_wrong_then_it_is_refused(changes):
    with pytest.raises(RequestError):
        check_config(changes, WEBSOCKET_KEYS)


@pytest.mark.parametrize("n", [None, 0, "2", True, 10**9])
def test_number_of_writers_when_the_configuration_does_not_say_then_it_is_not_guessed(n):
    with pytest.raises(WireError, match="number_of_writers"):
        number_of_writers({"number_of_writers": n})
