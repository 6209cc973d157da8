"""The filewriter's files when frames are lost, files cut, late or refused: told by name, or marked."""

from __future__ import annotations

import contextlib
import resource
import signal

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from sfdaq_ophyd.clients._simplon_files import FileFetcher
from sfdaq_ophyd.devices.eiger import _files
from sfdaq_ophyd.errors import ServiceRefused
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import SHAPE, stamp_of
from .files_bench import LEGACY, V2024, check_here, check_writer_as_found, run_of, take


@pytest.fixture
def full_disk():
    """Call it, and no file can grow above so many bytes; refused by the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def check_gaps(stream, good):
    """Every image that is good carries its id, the others are empty."""
    ids = np.asarray(stream["eiger_event_id"].read()).reshape(-1)
    images = stream["eiger_image"].read().reshape(-1, *SHAPE)
    assert np.asarray(stream["eiger_is_good"].read()).reshape(-1).tolist() == good
    for name, image, there in zip(ids, images, good, strict=True):
        assert bool(name) == there and (read_stamp(image) == stamp_of(name) if there else not image.any())


@pytest.fixture
def losing(part, make_writer, monkeypatch):
    """Make a device that marks what is lost, and have the filewriter lose images of these numbers."""

    def losing(file_format, lost, frames_per_trigger):
        monkeypatch.setattr(_files, "GRACE", 0.1)
        eiger = make_writer()
        eiger.file_format.put(file_format)
        eiger.loss_policy.put("tolerant")
        eiger.frames_per_trigger.put(frames_per_trigger)
        for image in lost:
            part.fail_next("lost_in_file", image=image)
        return eiger

    return losing


def test_download_when_cut_then_goes_on_and_the_point_is_whole(part, make_writer, tmp_path):
    eiger = make_writer()
    part.fail_next("cut_file", after=3000, count=2)  # of the master, and of its rest
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    check_here(run, tmp_path / "here")


def test_file_when_of_the_wrong_size_then_refused_by_name(part, make_writer, tmp_path):
    eiger = make_writer()
    eiger.frames_per_trigger.put(2)
    part.fail_next("short_file", keep=99, count=2)
    run = run_of(eiger)
    assert run.stop["exit_status"] == "fail" and "_master.h5: 99 bytes came" in run.stop["reason"]
    assert not streams(run) and not list((tmp_path / "here").glob("*.h5"))
    check_writer_as_found(eiger.client)


def test_disk_when_full_then_the_point_fails_with_path_and_space(part, make_writer, tmp_path, full_disk):
    eiger = make_writer()
    full_disk(2000)
    run = run_of(eiger)
    reason = run.stop["reason"]
    assert f"writing {tmp_path}/here/eiger_" in reason and "File too large" in reason
    assert " GB free of " in reason and "set another directory" in reason
    check_writer_as_found(eiger.client)


@pytest.mark.parametrize(
    ("policy", "file_format"),
    [("strict", V2024), ("strict", LEGACY), ("retake", LEGACY)],
)
def test_frame_when_the_filewriter_lost_it_then_the_files_numbers_tell(
    part, make_writer, tmp_path, monkeypatch, policy, file_format
):
    monkeypatch.setattr(_files, "GRACE", 0.1)
    eiger = make_writer()
    eiger.file_format.put(file_format)
    eiger.loss_policy.put(policy)
    eiger.frames_per_trigger.put(3)
    part.fail_next("lost_in_file")
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    if policy == "retake":
        check_run(run, 2, stamp_of=stamp_of)
    else:
        assert run.stop["exit_status"] == "fail"
        assert "_data_000001.h5 holds 2 images, of the numbers 2 to 3, expected 1 to" in run.stop["reason"]
    check_here(run, tmp_path / "here", n_refused=1)
    check_writer_as_found(eiger.client, format=file_format)


@pytest.mark.parametrize(
    ("file_format", "lost"), [(LEGACY, [1]), (LEGACY, [0, 1, 2]), (V2024, [0]), (V2024, [2])]
)
def test_step_when_a_loss_is_tolerated_then_the_gap_is_in_its_place(losing, catalog, file_format, lost):
    eiger = losing(file_format, lost, 3)
    stream, _ = take(catalog, bp.count([eiger], 2))
    check_gaps(stream, [k not in lost for k in range(6)])
    assert stream["eiger_n_missing"].read().tolist() == [len(lost), 0]
    check_writer_as_found(eiger.client, format=file_format)


@pytest.mark.parametrize("file_format", [LEGACY, V2024])
def test_fly_when_losses_are_tolerated_then_points_go_on_in_the_next_file(losing, catalog, file_format):
    """Legacy files that lack an image in the middle tell the first and the last number alone."""
    lost = {1, 7, 11}
    eiger = losing(file_format, lost, 2)
    eiger.images_per_file.put(4)
    stream, _ = take(catalog, fly([eiger], 6, period=0.02))
    unknown = {2, 3} | {6, 8} if file_format == LEGACY else set()
    check_gaps(stream, [k not in lost | unknown for k in range(12)])


@pytest.fixture(params=["missing", "refused", "unreadable"])
def without(part, monkeypatch, request):
    """Have the unit not serve data files of these numbers, or fail at it, or serve what is no HDF5 file."""

    def without(*numbers):
        names = [f"_data_{n:06d}.h5" for n in numbers]
        if request.param != "unreadable":
            for name in names:
                part.fail_next("error", path=name, code={"missing": 404}.get(request.param, 500), count=1000)
            return
        files = part.detector.files
        reader = files.reader

        def broken(name):
            read = reader(name)
            return (lambda: memoryview(bytes(read())[::-1])) if name.endswith(tuple(names)) else read

        monkeypatch.setattr(files, "reader", broken)

    yield without
    part.faults.clear()


@pytest.mark.parametrize("file_format", [LEGACY, V2024])
@pytest.mark.parametrize("numbers", [(1, 2), (2, 5)])
def test_fly_when_whole_files_are_lost_then_the_images_of_the_others_stay(
    losing, without, catalog, file_format, numbers
):
    eiger = losing(file_format, (), 2)
    eiger.images_per_file.put(4)
    without(*numbers)
    stream, _ = take(catalog, fly([eiger], 10, period=0.01))
    check_gaps(stream, [k // 4 + 1 not in numbers for k in range(20)])
    times = np.asarray(stream["eiger_timestamp"].read()).reshape(-1)
    good = np.asarray(stream["eiger_is_good"].read()).reshape(-1)
    assert np.isfinite(times).tolist() == [bool(there and file_format == V2024) for there in good]
    assert np.all(np.diff(times[np.isfinite(times)]) > 0)
    check_writer_as_found(eiger.client, format=file_format, nimages_per_file=4)


def test_step_when_its_file_is_lost_then_that_point_is_marked_alone(losing, without, catalog):
    eiger = losing(LEGACY, (), 2)
    without(2)
    stream, _ = take(catalog, bp.count([eiger], 2))
    check_gaps(stream, [True, True, False, False])


def test_fly_when_the_unit_tells_of_a_file_but_refuses_it_then_the_others_stay(losing, catalog, monkeypatch):
    eiger = losing(LEGACY, (), 1)
    eiger.images_per_file.put(4)
    eiger.timeout.put(0.5)
    go_on = FileFetcher._go_on

    def refuse(self, name, *args):
        if name.endswith("_data_000002.h5"):
            raise ServiceRefused(f"GET {name}", url=eiger.client.url, said="disk", code=500)
        go_on(self, name, *args)

    monkeypatch.setattr(FileFetcher, "_go_on", refuse)
    stream, _ = take(catalog, fly([eiger], 12, period=0.01))
    check_gaps(stream, [k // 4 != 1 for k in range(12)])


@pytest.mark.parametrize("without", ["missing", "unreadable"], indirect=True)
@pytest.mark.parametrize("policy", ["strict", "retake"])
def test_fly_when_whole_files_are_lost_and_not_tolerated_then_their_images_are_named(
    part, make_writer, without, monkeypatch, tmp_path, policy
):
    monkeypatch.setattr(_files, "GRACE", 0.1)
    eiger = make_writer()
    eiger.loss_policy.put(policy)
    eiger.max_retakes.put(0)
    eiger.images_per_file.put(2)
    without(2)
    run = run_of(eiger, lambda: fly([eiger], 6, period=0.01))
    rows = streams(run)["primary"].rows
    assert run.stop["exit_status"] == "fail" and len(rows) == 2
    series = rows[0]["eiger_event_id"].partition("_")[0]
    assert f"missing ids {series}_2, {series}_3; " in run.stop["reason"]
    check_run(run, stamp_of=stamp_of)


def test_fly_when_a_whole_file_is_lost_then_the_points_from_it_on_are_taken_again(
    part, make_writer, monkeypatch, tmp_path
):
    monkeypatch.setattr(_files, "GRACE", 0.1)
    eiger = make_writer()
    eiger.loss_policy.put("retake")
    eiger.images_per_file.put(2)
    files, lost = part.detector.files, []
    finish = files._finish_file

    def finish_but_one(series):
        finish(series)
        if not lost and files.names()[-1].endswith("_data_000002.h5"):
            lost.append(files.names()[-1])
            files.remove(lost[0])

    monkeypatch.setattr(files, "_finish_file", finish_but_one)
    run = run_of(eiger, lambda: fly([eiger], 6, period=0.01))
    check_run(run, 6, stamp_of=stamp_of)
    ids = [row["eiger_event_id"].split("_") for row in streams(run)["primary"].rows]
    assert lost and [int(image) for _, image in ids] == [0, 1, 0, 1, 2, 3]
    assert len({series for series, _ in ids}) == 2
    check_here(run, tmp_path / "here")


def test_point_with_a_gap_when_not_saved_then_no_file_of_it_stays(losing, tmp_path):
    eiger = losing(V2024, [1], 3)
    eiger.stage()
    eiger.trigger().wait(60)
    names = sorted(path.name.split("_", 5)[5] for path in (tmp_path / "here").glob("*.h5"))
    assert names == ["data_000001.h5", "data_from_000001.h5", "master.h5"]
    eiger.unstage()
    assert not list((tmp_path / "here").glob("*.h5"))


def test_fly_scan_when_a_later_frame_is_lost_then_the_points_of_whole_files_stay(part, make_writer, tmp_path):
    eiger = make_writer()
    eiger.images_per_file.put(2)
    part.fail_next("lost_in_file", image=5)
    run = run_of(eiger, lambda: fly([eiger], 20, period=0.01))
    assert run.stop["exit_status"] == "fail" and "the filewriter lost some" in run.stop["reason"]
    assert len(streams(run)["primary"].rows) == 4
    check_run(run, stamp_of=stamp_of)
    check_here(run, tmp_path / "here", n_refused=1)


@pytest.mark.parametrize("n_times", [1, 2])
def test_master_file_when_it_comes_late_or_not_then_the_images_are_there(
    part, make_writer, tmp_path, n_times
):
    eiger = make_writer()
    part.fail_next("error", path="_master.h5", code=404, count=n_times)
    run = run_of(eiger)
    check_run(run, 1, stamp_of=stamp_of)
    assert len(list((tmp_path / "here").glob("*_master.h5"))) == 2 - n_times


def test_unit_when_it_does_not_answer_for_a_moment_then_the_point_is_whole(part, make_writer, tmp_path):
    eiger = make_writer()
    part.fail_next("error", path="_data_", code=503, count=6)
    run = run_of(eiger)
    assert not part.faults.armed
    check_run(run, 1, stamp_of=stamp_of)


def test_unit_when_it_starts_anew_in_a_point_then_said_and_the_next_run_has_its_own_files(part, make_writer):
    eiger = make_writer()
    drive(interruptible(), lambda: bp.count([eiger]))
    part.fail_next("restart", path="_data_")
    run = run_of(eiger)
    assert run.stop["exit_status"] == "fail" and "state 'na'" in run.stop["reason"]
    part.faults.clear()
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)


def test_scan_when_a_download_hangs_and_it_is_aborted_then_it_ends(part, make_writer, tmp_path):
    eiger = make_writer()
    part.fail_next("hang", path="/data/")
    engine = interruptible()

    def abort(msg):
        if msg.command == "wait":
            engine.loop.call_later(0.3, lambda: engine.loop.create_task(engine._abort_coro("enough")))

    engine.msg_hook = abort
    with contextlib.suppress(RunEngineInterrupted):
        engine(bp.count([eiger]))
    assert not list((tmp_path / "here").glob("*.h5*"))
    check_writer_as_found(eiger.client)


def test_point_when_a_series_of_somebody_else_has_its_number_and_file_names_then_not_taken(
    part, make_writer, monkeypatch
):
    """Numbers begin anew with the detector, and the filewriter goes on under the name that it was given."""
    eiger = make_writer()
    client = eiger.client
    client.initialize()  # so that the next series is the first
    begin = _files.FilesSource._begin_series

    def begin_and_be_disturbed(source, series_id):
        begin(source, series_id)
        times = {name: client.get("detector", "config", name).value for name in ("count_time", "frame_time")}
        client.initialize()
        for name, value in times.items():
            client.put("detector", name, value)
        assert client.arm() == series_id == 1

    monkeypatch.setattr(_files.FilesSource, "_begin_series", begin_and_be_disturbed)
    run = run_of(eiger)
    assert run.stop["exit_status"] == "fail" and not streams(run)
    reason, uid = run.stop["reason"], client.get("detector", "status", "series_unique_id").value
    assert f"_1_data_000001.h5 may be of the series '{uid}', expected '" in reason


def test_point_when_somebody_else_armed_the_next_series_meanwhile_then_its_file_is_taken(
    part, make_writer, monkeypatch
):
    eiger = make_writer()
    check = _files.FilesSource._check_series

    def arm_and_check(source, path):
        eiger.client.arm()
        check(source, path)

    monkeypatch.setattr(_files.FilesSource, "_check_series", arm_and_check)
    check_run(run_of(eiger), 1, stamp_of=stamp_of)
