"""The files have the recorded layout, and are locked while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filter of compressed files
import pytest
import requests

from sfdaq_ophyd.sim.std_daq.image_source import Image

from ...std_daq import simulated_daq

RECORDED = Path(__file__).parents[2] / "data" / "std_daq"


def write(server, path, n, wait_for, **more):
    body = {"output_file": str(path), "n_images": n, **more}
    reply = requests.post(server.url + "/writer/write_async", json=body, timeout=60).json()
    assert reply["status"] == "ok", reply


def layouts(folder: Path) -> list[Path]:
    """Return the recorded layouts of this writer's files: one group of data, image_id and status."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and set(content.get("datasets", ())) == {"data", "image_id", "status"}:
            found.append(path)
    return found


def pytest_generate_tests(metafunc):
    if "layout" in metafunc.fixturenames:
        paths = layouts(metafunc.config.getoption("--recordings") or RECORDED)
        metafunc.parametrize("layout", paths, ids=[path.stem for path in paths])


def n_written(recorded: dict) -> int:
    """Return how many images were written: the ids of the others are zero."""
    shapes = {name: dataset["shape"][0] for name, dataset in recorded["datasets"].items()}
    if shapes["data"] < shapes["image_id"]:
        return shapes["data"]
    return max((i + 1 for i, image_id in enumerate(recorded["image_id"]) if image_id), default=0)


def test_layout_when_a_file_is_written_then_it_is_the_recorded_one(layout, tmp_path, wait_for):
    recorded = json.loads(layout.read_text())
    (detector,) = recorded["root_keys"]
    wanted = recorded["datasets"]
    n, count = wanted["image_id"]["shape"][0], n_written(recorded)
    shape, compressed = wanted["data"]["shape"][1:], "32008" in str(wanted["data"].get("filters"))
    with simulated_daq(
        running=False, image_shape=shape, detector_name=detector, compressed=compressed
    ) as server:
        service = server.service
        service.stop()
        write(server, tmp_path / "x.h5", n, wait_for)
        wait_for(lambda: service.source._accepting(), "images wanted")
        for image_id, status in list(zip(recorded["image_id"], recorded["status"]))[:count]:
            service.source._out(Image(image_id, image_id, status))
        wait_for(lambda: acknowledged(service) == count, "images written")
        if count < n:
            service.stop()
        wait_for(lambda: service.status()["state"] == "READY", "end")
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file) == recorded["root_keys"]
        assert dict(file.attrs) == recorded.get("root_attrs", {})
        assert dict(file[detector].attrs) == recorded.get("group_attrs", {})
        for key, dataset in file[detector].items():
            assert list(dataset.shape) == wanted[key]["shape"]
            assert list(dataset.maxshape) == wanted[key]["maxshape"]
            assert str(dataset.dtype) == wanted[key]["dtype"]
            assert (list(dataset.chunks) if dataset.chunks else None) == wanted[key]["chunks"]
            assert str(dataset._filters) == wanted[key]["filters"]
            assert dict(dataset.attrs) == wanted[key]["attrs"]
        assert file[detector]["image_id"][:].tolist() == recorded["image_id"]
        assert file[detector]["status"][:].tolist() == recorded["status"]
        for i in range(count):
            assert file[detector]["data"][i, 3, 100] == (3 + 100) % 4096 + recorded["image_id"][i] % 1000
    assert oct((tmp_path / "x.h5").stat().st_mode & 0o777) == recorded.get("mode", "0o644")


def acknowledged(service) -> int:
    acquisition = service.status()["acquisition"]
    return acquisition["stats"]["n_write_completed"]


def test_file_when_it_is_compressed_then_the_filter_is_bitshuffle_lz4(tmp_path, wait_for):
    with simulated_daq(compressed=True) as server:
        server.service.stop()
        write(server, tmp_path / "x.h5", 5, wait_for)
        wait_for(lambda: server.service.status()["state"] == "READY", "end")
    with h5py.File(tmp_path / "x.h5") as file:
        data = file["EG1M/data"]
        number, _, values, _ = data.id.get_create_plist().get_filter(0)
        assert (number, values) == (32008, (0, 4, 2, 0, 2))
        assert data[:].shape == (5, 8, 16)


@pytest.fixture(scope="module")
def server():
    """One for all that need no other settings; each stops what ran before."""
    with simulated_daq(servers=()) as server:
        yield server


def test_file_when_it_is_open_for_writing_then_nobody_can_read_it(server, tmp_path, wait_for):
    server.source.silence()
    server.service.stop()
    write(server, tmp_path / "x.h5", 5, wait_for)
    with pytest.raises(OSError):
        h5py.File(tmp_path / "x.h5", "r")
    server.service.stop()
    h5py.File(tmp_path / "x.h5", "r").close()


def test_file_when_a_reader_has_it_open_then_the_next_start_on_it_fails(server, tmp_path, wait_for):
    server.source.follow_clock()
    server.service.stop()
    write(server, tmp_path / "x.h5", 2, wait_for)
    wait_for(lambda: server.service.status()["state"] == "READY", "end")
    with h5py.File(tmp_path / "x.h5", "r"):
        body = {"output_file": str(tmp_path / "x.h5"), "n_images": 2}
        reply = requests.post(server.url + "/writer/write_async", json=body, timeout=60).json()
    assert reply == {"status": "error", "message": "ERROR: Cannot create output file."}


def test_file_when_the_writer_is_killed_then_it_cannot_be_read(server, tmp_path, wait_for):
    server.source.follow_clock()
    server.service.stop()
    server.fail_next("dies_writing", after=3)
    write(server, tmp_path / "x.h5", 5000, wait_for)
    wait_for(lambda: not server.service.writer.alive, "death")
    with pytest.raises(OSError):
        h5py.File(tmp_path / "x.h5", "r")
    server.restart_writer()


def test_facility_when_it_has_a_jungfrau_then_files_hold_the_frames_of_its_scene(tmp_path, wait_for):
    from sfdaq_ophyd.sim import Facility
    from sfdaq_ophyd.sim.stamp import read_stamp

    options = {"jungfrau_name": "JF01T01V01", "std_daq_writable": tmp_path}
    with Facility(speed="auto", only=["jungfrau", "std_daq"], **options) as facility:
        part = facility.std_daq
        requests.post(part.url + "/writer/stop", timeout=60)
        body = {"output_file": str(tmp_path / "x.h5"), "n_images": 3}
        reply = requests.post(part.url + "/writer/write_sync", json=body, timeout=70).json()
        assert reply["status"] == "ok", reply
        with h5py.File(tmp_path / "x.h5") as file:
            group = file["JF01T01V01"]
            for image_id, frame in zip(group["image_id"][:], group["data"]):
                pulse_id = read_stamp(frame)
                assert pulse_id - facility.clock.start_pulse_id + 1 == image_id
                assert (frame == facility.jungfrau.scene.raw(pulse_id)).all()
