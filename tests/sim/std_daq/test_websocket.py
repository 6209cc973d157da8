"""The websocket generation: what its control says, and what stands in its files."""

from __future__ import annotations

import json
import os
import re

import h5py
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from sfdaq_ophyd.sim.facility import Facility
from sfdaq_ophyd.sim.faults import Faults
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.sim.std_daq.settings import Timing
from sfdaq_ophyd.sim.std_daq.websocket_commands import DriverDied
from sfdaq_ophyd.sim.std_daq.websocket_driver import WebsocketDriver

from ...std_daq import simulated_websocket_daq

END = ("file_saved", "error")


@pytest.fixture(scope="module")
def daq():
    with simulated_websocket_daq() as server:
        yield server


@pytest.fixture(autouse=True)
def ready(request, wait_for):
    """Whatever a test did, the next one finds all processes alive, and idle."""
    yield
    if "daq" in request.fixturenames:
        server = request.getfixturevalue("daq")
        server._faults.clear()
        server.source.follow_clock()
        server.restart_driver()  # first: a writer that is back dies of an image for the file that it had
        server.restart_writer()


class Session:
    """A client: the statuses as they come, repeated ones once."""

    def __init__(self, server):
        self._connection = connect(server.ws_url, close_timeout=1)
        self.seen: list[dict] = []

    def __enter__(self):
        self._socket = self._connection.__enter__()
        return self

    def __exit__(self, *exc_info):
        self._connection.__exit__(*exc_info)

    def send(self, command):
        self._socket.send(command if isinstance(command, str) else json.dumps(command))

    def start(self, folder, n_images, **more):
        self.send({"command": "start", "path": str(folder), "n_image": n_images, **more})

    def stop(self):
        self.send({"command": "stop"})

    def next(self) -> dict:
        status = json.loads(self._socket.recv(60))
        if not self.seen or self.seen[-1] != status:
            self.seen.append(status)
        return status

    def until(self, *states, count=0) -> dict:
        while (status := self.next())["status"] not in states or status.get("count", count) < count:
            pass
        return status

    def gone(self) -> str:
        """Return how the connection ended."""
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                self.next()
        return "" if caught.value.rcvd is None else str(caught.value.rcvd.code)

    @property
    def states(self) -> list[str]:
        """States in order, neighbours of one name once."""
        names = [status["status"] for status in self.seen]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


@pytest.fixture
def session(daq):
    with Session(daq) as session:
        yield session


def layout(path) -> dict:
    with h5py.File(path) as file:
        (group,) = file
        return {name: (each.shape, each.maxshape, each.chunks) for name, each in file[group].items()}


def ids(path) -> list[int]:
    with h5py.File(path) as file:
        (group,) = file
        return file[group]["metadata"]["image_id"].tolist()


def test_states_when_images_are_written_then_they_come_in_order_with_counts(daq, session, tmp_path):
    daq.fail_next("slow_saving", seconds=0.5)
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


@pytest.mark.parametrize(
    "n_images, n_data, n_metadata", [(0, 0, 0), (1, 16, 256), (2, 2, 2), (16, 16, 16), (17, 17, 17)]
)
def test_file_when_it_is_closed_then_it_is_cut_unless_it_has_one_image(
    n_images, n_data, n_metadata, tmp_path
):
    with simulated_websocket_daq(n_writers=1) as server, Session(server) as session:
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


def test_stop_when_recording_then_what_came_is_saved(daq, session, tmp_path):
    daq.fail_next("slow_saving", seconds=0.5)
    session.start(tmp_path, 10_000, file_prefix="s")
    session.until("recording", count=3)
    session.stop()
    count = session.until("saving_file")["count"]
    session.until("file_saved")
    assert len(ids(tmp_path / "sMeta.h5")) == count


def test_stop_when_no_image_came_then_the_files_are_empty(daq, session, tmp_path):
    daq.source.silence()
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
def test_command_when_it_is_busy_then_it_is_rejected(command, daq, session, tmp_path):
    daq.source.silence()
    session.start(tmp_path, 10)
    session.until("waiting_for_first_image")
    session.send(command)
    assert session.until("rejected") == {"status": "rejected", "reason": "driver is busy!"}


def test_end_when_two_look_then_one_is_told(daq, session, tmp_path):
    daq.source.silence()
    with Session(daq) as other:
        session.start(tmp_path, 3)
        for each in (session, other):
            each.until("waiting_for_first_image")
        daq.source.follow_clock()
        for each in (session, other):
            each.until("idle")
    told = [status for each in (session, other) for status in each.seen if status["status"] in END]
    assert told == [{"status": "file_saved"}]


def test_end_when_nobody_looks_then_the_next_client_is_told_and_busy_until_then(daq, tmp_path, wait_for):
    daq.source.silence()
    with Session(daq) as first:
        first.start(tmp_path, 3)
        first.until("waiting_for_first_image")
    daq.source.follow_clock()
    wait_for(lambda: daq.driver.shown == "file_saved", "the end")
    with Session(daq) as second:
        second.until("file_saved")
        second.until("idle")


def test_command_when_it_is_not_json_then_it_is_told_and_the_connection_stays(session):
    session.send("{not json")
    assert session.until("error") == {"status": "error", "reason": "Invalid command! {not json"}
    session.until("idle")


@pytest.mark.parametrize("command", ['{"command": "start", "n_image": 5}', '{"command": "go"}', "{}"])
def test_command_when_it_is_none_then_it_is_told_closed_and_the_driver_is_gone(
    command, daq, session, wait_for
):
    session.until("idle")
    session.send(command)
    reason = "Invalid command! expected: start with path parameter, received: " + command
    assert session.until("error") == {"status": "error", "reason": reason}
    assert session.gone() == "1000"
    refuses(daq, wait_for)


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
    command, daq, session, wait_for
):
    session.until("idle")
    session.send(command)
    assert session.gone() == "", "an unclean end"
    refuses(daq, wait_for)
    daq.restart_driver()
    with Session(daq) as again:
        again.until("idle")


def refuses(daq, wait_for):
    def refused():
        try:
            with connect(daq.ws_url):
                return False
        except ConnectionRefusedError:
            return not daq.alive()["driver"]
        except (OSError, ConnectionClosed, InvalidHandshake):  # its last moment
            return False

    wait_for(refused, "connections refused")


def test_start_when_the_folder_is_missing_then_error_comes_late_and_the_metadata_writer_is_dead(
    daq, session, tmp_path
):
    session.start(tmp_path / "none", 5)
    session.until("error")
    assert session.states[-2:] == ["creating_file", "error"] and session.seen[-1] == {"status": "error"}
    assert daq.alive() == {"driver": True, "w0": True, "w1": True, "wm": False}


def test_start_when_a_writer_is_dead_then_it_is_carried_out_when_that_is_back(daq, session, tmp_path):
    daq.fail_next("writer_dies", writer=1)
    session.start(tmp_path, 4, file_prefix="late_")
    session.until("creating_file")
    for _ in range(70):  # longer than the driver waits for an answer
        assert session.next() == {"status": "creating_file"}
    assert {path.name for path in tmp_path.iterdir()} == {"late_0.h5", "late_Meta.h5"}
    daq.restart_writer()
    session.until("file_saved")
    assert len(ids(tmp_path / "late_Meta.h5")) == 4


def test_file_when_it_exists_then_it_is_overwritten(session, tmp_path):
    for n in (6, 4):
        session.start(tmp_path, n)
        session.until("file_saved")
    assert len(ids(tmp_path / "fileMeta.h5")) == 4


def test_image_when_it_is_larger_than_a_block_then_error_comes_at_once(tmp_path):
    with simulated_websocket_daq(block_size=64, speed=1.0) as server, Session(server) as session:
        session.start(tmp_path, 4)
        n = 0
        while session.next()["status"] != "error":
            n += 1
        assert n < 25, "half of what a missing folder takes, at 0.1 s each"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("command", "path", "file_prefix", "n_image", "writer_id", "start_id")


@settings(max_examples=100, deadline=None)
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


def test_connection_when_a_page_of_another_host_asks_then_it_is_refused(daq):
    with pytest.raises(InvalidStatus) as caught, connect(daq.ws_url, origin="http://example.org"):
        pass
    assert caught.value.response.status_code == 403


def test_connection_when_a_name_server_led_a_browser_here_then_it_is_refused(daq):
    asked = {
        "Host": "evil.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    reply = requests.get(daq.ws_url.replace("ws:", "http:"), headers=asked, timeout=60)
    assert reply.status_code == 403 and "evil.example" in reply.text


def test_config_when_asked_then_it_is_the_bare_object(daq):
    reply = requests.get(daq.url + "/api/config/get", params={"user": "x"}, timeout=60)
    assert reply.json()["number_of_writers"] == 2 and "status" not in reply.json()
    assert requests.get(daq.url + "/openapi.json", timeout=60).json()["openapi"]


def test_config_when_it_changes_then_driver_and_writers_restart_with_it(tmp_path, wait_for):
    with simulated_websocket_daq(speed=40.0) as server, Session(server) as session:
        session.until("idle")
        config = {**server.config, "number_of_writers": 3}
        url = server.url + "/api/config/set?user=x"
        assert requests.post(url, json=config, timeout=60).status_code == 200
        assert session.gone() == ""
        wait_for(lambda: server.alive().get("w2") and server.alive()["driver"], "the restart")
        with Session(server) as again:
            again.start(tmp_path, 3)
            again.until("file_saved")
    assert (tmp_path / "file2.h5").exists()


def test_config_when_it_is_of_no_use_then_nothing_runs_until_a_better_one_comes(wait_for):
    with simulated_websocket_daq(speed=40.0) as server:
        whole = server.config
        part = {key: whole[key] for key in ("detector_name", "detector_type", "bit_depth")}
        url = server.url + "/api/config/set?user=x"
        for config in (part, {**whole, "number_of_writers": "two"}, {**whole, "bit_depth": 13}):
            assert requests.post(url, json=config, timeout=60).status_code == 200
            assert requests.get(server.url + "/api/config/get?user=x", timeout=60).json() == config
            refuses(server, wait_for)
        requests.post(url, json=whole, timeout=60)
        wait_for(lambda: server.alive()["driver"], "a driver")
        with Session(server) as session:
            session.until("idle")


def test_config_when_the_second_server_is_down_then_a_500_has_changed_it_nevertheless(daq):
    daq.fail_next("secondary_down")
    url = daq.url + "/api/config/set?user=x"
    assert requests.post(url, json=daq.config, timeout=60).status_code == 500
    daq.fail_next("config_missing")
    assert requests.get(daq.url + "/api/config/get?user=x", timeout=60).status_code == 404


def test_interleaved_when_joined_then_the_last_frame_of_each_file_is_lost(daq, session, tmp_path):
    session.start(tmp_path, 8)
    session.until("file_saved")
    body = {"base_path": str(tmp_path), "output_file": "all.h5"}
    reply = requests.post(daq.url + "/api/h5/create_interleaved_vds", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    first = ids(tmp_path / "fileMeta.h5")[0]
    with h5py.File(tmp_path / "all.h5") as file:
        shown = [read_stamp(image) for image in file["interleaved_data"]]
        assert shown == [*range(first, first + 6), 0, 0]
        assert file["interleaved_metadata"].shape == (16,)


@pytest.mark.parametrize("state", ["waiting_for_first_image", "saving_file", "file_saved"])
def test_fault_when_a_state_is_missed_then_no_session_sees_it(state, daq, session, tmp_path):
    daq.fail_next("missed_state", state=state)
    session.until("idle")
    session.start(tmp_path, 30)
    session.until("recording", "saving_file", "file_saved")
    session.until("file_saved", "idle")
    assert state not in session.states


def test_fault_when_a_stop_is_lost_then_it_records_on_until_the_next(daq, session, tmp_path):
    daq.source.silence()
    daq.fail_next("lost_stop")
    session.start(tmp_path, 1000)
    session.until("waiting_for_first_image")
    session.stop()
    session.until("stop")
    daq.source.follow_clock()
    session.until("recording")
    session.stop()
    session.until("file_saved")


def test_fault_when_a_writer_dies_writing_then_it_records_for_ever_and_its_file_cannot_be_read(
    daq, session, tmp_path
):
    daq.fail_next("dies_writing", after=5, writer=1)
    session.start(tmp_path, 50)
    count = session.until("recording", count=5)["count"]
    for _ in range(60):
        assert session.next() == {"status": "recording", "count": count}
    with pytest.raises(OSError):
        h5py.File(tmp_path / "file1.h5")


def test_fault_when_the_driver_dies_writing_then_sessions_end_and_it_is_back_idle(
    daq, session, tmp_path, wait_for
):
    daq.fail_next("driver_dies_writing", after=3, seconds=0.1)
    session.start(tmp_path, 50)
    assert session.gone() == ""
    wait_for(lambda: daq.alive()["driver"], "a driver")
    with Session(daq) as again:
        again.until("idle")


@pytest.mark.parametrize(
    "what, state", [("stopped_by_other", "stop"), ("restarted_by_other", "creating_file")]
)
def test_fault_when_somebody_else_stops_or_restarts_then_it_is_seen(what, state, daq, session, tmp_path):
    daq.fail_next(what, after=3)
    session.start(tmp_path, 1000)
    session.until("file_saved")
    if what == "restarted_by_other":
        session.until("waiting_for_first_image", "recording")
        session.stop()
        session.until("file_saved")
        assert (tmp_path / "other_fileMeta.h5").exists()
    assert len(ids(tmp_path / "fileMeta.h5")) < 1000


def test_fault_when_a_creation_is_refused_or_slow_then_error_or_a_late_file(daq, session, tmp_path):
    daq.fail_next("creation_error")
    session.start(tmp_path, 3)
    session.until("error")
    daq.fail_next("slow_creation", seconds=0.1)
    session.start(tmp_path, 3)
    session.until("file_saved")


@pytest.mark.parametrize("what", ["redis_away", "ghost_start", "no_such_thing"])
def test_fault_when_this_generation_cannot_have_it_then_it_is_refused_by_name(what, daq):
    with pytest.raises(ValueError, match=re.escape(what)):
        daq.fail_next(what)


def test_facility_when_the_dialect_is_websocket_then_its_child_serves_and_obeys(tmp_path):
    options = {"std_daq_image_shape": (8, 16), "std_daq_block_size": 4096, "std_daq_n_writers": 3}
    with Facility(
        speed="auto", directory=tmp_path, only="std_daq", std_daq_dialect="websocket", **options
    ) as facility:
        part = facility.std_daq
        assert facility.addresses()["std_daq"] == {"url": part.url, "ws_url": part.ws_url}
        with pytest.raises(ValueError, match="redis_away"):
            part.fail_next("redis_away")
        with Session(part) as session:
            session.start(tmp_path, 6)
            session.until("file_saved")
            part.fail_next("driver_dies")
            assert session.gone() == ""
        part.restart_driver()
        with Session(part) as session:
            session.until("idle")
    assert len(ids(tmp_path / "file2.h5")) == 2
