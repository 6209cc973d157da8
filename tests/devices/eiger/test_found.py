"""What real detectors and networks did: the cases of `golden/found`, by name, and their kind."""

from __future__ import annotations

import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
import requests

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.errors import DetectorStateError
from sfdaq_ophyd.plans import fly

from ...http_peer import relay
from ..run_engine_driver import check_run, drive, interruptible
from .conftest import check_as_found, make_eiger, stamp_of
from .stream_line import rows_of


def restart(part):
    requests.put(f"{part.url}/system/api/1.8.0/command/restart", timeout=60)


@pytest.fixture
def fresh(make_part):
    """A detector of one's own, initialized."""
    return make_part(initialized=True)


# order


class Turned:
    """Hand out every frame number `early` one place before its turn."""

    def __init__(self, early):
        self.early, self.kept, self.n = early, [], -1

    def __call__(self, path, forward):
        if "/images/next" not in path:
            return forward()
        if self.kept:
            return self.kept.pop()
        answer = forward()
        if answer[0] == 200:
            self.n += 1
            if self.n == self.early - 1:
                self.kept.append(answer)
                self.n += 1
                while (answer := forward())[0] == 408:
                    pass
        return answer


@pytest.mark.parametrize("early", [1, 5, 9])
@pytest.mark.parametrize("plan", ["count", "fly"])
def test_frames_when_one_comes_before_its_turn_then_each_is_in_its_place(part, tmp_path, early, plan):
    """eiger-out-of-order"""
    with relay(part.url, Turned(early)) as url:
        eiger = make_eiger(part, tmp_path)
        eiger = type(eiger)(url, name="eiger", directory=tmp_path)
        eiger.frames_per_trigger.put(10 if plan == "count" else 1)
        plans = {"count": lambda: bp.count([eiger], 2), "fly": lambda: fly([eiger], 20, period=0.01)}
        run = drive(interruptible(), plans[plan])
    check_run(run, 2 if plan == "count" else 20, stamp_of=stamp_of)
    rows = rows_of(run)
    points = (
        [row["eiger_event_id"] for row in rows]
        if plan == "count"
        else [[row["eiger_event_id"] for row in rows]]
    )
    for k, ids in enumerate(points):
        assert [int(event_id.split("_")[1]) for event_id in ids] == list(range(10 * k, 10 * k + len(ids)))
    assert eiger.n_stale.get() == 0


def test_image_when_asked_for_just_before_the_exposure_ended_then_the_series_goes_on(part, tmp_path):
    exposed, looks = threading.Event(), []

    def hook(path, forward):
        if "/images/next" in path and not looks:
            looks.append(exposed.wait(60))
            threading.Event().wait(0.5)  # the reply to the trigger is first
            return 408, "text/plain", b""
        if not path.endswith("/trigger"):
            return forward()
        answer = forward()
        exposed.set()
        return answer

    with relay(part.url, hook) as url:
        make = type(make_eiger(part, tmp_path, exposure_time=0.15))
        eiger = make(url, name="eiger", directory=tmp_path)
        part.requests.clear()
        check_run(drive(interruptible(), lambda: bp.count([eiger], 1)), 1, stamp_of=stamp_of)
    sent = [entry.path.rsplit("/", 1)[1] for entry in part.requests.entries() if "/command/" in entry.path]
    assert sent.index("trigger") == len(sent) - 2 and sent[-1] == "abort", "not disarmed before its end"


# restarts


def test_scan_when_the_detector_restarted_before_it_then_it_is_set_again_and_that_is_said(
    fresh, tmp_path, caplog
):
    """eiger-restart-settings"""
    eiger = make_eiger(fresh, tmp_path, exposure_time=None)
    eiger.photon_energy.put(12400.0)
    eiger.threshold_energy.put(7000.0)
    eiger.exposure_time.put(0.02)
    eiger.frame_time.put(0.03)

    def settings():
        return [
            getattr(eiger, n).get()
            for n in ("photon_energy", "threshold_energy", "exposure_time", "frame_time")
        ]

    before = settings()
    first = drive(interruptible(), lambda: bp.count([eiger]))
    restart(fresh)
    second = drive(interruptible(), lambda: bp.count([eiger]))
    check_run(second, 1, stamp_of=stamp_of)
    assert settings() == before
    assert "the detector was reset; set again" in caplog.text and "photon_energy 12400.0" in caplog.text
    (one,), (other,) = rows_of(first), rows_of(second)
    assert one["eiger_event_id"] == other["eiger_event_id"]
    assert one["eiger_series_uid"] != other["eiger_series_uid"]


def test_scan_when_the_detector_restarted_then_a_threshold_set_before_the_energy_is_there_again(
    fresh, tmp_path
):
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    SimplonClient(fresh.url).put("detector", "photon_energy", 9000.0)
    eiger.threshold_energy.put(6000.0)
    eiger.photon_energy.put(9000.0)  # as it is: not sent, and set by this session all the same
    restart(fresh)
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    assert (eiger.photon_energy.get(), eiger.threshold_energy.get()) == (9000.0, 6000.0)


def test_scan_when_somebody_else_initialized_the_detector_then_it_is_set_again(fresh, tmp_path, caplog):
    """eiger-restart-settings"""
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    drive(interruptible(), lambda: bp.count([eiger]))
    SimplonClient(fresh.url).initialize()
    assert eiger.exposure_time.get() == 0.5
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    assert eiger.exposure_time.get() == 0.02
    assert "the detector was reset" in caplog.text


def test_scan_when_somebody_else_set_a_value_then_theirs_counts(fresh, tmp_path):
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    drive(interruptible(), lambda: bp.count([eiger]))
    SimplonClient(fresh.url).put("detector", "count_time", 0.03)
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    assert eiger.exposure_time.get() == 0.03


@pytest.mark.parametrize("initialized", [True, False])
def test_scan_when_somebody_else_used_the_detector_then_what_is_not_as_set_here_is_told(
    fresh, tmp_path, caplog, initialized
):
    eiger = make_eiger(fresh, tmp_path, exposure_time=None)
    eiger.threshold_energy.put(5000.0)
    eiger.photon_energy.put(12400.0)  # which sets the threshold anew
    eiger.exposure_time.put(0.02)
    drive(interruptible(), lambda: bp.count([eiger]))
    other = SimplonClient(fresh.url)
    if initialized:
        other.initialize()
        other.put("detector", "count_time", 0.03)
    for _ in range(3):
        other.arm()
        other.disarm()
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    told = "count_time is 0.03, was set to 0.02"
    assert ("somebody else used the detector" in caplog.text) == (told in caplog.text) == initialized
    assert "was reset" not in caplog.text


def test_external_when_somebody_else_initialized_the_detector_in_a_scan_then_the_mode_is_set_again(
    fresh, tmp_path
):
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02, mode="external")
    eiger.trigger_mode.put("exts")
    eiger.stage()
    try:
        for _ in range(2):
            status = eiger.trigger()
            giving = threading.Event()
            while not status.done:
                fresh.edge()
                giving.wait(0.05)
            status.wait(60)
            SimplonClient(fresh.url).initialize()
        assert eiger.exposure_time.get() == 0.5
    finally:
        eiger.unstage()


@pytest.mark.parametrize("mode", ["disabled", "enabled"])
def test_scan_when_somebody_else_initialized_the_monitor_in_it_then_the_next_series_has_it_enabled(
    fresh, tmp_path, mode
):
    other = SimplonClient(fresh.url)
    other.put("monitor", "mode", mode)
    eiger = make_eiger(fresh, tmp_path)
    eiger.stage()
    try:
        other.command("monitor", "initialize")
        other.put("monitor", "discard_new", False)
        eiger.trigger().wait(60)
        found = {name: other.get("monitor", "config", name).value for name in ("mode", "discard_new")}
        assert found == {"mode": "enabled", "discard_new": True}
        held = {debt.what: debt.back for debt in eiger.source.control.debts._read().values()}
        assert held.get("monitor/config/mode", mode) == mode
    finally:
        eiger.unstage()
    assert other.get("monitor", "config", "mode").value == mode


def test_point_when_the_monitor_was_disabled_in_its_series_then_the_reason_says_so(fresh, tmp_path):
    eiger = make_eiger(fresh, tmp_path)
    eiger.n_triggers.put(2)
    engine = interruptible()
    engine.subscribe(lambda *_: SimplonClient(fresh.url).command("monitor", "initialize"), "event")
    run = drive(engine, lambda: bp.count([eiger], 2))
    assert len(rows_of(run)) == 1
    assert "the monitor is not enabled, its mode is 'disabled'" in run.stop["reason"]


def test_point_when_the_detector_restarts_in_a_scan_then_it_is_refused_by_name(fresh, tmp_path):
    """eiger-restart-settings"""
    eiger = make_eiger(fresh, tmp_path)
    engine = interruptible()
    engine.subscribe(lambda *_: restart(fresh), "event")
    run = drive(engine, lambda: bp.count([eiger], 3))
    assert len(rows_of(run)) == 1
    assert "eiger: the detector is in state 'na'" in run.stop["reason"] and "restarted" in run.stop["reason"]


def test_initialize_when_called_then_what_was_set_is_set_no_more(fresh, tmp_path):
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    eiger.initialize()
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    assert eiger.exposure_time.get() == 0.5


def test_uid_when_the_images_have_none_then_one_of_ours_stands_for_it(make_part, tmp_path):
    part = make_part(api_version="1.6.0", initialized=True)
    eiger = make_eiger(part, tmp_path, legacy_ids="status")
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    uids = {row["eiger_series_uid"] for row in rows_of(run)}
    assert len(uids) == 1 and all(uid.endswith("_1") and len(uid) > 15 for uid in uids)


# thresholds, bit depth, settings in a run


def test_stage_when_two_thresholds_are_enabled_then_refused_by_name(fresh, tmp_path):
    """eiger-two-thresholds"""
    eiger = make_eiger(fresh, tmp_path)
    eiger.client.put("detector", "threshold/2/mode", "enabled")
    with pytest.raises(DetectorStateError, match=r"eiger: thresholds \[1, 2\] are enabled"):
        eiger.stage()
    check_as_found(fresh, eiger.client)


@pytest.mark.parametrize("mode", ["internal", "monitor"])
def test_images_when_a_second_threshold_is_enabled_in_a_scan_then_never_counted_as_stale(
    fresh, tmp_path, wait_for, mode
):
    """eiger-two-thresholds"""
    eiger = make_eiger(fresh, tmp_path, mode=mode)
    eiger.frames_per_trigger.put(2)
    eiger.stage()
    try:
        eiger.client.put("detector", "threshold/2/mode", "enabled")
        status = eiger.trigger()
        if mode == "monitor":
            wait_for(lambda: eiger._acquisition._armed, "the device to have dropped older images")
            assert eiger.client.arm() and eiger.client.trigger(0.01) is None
        with pytest.raises(DetectorStateError, match="eiger: images of threshold 2 come between"):
            status.wait(60)
        assert eiger.n_stale.get() == 0
    finally:
        eiger.unstage()


def exposures(eiger, *times):
    @bpp.stage_decorator([eiger])
    @bpp.run_decorator()
    def plan():
        for time in times:
            yield from bps.abs_set(eiger.exposure_time, time, wait=True)
            yield from bps.trigger_and_read([eiger])

    return plan


def test_exposure_when_it_changes_the_bit_depth_in_a_run_then_refused_before_the_frame(fresh, tmp_path):
    """eiger-bit-depth-in-scan"""
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    fresh.requests.clear()
    run = drive(interruptible(), exposures(eiger, 0.03, 0.004))
    assert len(rows_of(run)) == 1
    reason = run.stop["reason"]
    assert "eiger_exposure_time=0.004" in reason and "uint16" in reason and "unstage first" in reason
    assert (eiger.exposure_time.get(), eiger.bit_depth.get()) == (0.03, 32), "as it was"
    assert len([entry for entry in fresh.requests.entries() if entry.path.endswith("command/trigger")]) == 1


def test_exposure_when_it_changes_the_bit_depth_before_the_first_frame_then_it_is_taken(fresh, tmp_path):
    """eiger-bit-depth-in-scan"""
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    run = drive(interruptible(), exposures(eiger, 0.004, 0.003))
    check_run(run, 2, stamp_of=stamp_of)
    assert run.named("descriptor")[0]["data_keys"]["eiger_image"]["dtype_numpy"] == "<u2"


def test_fly_when_prepared_with_another_bit_depth_then_the_descriptor_says_so(fresh, tmp_path):
    """eiger-bit-depth-in-scan"""
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    run = drive(interruptible(), lambda: fly([eiger], 3, settings={"eiger": {"exposure_time": 0.004}}))
    check_run(run, 3, stamp_of=stamp_of)
    (descriptor,) = run.named("descriptor")
    assert descriptor["data_keys"]["eiger_image"]["dtype_numpy"] == "<u2"
    assert descriptor["configuration"]["eiger"]["data"]["eiger_exposure_time"] == 0.004


def test_bit_depth_when_somebody_else_changes_it_in_a_scan_then_no_frame_is_taken(fresh, tmp_path):
    """eiger-bit-depth-in-scan"""
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    eiger.n_triggers.put(1)
    engine, client = interruptible(), SimplonClient(fresh.url)

    def shorten(*_):
        client.put("detector", "count_time", 0.004)
        client.put("detector", "frame_time", 0.005)

    engine.subscribe(shorten, "event")
    run = drive(engine, lambda: bp.count([eiger], 2))
    assert len(rows_of(run)) == 1 and "images are uint16" in run.stop["reason"]
    check_run(run, stamp_of=stamp_of)


def test_saturation_when_the_exposure_changes_in_a_run_then_its_limit_does_too(fresh, tmp_path):
    eiger = make_eiger(fresh, tmp_path, exposure_time=0.02)
    cutoffs = []
    statistics = eiger.source.__class__.read_format

    def noted(source):
        found = statistics(source)
        cutoffs.append(source._statistics._cutoff)
        return found

    eiger.source.read_format = noted.__get__(eiger.source)
    check_run(drive(interruptible(), exposures(eiger, 0.02, 0.04)), 2, stamp_of=stamp_of)
    assert cutoffs[-1] == 2 * cutoffs[0]


@pytest.mark.parametrize(
    ("signal", "value"), [("trigger_mode", "inte"), ("roi_mode", "4M-L"), ("n_triggers", 5)]
)
def test_setting_when_put_in_a_run_then_refused_by_name(part, eiger, signal, value):
    """configure-in-run"""
    eiger.stage()
    try:
        with pytest.raises(DetectorStateError, match=f"eiger_{signal}.* while eiger is staged"):
            getattr(eiger, signal).put(value)
    finally:
        eiger.unstage()
