"""The filewriter's own files as the images of a run: in order, whole, with what they tell."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import threading
import time

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.devices.eiger import _file_wait, _files
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import SHAPE, make_eiger, stamp_of
from .test_modes import edges

LEGACY = "hdf5 nexus legacy nxmx"
V2024 = "hdf5 nexus v2024.2 nxmx"


@pytest.fixture
def make(part, tmp_path):
    """Make a device that reads out by files; what a test set on the unit is as before afterwards."""
    made = []

    def make(**options):
        made.append(make_eiger(part, tmp_path / "here", readout="filewriter", **options))
        return made[-1]

    yield make
    client = made[-1].client
    client.command("filewriter", "initialize")
    client.command("filewriter", "clear")
    for eiger in made:
        eiger.client.close()


@pytest.fixture
def full_disk():
    """Call it, and no file can grow above so many bytes; refused by the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def check_as_found(client, **changed):
    found = {"mode": "disabled", "name_pattern": "series_$id", "nimages_per_file": 1000} | changed
    assert {name: client.get("filewriter", "config", name).value for name in found} == found


def take(catalog, plan):
    engine = RunEngine({})
    engine.subscribe(catalog)
    documents = []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    (uid,) = engine(plan)
    return catalog[uid]["primary"], documents


def check_stamps(stream, n_points, frames_per_point=1, image="image"):
    ids = np.asarray(stream["eiger_event_id"].read()).reshape(-1)
    images = stream[f"eiger_{image}"].read()
    assert images.shape == (n_points, frames_per_point, *SHAPE)
    stamps = [read_stamp(one) for one in images.reshape(-1, *SHAPE)]
    assert stamps == [stamp_of(str(one)) for one in ids]
    assert np.asarray(stream["eiger_is_good"].read()).all()
    return [str(one) for one in ids]


def test_step_scan_when_read_back_then_each_point_is_one_file_of_one_series(part, make, catalog, tmp_path):
    eiger = make()
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
    check_as_found(eiger.client)


@pytest.mark.parametrize(("frames_per_trigger", "n_points", "n_files"), [(1, 10, 3), (3, 5, 5)])
def test_fly_scan_when_it_has_several_files_then_they_are_read_in_order(
    part, make, catalog, tmp_path, frames_per_trigger, n_points, n_files
):
    eiger = make()
    eiger.images_per_file.put(4)
    eiger.frames_per_trigger.put(frames_per_trigger)
    stream, documents = take(catalog, fly([eiger], n_points, period=0.02))
    ids = check_stamps(stream, n_points, frames_per_trigger)
    assert [int(one.split("_")[1]) for one in ids] == list(range(n_points * frames_per_trigger))
    assert len(list((tmp_path / "here").glob("*_data_*.h5"))) == n_files
    assert sum(name == "stream_resource" for name, _ in documents) == n_files
    check_as_found(eiger.client, nimages_per_file=4)


def test_scan_when_two_thresholds_are_enabled_then_in_the_format_with_both_and_with_times(
    part, make, catalog
):
    eiger = make()
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
    check_as_found(eiger.client, format=LEGACY)


# what can go wrong


def run_of(eiger, plan=None):
    return drive(interruptible(), plan or (lambda: bp.count([eiger])))


def check_here(run, tmp_path, n_refused=0):
    """Nothing but registered images, masters and files that were refused is in the device's folder."""
    here = {path for path in (tmp_path / "here").glob("*.h5*") if not path.name.endswith("_master.h5")}
    registered = [where[0] for one in streams(run).values() for where in one.images["eiger_image"]]
    assert here >= set(registered) and len(here) == len(set(registered)) + n_refused
    masters = {path.name.removesuffix("_master.h5") for path in (tmp_path / "here").glob("*_master.h5")}
    assert masters == {path.name.rpartition("_data_")[0] for path in here}


def test_download_when_cut_then_goes_on_and_the_point_is_whole(part, make, tmp_path):
    eiger = make()
    part.fail_next("cut_file", after=3000, count=2)  # of the master, and of its rest
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    check_here(run, tmp_path)


def test_file_when_of_the_wrong_size_then_refused_by_name(part, make, tmp_path):
    eiger = make()
    eiger.frames_per_trigger.put(2)
    part.fail_next("short_file", keep=99, count=2)
    run = run_of(eiger)
    assert run.stop["exit_status"] == "fail" and "_master.h5: 99 bytes came" in run.stop["reason"]
    assert not streams(run) and not list((tmp_path / "here").glob("*.h5"))
    check_as_found(eiger.client)


def test_disk_when_full_then_the_point_fails_with_path_and_space(part, make, tmp_path, full_disk):
    eiger = make()
    full_disk(2000)
    run = run_of(eiger)
    reason = run.stop["reason"]
    assert f"writing {tmp_path}/here/eiger_" in reason and "File too large" in reason
    assert " GB free of " in reason and "set another directory" in reason
    check_as_found(eiger.client)


@pytest.mark.parametrize(
    ("policy", "file_format"),
    [("strict", V2024), ("strict", LEGACY), ("retake", LEGACY)],
)
def test_frame_when_the_filewriter_lost_it_then_the_files_numbers_tell(
    part, make, tmp_path, monkeypatch, policy, file_format
):
    monkeypatch.setattr(_file_wait, "GRACE", 0.1)
    eiger = make()
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
    check_here(run, tmp_path, n_refused=1)
    check_as_found(eiger.client, format=file_format)


def check_gaps(stream, good):
    """Every image that is good carries its id, the others are empty."""
    ids = np.asarray(stream["eiger_event_id"].read()).reshape(-1)
    images = stream["eiger_image"].read().reshape(-1, *SHAPE)
    assert np.asarray(stream["eiger_is_good"].read()).reshape(-1).tolist() == good
    for name, image, there in zip(ids, images, good, strict=True):
        assert bool(name) == there and (read_stamp(image) == stamp_of(name) if there else not image.any())


@pytest.fixture
def losing(part, make, monkeypatch):
    """Make a device that marks what is lost, and have the filewriter lose images of these numbers."""

    def losing(file_format, lost, frames_per_trigger):
        monkeypatch.setattr(_file_wait, "GRACE", 0.1)
        eiger = make()
        eiger.file_format.put(file_format)
        eiger.loss_policy.put("tolerant")
        eiger.frames_per_trigger.put(frames_per_trigger)
        for image in lost:
            part.fail_next("lost_in_file", image=image)
        return eiger

    return losing


@pytest.mark.parametrize(
    ("file_format", "lost"), [(LEGACY, [1]), (LEGACY, [0, 1, 2]), (V2024, [0]), (V2024, [2])]
)
def test_step_when_a_loss_is_tolerated_then_the_gap_is_in_its_place(losing, catalog, file_format, lost):
    eiger = losing(file_format, lost, 3)
    stream, _ = take(catalog, bp.count([eiger], 2))
    check_gaps(stream, [k not in lost for k in range(6)])
    assert stream["eiger_n_missing"].read().tolist() == [len(lost), 0]
    check_as_found(eiger.client, format=file_format)


@pytest.mark.parametrize("file_format", [LEGACY, V2024])
def test_fly_when_losses_are_tolerated_then_points_go_on_in_the_next_file(losing, catalog, file_format):
    """Legacy files that lack an image in the middle do not tell which: none of theirs counts."""
    lost = {1, 7, 11}
    eiger = losing(file_format, lost, 2)
    eiger.images_per_file.put(4)
    stream, _ = take(catalog, fly([eiger], 6, period=0.02))
    unknown = {0, 2, 3, 4} | {5, 6, 8, 9} if file_format == LEGACY else set()
    check_gaps(stream, [k not in lost | unknown for k in range(12)])


def test_fly_scan_when_a_later_frame_is_lost_then_the_points_of_whole_files_stay(part, make, tmp_path):
    eiger = make()
    eiger.images_per_file.put(2)
    part.fail_next("lost_in_file", image=5)
    run = run_of(eiger, lambda: fly([eiger], 20, period=0.01))
    assert run.stop["exit_status"] == "fail" and "the filewriter lost some" in run.stop["reason"]
    assert len(streams(run)["primary"].rows) == 4
    check_run(run, stamp_of=stamp_of)
    check_here(run, tmp_path, n_refused=1)


def test_external_when_edges_come_then_points_are_files(part, make, tmp_path):
    eiger = make(mode="external")
    with edges(part):
        run = run_of(eiger, lambda: fly([eiger], 4, period=0.01))
    check_run(run, 4, stamp_of=stamp_of)
    check_here(run, tmp_path)
    check_as_found(eiger.client)


def test_external_when_no_edge_comes_then_the_point_fails_and_says_so(part, make):
    eiger = make(mode="external")
    eiger.timeout.put(0.3)
    run = run_of(eiger)
    assert "eiger: 0 of 1 frames came" in run.stop["reason"]
    assert "detector 'ready', filewriter 'acquire'" in run.stop["reason"]
    check_as_found(eiger.client)


def test_inte_when_chosen_then_every_frame_has_its_own_trigger(part, make):
    eiger = make()
    eiger.trigger_mode.put("inte")
    eiger.frames_per_trigger.put(2)
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    eiger.trigger_mode.put("ints")
    check_run(run, 2, stamp_of=stamp_of)


@pytest.mark.parametrize(("flying", "served"), [(False, True), (True, True), (True, False)])
def test_mounted_folder_when_it_has_the_files_then_those_are_the_images(part, make, tmp_path, flying, served):
    """Also where the unit does not serve them: then the images in a file are counted."""
    mounted = tmp_path / "dcu"
    mounted.mkdir()
    eiger = make(files=mounted)
    eiger.images_per_file.put(2)
    over, files = threading.Event(), part._dcu.files
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


def test_mounted_folder_when_a_file_stays_short_then_named_with_both_sizes(part, make, tmp_path, monkeypatch):
    eiger = make(files=tmp_path)
    eiger.timeout.put(0.3)
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


def test_mounted_folder_when_it_is_not_there_then_refused_at_stage(part, make, tmp_path):
    with pytest.raises(RequestError, match="nowhere.*: expected a folder that this machine sees"):
        make(files=tmp_path / "nowhere").stage()


def test_files_when_to_be_deleted_then_gone_on_the_unit_and_here(part, make, tmp_path):
    eiger = make(delete_files=True)
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    assert eiger.client.files.names() == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"files": "/mnt", "delete_files": True}, "delete_files"),
        ({"files": "/mnt", "readout": "stream"}, "'filewriter', where files"),
        ({"readout": "film"}, "monitor, stream, filewriter"),
    ],
)
def test_eiger_when_options_do_not_fit_then_refused(tmp_path, options, what):
    with pytest.raises(RequestError, match=what):
        Eiger("http://nowhere", name="eiger", directory=tmp_path, **{"readout": "filewriter"} | options)


@pytest.mark.parametrize("mode", ["monitor", "auto"])
def test_stage_when_somebody_else_runs_the_detector_then_refused(part, make, mode):
    with pytest.raises(RequestError, match="external or internal where frames come from the filewriter"):
        make(mode=mode).stage()


@pytest.mark.parametrize("interruption", ["pause", "abort"])
@pytest.mark.parametrize("flying", [False, True])
def test_scan_when_interrupted_then_points_and_files_and_filewriter_are_right(
    part, make, tmp_path, flying, interruption
):
    came_back = interruption == "pause"
    for at in range(2, 34, 7):
        eiger = make(exposure_time=None)
        plan = (lambda e=eiger: fly([e], 2, period=0.006)) if flying else (lambda e=eiger: bp.count([e], 2))
        run = drive(interruptible(came_back), plan, interruption, at)
        check_run(run, 2 if came_back else None, stamp_of=stamp_of)
        check_here(run, tmp_path)
        check_as_found(eiger.client)
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        eiger.client.close()


@pytest.mark.parametrize("n_times", [1, 2])
def test_master_file_when_it_comes_late_or_not_then_the_images_are_there(part, make, tmp_path, n_times):
    eiger = make()
    part.fail_next("error", path="_master.h5", code=404, count=n_times)
    run = run_of(eiger)
    check_run(run, 1, stamp_of=stamp_of)
    assert len(list((tmp_path / "here").glob("*_master.h5"))) == 2 - n_times


def test_unit_when_it_does_not_answer_for_a_moment_then_the_point_is_whole(part, make, tmp_path):
    eiger = make()
    part.fail_next("error", path="_data_", code=503, count=6)
    run = run_of(eiger)
    assert not part.faults.armed
    check_run(run, 1, stamp_of=stamp_of)


def test_unit_when_it_starts_anew_in_a_point_then_said_and_the_next_run_has_its_own_files(part, make):
    eiger = make()
    drive(interruptible(), lambda: bp.count([eiger]))
    part.fail_next("restart", path="_data_")
    run = run_of(eiger)
    assert run.stop["exit_status"] == "fail" and "state 'na'" in run.stop["reason"]
    part.faults.clear()
    run = run_of(eiger, lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)


def test_scan_when_a_download_hangs_and_it_is_aborted_then_it_ends(part, make, tmp_path):
    eiger = make()
    part.fail_next("hang", path="/data/")
    engine = interruptible()

    def abort(msg):
        if msg.command == "wait":
            engine.loop.call_later(0.3, lambda: engine.loop.create_task(engine._abort_coro("enough")))

    engine.msg_hook = abort
    with contextlib.suppress(RunEngineInterrupted):
        engine(bp.count([eiger]))
    assert not list((tmp_path / "here").glob("*.h5*"))
    check_as_found(eiger.client)
