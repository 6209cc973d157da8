"""Files of the detector base: which frames are in them, for streams, runs and dropped events."""

from __future__ import annotations

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import pytest

from .fake import FakeDetector, FakeSource, count
from .run_engine_driver import check_files, check_run, drive, streams


def test_event_when_dropped_then_its_frame_is_taken_back_and_no_index_is_lost(engine, det, tmp_path):
    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        for k in range(5):
            yield from bps.trigger(det, wait=True)
            yield from bps.create("primary")
            yield from bps.read(det)
            yield from (bps.drop() if k in (0, 2, 4) else bps.save())

    run = drive(engine, plan)
    check_run(run, 2)
    check_files(run, tmp_path)
    assert [row["det_event_id"] for row in streams(run)["primary"].rows] == ["2", "4"]


@pytest.mark.parametrize("declared", [False, True])
def test_run_when_it_has_two_streams_then_each_has_its_own_frames(engine, det, tmp_path, declared):
    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        if declared:
            yield from bps.declare_stream(det, name="dark")
            yield from bps.declare_stream(det, name="primary")
        yield from bps.trigger_and_read([det], "dark")
        yield from bps.trigger_and_read([det], "primary")
        yield from bps.trigger_and_read([det], "primary")
        yield from bps.trigger_and_read([det], "dark")
        yield from bps.trigger_and_read([det], "primary")

    run = drive(engine, plan)
    check_run(run, 3)
    check_run(run, 2, stream="dark")
    check_files(run, tmp_path)


def test_staging_when_it_has_two_runs_then_each_has_its_own_file(engine, det, tmp_path):
    @bpp.run_decorator()
    def one_run():
        for _ in range(3):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([det])

    @bpp.stage_decorator([det])
    def plan():
        yield from one_run()
        yield from one_run()

    run = drive(engine, plan)
    assert run.error is None
    resources = run.named("stream_resource")
    assert [doc["run_start"] for doc in resources] == [doc["uid"] for doc in run.named("start")]
    assert len(list(tmp_path.glob("*.h5"))) == 2
    ids = [row["data"]["det_event_id"] for row in run.named("event")]
    for path, mine in zip(sorted(tmp_path.glob("*.h5"), key=lambda p: p.stat().st_mtime), (ids[:3], ids[3:])):
        with h5py.File(path) as file:
            assert [i.decode() for i in file["entry/data/event_id"]] == mine


def test_count_when_nothing_is_saved_then_no_file_is_left(engine, det, tmp_path):
    det.source.faults = {1: "short"}
    drive(engine, count(det))
    assert not list(tmp_path.glob("*"))


def test_event_when_saved_then_engine_fills_its_datum_and_not_before(engine, det):
    """What the base relies on to tell saved from dropped; if bluesky changes it, this says so."""
    handed = []

    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger(det, wait=True)
        yield from bps.create("primary")
        yield from bps.read(det)
        handed.append(not det._store._handed_to.saved)
        yield from bps.save()
        handed.append(det._store._handed_to.saved)

    assert drive(engine, plan).error is None
    assert handed == [True, True]


def test_frame_when_of_another_shape_then_point_fails_and_says_both(engine, tmp_path):
    source = FakeSource()
    det = FakeDetector(name="det", directory=tmp_path, source=source)

    def bigger(number, original=source.frame):
        source.shape = (17, 16)
        return original(number)

    source.frame = bigger
    run = drive(engine, count(det))
    assert "uint16 (17, 16) came, uint16 (16, 16) was announced" in run.stop["reason"]
