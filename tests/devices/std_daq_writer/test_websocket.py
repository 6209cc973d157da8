"""The standard DAQ of 2025: control by websocket, one file per writer, one array per run."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from sfdaq_ophyd.clients import (
    StdDaqOtherGeneration,
    StdDaqRefused,
    StdDaqTimeout,
    StdDaqUnknownOutcome,
    std_daq_socket,
)
from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.errors import DetectorStateError, RequestError
from sfdaq_ophyd.sim.stamp import read_stamp

from ...http_peer import forward, serving
from ...std_daq import simulated_websocket_daq
from .documents import (
    ids_of,
    images_of,
    in_mode,
    path_of,
    run,
    websocket_device,
)
from .test_catalog import check, ran


@pytest.fixture
def daq(websocket_daq):
    return websocket_daq


@pytest.fixture
def writer(websocket_writer):
    return websocket_writer


@pytest.fixture(scope="module", params=[1, 5])
def daq_of_writers(request):
    """A DAQ with so many writers; that of the other tests has two."""
    with simulated_websocket_daq(n_writers=request.param) as daq:
        yield daq


def test_scan_when_there_are_several_writers_then_every_image_is_in_its_place(daq_of_writers, tmp_path):
    writer = websocket_device(daq_of_writers, tmp_path)
    for mode in ("point", "run", "fly"):
        for frames_per_point in (1, 3):
            documents, error = run(in_mode(writer, mode, 3, frames_per_point))
            assert error is None
            stamps = images_of(documents)
            assert stamps == ids_of(documents) and len(set(stamps)) == 3 * frames_per_point, mode
    assert not list(writer.directory.glob("*.h5.*")), "nothing half is left"


def test_point_when_it_is_a_single_image_then_the_file_that_is_named_has_no_padding(daq_of_writers, tmp_path):
    """The DAQ's own file of it has a whole chunk of images."""
    documents, error = run(in_mode(websocket_device(daq_of_writers, tmp_path), "point", 2, 1))
    assert error is None
    for resource in documents["stream_resource"]:
        path = Path(path_of(resource))
        with h5py.File(path) as file, h5py.File(path.with_name(f"{path.stem}_0.h5")) as theirs:
            assert len(file[resource["parameters"]["dataset"]]) == 1
            assert len(theirs[resource["parameters"]["dataset"]]) > 1


@pytest.mark.parametrize("frames_per_point", [1, 3])
def test_point_of_one_writer_when_no_file_can_be_made_beside_its_own_then_it_is_taken_all_the_same(
    tmp_path, monkeypatch, caplog, frames_per_point
):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "not yours")

    caplog.set_level("INFO")
    with simulated_websocket_daq(n_writers=1) as daq:
        writer = websocket_device(daq, tmp_path)
        monkeypatch.setattr(Path, "touch", refuse)
        documents, error = run(in_mode(writer, "point", 1, frames_per_point))
    assert error is None
    (resource,) = documents["stream_resource"]
    assert path_of(resource).endswith("_0.h5")
    assert len(images_of(documents)) == frames_per_point
    assert ("no file can be made beside" in caplog.text) == (frames_per_point == 1)


def test_point_when_it_is_several_images_of_one_writer_then_the_daq_s_own_file_is_named(tmp_path):
    with simulated_websocket_daq(n_writers=1) as daq:
        documents, error = run(in_mode(websocket_device(daq, tmp_path), "point", 1, 3))
    assert error is None
    assert path_of(documents["stream_resource"][0]).endswith("_0.h5")


def test_file_that_grows_of_one_writer_when_none_can_be_made_beside_it_then_the_message_is_of_one_file(
    tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "not yours")

    with simulated_websocket_daq(n_writers=1) as daq:
        monkeypatch.setattr(Path, "touch", refuse)
        _, error = run(in_mode(websocket_device(daq, tmp_path), "run", 2, 1))
    assert "which has the ids of the images in" in str(error) and "cannot be made here" in str(error)


def test_catalog_when_there_are_several_writers_then_a_run_is_one_array(daq_of_writers, catalog, tmp_path):
    writer = websocket_device(daq_of_writers, tmp_path)
    for mode in ("run", "fly"):
        check(ran(catalog, in_mode(writer, mode, 4, 2)), 4, 2)
    stream = ran(catalog, in_mode(writer, "point", 3, 2))["primary"]
    images, ids = stream["writer_image"].read(), stream["writer_event_id"].read()
    assert images.shape[:2] == (3, 2)
    assert [str(read_stamp(image)) for point in images for image in point] == [
        str(one) for point in ids for one in point
    ]


def test_scan_when_the_daq_joined_the_files_itself_then_its_file_is_not_used(daq, writer):
    documents, error = run(in_mode(writer, "run", 2, 2))
    joined = writer.directory / "interleaved.h5"
    with h5py.File(joined, "w") as file:
        file["interleaved_data"] = [0]
    documents, error = run(in_mode(writer, "run", 2, 2))
    assert error is None and images_of(documents) == ids_of(documents)
    assert {path_of(doc) for doc in documents["stream_resource"]} == {writer.file.get()} != {str(joined)}


@pytest.mark.parametrize("mode", ["run", "fly"])
def test_file_that_grows_when_it_was_never_seen_to_take_images_then_it_is_registered_all_the_same(
    daq, writer, mode
):
    for state in ("waiting_for_first_image", "recording", "saving_file", "file_saved"):
        daq.fail_next("missed_state", state=state)
    documents, error = run(in_mode(writer, mode, 2, 2))
    assert error is None and images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 4


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


def test_dialect_when_only_the_address_of_the_configuration_is_known_then_it_is_found(
    daq, tmp_path, monkeypatch
):
    monkeypatch.setattr(std_daq_socket, "CONTROL_PORT", int(daq.ws_url.rpartition(":")[2]))
    writer = StdDaqWriter(daq.url, name="writer", directory=tmp_path / "raw")
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)
    assert writer.client.dialect == "websocket"


@pytest.fixture
def replaceable(flask_daq, daq, monkeypatch):
    """An address behind which now one DAQ is, now the other: the last one of a list."""
    monkeypatch.setattr(std_daq_socket, "CONTROL_PORT", int(daq.ws_url.rpartition(":")[2]))
    there = [flask_daq]
    with serving(lambda handler: forward(handler, there[-1].url)) as url:
        yield url, there


def test_stage_when_the_daq_was_replaced_by_another_generation_then_it_goes_on_with_that(
    daq, flask_daq, replaceable, tmp_path, caplog
):
    url, there = replaceable
    writer = StdDaqWriter(url, name="writer", directory=tmp_path / "raw")
    for each in (flask_daq, daq, flask_daq):
        there.append(each)
        documents, error = run(in_mode(writer, "point", 1, 2))
        assert error is None and images_of(documents) == ids_of(documents)
        assert writer.client.dialect == each.settings.dialect
    assert f"the DAQ at {url} is of generation 'websocket' now" in caplog.text


def test_point_when_the_daq_is_replaced_meanwhile_then_that_is_named(
    daq, flask_daq, replaceable, tmp_path, wait_for
):
    url, there = replaceable
    writer = StdDaqWriter(url, name="writer", directory=tmp_path / "raw")
    writer.frames_per_trigger.put(10_000)
    writer.stage()
    status = writer.trigger()
    wait_for(lambda: writer.n_completed.get() > 0, "images")
    there.append(daq)
    wait_for(lambda: status.done, "the end")
    assert "here is a standard DAQ of generation 'websocket', with control by websocket" in str(status)
    there.append(flask_daq)
    writer.unstage()
    assert flask_daq.service.status()["state"] == "READY"


def test_stage_when_the_daq_is_not_of_the_generation_that_was_told_then_it_is_refused_by_name(
    daq, flask_daq, tmp_path
):
    for address, there in (
        ({"url": daq.url, "dialect": "fastapi"}, "websocket"),
        ({"url": daq.ws_url, "config_url": flask_daq.url}, "flask"),
    ):
        writer = StdDaqWriter(**address, name="writer", directory=tmp_path)
        with pytest.raises(StdDaqOtherGeneration, match=f"here is a standard DAQ of generation '{there}'"):
            writer.stage()
        writer.unstage()


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


@pytest.mark.parametrize(
    ("fault", "path", "words"),
    [
        ("secondary_down", {}, "not on all servers"),
        ("lost_reply", {"path": "/api/config/set"}, "of the others nobody knows"),
    ],
)
def test_config_when_a_server_missed_it_or_may_have_then_every_stage_says_so_until_it_is_given_again(
    daq, writer, tmp_path, caplog, wait_for, monkeypatch, fault, path, words
):
    port = daq.config["start_udp_port"]
    daq.fail_next(fault, **path)
    with pytest.raises((StdDaqRefused, StdDaqUnknownOutcome), match=words):
        writer.daq_config.set({"start_udp_port": 2346}, timeout=60).wait(60)
    wait_for(lambda: daq.alive()["driver"], "the end of the restart")
    for device in (writer, websocket_device(daq, tmp_path)):  # also in the next session
        caplog.clear()
        device.stage()
        device.unstage()
        assert f"start_udp_port was left at 2346, not put back to {port}" in caplog.text
        assert words in caplog.text and "give either value to configure_daq" in caplog.text
    send, sent = writer.client._send_config, []
    monkeypatch.setattr(writer.client, "_send_config", lambda body: sent.append(body) or send(body))
    writer.daq_config.set({"start_udp_port": 2346}, timeout=60).wait(60)
    assert sent == [daq.config], "though it is stored like that"
    caplog.clear()
    writer.stage()
    writer.unstage()
    assert "start_udp_port" not in caplog.text
    writer.daq_config.set({"start_udp_port": port}, timeout=60).wait(60)


def test_config_when_the_driver_does_not_live_with_it_then_stage_says_what_is_left_to_do(daq, writer):
    n = daq.config["number_of_writers"]
    with pytest.raises(StdDaqTimeout, match="restart of the DAQ"):
        writer.daq_config.set({"number_of_writers": 999}, timeout=1.5).wait(60)
    with pytest.raises(
        DetectorStateError, match="refused.*number_of_writers was left at 999, not put back to"
    ):
        writer.stage()
    writer.daq_config.set({"number_of_writers": n}, timeout=60).wait(60)
    documents, error = run(in_mode(writer, "point", 1, 2))
    assert error is None and images_of(documents) == ids_of(documents)
