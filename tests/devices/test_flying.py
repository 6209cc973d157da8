"""The detector base in fly scans."""

from __future__ import annotations

import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import FailedStatus

from sfdaq_ophyd.devices import FlyGroup
from sfdaq_ophyd.errors import DetectorStateError, RequestError
from sfdaq_ophyd.plans import fly

from .fake import FakeDetector, FakeFileSource, FakeSource, FakeWriter
from .run_engine_driver import check_files, check_run, drive, streams


@pytest.fixture
def det(tmp_path):
    return FakeDetector(name="det", directory=tmp_path, source=FakeSource(period=0.002))


def test_fly_when_run_then_one_acquisition_brings_all_points(engine, det, tmp_path):
    collected = threading.Event()
    frame_of = det.source.frame

    def frame(number):
        assert number < 20 or collected.wait(60), "collected while it flew"
        return frame_of(number)

    det.source.frame = frame
    engine.subscribe(lambda *_: collected.set(), "stream_datum")
    run = drive(engine, lambda: fly([det], 20, period=0.01))
    check_run(run, 20)
    check_files(run, tmp_path)
    assert [request.n_frames for request in det.source.requests] == [20]
    assert run.named("start")[0]["num_points"] == 20


def heard_twice(plan):
    """Throw a failure in once more, as bluesky does for every 'complete' that brought the same status."""
    message = next(plan)
    while True:
        try:
            answer = yield message
        except FailedStatus as exc:
            plan.throw(exc)
            message = plan.throw(exc)
            continue
        try:
            message = plan.send(answer)
        except StopIteration as end:
            return end.value


def test_fly_when_it_fails_and_that_is_heard_twice_then_what_came_is_collected(engine, det, tmp_path):
    frame_of = det.source.frame

    def frame(number):
        if number > 7:
            raise DetectorStateError("det: no more")
        return frame_of(number)

    det.source.frame = frame
    run = drive(engine, lambda: heard_twice(fly([det], 20, period=60)))
    assert "no more" in run.stop["reason"]
    assert sum(len(page["time"]) for page in run.named("event_page")) == 7
    check_files(run, tmp_path)


def test_fly_when_bluesky_collects_then_rows_and_images_agree(engine, det, tmp_path):
    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.declare_stream(det, name="primary", collect=True)
        yield from bps.prepare(det, 10, wait=True)
        yield from bps.kickoff(det, wait=True)
        yield from bps.collect_while_completing([det], [det], flush_period=0.01, stream_name="primary")

    run = drive(engine, plan)
    check_run(run, 10)
    check_files(run, tmp_path)


def test_fly_when_detectors_differ_then_each_row_holds_all(engine, tmp_path):
    ours = FakeDetector(name="ours", directory=tmp_path, source=FakeSource(period=0.002))
    theirs = FakeWriter(name="theirs", directory=tmp_path, source=FakeFileSource(tmp_path, shape=(8, 12)))
    ours.frames_per_trigger.put(2)
    theirs.hinted = ("total",)
    run = drive(engine, lambda: fly([ours, theirs], 8, period=0.01))
    check_run(run, 8)
    (descriptor,) = run.named("descriptor")
    assert set(descriptor["object_keys"]) == {"ours+theirs"}
    assert {"ours_image", "theirs_image"} <= set(descriptor["data_keys"])
    assert descriptor["hints"]["ours+theirs"]["fields"] == ["theirs_total"]
    assert "ours_gain" in descriptor["configuration"]["ours+theirs"]["data"]


def test_fly_when_strict_and_a_frame_is_lost_then_what_came_is_kept(engine, det, tmp_path):
    det.source.faults = {1: "lose"}
    run = drive(engine, lambda: fly([det], 10))
    assert "1 of 10 frames came; missing ids 2" in run.stop["reason"]
    assert [row["det_event_id"] for row in streams(run)["primary"].rows] == ["1"]
    check_run(run)
    check_files(run, tmp_path)
    check_run(drive(engine, lambda: fly([det], 3)), 3)


def test_fly_when_every_point_loses_a_frame_then_the_bound_of_retakes_is_per_point(engine, det, tmp_path):
    det.loss_policy.put("retake")
    det.max_retakes.put(1)
    det.source.faults = dict.fromkeys(range(1, 5), "lose")  # each brings a point, and loses the next one
    run = drive(engine, lambda: fly([det], 5))
    check_run(run, 5)
    check_files(run, tmp_path)
    assert det.source.calls["frames"] == 5


def test_fly_when_one_point_keeps_losing_frames_then_it_fails_after_the_bound(engine, det):
    det.loss_policy.put("retake")
    det.max_retakes.put(2)
    det.frames_per_trigger.put(2)
    det.source.faults = dict.fromkeys(range(1, 9), "lose")
    run = drive(engine, lambda: fly([det], 5))
    assert run.stop["exit_status"] == "fail" and det.source.calls["frames"] == 3


def test_fly_when_retaking_then_the_rest_is_taken_in_a_new_acquisition(engine, det, tmp_path):
    det.loss_policy.put("retake")
    det.frames_per_trigger.put(2)
    det.source.faults = {1: "short", 2: "lose"}
    run = drive(engine, lambda: fly([det], 5))
    check_run(run, 5)
    check_files(run, tmp_path)
    assert [request.n_frames for request in det.source.requests] == [10, 2, 2]


def test_fly_when_tolerant_then_gaps_are_marked(engine, det, tmp_path):
    det.loss_policy.put("tolerant")
    det.source.faults = {1: "lose"}
    run = drive(engine, lambda: fly([det], 4))
    check_run(run, 4)
    assert [row["det_n_missing"] for row in streams(run)["primary"].rows] == [0, 1, 0, 0]


def test_fly_when_one_of_two_fails_then_reason_names_it_and_the_other_rests(engine, tmp_path):
    good = FakeDetector(name="good", directory=tmp_path, source=FakeSource(period=0.01))
    bad = FakeDetector(name="bad", directory=tmp_path, source=FakeSource(period=0.01))
    bad.source.faults = {1: "short"}
    run = drive(engine, lambda: fly([good, bad], 5))
    assert run.stop["exit_status"] == "fail"
    assert "bad: 4 of 5 frames came" in run.stop["reason"]
    assert good.source.hardware == bad.source.hardware == "as found"
    check_run(run)
    check_files(run, tmp_path)


def test_complete_when_asked_again_then_status_is_the_same(det):
    det.stage()
    det.prepare(3)
    det.kickoff().wait(60)
    assert det.complete() is det.complete()
    det.complete().wait(60)
    det.unstage()


def test_complete_when_not_kicked_off_then_says_so(det):
    det.stage()
    with pytest.raises(DetectorStateError, match="no fly scan was kicked off"):
        det.complete()
    det.unstage()


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "three"])
def test_prepare_when_points_make_no_sense_then_refused(det, n):
    with pytest.raises(RequestError, match="det.n_points"):
        det.prepare(n)


def test_prepare_when_given_more_then_source_gets_it(engine, det):
    drive(engine, lambda: fly([det], 2, settings={"det": {"edge": "rising"}}))
    assert det.source.requests[0].settings == {"edge": "rising"}


def test_trigger_when_a_fly_scan_ended_then_step_scans_go_on(engine, det):
    det.stage()
    det.prepare(2)
    det.kickoff().wait(60)
    det.complete().wait(60)
    det.trigger().wait(60)
    assert det.read()["det_event_id"]["value"] == "3"
    det.unstage()


def test_group_when_names_are_equal_then_refused(det):
    with pytest.raises(RequestError, match="different names"):
        FlyGroup([det, det])
