"""The detector base in step scans: events, files, losses, failures, streams."""

from __future__ import annotations

import math
import re
import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.protocols import (
    Collectable,
    Flyable,
    Pausable,
    Preparable,
    Readable,
    Stageable,
    Stoppable,
    Triggerable,
    WritesStreamAssets,
)

from sfdaq_ophyd.errors import DetectorStateError, Discarded, FramesMissing, RequestError, ServiceRefused

from .fake import count
from .run_engine_driver import check_files, check_run, drive, streams
from .suspended import scan_suspended


@pytest.mark.parametrize(
    "protocol",
    [
        *(Readable, Triggerable, Stageable, Stoppable, Pausable, Preparable, Flyable),
        *(Collectable, WritesStreamAssets),
    ],
)
def test_detector_when_asked_then_follows_protocol(det, protocol):
    assert isinstance(det, protocol)


def test_detector_when_made_then_contacts_nothing(det, tmp_path):
    assert not det.source.calls
    assert not list(tmp_path.iterdir())


def test_count_when_run_then_every_event_has_its_frame(engine, det, tmp_path):
    run = drive(engine, count(det))
    check_run(run, 3)
    check_files(run, tmp_path)
    assert [row["det_pulse_id"] for row in streams(run)["primary"].rows] == [1001, 1002, 1003]


def test_read_when_triggered_then_keys_are_those_described(det):
    det.stage()
    det.trigger().wait(60)
    described = det.describe()
    image = described.pop("det_image")
    assert list(det.read()) == list(described)
    assert (image["shape"], image["external"]) == ([1, 16, 16], "STREAM:")
    assert det.hints == {"fields": ["det_total"]}
    det.unstage()


def test_count_when_several_frames_per_trigger_then_ids_are_arrays(engine, det, tmp_path):
    det.frames_per_trigger.put(3)
    run = drive(engine, count(det, 2))
    check_run(run, 2)
    check_files(run, tmp_path)
    row = streams(run)["primary"].rows[1]
    assert row["det_event_id"] == ["4", "5", "6"]
    assert len(row["det_timestamp"]) == len(row["det_is_good"]) == len(row["det_total"]) == 3


# losses


@pytest.mark.parametrize(
    "fault, text",
    [
        ("lose", "det: 0 of 1 frames came; missing ids 2"),
        ("short", "det: 0 of 1 frames came; the source ended; no frame yet"),
        ("hang", "det: 0 of 1 frames came; nothing for 3 s; no frame yet"),
        (ServiceRefused("arm", url="http://there", said="no"), "arm: http://there answered: 'no'"),
    ],
)
def test_strict_when_a_frame_is_lost_then_reason_says_so(engine, det, tmp_path, fault, text):
    det.timeout.put(3.0 if fault == "hang" else 30.0)
    det.source.faults = {2: fault}
    run = drive(engine, count(det))
    assert run.stop["exit_status"] == "fail"
    assert text in run.stop["reason"] and "det" in run.stop["reason"]
    assert [row["det_event_id"] for row in streams(run)["primary"].rows] == ["1"]
    check_run(run)
    check_files(run, tmp_path)
    det.timeout.put(30.0)
    check_run(drive(engine, count(det)), 3)


def test_retake_when_a_frame_is_lost_then_the_whole_point_is_taken_again(engine, det, tmp_path):
    det.loss_policy.put("retake")
    det.frames_per_trigger.put(3)
    det.source.faults = {1: "lose", 2: "short"}
    run = drive(engine, count(det, 2))
    check_run(run, 2)
    check_files(run, tmp_path)
    ids = [row["det_event_id"] for row in streams(run)["primary"].rows]
    assert all([int(i) for i in point] == list(range(int(point[0]), int(point[0]) + 3)) for point in ids)


def test_retake_when_frames_keep_being_lost_then_fails_after_the_bound(engine, det):
    det.loss_policy.put("retake")
    det.max_retakes.put(2)
    det.source.faults = dict.fromkeys(range(1, 10), "short")
    run = drive(engine, count(det, 1))
    assert det.source.calls["frames"] == 3
    assert isinstance(run.error.__cause__, FramesMissing)


@pytest.mark.parametrize("fault", ["lose", "short"])
def test_tolerant_when_a_frame_is_lost_then_the_gap_is_marked_and_empty(engine, det, tmp_path, fault):
    det.loss_policy.put("tolerant")
    det.frames_per_trigger.put(2)
    det.source.faults = {2: fault}
    run = drive(engine, count(det, 3))
    check_run(run, 3)
    check_files(run, tmp_path)
    rows = streams(run)["primary"].rows
    assert [row["det_n_missing"] for row in rows] == [0, 1, 0]
    assert rows[1]["det_is_good"] == [True, False]
    assert rows[1]["det_event_id"][1] == "" and rows[1]["det_pulse_id"][1] == -1
    assert math.isnan(rows[1]["det_timestamp"][1]) and math.isnan(rows[1]["det_mean"][1])


def test_tolerant_when_the_source_fails_then_the_point_fails(engine, det):
    det.loss_policy.put("tolerant")
    det.source.faults = {1: ServiceRefused("arm", url="there", said="no")}
    assert drive(engine, count(det)).stop["exit_status"] == "fail"


# staging, wrong use


def test_stage_when_open_fails_then_source_is_closed_and_engine_is_usable(engine, det):
    det.source.open_fault = ServiceRefused("find", url="there", said="gone")
    run = drive(engine, count(det))
    assert isinstance(run.error, ServiceRefused)
    assert det.source.hardware == "as found"
    det.source.open_fault = None
    check_run(drive(engine, count(det)), 3)


@pytest.mark.parametrize(
    "signal, value",
    [
        ("frames_per_trigger", 0),
        ("frames_per_trigger", 1.5),
        ("timeout", 0),
        ("timeout", math.nan),
        ("loss_policy", "hopeful"),
        ("max_retakes", -1),
    ],
)
def test_stage_when_a_signal_is_wrong_then_nothing_is_sent(det, signal, value):
    getattr(det, signal).put(value)
    with pytest.raises(RequestError, match=f"det.{signal}={re.escape(repr(value))}: expected"):
        det.stage()
    assert not det.source.calls


@pytest.mark.parametrize("verb", ["trigger", "kickoff", "describe_collect"])
def test_verb_when_not_staged_then_says_stage_first(det, verb):
    with pytest.raises(DetectorStateError, match="stage it first"):
        getattr(det, verb)()


def test_read_when_not_triggered_then_says_trigger_first(det):
    det.stage()
    with pytest.raises(DetectorStateError, match="trigger first"):
        det.read()
    det.unstage()


def test_trigger_when_acquiring_then_refused(det):
    det.source.faults = {1: "hang"}
    det.stage()
    first = det.trigger()
    with pytest.raises(DetectorStateError, match="is running"):
        det.trigger()
    det.unstage()
    assert first.done


def test_save_when_read_twice_after_one_trigger_then_refused(engine, det):
    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        yield from bps.create("primary")
        yield from bps.read(det)
        yield from bps.save()

    run = drive(engine, plan)
    assert "trigger a new one" in run.stop["reason"]
    check_run(run)


def test_stop_when_acquiring_then_status_fails_and_hardware_rests(det):
    det.source.faults = {1: "hang"}
    det.stage()
    status = det.trigger()
    det.stop()
    det.stop()
    assert isinstance(status.exception(60), Discarded)
    assert "det: stopped on request" in str(status)
    det.unstage()
    det.unstage()
    assert det.source.hardware == "as found"
    assert not [t for t in threading.enumerate() if t.name.startswith("det ")]


def test_unstage_when_the_source_cannot_be_told_then_the_rest_is_done_all_the_same(det, tmp_path):
    det.source.faults = {2: "hang"}
    det.stage()
    det.trigger().wait(60)
    det.trigger()
    assert det.source.armed.wait(60)
    gone = det.source.discard

    def unreachable():
        gone()
        raise ServiceRefused("disarm", url="there", said="no")

    det.source.discard = unreachable
    with pytest.raises(ServiceRefused):
        det.unstage()
    assert det.source.hardware == "as found"
    assert not list(tmp_path.glob("*.h5"))
    assert not [t for t in threading.enumerate() if t.name.startswith("det ")]
    det.unstage()


def test_scan_when_it_has_more_points_then_no_more_threads_are_made(engine, det, monkeypatch):
    started, start = [], threading.Thread.start

    def note(thread):
        started.append(thread.name)
        start(thread)

    drive(engine, count(det, 1))  # the heartbeat of all limits
    monkeypatch.setattr(threading.Thread, "start", note)
    made = []
    for n in (1, 6):
        started.clear()
        check_run(drive(engine, count(det, n)), n)
        made.append([name for name in started if not name.startswith("compress")])
    assert sorted(made[0]) == sorted(made[1]) == ["det frames", "det source"]


def test_scan_when_the_process_is_suspended_for_longer_than_its_limit_then_no_point_is_lost(tmp_path):
    make = f"""
from tests.devices.fake import FakeDetector, FakeSource
det = FakeDetector(name="det", directory={str(tmp_path)!r}, source=FakeSource(period=1.2))
det.timeout.put(0.5)
"""
    exposes = 'det.source.calls["frames"] >= 2 and det.source.armed.is_set()'
    assert scan_suspended(make, 3, seconds=3.0, under_way=exposes) == ["1", "2", "3"]


# one failure after another


def staged_in_the_run(det):
    @bpp.run_decorator()
    @bpp.stage_decorator([det])
    def plan():
        yield from bps.trigger_and_read([det])

    return plan


@pytest.mark.parametrize("make_plan", [count, staged_in_the_run])
@pytest.mark.parametrize(
    "failure, text",
    [
        ("short", "det: 0 of 1 frames came"),
        (ServiceRefused("trigger", url="there", said="no"), "det: trigger: there answered: 'no'"),
        (OSError("disk full"), "det: disk full"),
        (ValueError("a", "b"), "det: ('a', 'b')"),
    ],
)
def test_unstage_when_it_fails_after_the_point_then_the_point_s_failure_is_told(
    engine, det, caplog, make_plan, failure, text
):
    close = det.source.close

    def unreachable():
        close()
        raise ServiceRefused("put back", url="elsewhere", said="never")

    det.source.close = unreachable
    det.source.faults = {1: failure}
    run = drive(engine, make_plan(det))
    assert text in run.stop["reason"] and "never" not in run.stop["reason"]
    assert text in str(run.error)
    assert any("put back" in note for note in run.error.__cause__.__notes__)
    assert "det: while it was unstaged: put back" in caplog.text
    det.source.close = close
    check_run(drive(engine, count(det)), 3)


def test_unstage_when_only_that_fails_then_it_is_told(engine, det):
    def unreachable():
        raise ServiceRefused("put back", url="elsewhere", said="never")

    det.source.close = unreachable
    run = drive(engine, staged_in_the_run(det))
    assert "put back" in run.stop["reason"] and "put back" in str(run.error)


def test_stage_when_it_fails_then_the_reason_names_the_device(engine, det):
    det.source.open_fault = ServiceRefused("find", url="there", said="gone")
    det.source.close = lambda: 1 / 0
    run = drive(engine, staged_in_the_run(det))
    assert run.stop["reason"] == "det: find: there answered: 'gone'"
    assert isinstance(run.error, ServiceRefused) and "ZeroDivision" not in str(run.error)


# settings in a run


@pytest.mark.parametrize("how", [bps.configure, lambda det, change: bps.mv(det.frames_per_trigger, 3)])
def test_setting_when_changed_in_a_run_then_refused_by_name_and_the_descriptor_stays_true(engine, det, how):
    """configure-in-run"""

    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        yield from how(det, {"frames_per_trigger": 3})
        yield from bps.trigger_and_read([det])

    run = drive(engine, plan)
    assert "det_frames_per_trigger=3: it is 1 while det is staged" in run.stop["reason"]
    assert len(streams(run)["primary"].rows) == 1
    check_run(run)
    det.frames_per_trigger.put(3)
    check_run(drive(engine, count(det)), 3)


@pytest.mark.parametrize("name", ["timeout", "loss_policy", "max_retakes"])
def test_setting_when_put_to_what_it_is_while_staged_then_nothing_happens(det, name):
    det.stage()
    signal = getattr(det, name)
    signal.put(signal.get())
    with pytest.raises(DetectorStateError, match=f"det_{name}.*unstage first"):
        signal.put("tolerant")
    det.unstage()
    signal.put("tolerant")
