"""Full disks and lost folders under a detector: the point fails with the path, and life goes on.

Found faults: disk-full, folder-removed.
"""

from __future__ import annotations

import resource
import shutil
import signal

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest

from sfdaq_ophyd.errors import StorageError
from sfdaq_ophyd.files import storage
from sfdaq_ophyd.plans import fly

from .fake import FakeDetector, FakeSource
from .run_engine_driver import check_files, check_run, drive, streams


@pytest.fixture
def det(tmp_path):
    return FakeDetector(name="det", directory=tmp_path / "frames", source=FakeSource(shape=(128, 128)))


@pytest.fixture
def full_disk():
    """Call it, and no file can grow above 400 kB; refused by the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("plan", ["count", "fly"])
def test_disk_full_when_a_run_goes_on_then_reason_says_path_space_and_what_to_do(
    engine, det, full_disk, plan
):
    """A flight's first rows may not have been collected yet."""
    full_disk()
    run = drive(engine, lambda: {"count": bp.count, "fly": fly}[plan]([det], 2000))
    reason = run.stop["reason"]
    assert run.stop["exit_status"] == "fail"
    assert f"writing {det.directory}/det_" in reason and "File too large" in reason
    assert " GB free of " in reason and "set another directory" in reason and "0x" not in reason
    found = streams(run)["primary"]
    assert len(found.rows) == sum(stop - start for *_, start, stop in found.images["det_image"])
    assert found.rows or plan == "fly"
    assert det.source.hardware == "as found"


def test_folder_removed_when_between_points_then_the_next_fails_and_a_later_run_succeeds(
    engine, det, tmp_path
):
    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        shutil.rmtree(det.directory)
        yield from bps.trigger_and_read([det])

    run = drive(engine, plan)
    assert run.stop["exit_status"] == "fail"
    assert str(det.directory) in run.stop["reason"] and "Was the folder moved" in run.stop["reason"]
    assert len(run.named("event")) == 1
    run = drive(engine, lambda: bp.count([det], 3))
    check_run(run, 3)
    check_files(run, det.directory)


def test_point_when_the_disk_failed_before_then_the_same_staging_goes_on_in_a_new_file(engine, det):
    """Space was made: the file that could not be written is left, the next point has another."""

    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        shutil.rmtree(det.directory)

        def nothing(exc):
            yield from bps.null()

        yield from bpp.contingency_wrapper(bps.trigger_and_read([det]), except_plan=nothing, auto_raise=False)
        yield from bps.trigger_and_read([det])

    run = drive(engine, plan)
    assert run.error is None and len(run.named("event")) == 2
    assert len(list(det.directory.glob("*.h5"))) == 1


def test_stage_when_files_cannot_be_made_then_refused_and_the_hardware_rests(det, monkeypatch):
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=f"making files in {det.directory}: Permission denied"):
        det.stage()
    assert det.source.hardware == "as found"


def test_frames_when_the_sync_period_passes_then_files_are_synced(engine, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("sfdaq_ophyd.devices._store.sync", lambda paths: synced.append(list(paths)))
    for period, at_least in ((0.0, 3), (1e9, 1)):
        synced.clear()
        det = FakeDetector(name="det", directory=tmp_path, sync_period=period)
        drive(engine, lambda det=det: bp.count([det], 3))
        assert len(synced) >= at_least and len(synced[0]) == 1
        assert (len(synced) == 1) == (period > 1), "at the end of the staging in any case"


def test_points_when_moved_into_a_new_file_then_that_is_synced_too(engine, tmp_path, monkeypatch):
    """The second stream's only point came before anybody knew whose it is."""
    synced = set()
    monkeypatch.setattr("sfdaq_ophyd.devices._store.sync", synced.update)
    det = FakeDetector(name="det", directory=tmp_path, sync_period=1e9)

    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det], "dark")
        yield from bps.trigger_and_read([det], "primary")

    check_run(drive(engine, plan), 1)
    files = set(tmp_path.glob("*.h5"))
    assert synced == files and len(files) == 2
