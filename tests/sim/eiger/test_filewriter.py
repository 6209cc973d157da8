"""The filewriter's files: there when they must be, with the frames the monitor gave."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import requests

from sfdaq_ophyd.sim.eiger import filewriter
from sfdaq_ophyd.sim.stamp import read_stamp

from .conftest import arm, images, take


@pytest.fixture
def fetch(rest, tmp_path):
    """Fetch a file, and return its path."""

    def get(name):
        reply = requests.get(f"{rest.part.url}/data/{name}", timeout=60)
        assert reply.status_code == 200, reply.text
        (tmp_path / name).write_bytes(reply.content)
        return tmp_path / name

    return get


def head(rest, name):
    return requests.head(f"{rest.part.url}/data/{name}", timeout=60)


def enable(rest, **config):
    rest.set("filewriter/config/mode", "enabled")
    for name, value in config.items():
        rest.set(f"filewriter/config/{name}", value)


def files(rest):
    names = rest.get("filewriter/files/").json()
    assert names == rest.get("filewriter/files").json() == rest.value("filewriter/status/files")
    return names


def test_files_when_enabled_then_master_at_arm_data_when_full_and_the_last_at_the_end(rest):
    """sim-simplon-commands: a filewriter that is enabled has its files; ADEiger polls HEAD of the master."""
    enable(rest, nimages_per_file=4)
    series_id = arm(rest, nimages=6)
    name = f"series_{series_id}"
    assert files(rest) == [f"{name}_master.h5"]
    reply = head(rest, f"{name}_master.h5")
    assert reply.status_code == 200 and int(reply.headers["Content-Length"]) > 1000
    assert head(rest, f"{name}_data_000001.h5").status_code == 404
    rest.command("detector/command/trigger")
    assert files(rest) == [f"{name}_master.h5", f"{name}_data_000001.h5", f"{name}_data_000002.h5"]


@pytest.mark.parametrize("command", ["disarm", "initialize"])
def test_files_when_the_series_is_cut_short_then_the_last_comes_with_its_end(rest, command):
    enable(rest, nimages_per_file=4, name_pattern="mine")
    arm(rest, nimages=2, ntrigger=5)
    for _ in range(3):
        rest.command("detector/command/trigger")
    assert files(rest) == ["mine_master.h5", "mine_data_000001.h5"]
    rest.command(f"detector/command/{command}")
    assert files(rest) == ["mine_master.h5", "mine_data_000001.h5", "mine_data_000002.h5"]


def test_files_when_fetched_then_the_frames_of_the_monitor_behind_the_masters_links(rest, fetch):
    enable(rest, nimages_per_file=2)
    series_id = take(rest, nimages=3)
    seen = images(rest, 3)
    paths = [fetch(name) for name in files(rest)]
    with h5py.File(paths[0]) as master:
        stacks = [master[f"entry/data/data_{i:06d}"] for i in (1, 2)]
        taken = np.concatenate([stack[:] for stack in stacks])
        assert [stack.attrs["image_nr_low"] for stack in stacks] == [1, 3]
        assert [stack.attrs["image_nr_high"] for stack in stacks] == [2, 3]
        detector = master["entry/instrument/detector"]
        assert detector["count_time"][()] == rest.value("detector/config/count_time")
        assert detector["detectorSpecific/pixel_mask"].shape == taken.shape[1:]
    assert len(taken) == 3
    for k, (image, frame) in enumerate(zip(taken, seen)):
        assert np.array_equal(image, frame.image)
        assert read_stamp(image) == rest.part.stamp_of(series_id, k)


@pytest.mark.parametrize("compressed", [True, False])
def test_files_when_of_the_newer_format_then_one_virtual_dataset_with_channels(rest, fetch, compressed):
    enable(rest, nimages_per_file=2, format="hdf5 nexus v2024.2 nxmx", compression_enabled=compressed)
    rest.set("detector/config/threshold/2/mode", "enabled")
    take(rest, nimages=3)
    paths = [fetch(name) for name in files(rest)]
    with h5py.File(paths[0]) as master:
        data, detector = master["entry/data/data"], master["entry/instrument/detector"]
        assert data.shape[:2] == (3, 2) and np.array_equal(data[2, 0], data[2, 1])
        assert master["entry/data/image_id"][:].tolist() == [1, 2, 3]
        assert (np.diff(master["entry/data/start_time"][:]) > 0).all()
        channels = [name.decode() for name in master["entry/data/channel"][:]]
        energies = [detector[f"{channel}_channel/threshold_energy"][()] for channel in channels]
        assert channels == ["threshold_1", "threshold_2"] and energies[0] < energies[1]
        assert read_stamp(data[2, 0]) == rest.part.stamp_of(1, 2)


def test_files_when_none_per_file_then_all_are_in_the_master(rest, fetch):
    enable(rest, nimages_per_file=0)
    take(rest, nimages=3)
    (name,) = files(rest)
    with h5py.File(fetch(name)) as master:
        assert len(master["entry/data/data"]) == 3


def test_files_when_deleted_cleared_or_restarted_then_gone(rest):
    enable(rest, nimages_per_file=1)
    take(rest, nimages=2)
    name = files(rest)[1]
    url = f"{rest.part.url}/data/{name}"
    assert requests.delete(url, timeout=60).status_code == 204
    assert requests.delete(url, timeout=60).status_code == requests.get(url, timeout=60).status_code == 404
    assert len(files(rest)) == 2
    rest.command("filewriter/command/clear")
    assert files(rest) == []
    arm(rest)
    rest.part.restart()
    assert files(rest) == [] and rest.value("filewriter/config/mode") == "disabled"


def test_files_when_disabled_or_initialized_then_none_of_the_next_series(rest):
    arm(rest)
    assert files(rest) == []
    enable(rest, name_pattern="x")
    rest.command("filewriter/command/initialize")
    assert rest.value("filewriter/config/name_pattern") == "series_$id"
    arm(rest)
    assert files(rest) == []


def test_files_when_there_are_many_series_then_those_of_the_last_are_kept(rest):
    enable(rest)
    ids = [arm(rest) for _ in range(filewriter.MOST_SERIES + 2)]
    assert files(rest) == [f"series_{n}_master.h5" for n in ids[2:]]


def test_files_when_images_are_large_then_fewer_in_each(rest, monkeypatch):
    monkeypatch.setattr(filewriter, "MOST_BYTES", 2 * 32 * 48 * 2 + 1)
    enable(rest)
    take(rest, nimages=5)
    assert len(files(rest)) == 1 + 3


def test_files_when_a_part_is_asked_for_then_that_part_and_the_size_of_the_whole(rest):
    enable(rest)
    url = f"{rest.part.url}/data/series_{arm(rest)}_master.h5"
    whole = requests.get(url, timeout=60).content
    reply = requests.get(url, headers={"Range": "bytes=100-"}, timeout=60)
    assert reply.status_code == 206 and reply.content == whole[100:]
    assert reply.headers["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    beyond = requests.get(url, headers={"Range": f"bytes={len(whole)}-"}, timeout=60)
    assert beyond.status_code == 416 and beyond.headers["Content-Range"] == f"bytes */{len(whole)}"
    rest.part.fail_next("no_range")
    assert requests.get(url, headers={"Range": "bytes=100-"}, timeout=60).content == whole


def test_files_when_they_fail_then_cut_short_or_without_an_image_as_told(rest, fetch):
    enable(rest)
    arm(rest, nimages=3)
    rest.part.fail_next("lost_in_file")
    rest.command("detector/command/trigger")
    name = files(rest)[1]
    size = int(head(rest, name).headers["Content-Length"])
    rest.part.fail_next("short_file", keep=99)
    assert len(requests.get(f"{rest.part.url}/data/{name}", timeout=60).content) == 99
    rest.part.fail_next("cut_file")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{rest.part.url}/data/{name}", timeout=60)
    path = fetch(name)
    with h5py.File(path) as file:
        assert len(file["entry/data/data"]) == 2 and path.stat().st_size == size


def test_files_when_images_come_then_there_is_less_room_until_they_are_deleted(rest):
    enable(rest, nimages_per_file=2)
    free = [rest.value("filewriter/status/buffer_free")]
    take(rest, nimages=2)
    free.append(rest.value("filewriter/status/buffer_free"))
    requests.delete(f"{rest.part.url}/data/{files(rest)[1]}", timeout=60)
    free.append(rest.value("filewriter/status/buffer_free"))
    assert free[0] == free[2] == free[1] + 2 * 32 * 48 * 2
