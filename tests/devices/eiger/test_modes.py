"""Internal, external and monitor mode; stale frames, lost frames, and detectors without ids."""

from __future__ import annotations

import contextlib
import json
import threading

import bluesky.plans as bp
import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np
import pytest
import requests

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.errors import FramesMissing
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire import simplon, tiff
from sfdaq_ophyd.wire.simplon import DetectorState

from ...http_peer import relay
from ..run_engine_driver import check_run, drive, interruptible
from ..suspended import scan_suspended
from .conftest import EXPOSES, LOOKS, Operator, check_as_found, make_eiger, stamp_of
from .stream_line import rows_of


@contextlib.contextmanager
def edges(part):
    """Electrical edges at some 30 Hz, as a timing system gives them."""
    over = threading.Event()

    def give():
        while not over.wait(0.03):
            part.edge(0.003)

    thread = threading.Thread(target=give, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(("trigger_mode", "frames"), [("exts", 1), ("exts", 3), ("exte", 1)])
def test_external_when_edges_come_then_each_point_is_one_and_no_trigger_is_sent(
    part, tmp_path, trigger_mode, frames
):
    eiger = make_eiger(part, tmp_path, mode="external")
    eiger.trigger_mode.put(trigger_mode)
    eiger.frames_per_trigger.put(frames)
    part.requests.clear()
    with edges(part):
        run = drive(interruptible(), lambda: bp.count([eiger], 3))
    check_run(run, 3, stamp_of=stamp_of)
    assert not [entry for entry in part.requests.entries() if entry.path.endswith("command/trigger")]
    eiger.trigger_mode.put("ints")
    check_as_found(part, eiger.client)


NO_EDGE = {
    "monitor": "state 'ready'",
    "stream": "no trigger came",
    "filewriter": "detector 'ready', filewriter 'acquire'",
}


@pytest.fixture(params=list(NO_EDGE))
def make_any(request, part, tmp_path, make_writer, monkeypatch):
    """Make a device of each readout."""
    monkeypatch.setattr("sfdaq_ophyd.devices.eiger._stream.LONGEST_REST", 2.0)
    options = {
        "monitor": {"directory": tmp_path},
        "stream": {"directory": tmp_path, "readout": "stream", "stream": part.stream_endpoint},
    }.get(request.param)
    if options is None:
        return make_writer
    return lambda **more: make_eiger(part, **options, **more)


def test_external_when_edges_come_then_they_make_the_points_of_any_readout(part, make_any):
    eiger = make_any(mode="external")
    with edges(part):
        for plan, n in ((lambda: bp.count([eiger], 2), 2), (lambda: fly([eiger], 4, period=0.01), 4)):
            check_run(drive(interruptible(), plan), n, stamp_of=stamp_of)
    check_as_found(part, eiger.client)


def test_external_when_no_edge_comes_then_the_point_of_any_readout_fails_and_says_so(
    part, make_any, request, monkeypatch
):
    eiger = make_any(mode="external")
    if (stream := getattr(eiger.source, "stream", None)) is not None:
        connect = stream.wait_connected
        monkeypatch.setattr(stream, "wait_connected", lambda limit: connect(60))
    eiger.timeout.put(0.3)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and "eiger: 0 of 1 frames came" in run.stop["reason"]
    assert NO_EDGE[request.node.callspec.params["make_any"]] in run.stop["reason"]
    check_as_found(part, eiger.client)


def test_inte_when_chosen_then_every_frame_of_any_readout_has_its_own_trigger(part, make_any):
    eiger = make_any()
    eiger.trigger_mode.put("inte")
    eiger.frames_per_trigger.put(2)
    part.requests.clear()
    try:
        check_run(drive(interruptible(), lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)
    finally:
        eiger.trigger_mode.put("ints")
    bodies = [entry.body for entry in part.requests.entries() if entry.path.endswith("command/trigger")]
    assert len(bodies) == 4 and all(b"value" in body for body in bodies)


@pytest.mark.parametrize("plan", ["count", "fly"])
@pytest.mark.parametrize("interruption", ["pause", "abort"])
def test_external_when_interrupted_while_edges_come_then_points_and_detector_are_right(
    part, tmp_path, plan, interruption
):
    for at in range(3, 30, 8):
        eiger = make_eiger(part, tmp_path / str(at), mode="external")
        plans = {"count": lambda e=eiger: bp.count([e], 2), "fly": lambda e=eiger: fly([e], 2, period=0.01)}
        with edges(part):
            run = drive(interruptible(interruption == "pause"), plans[plan], interruption, at)
        check_run(run, 2 if interruption == "pause" else None, stamp_of=stamp_of)
        check_as_found(part, eiger.client)


@pytest.mark.parametrize("plan", ["count", "fly"])
def test_monitor_when_paused_then_the_points_are_right_and_the_detector_runs_on(part, tmp_path, plan):
    make_eiger(part, tmp_path)
    operator = Operator(part)
    try:
        for at in range(3, 30, 9):
            eiger = make_eiger(part, tmp_path / str(at), mode="monitor", exposure_time=None)
            plans = {
                "count": lambda e=eiger: bp.count([e], 2),
                "fly": lambda e=eiger: fly([e], 2, period=0.01),
            }
            check_run(drive(interruptible(True), plans[plan], "pause", at), 2, stamp_of=stamp_of)
            assert eiger.client.state() is DetectorState.ACQUIRE
    finally:
        operator.stop()


def test_monitor_when_somebody_else_runs_the_detector_then_nothing_is_commanded(part, tmp_path):
    eiger = make_eiger(part, tmp_path, mode="monitor")
    operator = Operator(part)
    part.requests.clear()
    try:
        run = drive(interruptible(), lambda: bp.count([eiger], 4))
        check_run(run, 4, stamp_of=stamp_of)
        sent = [entry.path for entry in part.requests.entries() if entry.method == "PUT"]
        assert all("/monitor/" in path for path in sent), sent
        assert eiger.client.state() is DetectorState.ACQUIRE
        assert eiger.client.get("monitor", "config", "mode").value == "enabled"
        assert {row["eiger_event_id"].split("_")[0] for row in rows_of(run)} == {str(operator.series_id)}
    finally:
        operator.stop()


def test_monitor_when_the_buffer_is_full_of_old_frames_then_those_and_no_later_ones_are_dropped(
    part, tmp_path
):
    eiger = make_eiger(part, tmp_path, mode="monitor")
    operator = Operator(part, nimages=20)
    operator._thread.join(60)  # 20 frames wait, none of them ours
    client = operator.client
    try:
        eiger.stage()
        part.fail_next("delay", path="monitor/api/1.8.0/command/clear", seconds=0.3)
        status = eiger.trigger()
        assert eiger.n_stale.get() == 20  # what is exposed from here on is of the point
        client.put("detector", "nimages", 1)
        series_id = client.arm()
        client.trigger()
        status.wait(60)
        row = {key: value["value"] for key, value in eiger.read().items()}
        assert row["eiger_event_id"] == f"{series_id}_0"
        assert row["eiger_n_stale"] == 20
    finally:
        eiger.unstage()
        operator.stop()


def test_monitor_when_an_image_comes_while_the_buffer_is_looked_at_then_it_is_of_the_point(part, tmp_path):
    """As of a detector that another device of the same point triggers."""
    eiger = make_eiger(part, tmp_path, mode="monitor")
    operator = Operator(part, nimages=3)
    operator._thread.join(60)
    client, look, exposed = operator.client, eiger.client.image_list, []

    def look_and_expose():
        found = look()
        client.put("detector", "nimages", 1)
        exposed.append(f"{client.arm()}_0")
        client.trigger()
        return found

    try:
        eiger.stage()
        eiger.client.image_list = look_and_expose
        eiger.trigger().wait(60)
        row = {key: value["value"] for key, value in eiger.read().items()}
        assert ([row["eiger_event_id"]], row["eiger_n_stale"]) == (exposed, 3)
    finally:
        eiger.unstage()
        operator.stop()


def test_monitor_when_nothing_comes_then_the_point_fails_in_time(part, tmp_path):
    eiger = make_eiger(part, tmp_path, mode="monitor")
    eiger.timeout.put(0.3)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and "is the detector running?" in run.stop["reason"]
    check_as_found(part, eiger.client)


def test_address_of_the_monitor_when_given_then_the_device_decides_by_who_runs_the_detector(part, tmp_path):
    make_eiger(part, tmp_path)
    eiger = make_eiger(part, tmp_path, exposure_time=None)
    eiger = type(eiger)(part.url + "/monitor/api/1.8.0", name="eiger", directory=tmp_path)
    assert eiger.mode.get() == "auto"
    check_run(drive(interruptible(), lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)
    assert eiger.source.mode == "internal"
    operator = Operator(part)
    try:
        check_run(drive(interruptible(), lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)
        assert eiger.source.mode == "monitor" and eiger.client.state() is DetectorState.ACQUIRE
    finally:
        operator.stop()


def test_internal_when_old_frames_wait_in_the_monitor_then_none_slips_in(part, eiger):
    operator = Operator(part, nimages=7)
    operator._thread.join(60)
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    series = {row["eiger_event_id"].split("_")[0] for row in rows_of(run)}
    assert series == {str(operator.series_id + 1)}
    assert [row["eiger_n_stale"] for row in rows_of(run)] == [7, 7]
    operator.stop()


def test_internal_when_a_frame_of_another_series_comes_then_it_is_dropped_and_counted(part, eiger):
    part.fail_next("wrong_series")
    eiger.loss_policy.put("tolerant")
    eiger.frames_per_trigger.put(3)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    check_run(run, 1, stamp_of=stamp_of)
    row = rows_of(run)[0]
    assert row["eiger_n_stale"] == 1 and row["eiger_n_missing"] == 1
    assert row["eiger_is_good"].count(False) == 1


@pytest.mark.parametrize("what", ["foreign", "no image"])
def test_internal_when_only_others_come_and_fast_then_the_point_ends_in_its_time(part, tmp_path, what):
    """Nothing is quiet, and nothing comes."""
    operator = Operator(part, nimages=1)
    operator._thread.join(60)
    old = requests.get(f"{part.url}/monitor/api/1.8.0/images/next", timeout=60).content
    operator.stop()

    def flood(path, ask):
        if "/images/next" in path:
            return 200, "image/tiff", old if what == "foreign" else b"no TIFF"
        return ask()

    make_eiger(part, tmp_path)  # short exposures
    with relay(part.url, flood) as url:
        eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=60)
        eiger.timeout.put(1.0)
        eiger.loss_policy.put("tolerant")
        run = drive(interruptible(), lambda: bp.count([eiger]))
    check_run(run, 1, stamp_of=stamp_of)
    (row,) = rows_of(run)
    assert row["eiger_n_missing"] == 1 and (row["eiger_n_stale"] > 1) == (what == "foreign")


def test_monitor_when_the_same_image_comes_again_and_again_then_the_point_ends_in_its_time(part, tmp_path):
    operator = Operator(part, nimages=1)
    operator._thread.join(60)
    old = requests.get(f"{part.url}/monitor/api/1.8.0/images/next", timeout=60).content
    operator.stop()
    with relay(part.url, lambda path, ask: (200, "", old) if "/images/next" in path else ask()) as url:
        eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=60, mode="monitor")
        eiger.timeout.put(1.0)
        eiger.loss_policy.put("tolerant")
        eiger.frames_per_trigger.put(2)
        run = drive(interruptible(), lambda: bp.count([eiger]))
    check_run(run, 1, stamp_of=stamp_of)
    assert rows_of(run)[0]["eiger_is_good"] == [True, False]


@pytest.mark.parametrize("fault", ["drop", "truncate", "content_type"])
@pytest.mark.parametrize("policy", ["strict", "retake", "tolerant"])
def test_internal_when_a_frame_is_lost_then_the_policy_holds(part, eiger, fault, policy):
    eiger.loss_policy.put(policy)
    eiger.frames_per_trigger.put(3)
    part.fail_next(fault)
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_as_found(part, eiger.client)
    if policy == "strict":
        assert run.stop["exit_status"] == "fail"
        assert "eiger" in run.stop["reason"]
    else:
        check_run(run, 2, stamp_of=stamp_of)
        n_good = [sum(row["eiger_is_good"]) for row in rows_of(run)]
        assert n_good == ([3, 3] if policy == "retake" else [2, 3])


class LostPixels:
    """Has the detector say of the next image, none that waits already, that three pixels of it were lost."""

    def __init__(self):
        self.waiting, self.done = [], False

    def __call__(self, path, forward):
        code, content_type, body = forward()
        if path.endswith("/images") and code == 200:
            self.waiting = simplon.parse_image_list(json.loads(body))
        elif "/images/next" in path and code == 200 and not self.done:
            frame = tiff.decode(body)
            if (frame.series_id, frame.image_id) not in self.waiting:
                self.done = True
                tag = b"\x12\0\x04\0\x01\0\0\0"  # LostPixelCount, one LONG
                assert tag + bytes(4) in body[:200]
                body = body.replace(tag + bytes(4), tag + b"\3\0\0\0", 1)
        return code, content_type, body


@pytest.mark.parametrize("mode", ["internal", "monitor"])
@pytest.mark.parametrize("policy", ["strict", "retake", "tolerant"])
def test_frame_when_pixels_of_it_were_lost_on_the_way_then_it_is_not_whole_and_the_policy_holds(
    part, tmp_path, mode, policy
):
    make_eiger(part, tmp_path)  # short exposures
    with contextlib.ExitStack() as stack:
        if mode == "monitor":
            stack.callback(Operator(part).stop)
        url = stack.enter_context(relay(part.url, LostPixels()))
        eiger = Eiger(url, name="eiger", directory=tmp_path, mode=mode, timeout=60)
        eiger.loss_policy.put(policy)
        run = drive(interruptible(), lambda: bp.count([eiger], 2))
    if policy == "strict":
        assert run.stop["exit_status"] == "fail"
        assert "lacks 3 pixels lost in transmission" in run.stop["reason"]
    else:
        check_run(run, 2, stamp_of=stamp_of)
        assert [row["eiger_is_good"] for row in rows_of(run)] == [policy == "retake", True]


def test_strict_when_a_frame_is_dropped_then_the_reason_names_it(part, eiger):
    eiger.frames_per_trigger.put(3)
    drive(interruptible(), lambda: bp.count([eiger]))  # the device has seen where ids start
    part.fail_next("drop")
    run = drive(interruptible(), lambda: bp.count([eiger]))
    series_id = eiger.client.arm() - 1
    eiger.client.disarm()
    assert f"missing ids {series_id}_0" in run.stop["reason"]


def test_strict_when_the_monitor_dropped_frames_of_an_earlier_series_then_the_reason_counts_none(part, eiger):
    client = SimplonClient(part.url)
    client.put("monitor", "buffer_size", 2)
    operator = Operator(part, nimages=7)
    operator._thread.join(60)
    operator.client.put("monitor", "buffer_size", 100)
    while client.next_image(0) is not None:
        pass  # none of them waits any more
    assert client.get("monitor", "status", "dropped").value == 5
    part.fail_next("drop")
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and "monitor dropped 0" in run.stop["reason"]
    operator.stop()


def test_internal_when_the_server_cannot_clear_its_monitor_then_the_points_are_right(part, tmp_path):
    def without_clear(path, forward):
        return (404, "text/plain", b"") if path.endswith("monitor/api/1.8.0/command/clear") else forward()

    with relay(part.url, without_clear) as url:
        make_eiger(part, tmp_path)  # short exposures
        eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=60)
        check_run(drive(interruptible(), lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)


def test_last_image_when_it_comes_only_after_disarm_then_the_point_is_whole(part, eiger):
    part.fail_next("late_last")
    eiger.frames_per_trigger.put(2)
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)


def test_times_when_all_of_a_series_are_alike_then_the_time_of_receipt_still_differs(part, eiger):
    part.fail_next("same_time")
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    rows = rows_of(run)
    assert len({row["eiger_timestamp"] for row in rows}) == 1
    assert len({row["eiger_receive_time"] for row in rows}) == 3
    data = run.named("descriptor")[0]["configuration"]["eiger"]["data"]
    assert data["eiger_timestamp_source"] == "detector"


def test_mask_when_zeroed_at_the_detector_then_frames_still_pass(part, eiger):
    eiger.client.put("detector", "mask_to_zero", True)
    try:
        run = drive(interruptible(), lambda: bp.count([eiger]))
        check_run(run, 1, stamp_of=stamp_of)
    finally:
        eiger.client.put("detector", "mask_to_zero", False)


@pytest.mark.parametrize("exclude", [True, False])
def test_numbers_when_masked_pixels_are_excluded_or_not_then_they_are_the_images(part, tmp_path, exclude):
    eiger = make_eiger(part, tmp_path, exposure_time=0.02)
    eiger.exclude_masked.put(exclude)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    row = rows_of(run)[0]
    with h5py.File(next(tmp_path.glob("*.h5"))) as file:
        image = file["entry/data/data"][0]
    assert read_stamp(image) == stamp_of(row["eiger_event_id"])
    counted = image[image < 2**32 - 2] if exclude else image
    assert row["eiger_total"] == int(counted.sum(dtype="u8"))
    assert row["eiger_max"] == int(counted.max())
    assert row["eiger_n_saturated"] == int(np.count_nonzero(counted > eiger.count_cutoff.get())) > 0


def test_frames_missing_when_nobody_answers_any_more_then_an_error_of_ours_in_time(make_part, tmp_path):
    part = make_part()
    eiger = make_eiger(part, tmp_path)
    eiger.stage()
    try:
        part.fail_next("drop")
        with pytest.raises(FramesMissing):
            eiger.trigger().wait(60)
    finally:
        eiger.unstage()


def test_scan_when_our_process_is_suspended_in_mid_exposure_then_no_point_is_lost(part, tmp_path):
    make = f"""
from sfdaq_ophyd.devices import Eiger
det = Eiger({part.url!r}, name="det", directory={str(tmp_path)!r}, timeout=3.0)
det.exposure_time.put(1.2)
det.timeout.put(3.0)
{LOOKS}
"""
    client = SimplonClient(part.url)
    client.initialize()  # series count from 1
    assert scan_suspended(make, 3, seconds=6.0, under_way=EXPOSES) == ["1_0", "1_1", "1_2"]
    client.initialize()


def test_arm_when_a_request_for_an_image_was_broken_off_then_it_is_waited_out_before(part, tmp_path):
    eiger = make_eiger(part, tmp_path)
    armed = []
    eiger.client.wait_out_images = lambda: armed.append(
        any(entry.path.endswith("command/arm") for entry in part.requests.entries())
    )
    check_run(drive(interruptible(), lambda: bp.count([eiger], 2)), 2, stamp_of=stamp_of)
    assert armed == [False]
