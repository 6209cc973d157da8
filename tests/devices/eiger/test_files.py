"""The filewriter's own files as the images of a run: in order, whole, with what they tell."""

from __future__ import annotations

import errno
import threading
import time

import bluesky.plans as bp
import numpy as np
import pytest

from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.devices._source import Request
from sfdaq_ophyd.devices.eiger import _files
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.files.eiger_file import EigerDataFile
from sfdaq_ophyd.files.storage import refused
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..run_engine_driver import check_run, streams
from .conftest import SHAPE, stamp_of
from .files_bench import LEGACY, check_here, check_writer_as_found, run_of, take


def check_stamps(stream, n_points, frames_per_point=1, image="image"):
    ids = np.asarray(stream["eiger_event_id"].read()).reshape(-1)
    images = stream[f"eiger_{image}"].read()
    assert images.shape == (n_points, frames_per_point, *SHAPE)
    stamps = [read_stamp(one) for one in images.reshape(-1, *SHAPE)]
    assert stamps == [stamp_of(str(one)) for one in ids]
    assert np.asarray(stream["eiger_is_good"].read()).all()
    return [str(one) for one in ids]


def test_step_scan_when_read_back_then_each_point_is_one_file_of_one_series(
    part, make_writer, catalog, tmp_path
):
    eiger = make_writer()
    stream, documents = take(catalog, bp.count([eiger], 3))
    ids = check_stamps(stream, 3)
    series = {one.split("_")[0] for one in ids}
    assert len(series) == 1 and [one.split("_")[1] for one in ids] == ["0", "1", "2"]
    names = sorted(path.name for path in (tmp_path / "here").glob("*.h5"))
    assert [name.split("_", 4)[4] for name in names] == [
        f"{ids[0].split('_')[0]}_{what}.h5"
        for what in ("data_000001", "data_000002", "data_000003", "master")
    ]
    assert sum(request.path.endswith("command/arm") for request in part.requests.entries()) == 1
    uids = set(stream["eiger_series_uid"].read())
    assert uids == {eiger.client.get("detector", "status", "series_unique_id").value}
    assert np.isnan(np.asarray(stream["eiger_timestamp"].read())).all()
    assert "eiger_total" not in next(doc for name, doc in documents if name == "descriptor")["data_keys"]
    check_writer_as_found(eiger.client)


@pytest.mark.parametrize(("frames_per_trigger", "n_points", "n_files"), [(1, 10, 3), (3, 5, 5)])
def test_fly_scan_when_it_has_several_files_then_they_are_read_in_order(
    part, make_writer, catalog, tmp_path, frames_per_trigger, n_points, n_files
):
    eiger = make_writer()
    eiger.images_per_file.put(4)
    eiger.frames_per_trigger.put(frames_per_trigger)
    stream, documents = take(catalog, fly([eiger], n_points, period=0.02))
    ids = check_stamps(stream, n_points, frames_per_trigger)
    assert [int(one.split("_")[1]) for one in ids] == list(range(n_points * frames_per_trigger))
    assert len(list((tmp_path / "here").glob("*_data_??????.h5"))) == n_files
    assert sum(name == "stream_resource" for name, _ in documents) == n_files
    check_writer_as_found(eiger.client, nimages_per_file=4)


def test_fly_scan_when_no_file_can_be_made_beside_the_unit_s_then_those_are_named(
    part, make_writer, tmp_path, monkeypatch
):
    def refuse(path, *args, **options):
        raise refused(path, errno.EROFS)

    monkeypatch.setattr(_files, "join_eiger_images", refuse)
    eiger = make_writer()
    eiger.images_per_file.put(2)
    run = run_of(eiger, lambda: fly([eiger], 4, period=0.01))
    check_run(run, 4, stamp_of=stamp_of)
    check_here(run, tmp_path / "here")
    assert len(list((tmp_path / "here").glob("*_data_*.h5"))) == 2


def test_scan_when_two_thresholds_are_enabled_then_in_the_format_with_both_and_with_times(
    part, make_writer, catalog
):
    eiger = make_writer()
    eiger.client.put("detector", "threshold/2/mode", "enabled")
    before = time.time()
    try:
        stream, _ = take(catalog, fly([eiger], 4, period=0.02))
    finally:
        eiger.client.put("detector", "threshold/2/mode", "disabled")
    check_stamps(stream, 4)
    check_stamps(stream, 4, image="image_2")
    times = np.asarray(stream["eiger_timestamp"].read())
    assert before - 1 < times[0] < times[-1] < time.time() and np.all(np.diff(times) > 0)
    check_writer_as_found(eiger.client, format=LEGACY)


@pytest.mark.parametrize(("flying", "served"), [(False, True), (True, True), (True, False)])
def test_mounted_folder_when_it_has_the_files_then_those_are_the_images(
    part, make_writer, tmp_path, flying, served
):
    """Also where the unit does not serve them: then the images in a file are counted."""
    mounted = tmp_path / "dcu"
    mounted.mkdir()
    eiger = make_writer(files=mounted)
    eiger.images_per_file.put(2)
    over, files = threading.Event(), part.detector.files
    if not served:
        part.fail_next("error", path="/data/", code=404, count=10_000)

    def serve():
        """Have files appear in the folder, in two pieces, as of a server that copies them there."""
        done = set()
        while not over.wait(0.01):
            for name in set(files.names()) - done:
                content = bytes(files.reader(name)())
                (mounted / name).write_bytes(content[:-100])
                over.wait(0.05)
                (mounted / name).write_bytes(content)
                done.add(name)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        run = run_of(eiger, lambda: fly([eiger], 3, period=0.01) if flying else bp.count([eiger], 3))
    finally:
        over.set()
        thread.join()
    check_run(run, 3, stamp_of=stamp_of)
    paths = {where[0] for where in streams(run)["primary"].images["eiger_image"]}
    assert {path.parent for path in paths} == {mounted} and not list((tmp_path / "here").glob("*.h5*"))


def test_mounted_folder_when_a_file_stays_short_then_named_with_both_sizes(
    part, make_writer, tmp_path, monkeypatch
):
    eiger = make_writer(files=tmp_path)
    eiger.timeout.put(5.0)  # in which the unit lists its own
    eiger.client.put("filewriter", "name_pattern", "mine")
    monkeypatch.setattr(_files.FilesSource, "_drop_old", lambda self: put_short_file(self, tmp_path))
    run = run_of(eiger)
    assert "_data_000001.h5 has 99 bytes, the unit's has " in run.stop["reason"]


def put_short_file(source, folder):
    series_id = source.client.get("detector", "status", "state") and part_series(source) + 1
    (folder / f"{source._pattern.replace('$id', str(series_id))}_data_000001.h5").write_bytes(bytes(99))


def part_series(source):
    series_id = source.client.arm()
    source.client.disarm()
    return series_id


def test_mounted_folder_when_it_is_not_there_then_refused_at_stage(part, make_writer, tmp_path):
    with pytest.raises(RequestError, match="nowhere.*: expected a folder that this machine sees"):
        make_writer(files=tmp_path / "nowhere").stage()


def test_files_when_to_be_deleted_then_gone_on_the_unit_and_here(part, make_writer, tmp_path):
    eiger = make_writer(delete_files=True)
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    assert eiger.client.files.names() == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"files": "/mnt", "delete_files": True}, "delete_files"),
        ({"files": "/mnt", "readout": "stream"}, "'filewriter', where files"),
        ({"readout": "film"}, "readout='film': expected one of monitor, stream, filewriter"),
    ],
)
def test_eiger_when_options_do_not_fit_then_refused(tmp_path, options, what):
    with pytest.raises(RequestError, match=what):
        Eiger("http://nowhere", name="eiger", directory=tmp_path, **{"readout": "filewriter"} | options)


@pytest.mark.parametrize("whole", [True, False])
def test_unit_s_file_when_named_and_its_points_are_not_kept_then_it_stays_as_it_is(
    part, make_writer, tmp_path, monkeypatch, whole
):
    """On a mounted folder, where no file can be made beside it, and it holds more images than are wanted."""

    def refuse(path, *args, **options):
        raise refused(path, errno.EROFS)

    monkeypatch.setattr(_files, "join_eiger_images", refuse)
    path = tmp_path / "unit_data_000001.h5"
    path.write_bytes(b"of the unit")
    eiger = make_writer(files=tmp_path)
    eiger.stage()
    try:
        source, n = eiger.source, 4
        source._begin_series(7)
        file = EigerDataFile(path, n, None, np.arange(1, n + 1), 1, n, np.full(n, np.nan))
        source._held = {source._first_number + k: (file, k) for k in range(n)}
        announced, *_ = source._frames(n if whole else n - 1, Request(n), last=True)
        assert announced.path == path
        announced.keep(1)
        announced.drop()
    finally:
        eiger.unstage()
    assert path.read_bytes() == b"of the unit"
