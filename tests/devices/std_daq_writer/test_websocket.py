"""The standard DAQ of 2025: control by websocket, one file per writer, and every trap of it by name."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import threading
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky import RunEngine
from tiled.client.utils import ClientError
from websockets.sync.client import connect
from websockets.sync.server import serve

from sfdaq_ophyd import setup
from sfdaq_ophyd.clients import StdDaqWriterSocket, std_daq_socket
from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _socket_control
from sfdaq_ophyd.devices.std_daq_writer._control import DoubleStart, WriterNotReady
from sfdaq_ophyd.devices.std_daq_writer._socket_control import SocketControl
from sfdaq_ophyd.errors import DetectorStateError, RequestError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.std_daq import WriteRequest
from sfdaq_ophyd.wire.std_daq_config import DaqConfig

from ...std_daq import simulated_websocket_daq
from .documents import data_of, events_of, images_of, path_of, rows_of, run
from .test_catalog import check, ran


@pytest.fixture(scope="module")
def daq():
    """A running DAQ with two writers."""
    with simulated_websocket_daq() as server:
        yield server


@pytest.fixture
def writer(daq, tmp_path, wait_for):
    """A writer of the DAQ, idle before and after; whatever a test did, all processes live."""
    device = made(daq, tmp_path)
    yield device
    try:
        device.unstage()
        device.unstage()
    finally:
        daq._faults.clear()
        daq.source.follow_clock()
        daq.restart_driver()  # first: a writer that is back dies of an image for the file that it had
        daq.restart_writer()


def made(daq, folder):
    device = StdDaqWriter(
        daq.ws_url, config_url=daq.url, name="writer", directory=folder / "raw", restart_time=1.0
    )
    device.timeout.put(30.0)
    return device


def in_mode(device, mode, n_points, frames_per_point):
    """Return a plan of points in a mode."""
    device.frames_per_trigger.put(frames_per_point)
    device.mode.put("run" if mode == "run" else "point")
    device.n_points.put(n_points)
    return fly([device], n_points) if mode == "fly" else bp.count([device], n_points)


def ids_of(documents):
    """Return frame numbers of all points, as text, out of the files where these grow."""
    if any(doc["data_key"] == "writer_image_id" for doc in documents["stream_resource"]):
        return [str(number) for number in data_of(documents, "writer_image_id")]
    ids = [event["writer_event_id"] for event in events_of(documents)]
    return [one for point in ids for one in (point if isinstance(point, list) else [point])]


@contextlib.contextmanager
def started_by_somebody(daq, folder, n_images=10_000):
    """Have another client start an acquisition, and stop it at the end."""
    command = {"command": "start", "path": str(folder), "file_prefix": "t", "n_image": n_images}
    with connect(daq.ws_url, proxy=None) as other:
        other.send(json.dumps(command))
        while json.loads(other.recv())["status"] not in ("waiting_for_first_image", "recording"):
            pass
        yield other
        other.send(json.dumps({"command": "stop"}))


@pytest.mark.parametrize("n_writers", [1, 2, 5])
def test_scan_when_there_are_several_writers_then_every_image_is_in_its_place(tmp_path, n_writers):
    with simulated_websocket_daq(n_writers=n_writers) as daq:
        writer = made(daq, tmp_path)
        for mode in ("point", "run", "fly"):
            for frames_per_point in (1, 3):
                documents, error = run(in_mode(writer, mode, 3, frames_per_point))
                assert error is None
                stamps = images_of(documents)
                assert stamps == ids_of(documents) and len(set(stamps)) == 3 * frames_per_point, mode
        assert not list(writer.directory.glob("*.h5.*")), "nothing half is left"


@pytest.mark.parametrize("n_writers", [1, 2, 5])
def test_catalog_when_there_are_several_writers_then_a_run_is_one_array(catalog, tmp_path, n_writers):
    with simulated_websocket_daq(n_writers=n_writers) as daq:
        writer = made(daq, tmp_path)
        for mode in ("run", "fly")[:n_writers]:
            check(ran(catalog, in_mode(writer, mode, 4, 2)), 4, 2)
        stream = ran(catalog, in_mode(writer, "point", 3, 2))["primary"]
        images, ids = stream["writer_image"].read(), stream["writer_event_id"].read()
        assert images.shape[:2] == (3, 2)
        assert [str(read_stamp(image)) for point in images for image in point] == [
            str(one) for point in ids for one in point
        ]


def test_catalog_when_a_file_still_grows_then_it_is_said_to_be_open(daq, writer, catalog, wait_for):
    writer.stage()
    engine = RunEngine(context_managers=[])
    setup(engine, catalog)

    @bpp.run_decorator()
    def plan():
        yield from bps.declare_stream(writer, name="primary", collect=True)
        yield from bps.prepare(writer, 10_000, wait=True)
        yield from bps.kickoff(writer, wait=True)
        wait_for(lambda: writer.n_ready >= 5, "points")
        yield from bps.collect(writer, name="primary")
        run = catalog[-1]
        wait_for(lambda: "primary" in run and "writer_image" in run["primary"], "the stream", timeout=60)
        with pytest.raises(ClientError, match="409: .*is not readable now: its writer has it open"):
            run["primary"]["writer_image"].read()
        writer.pause()

    (uid,) = engine(plan())
    stream = catalog[uid]["primary"]
    assert len(stream["writer_image"].read()) == len(stream["writer_image_id"].read()) >= 5


def test_scan_when_the_daq_joined_the_files_itself_then_its_file_is_not_used(daq, writer):
    documents, error = run(in_mode(writer, "run", 2, 2))
    joined = writer.directory / "interleaved.h5"
    with h5py.File(joined, "w") as file:
        file["interleaved_data"] = [0]
    documents, error = run(in_mode(writer, "run", 2, 2))
    assert error is None and images_of(documents) == ids_of(documents)
    assert {path_of(doc) for doc in documents["stream_resource"]} == {writer.file.get()} != {str(joined)}


@pytest.mark.parametrize(
    "state", ["creating_file", "waiting_for_first_image", "recording", "saving_file", "file_saved"]
)
def test_point_when_a_state_is_never_shown_then_the_files_tell_that_it_is_whole(daq, writer, state):
    daq.fail_next("missed_state", state=state)
    documents, error = run(in_mode(writer, "point", 2, 5))
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 10


@pytest.mark.parametrize("mode", ["run", "fly"])
def test_file_that_grows_when_it_was_never_seen_to_take_images_then_it_is_registered_all_the_same(
    daq, writer, mode
):
    for state in ("waiting_for_first_image", "recording", "saving_file", "file_saved"):
        daq.fail_next("missed_state", state=state)
    documents, error = run(in_mode(writer, mode, 2, 2))
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 4


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
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)


def test_point_when_a_writer_dies_then_it_is_said_who_must_help(daq, writer, monkeypatch, caplog):
    monkeypatch.setattr(std_daq_socket, "STOP_TIMEOUT", 0.5)
    writer.timeout.put(1.0)
    daq.fail_next("dies_writing", after=3)
    _, error = run(in_mode(writer, "point", 1, 50))
    assert "frames came; no image written" in str(error) and "the DAQ team must restart it" in str(error)
    monkeypatch.setattr(_socket_control, "REACTION", 0.1)
    writer.unstage()
    assert "while it was unstaged: writer: the writer did not become idle: 'stop'" in caplog.text
    daq.restart_driver()


@pytest.mark.parametrize("verb", ["stop", "pause", "unstage"])
def test_start_when_it_hangs_and_is_given_up_then_it_ends_and_is_stopped_once_it_begins(
    daq, writer, monkeypatch, wait_for, caplog, verb
):
    monkeypatch.setattr(_socket_control, "REACTION", 0.1)
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
    wait_for(lambda: not writer.source.control._rescue.is_alive(), "the stop of what comes late")
    assert daq.driver.shown == "idle"
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)


def test_point_when_the_driver_dies_then_the_daq_is_gone(daq, writer):
    daq.fail_next("driver_dies_writing", after=3)
    _, error = run(in_mode(writer, "point", 1, 50))
    assert "the DAQ is gone while" in str(error)


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


def test_point_when_images_stall_then_it_is_taken_again(daq, writer):
    writer.timeout.put(1.0)
    writer.loss_policy.put("retake")
    daq.fail_next("stall", after=2)
    documents, error = run(in_mode(writer, "point", 2, 4))
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 8


def test_fly_when_images_are_retaken_then_a_second_file_goes_on(daq, writer):
    writer.timeout.put(1.0)
    writer.loss_policy.put("retake")
    daq.fail_next("stall", after=7)
    documents, error = run(in_mode(writer, "fly", 20, 1))
    assert error is None and rows_of(documents)[-1][1] == 13
    ids = ids_of(documents)
    assert images_of(documents) == ids and len(set(ids)) == 20


def test_run_mode_when_packets_are_missing_then_the_status_has_the_codes_of_all_generations(daq, writer):
    daq.fail_next("bad_frames", n=2, status=1)
    documents, error = run(in_mode(writer, "run", 3, 1))
    assert error is None
    assert [int(status) for status in data_of(documents, "writer_image_status")] == [1, 1, 0]


def test_run_mode_when_an_event_is_dropped_then_the_next_point_begins_another_file(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(10_000)

    @bpp.stage_decorator([writer])
    @bpp.run_decorator()
    def plan():
        for keep in (True, False, True):
            yield from bps.trigger(writer, wait=True)
            yield from bps.create("primary")
            yield from bps.read(writer)
            yield from (bps.save() if keep else bps.drop())

    documents, error = run(plan())
    assert error is None and rows_of(documents) == [(0, 1), (0, 1)]
    assert images_of(documents) == ids_of(documents)


def test_name_when_any_file_of_it_exists_then_another_one_is_taken(daq, writer):
    writer._template = "scan.h5"
    writer.directory.mkdir()
    for name in ("scan_0.h5", "scan_1_Meta.h5"):
        (writer.directory / name).write_bytes(b"precious")
    documents, error = run(in_mode(writer, "point", 2, 2))
    assert error is None
    assert [Path(path_of(doc)).name for doc in documents["stream_resource"]] == ["scan_2.h5", "scan_3.h5"]
    assert (writer.directory / "scan_0.h5").read_bytes() == b"precious"


def test_start_when_a_file_appeared_meanwhile_then_nothing_is_overwritten(daq, writer, monkeypatch):
    writer.stage()
    start = writer.source.control.files

    def files(request):
        found = start(request)
        Path(found[1].path).write_bytes(b"precious")
        return found

    monkeypatch.setattr(writer.source.control, "files", files)
    status = writer.trigger()
    with pytest.raises(DetectorStateError, match="exists, and the DAQ would overwrite it"):
        status.wait(60)
    assert daq.driver.shown == "idle"


def test_start_when_several_files_cannot_be_joined_here_then_nothing_is_started(daq, tmp_path):
    writer = StdDaqWriter(daq.ws_url, config_url=daq.url, name="writer", directory="/nosuch/folder")
    writer.stage()
    with pytest.raises(DetectorStateError, match="which joins them, cannot be made here"):
        writer.trigger().wait(60)
    assert daq.driver.shown == "idle"
    writer.unstage()


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


def test_dialect_when_only_the_address_of_the_configuration_is_known_then_it_is_found(
    daq, tmp_path, monkeypatch
):
    monkeypatch.setattr(std_daq_socket, "CONTROL_PORT", int(daq.ws_url.rpartition(":")[2]))
    writer = StdDaqWriter(daq.url, name="writer", directory=tmp_path / "raw")
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)
    assert writer.client.dialect == "websocket"


def test_stage_when_an_image_is_larger_than_a_block_then_it_is_refused(daq, writer, monkeypatch):
    config = {**daq.config, "gpfs_block_size": 100}
    monkeypatch.setattr(writer.client, "get_config", lambda: config)
    with pytest.raises(DetectorStateError, match="256 bytes cannot be written: the DAQ takes 100"):
        writer.stage()


def test_config_when_a_key_is_changed_then_all_others_are_sent_too_and_the_daq_is_back(writer, daq):
    before = dict(daq.config)
    writer.stage()
    with pytest.raises(RequestError, match="detector_name"):
        writer.client.set_config({"detector_name": "other"})
    writer.daq_config.set({"bit_depth": 8}, timeout=60).wait(60)
    assert daq.config == {**before, "bit_depth": 8} and writer.bit_depth.get() == 8
    writer.unstage()
    documents, error = run(in_mode(writer, "point", 1, 1))
    assert error is None
    writer.daq_config.set({"bit_depth": 16}, timeout=60).wait(60)
    assert daq.config == before


def test_start_when_it_is_rejected_after_states_of_somebody_else_then_it_is_known_to_be_theirs(wait_for):
    """Two starts within milliseconds: what is pushed first is of the other one."""
    asked, told = threading.Event(), []

    def driver(connection):
        connection.send(json.dumps({"status": "idle"}))
        command = json.loads(connection.recv())
        connection.send(json.dumps({"status": "waiting_for_first_image"}))
        asked.wait(30)
        connection.send(json.dumps({"status": "rejected", "reason": "driver is busy!"}))
        told.extend([command, *connection])

    with serve(driver, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = StdDaqWriterSocket(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        control = SocketControl("writer", client, lambda writing: None)
        control._config = DaqConfig("x", "eiger", 16, 8, 16, 1, 0, 0, raw={"number_of_writers": 1})
        request = WriteRequest("/data/x.h5", 5, 1)
        control.start(request, threading.Event())
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
