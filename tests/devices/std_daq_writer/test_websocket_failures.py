"""Every trap of the websocket generation by name: who else uses it, what dies, what is missed, what hangs."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import threading
from functools import partial

import bluesky.plans as bp
import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from sfdaq_ophyd.clients import StdDaqWriterSocket, std_daq_socket
from sfdaq_ophyd.devices.std_daq_writer import _control, _daq_file, _socket_control
from sfdaq_ophyd.devices.std_daq_writer._control import DoubleStart, WriterNotReady
from sfdaq_ophyd.devices.std_daq_writer._daq_file import DaqFile
from sfdaq_ophyd.devices.std_daq_writer._socket_control import SocketControl
from sfdaq_ophyd.errors import DetectorStateError
from sfdaq_ophyd.wire.std_daq import WriteRequest, Writing, WritingState
from sfdaq_ophyd.wire.std_daq_config import DaqConfig
from sfdaq_ophyd.wire.std_daq_socket import data_files

from .documents import ids_of, images_of, in_mode, run


@pytest.fixture
def daq(websocket_daq):
    return websocket_daq


@pytest.fixture
def writer(websocket_writer):
    return websocket_writer


@contextlib.contextmanager
def started_by_somebody(daq, folder, n_images=10_000):
    """Have another client start an acquisition, and stop it at the end."""
    command = {"command": "start", "path": str(folder), "file_prefix": "t", "n_image": n_images}
    with connect(daq.ws_url, proxy=None, max_queue=None, open_timeout=120) as other:  # which need not be read
        other.send(json.dumps(command))
        while json.loads(other.recv())["status"] not in ("waiting_for_first_image", "recording"):
            pass
        yield other
        other.send(json.dumps({"command": "stop"}))


@pytest.mark.parametrize(
    "state", ["creating_file", "waiting_for_first_image", "recording", "saving_file", "file_saved"]
)
def test_point_when_a_state_is_never_shown_then_the_files_tell_that_it_is_whole(daq, writer, state):
    daq.fail_next("missed_state", state=state)
    documents, error = run(in_mode(writer, "point", 2, 5))
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 10


def test_point_when_all_is_over_before_we_look_then_it_is_told_and_not_repeated(daq, writer, monkeypatch):
    monkeypatch.setattr(_socket_control, "BEGIN_LIMIT", 0.3)
    for state in ("creating_file", "waiting_for_first_image", "recording", "saving_file", "file_saved"):
        daq.fail_next("missed_state", state=state)
    _, error = run(in_mode(writer, "point", 1, 2))
    assert "did not begin" in str(error) and "not asked again" in str(error)


def test_stage_when_somebody_else_writes_then_it_is_refused_and_left_alone(daq, writer, tmp_path):
    with started_by_somebody(daq, tmp_path):
        with pytest.raises(WriterNotReady, match="somebody else is writing: (waiting|recording)"):
            writer.stage()
        writer.unstage()
        assert daq.driver.shown in ("waiting_for_first_image", "recording")


def test_trigger_when_somebody_else_was_faster_then_it_is_told_and_left_alone(daq, writer, tmp_path):
    writer.stage()
    with started_by_somebody(daq, tmp_path):
        status = writer.trigger()
        with pytest.raises(WriterNotReady, match="somebody else is writing"):
            status.wait(60)
        writer.unstage()
        assert daq.driver.shown in ("waiting_for_first_image", "recording")


def test_point_when_somebody_stops_it_then_the_daq_is_quoted(daq, writer):
    daq.fail_next("stopped_by_other", after=5)
    _, error = run(in_mode(writer, "point", 1, 50))
    shown = "(stop|file_saved)"  # "stop" is over soon, and need not be seen
    assert re.search(f"of 50 frames came; the DAQ ended .* with '{shown}'", str(error))
    assert len(writer.unused.get().splitlines()) == 2, "the files of both writers belong to no point"


def test_point_when_somebody_else_starts_meanwhile_then_theirs_goes_on(daq, writer, wait_for):
    daq.fail_next("restarted_by_other", after=3)
    _, error = run(in_mode(writer, "point", 1, 1000))
    assert "of 1000 frames came" in str(error)
    wait_for(lambda: daq.driver.shown in ("waiting_for_first_image", "recording"), "the other acquisition")
    with pytest.raises(WriterNotReady, match="somebody else is writing"):
        writer.stage()
    StdDaqWriterSocket(daq.ws_url, daq.url).stop()


def test_point_when_the_files_cannot_be_created_then_it_fails_and_the_next_one_does_not(daq, writer):
    daq.fail_next("creation_error")
    _, error = run(in_mode(writer, "point", 1, 2))
    assert "the DAQ could not start" in str(error) and "'error'" in str(error)
    assert run(in_mode(writer, "point", 1, 2))[1] is None


def test_point_when_a_writer_is_dead_then_it_is_named_and_what_comes_late_is_stopped(
    daq, writer, monkeypatch, wait_for
):
    monkeypatch.setattr(_socket_control, "CREATION_LIMIT", 0.5)
    daq.fail_next("writer_dies")
    writer.frames_per_trigger.put(10_000)
    _, error = run(bp.count([writer], 1))
    assert "one of its writers does not answer, and will write it when it is back" in str(error)
    daq.restart_writer()
    wait_for(lambda: daq.driver.shown == "recording", "the acquisition that is carried out late")
    monkeypatch.setattr(_socket_control, "CREATION_LIMIT", 60.0)
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)


def test_point_when_a_writer_dies_then_it_is_said_who_must_help(daq, writer, monkeypatch, caplog):
    monkeypatch.setattr(std_daq_socket, "STOP_TIMEOUT", 0.5)
    writer.timeout.put(3.0)
    daq.fail_next("dies_writing", after=3)
    _, error = run(in_mode(writer, "point", 1, 50))
    assert "frames came; no image written" in str(error) and "the DAQ team must restart it" in str(error)
    monkeypatch.setattr(_control, "REACTION", 0.1)
    writer.unstage()
    assert "while it was unstaged: writer: the writer did not become idle: 'stop'" in caplog.text
    daq.restart_driver()


def test_point_when_a_writer_dies_then_the_stop_is_waited_for_only_while_the_daq_reacts(
    daq, writer, monkeypatch, caplog
):
    monkeypatch.setattr(_control, "REACTION", 0.2)
    monkeypatch.setattr(std_daq_socket, "STOP_TIMEOUT", math.inf)
    writer.timeout.put(3.0)
    daq.fail_next("dies_writing", after=3)
    _, error = run(in_mode(writer, "point", 1, 50))
    assert "its stop was not answered within 0.2 s: it may be dead" in str(error)
    assert "the DAQ team must restart it" in str(error)
    daq.restart_driver()
    daq.restart_writer()
    writer.unstage()


@pytest.mark.parametrize("verb", ["stop", "pause", "unstage"])
def test_start_when_it_hangs_and_is_given_up_then_it_ends_and_is_stopped_once_it_begins(
    daq, writer, monkeypatch, wait_for, caplog, verb
):
    monkeypatch.setattr(_control, "REACTION", 0.1)
    monkeypatch.setattr(_socket_control, "CREATION_LIMIT", math.inf)
    monkeypatch.setattr(std_daq_socket, "STOP_TIMEOUT", math.inf)
    writer.frames_per_trigger.put(10_000)
    writer.stage()
    daq.fail_next("writer_dies")
    status = writer.trigger()
    wait_for(lambda: daq.driver.shown == "creating_file", "the start")
    with contextlib.suppress(WriterNotReady):
        getattr(writer, verb)()
    assert status.done, "what hangs is given up without waiting for its end"
    assert "the writer did not become idle" in caplog.text
    with contextlib.suppress(WriterNotReady):
        writer.unstage()
    daq.restart_writer()
    wait_for(writer.source.control._aside_is_over.is_set, "the stop of what comes late")
    assert daq.driver.shown == "idle"
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)


def test_run_mode_when_a_stop_takes_its_time_then_it_is_waited_for(daq, writer, monkeypatch):
    monkeypatch.setattr(_control, "REACTION", 0.0)
    daq.fail_next("slow_saving", seconds=0.3)
    writer.frames_per_trigger.put(1)
    writer.mode.put("run")
    writer.n_points.put(10_000)
    documents, error = run(bp.count([writer], 2))
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 2
    assert daq.driver.shown == "idle"


def test_point_when_the_driver_dies_then_the_daq_is_gone(daq, writer, monkeypatch):
    monkeypatch.setattr(std_daq_socket, "AWAY_LIMIT", 0.1)
    monkeypatch.setattr(_control, "AWAY_LIMIT", 0.1)
    daq.fail_next("driver_dies_writing", after=3)
    _, error = run(in_mode(writer, "point", 1, 50))
    assert "the DAQ is gone while" in str(error)


@pytest.fixture
def any_absence_is_short(monkeypatch):
    """However long a busy machine takes for a new connection, the DAQ is not taken for gone."""
    monkeypatch.setattr(std_daq_socket, "AWAY_LIMIT", 60.0)
    monkeypatch.setattr(_control, "AWAY_LIMIT", 60.0)


@pytest.mark.usefixtures("any_absence_is_short")
def test_run_mode_when_the_connection_breaks_then_the_file_goes_on(daq, writer, caplog):
    writer.frames_per_trigger.put(2)
    writer.mode.put("run")
    writer.n_points.put(4)

    def cut(name, doc):
        if name == "event" and doc["seq_num"] == 2:
            writer.client._pushes._connection.socket.shutdown(socket.SHUT_RDWR)

    documents, error = run(bp.count([writer], 4), cut)
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 8
    assert "connected to the DAQ again" in caplog.text


@pytest.mark.usefixtures("any_absence_is_short")
@pytest.mark.parametrize("mode", ["point", "run"])
def test_file_when_another_one_is_recorded_while_we_were_away_then_that_is_known_and_left_alone(
    daq, writer, tmp_path, mode
):
    """Nothing that the driver says tells: it records, and its count goes on from ours."""
    show, others = writer.source.control._on_status, contextlib.ExitStack()

    def shown(writing):
        show(writing)
        if writing.n_completed >= 6 and not told:
            told.append(writing)
            daq.restart_driver()
            other = others.enter_context(started_by_somebody(daq, tmp_path))
            while json.loads(other.recv()).get("count", 0) < writing.n_completed + 20:
                pass

    told = []
    writer.source.control._on_status = shown
    with others:
        documents, error = run(in_mode(writer, mode, 1, 1000))
        assert re.search(r"\d of 1000 frames came.* an acquisition of somebody else since", str(error))
        assert daq.driver.shown == "recording"
        with pytest.raises(WriterNotReady, match="somebody else is writing: recording"):
            writer.stage()


@pytest.mark.parametrize(
    ("mode", "k"), [*(("point", k) for k in range(9)), *(("fly", k) for k in range(1, 9, 3))]
)
def test_stop_when_it_comes_at_any_message_then_the_daq_is_left_idle(daq, writer, wait_for, mode, k):
    writer.frames_per_trigger.put(4)
    writer.stage()
    seen, show = [], writer.source.control._on_status

    def shown(writing):
        show(writing)
        if not seen or seen[-1] != writing.words:
            seen.append(writing.words)

    writer.source.control._on_status = shown
    if mode == "fly":
        writer.prepare(1).wait(60)
        writer.kickoff()
        status = writer.complete()
    else:
        status = writer.trigger()
    wait_for(lambda: len(seen) > k or status.done, "the message")
    writer.stop()
    writer.stop()
    writer.unstage()
    wait_for(lambda: status.done, "the end")
    assert daq.driver.shown == "idle"
    assert not [path for path in writer.directory.glob("*") if path.stat().st_size == 0], "no empty name left"


def test_stop_when_the_driver_forgets_it_then_it_is_repeated(daq, writer, wait_for):
    daq.fail_next("lost_stop")
    writer.frames_per_trigger.put(10_000)
    writer.stage()
    status = writer.trigger()
    wait_for(lambda: daq.driver.shown in ("waiting_for_first_image", "recording"), "the start")
    writer.unstage()
    wait_for(lambda: status.done, "the end")
    assert daq.driver.shown == "idle"


def test_start_when_it_is_rejected_after_states_of_somebody_else_then_it_is_known_to_be_theirs(wait_for):
    """Two starts within milliseconds: what is pushed first is of the other one."""
    asked, told = threading.Event(), []

    def driver(connection):
        connection.send(json.dumps({"status": "idle"}))
        command = json.loads(connection.recv())
        connection.send(json.dumps({"status": "waiting_for_first_image"}))
        asked.wait(120)
        connection.send(json.dumps({"status": "rejected", "reason": "driver is busy!"}))
        told.extend([command, *connection])

    with serve(driver, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = StdDaqWriterSocket(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        control = SocketControl("writer", client, "websocket", lambda writing: None)
        control._config = DaqConfig("x", "eiger", 16, 8, 16, 1, 0, 0, raw={"number_of_writers": 1})
        request = WriteRequest("/data/x.h5", 5, 1)
        control.start(request, threading.Event(), lambda: False)
        looks = control.watch(request, threading.Event(), 30.0)
        assert next(looks).state == "waiting for images"
        asked.set()
        with pytest.raises(DoubleStart, match="somebody else started at the same moment"):
            list(looks)
        control.leave_ready()
        control.close()
        wait_for(lambda: told, "the end of the session")
        server.shutdown()
        thread.join()
    assert [command["command"] for command in told] == ["start"], "theirs is not stopped"


def test_files_when_there_is_none_though_its_folder_is_then_it_is_said_so(tmp_path, monkeypatch):
    """As after an error that another session was told."""
    monkeypatch.setattr(
        _daq_file, "count_std_daq_images", partial(_daq_file.count_std_daq_images, timeout=0.0)
    )
    config, asked = DaqConfig("x", "eiger", 16, 8, 16, 1, 0, 0), str(tmp_path / "a.h5")
    file = DaqFile("w", WriteRequest(asked, 4, 1), data_files(asked, "x", 2), str, config, None, grows=False)
    ended = Writing(WritingState.INTERRUPTED, "idle", is_exact=False)
    with pytest.raises(DetectorStateError, match="a_0.h5 cannot be read here.*the DAQ did not make the file"):
        file.check_count(ended, 4)
