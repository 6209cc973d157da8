"""The files have the recorded layout, and are locked while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import requests

from ...std_daq import simulated_daq

RECORDED = Path(__file__).parents[2] / "data" / "std_daq" / "files"


def write(server, path, n, wait_for, **more):
    body = {"output_file": str(path), "n_images": n, **more}
    reply = requests.post(server.url + "/writer/write_async", json=body, timeout=10).json()
    assert reply["status"] == "ok", reply


@pytest.mark.parametrize("name", ["raw_completed_10.json", "raw_gap_and_bad_frames.json"])
def test_layout_when_a_file_is_written_then_it_is_the_recorded_one(name, tmp_path, wait_for):
    recorded = json.loads((RECORDED / name).read_text())
    n = recorded["datasets"]["data"]["shape"][0]
    detector = recorded["root_keys"][0]
    with simulated_daq(running=False, image_shape=(256, 512), detector_name=detector) as server:
        server.service.stop()
        write(server, tmp_path / "x.h5", n, wait_for)
        if "status" in recorded and any(recorded["status"]):
            server.fail_next("gap", n=3)
            server.fail_next("bad_frames", n=n + 3, status=2)
        server.service.source.burst(n + 3, rate=500.0)
        wait_for(lambda: server.service.status()["state"] == "READY", "end")
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file) == recorded["root_keys"]
        for key, wanted in recorded["datasets"].items():
            dataset = file[detector][key]
            assert list(dataset.shape) == wanted["shape"]
            assert str(dataset.dtype) == wanted["dtype"]
            assert (list(dataset.chunks) if dataset.chunks else None) == wanted["chunks"]
            assert dict(dataset.attrs) == wanted["attrs"]
            assert list(dataset.maxshape) == wanted["maxshape"]
        ids = file[detector]["image_id"][:]
        if any(recorded["status"]):
            assert ids[1] - ids[0] == 4 and list(file[detector]["status"][:]) == [2] * n
        assert file[detector]["data"][3, 3, 100] == (3 + 100) % 4096 + ids[3] % 1000


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


def test_file_when_it_is_open_for_writing_then_nobody_can_read_it(tmp_path, wait_for):
    with simulated_daq(running=False) as server:
        server.service.stop()
        write(server, tmp_path / "x.h5", 5, wait_for)
        with pytest.raises(OSError):
            h5py.File(tmp_path / "x.h5", "r")
        server.service.stop()
        h5py.File(tmp_path / "x.h5", "r").close()


def test_file_when_a_reader_has_it_open_then_the_next_start_on_it_fails(tmp_path, wait_for):
    with simulated_daq() as server:
        server.service.stop()
        write(server, tmp_path / "x.h5", 2, wait_for)
        wait_for(lambda: server.service.status()["state"] == "READY", "end")
        with h5py.File(tmp_path / "x.h5", "r"):
            body = {"output_file": str(tmp_path / "x.h5"), "n_images": 2}
            reply = requests.post(server.url + "/writer/write_async", json=body, timeout=10).json()
        assert reply == {"status": "error", "message": "ERROR: Cannot create output file."}


def test_file_when_the_writer_is_killed_then_it_cannot_be_read(tmp_path, wait_for):
    with simulated_daq() as server:
        server.service.stop()
        server.fail_next("dies_writing", after=3)
        write(server, tmp_path / "x.h5", 5000, wait_for)
        wait_for(lambda: not server.service.writer.alive, "death")
        with pytest.raises(OSError):
            h5py.File(tmp_path / "x.h5", "r")


def test_facility_when_it_has_a_jungfrau_then_files_hold_the_frames_of_its_scene(tmp_path, wait_for):
    from sfdaq_ophyd.sim import Facility
    from sfdaq_ophyd.sim.stamp import read_stamp

    with Facility(only=["jungfrau", "std_daq"], jungfrau_name="JF01T01V01") as facility:
        part = facility.std_daq
        requests.post(part.url + "/writer/stop", timeout=10)
        body = {"output_file": str(tmp_path / "x.h5"), "n_images": 3}
        reply = requests.post(part.url + "/writer/write_sync", json=body, timeout=70).json()
        assert reply["status"] == "ok", reply
        with h5py.File(tmp_path / "x.h5") as file:
            group = file["JF01T01V01"]
            for image_id, frame in zip(group["image_id"][:], group["data"]):
                pulse_id = read_stamp(frame)
                assert pulse_id - facility.clock.start_pulse_id + 1 == image_id
                assert (frame == facility.jungfrau.scene.raw(pulse_id)).all()
