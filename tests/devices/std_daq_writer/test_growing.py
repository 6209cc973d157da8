"""Files that grow over many points: fly scans, and one file per run."""

from __future__ import annotations

import re
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _daq_file
from sfdaq_ophyd.devices.std_daq_writer._control import PointsLost
from sfdaq_ophyd.devices.std_daq_writer._with_detectors import DetectorGroup
from sfdaq_ophyd.errors import Discarded, FileFormatError, RequestError, ServiceTimeout
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..fake import FakeDetector, FakeSource
from .documents import (
    both_controls,
    data_of,
    events_of,
    ids_of,
    images_of,
    path_of,
    points_dropped,
    rows_of,
    run,
)


def test_fly_when_points_are_flown_then_one_file_holds_all_of_them(writer):
    writer.frames_per_trigger.put(2)
    documents, error = run(fly([writer], 4))
    assert error is None
    resources = documents["stream_resource"]
    assert sorted(doc["data_key"] for doc in resources) == [
        "writer_image", "writer_image_id", "writer_image_status"
    ]  # fmt: skip
    assert len({doc["uri"] for doc in resources}) == 1
    assert images_of(documents) == ids_of(documents) and len(ids_of(documents)) == 8
    assert [int(status) for status in data_of(documents, "writer_image_status")] == [0] * 8
    (descriptor,) = documents["descriptor"]
    assert "writer_is_good" not in descriptor["data_keys"], "nobody knows while the file is open"
    ids = [event_id for row in events_of(documents) for event_id in row["writer_event_id"]]
    run_id = writer.run_id.get()
    assert ids == [f"{run_id}:{k}" for k in range(8)]


def test_fly_when_the_count_grows_then_points_are_registered_while_the_file_is_open(daq, writer):
    states = []
    documents, error = run(
        fly([writer], 60, period=0.05),
        lambda name, doc: name == "stream_datum" and states.append(daq.service.status()["state"]),
    )
    assert error is None
    rows = rows_of(documents)
    assert len(rows) > 2 and rows[0][0] == 0 and rows[-1][1] == 60
    assert all(a[1] == b[0] for a, b in zip(rows, rows[1:]))
    assert states[0] == "WRITING"
    assert images_of(documents) == ids_of(documents)


def test_fly_when_somebody_stops_it_then_the_points_written_are_registered_and_the_run_fails(daq, writer):
    daq.fail_next("stopped_by_other", after=10)
    documents, error = run(fly([writer], 500, period=0.05))
    assert "with 'Interrupted.'" in documents["stop"][0]["reason"]
    ids = ids_of(documents)
    assert 10 <= len(ids) < 500 and images_of(documents) == ids
    assert f"{len(ids)} of 500 frames came" in str(error)


@both_controls
@pytest.mark.usefixtures("stops_are_answered")
def test_fly_when_images_are_retaken_then_a_second_file_goes_on(daq, writer):
    writer.timeout.put(4.0)
    writer.loss_policy.put("retake")
    daq.fail_next("stall", after=7)
    documents, error = run(fly([writer], 20, period=0.05))
    assert error is None
    ends = [end for _, end in rows_of(documents)]
    assert 7 in ends and ends[-1] < 20, "7 points in the first file"
    assert len({doc["uri"] for doc in documents["stream_resource"]}) >= 2
    ids = ids_of(documents)
    assert images_of(documents) == ids and len(set(ids)) == 20


@pytest.mark.parametrize("which", ["w", "camera"])
def test_fly_when_one_of_several_would_take_points_again_alone_then_it_is_refused_before_any_starts(
    tmp_path, which
):
    camera = FakeDetector(name="camera", directory=tmp_path, source=FakeSource())
    device = StdDaqWriter("http://127.0.0.1:9", name="w", directory=tmp_path, detectors=[camera])
    {"w": device, "camera": camera}[which].loss_policy.put("retake")
    for start in (partial(device.prepare, 4), device.kickoff):
        with pytest.raises(RequestError, match=f"{which}.loss_policy='retake'.*'strict' or 'tolerant'"):
            start()
    assert device.n_points.get() != 4 and camera.n_points.get() != 4 and not camera.source.requests


def test_fly_when_the_writer_is_alone_then_it_may_take_points_again(tmp_path):
    device = StdDaqWriter("http://127.0.0.1:9", name="w", directory=tmp_path)
    device.loss_policy.put("retake")
    device.prepare(4).wait(60)


def test_fly_when_the_file_is_lost_then_the_failure_says_what_is_registered(daq, writer, monkeypatch):
    read = partial(_daq_file.read_std_daq_file, timeout=0.2)
    monkeypatch.setattr(_daq_file, "read_std_daq_file", read)
    documents = {}

    def lose(name, doc):
        documents.setdefault(name, []).append(doc)
        if name == "event_page" and len(documents["event_page"]) == 1:
            daq.fail_next("writer_dies")
            daq.fail_next("rest_restarts")
            daq.service.restart_writer()

    _, error = run(fly([writer], 2000, period=0.05), lose)
    n = sum(len(page["seq_num"]) for page in documents["event_page"])
    assert "the DAQ lost the acquisition" in str(error)
    registered = re.search(r"(\d+) images are registered in .*cannot be read here", str(error))
    assert registered and int(registered[1]) >= n > 0


def test_stock_fly_when_the_daq_writes_then_images_and_their_numbers_agree(writer):
    @bpp.stage_decorator([writer])
    @bpp.run_decorator()
    def plan():
        yield from bps.declare_stream(writer, name="primary", collect=True)
        yield from bps.prepare(writer, 30, wait=True)
        yield from bps.kickoff(writer, wait=True)
        yield from bps.collect_while_completing([writer], [writer], flush_period=0.05, stream_name="primary")

    documents, error = run(plan())
    assert error is None and len(rows_of(documents)) > 1
    assert images_of(documents) == ids_of(documents) and len(images_of(documents)) == 30
    assert set(documents["descriptor"][0]["data_keys"]) == {
        "writer_image",
        "writer_image_id",
        "writer_image_status",
    }


def test_run_mode_when_points_are_taken_then_one_file_holds_them_row_by_row(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(3)
    writer.frames_per_trigger.put(2)
    documents, error = run(bp.count([writer], 3))
    assert error is None
    assert rows_of(documents) == [(0, 1), (1, 2), (2, 3)]
    (file,) = {event["data"]["writer_file"] for event in documents["event"]}
    assert {path_of(resource) for resource in documents["stream_resource"]} == {file}
    run_id = documents["event"][0]["data"]["writer_run_id"]
    assert documents["event"][1]["data"]["writer_event_id"] == [f"{run_id}:2", f"{run_id}:3"]
    assert len(images_of(documents)) == 6 and images_of(documents) == ids_of(documents)
    assert daq.service.status()["acquisition"]["message"] == "Completed."


def test_run_mode_when_fewer_points_are_taken_then_unstage_closes_the_file(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(10_000)
    documents, error = run(bp.count([writer], 2))
    assert error is None
    assert daq.service.status()["acquisition"]["message"] == "Interrupted."
    assert len(images_of(documents)) == 2 and images_of(documents) == ids_of(documents)


@both_controls
def test_run_mode_when_packets_are_missing_then_the_status_beside_the_image_says_so(daq, writer, caplog):
    writer.mode.put("run")
    writer.n_points.put(3)
    daq.fail_next("bad_frames", n=2, status=1)
    documents, error = run(bp.count([writer], 3))
    assert error is None
    assert [int(status) for status in data_of(documents, "writer_image_status")] == [1, 1, 0]
    assert "2 of 3 images" in caplog.text and "are incomplete (rows 0, 1)" in caplog.text


def test_run_mode_when_the_file_is_padded_then_the_last_point_fails_and_the_others_are_told(
    writer, monkeypatch
):
    def padded(*args, **kwargs):
        file = read(*args, **kwargs)
        file.image_id[2:] = 0
        return file

    read = _daq_file.read_std_daq_file
    monkeypatch.setattr(_daq_file, "read_std_daq_file", padded)
    writer.mode.put("run")
    writer.n_points.put(4)
    documents, error = run(bp.count([writer], 4))
    assert "found padding from row 2 on" in str(error)
    assert "3 images are registered in" in documents["stop"][0]["reason"]
    assert len(documents["event"]) == 3


def test_run_mode_when_the_file_is_short_at_its_end_then_unstage_says_so(writer, monkeypatch):
    writer.mode.put("run")
    writer.n_points.put(10_000)
    writer.stage()
    writer.trigger().wait(60)
    monkeypatch.setattr(_daq_file, "read_std_daq_file", _truncated)
    with pytest.raises(PointsLost, match="1 images are registered in .*, but .*found 0 images"):
        writer.unstage()
    writer.unstage()


def _truncated(path, group, **kwargs):
    raise FileFormatError(path, group, found="0 images", expected="1")


@both_controls
def test_run_mode_when_an_event_is_dropped_then_the_next_point_begins_another_file(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(10_000)

    documents, error = run(points_dropped(writer))
    assert error is None
    assert rows_of(documents) == [(0, 1), (0, 1)]
    assert images_of(documents) == ids_of(documents)
    files = [event["data"]["writer_file"] for event in documents["event"]]
    assert len(set(files)) == 2 and all(Path(file).exists() for file in files)


def two_points(writer):
    writer.mode.put("run")
    writer.n_points.put(10_000)
    documents, error = run(bp.count([writer], 2))
    assert error is None and images_of(documents) == ids_of(documents)
    return Path(documents["event"][0]["data"]["writer_file"])


def test_file_when_images_came_after_its_points_then_one_beside_it_has_those_of_the_points(writer):
    file = two_points(writer)
    theirs = file.with_name(file.name.replace("_points", ""))
    with h5py.File(file) as points, h5py.File(theirs) as whole:
        (name,) = whole
        assert len(points[f"{name}/data"]) == len(points[f"{name}/image_id"]) == 2
        assert len(whole[f"{name}/data"]) >= 2
    assert writer.unused.get() == ""


def test_file_when_none_can_be_made_beside_it_then_the_documents_name_it_itself(writer, monkeypatch, caplog):
    def refuse(*args):
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(_daq_file, "link_columns", refuse)
    caplog.set_level("INFO")
    assert "_points" not in two_points(writer).name and "no file can be made beside" in caplog.text


def test_file_when_the_device_was_killed_then_the_one_beside_it_shows_all_of_the_daq_s(writer, monkeypatch):
    def never(path, layout, parts, n_images, **kwargs):
        return parts[0][1]

    monkeypatch.setattr(_daq_file, "write_joined", never)
    file = two_points(writer)
    with h5py.File(file) as points, h5py.File(file.with_name(file.name.replace("_points", ""))) as whole:
        (name,) = points
        data, ids = points[f"{name}/data"], points[f"{name}/image_id"]
        assert len(data) == len(whole[f"{name}/data"]) and not points[f"{name}/status"][: len(data)].any()
        assert [read_stamp(image) for image in data] == ids[: len(data)].tolist()


def test_mode_when_it_is_no_mode_then_it_is_refused(writer):
    writer.mode.put("nosuch")
    with pytest.raises(Exception, match="mode='nosuch'"):
        writer.stage()


def test_fly_when_a_detector_inside_is_never_armed_then_it_is_told_or_given_up_with_errors_of_ours():
    status = SimpleNamespace(done=False)
    detector = SimpleNamespace(name="camera", kickoff=lambda: status, complete=lambda: status)
    group = DetectorGroup([detector])
    with pytest.raises(ServiceTimeout, match="camera, inside an open writer: not done after 0.1 s"):
        group.fly(0.1, threading.Event())
    group.forget()
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(Discarded, match="camera: given up with the writer around it"):
        group.fly(40.0, given_up)
