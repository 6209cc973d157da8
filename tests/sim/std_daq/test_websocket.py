"""The websocket generation: what its control says, and what stands in its files."""

from __future__ import annotations

import json
import os

import h5py
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sfdaq_ophyd.sim.faults import Faults
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.sim.std_daq.settings import Timing
from sfdaq_ophyd.sim.std_daq.websocket_driver import DriverDied, WebsocketDriver

from ...std_daq import simulated_websocket_daq
from .conftest import Session, ids, layout, refuses

END = ("file_saved", "error")


def test_states_when_images_are_written_then_they_come_in_order_with_counts(ws, session, tmp_path):
    ws.fail_next("slow_saving", seconds=0.5)
    session.until("idle")
    session.start(tmp_path, 6, file_prefix="a_")
    session.until("file_saved")
    session.until("idle")
    order = ["idle", "creating_file", "waiting_for_first_image", "recording", "saving_file", "file_saved"]
    assert [state for state in order if state in session.states] == session.states[:-1]
    assert session.states[-3:] == ["saving_file", "file_saved", "idle"]
    counts = [status["count"] for status in session.seen if status["status"] == "recording"]
    assert counts == sorted(counts)
    assert [status for status in session.seen if status["status"] == "saving_file"] == [
        {"status": "saving_file", "count": 6}
    ]


@pytest.mark.parametrize("n_writers", [1, 2, 5])
def test_files_when_there_are_writers_then_image_i_is_in_file_i_modulo_their_number(n_writers, tmp_path):
    with simulated_websocket_daq(n_writers=n_writers) as server, Session(server) as session:
        session.start(tmp_path, 11)
        session.until("file_saved")
    assert {path.name for path in tmp_path.iterdir()} == {
        "fileMeta.h5",
        *(f"file{k}.h5" for k in range(n_writers)),
    }
    all_ids = ids(tmp_path / "fileMeta.h5")
    assert all_ids == list(range(all_ids[0], all_ids[0] + 11))
    for k in range(n_writers):
        assert ids(tmp_path / f"file{k}.h5") == all_ids[k::n_writers]
        with h5py.File(tmp_path / f"file{k}.h5") as file:
            data, metadata = file["gf-teststand/data"], file["gf-teststand/metadata"]
            assert [read_stamp(image) for image in data] == metadata["image_id"].tolist()
            assert (metadata["status"][:] == 1).all()


@pytest.fixture(scope="module")
def single_writer():
    with simulated_websocket_daq(n_writers=1) as server:
        yield server


@pytest.mark.parametrize(
    "n_images, n_data, n_metadata", [(0, 0, 0), (1, 16, 256), (2, 2, 2), (16, 16, 16), (17, 17, 17)]
)
def test_file_when_it_is_closed_then_it_is_cut_unless_it_has_one_image(
    n_images, n_data, n_metadata, single_writer, tmp_path
):
    with Session(single_writer) as session:
        session.start(tmp_path, n_images)
        session.until("file_saved")
    assert layout(tmp_path / "file0.h5") == {
        "data": ((n_data, 8, 16), (None, 8, 16), (16, 8, 16)),
        "metadata": ((n_metadata,), (None,), (256,)),
    }
    n_all = 102 if n_images == 1 else n_images
    assert layout(tmp_path / "fileMeta.h5") == {"metadata": ((n_all,), (None,), (102,))}


def test_file_when_blocks_are_large_then_what_is_not_written_takes_no_room(tmp_path):
    with simulated_websocket_daq(n_writers=1, block_size=2**24) as server, Session(server) as session:
        session.start(tmp_path, 3)
        session.until("file_saved")
    info = os.stat(tmp_path / "file0.h5")
    assert info.st_size > 2**25 and info.st_blocks * 512 < 2**20


def test_stop_when_recording_then_what_came_is_saved(ws, session, tmp_path):
    ws.fail_next("slow_saving", seconds=0.5)
    session.start(tmp_path, 10_000, file_prefix="s")
    session.until("recording", count=3)
    session.stop()
    count = session.until("saving_file")["count"]
    session.until("file_saved")
    assert len(ids(tmp_path / "sMeta.h5")) == count


def test_stop_when_no_image_came_then_the_files_are_empty(ws, session, tmp_path):
    ws.source.silence()
    session.start(tmp_path, 10)
    session.until("waiting_for_first_image")
    session.stop()
    session.until("file_saved")
    assert layout(tmp_path / "file0.h5")["data"][0] == (0, 8, 16)


def test_stop_when_idle_then_nothing_happens(session):
    session.stop()
    for _ in range(5):
        assert session.next() == {"status": "idle"}


@pytest.mark.parametrize("command", ['{"command":"start","path":"/tmp"}', '{"command":"status"}', "{}"])
def test_command_when_it_is_busy_then_it_is_rejected(command, ws, session, tmp_path):
    ws.source.silence()
    session.start(tmp_path, 10)
    session.until("waiting_for_first_image")
    session.send(command)
    assert session.until("rejected") == {"status": "rejected", "reason": "driver is busy!"}


def test_end_when_two_look_then_one_is_told(ws, session, tmp_path):
    ws.source.silence()
    with Session(ws) as other:
        session.start(tmp_path, 3)
        for each in (session, other):
            each.until("waiting_for_first_image")
        ws.source.follow_clock()
        for each in (session, other):
            each.until("idle")
    told = [status for each in (session, other) for status in each.seen if status["status"] in END]
    assert told == [{"status": "file_saved"}]


def test_end_when_nobody_looks_then_the_next_client_is_told_and_busy_until_then(ws, tmp_path, wait_for):
    ws.source.silence()
    with Session(ws) as first:
        first.start(tmp_path, 3)
        first.until("waiting_for_first_image")
    ws.source.follow_clock()
    wait_for(lambda: ws.driver.shown == "file_saved", "the end")
    with Session(ws) as second:
        second.until("file_saved")
        second.until("idle")


def test_command_when_it_is_not_json_then_it_is_told_and_the_connection_stays(session):
    session.send("{not json")
    assert session.until("error") == {"status": "error", "reason": "Invalid command! {not json"}
    session.until("idle")


@pytest.mark.parametrize("command", ['{"command": "start", "n_image": 5}', '{"command": "go"}', "{}"])
def test_command_when_it_is_none_then_it_is_told_closed_and_the_driver_is_gone(
    command, ws, session, wait_for
):
    session.until("idle")
    session.send(command)
    reason = "Invalid command! expected: start with path parameter, received: " + command
    assert session.until("error") == {"status": "error", "reason": reason}
    assert session.gone() == "1000"
    refuses(ws, wait_for)


@pytest.mark.parametrize(
    "command",
    [
        *("[]", "null", "7", '"start"'),
        *('{"command": 7}', '{"command": "start", "path": 5}', '{"command": "start", "path": null}'),
        '{"command": "start", "path": "/tmp", "n_image": "10"}',
        '{"command": "start", "path": "/tmp", "n_image": true}',
        '{"command": "start", "path": "/tmp", "n_image": null}',
        '{"command": "start", "path": "/tmp", "file_prefix": 1}',
        '{"command": "start", "path": "/tmp", "writer_id": "x"}',
    ],
)
def test_command_when_a_type_is_wrong_then_the_driver_dies_and_is_refused_until_restarted(
    command, ws, session, wait_for
):
    session.until("idle")
    session.send(command)
    assert session.gone() == "", "an unclean end"
    refuses(ws, wait_for)
    ws.restart_driver()
    with Session(ws) as again:
        again.until("idle")


def test_start_when_the_folder_is_missing_then_error_comes_late_and_the_metadata_writer_is_dead(
    ws, session, tmp_path
):
    session.start(tmp_path / "none", 5)
    session.until("error")
    assert session.states[-2:] == ["creating_file", "error"] and session.seen[-1] == {"status": "error"}
    assert ws.alive() == {"driver": True, "w0": True, "w1": True, "wm": False}


def test_start_when_a_writer_is_dead_then_it_is_carried_out_when_that_is_back(ws, session, tmp_path):
    ws.fail_next("writer_dies", writer=0)  # the others have theirs all the same
    session.start(tmp_path, 4, file_prefix="late_")
    session.until("creating_file")
    for _ in range(70):  # longer than the driver waits for an answer
        assert session.next() == {"status": "creating_file"}
    assert {path.name for path in tmp_path.iterdir()} == {"late_1.h5", "late_Meta.h5"}
    ws.restart_writer()
    session.until("file_saved")
    assert len(ids(tmp_path / "late_Meta.h5")) == 4


def test_file_when_it_exists_then_it_is_overwritten(session, tmp_path):
    for n in (6, 4):
        session.start(tmp_path, n)
        session.until("file_saved")
    assert len(ids(tmp_path / "fileMeta.h5")) == 4


def test_image_when_it_is_larger_than_a_block_then_error_comes_at_once(tmp_path):
    with simulated_websocket_daq(block_size=64, speed=0.1) as server, Session(server) as session:
        session.start(tmp_path, 4)
        n = 0
        while session.next()["status"] != "error":
            n += 1
        assert n < 25, "half of what a missing folder takes, at 1 s each"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("command", "path", "file_prefix", "n_image", "writer_id", "start_id")


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=30)
    | VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from(NAMES), VALUES).map(json.dumps)
    | VALUES.map(lambda value: json.dumps({"command": "start", "path": "/none", "n_image": value}))
)
def test_command_when_it_is_anything_then_it_is_answered_obeyed_or_the_end_of_the_driver(text):
    nothing = {name: lambda *given: None for name in ("on_change", "let_look", "on_death")}
    driver = WebsocketDriver([], None, Timing(1000.0), Faults({}), **nothing)
    try:
        reply, leaves = driver.obey(text)
    except DriverDied:
        return
    finally:
        driver.end()
    if reply is None:
        assert json.loads(text)["command"] in ("start", "stop") and not leaves
    else:
        assert json.loads(reply)["reason"].endswith(text)


def test_connection_when_a_page_of_another_host_asks_then_it_is_refused(ws):
    with pytest.raises(InvalidStatus) as caught:
        connect(ws.ws_url, origin="http://example.org", open_timeout=120)
    assert caught.value.response.status_code == 403


def test_connection_when_a_name_server_led_a_browser_here_then_it_is_refused(ws):
    asked = {
        "Host": "evil.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    reply = requests.get(ws.ws_url.replace("ws:", "http:"), headers=asked, timeout=60)
    assert reply.status_code == 403 and "evil.example" in reply.text
