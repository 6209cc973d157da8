"""What single plans around the broker do, and what becomes of it."""

from __future__ import annotations

import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd import plans
from sfdaq_ophyd.errors import DetectorStateError, PreflightFailed, RequestError, SfdaqError
from sfdaq_ophyd.plans import run_number_decorator, run_number_wrapper, sf_count

from ..devices.broker_bench import DETECTOR, Shutter, cause, first_run, sent
from ..devices.run_engine_driver import drive, interruptible, streams

MOTOR = SynAxis(name="motor")


def test_retrieve_when_given_pulse_ids_then_only_these_are_kept(bench):
    device = bench.device()
    now = bench.facility.clock.now()
    ids = [now - 9, now - 5, now - 2]
    result = drive(interruptible(), lambda: plans.retrieve_from_buffers(device, pulse_ids=ids))
    assert result.error is None
    (request,) = bench.acquisitions()
    assert request["selected_pulse_ids"] == ids
    page = result.named("event_page")[0]["data"]
    assert page[f"sfdaq_{DETECTOR}_n_frames"] == [3]


def test_retrieve_when_range_is_longer_than_a_request_then_several_acquisitions_of_one_run(bench):
    device = bench.device(detectors={}, pvs=["SIM:PRESSURE"])
    now = bench.facility.clock.now()
    plan = plans.retrieve_from_buffers(device, now - 130_000, now - 1000)
    messages = list(plan)
    spans = [
        (msg.args[0].arguments["start_pulse_id"], msg.args[0].arguments["stop_pulse_id"])
        for msg in messages
        if msg.command == "set" and getattr(msg.args[0], "name", "") == "retrieve"
    ]
    assert len(spans) == 3
    assert spans[0][0] == now - 130_000 and spans[-1][1] == now - 1000
    assert all(after[0] == before[1] + 1 for before, after in zip(spans, spans[1:]))


def test_retrieve_when_range_is_in_the_future_then_waits_until_it_is_over(bench):
    device = bench.device()
    now = bench.facility.clock.now()
    result = drive(interruptible(), lambda: plans.retrieve_from_buffers(device, now + 5, now + 30))
    assert result.error is None
    assert bench.facility.clock.now() > now + 30


def test_retrieve_when_a_signal_is_wrong_then_no_number_is_used_up(bench):
    device = bench.device(cameras=["SARES20-CAM"])
    now = bench.facility.clock.now()
    result = drive(interruptible(), lambda: plans.retrieve_from_buffers(device, now - 9, now - 2))
    assert isinstance(cause(result), RequestError) and "sfdaq.cameras" in str(cause(result))
    assert not result.documents
    assert bench.last_run() == 0


@pytest.mark.parametrize("same_run", [False, True])
def test_re_retrieve_when_a_change_is_wrong_then_no_number_is_used_up(bench, same_run):
    device = bench.device()
    first_run(bench, device)
    changes = {"camera_list": ["SARES20-CAM"]}
    result = drive(interruptible(), lambda: plans.re_retrieve(device, 1, same_run=same_run, changes=changes))
    assert isinstance(cause(result), RequestError)
    assert not result.documents
    assert bench.last_run() == 1 and len(bench.acquisitions(1)) == 1


def test_re_retrieve_when_same_run_then_it_becomes_a_further_acquisition(bench):
    device = bench.device()
    first_run(bench, device)
    changes = {"detectors": {DETECTOR: {"adc_to_energy": True}}}
    plan = plans.re_retrieve(device, 1, 1, same_run=True, changes=changes)
    result = drive(interruptible(), lambda: plan)
    assert result.error is None
    old, new = bench.acquisitions(1)
    assert bench.last_run() == 1
    assert new["start_pulseid"] == old["start_pulseid"]
    assert new["detectors"] == changes["detectors"]
    assert new["rerun_of"] == "run0001/acq0001"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"null", b"\xff", b'{"pgroup": 1}', b"{}"])
def test_re_retrieve_when_the_saved_request_is_odd_then_an_error_of_ours(bench, content):
    device = bench.device()
    first_run(bench, device)
    (saved,) = bench.raw.glob("run0001/meta/acq0001.json")
    saved.write_bytes(content)
    result = drive(interruptible(), lambda: plans.re_retrieve(device, 1))
    assert isinstance(result.error.args[0].exception(), SfdaqError)


def test_re_retrieve_when_new_run_then_takes_a_number(bench):
    device = bench.device()
    first_run(bench, device)
    result = drive(interruptible(), lambda: plans.re_retrieve(device, 1))
    assert result.error is None
    assert bench.last_run() == 2
    assert bench.acquisitions(2)[0]["stop_pulseid"] == bench.acquisitions(1)[0]["stop_pulseid"]


def test_pedestal_when_done_then_event_names_the_file_and_later_runs_carry_it(bench):
    device, shutter = bench.device(), Shutter(bench.facility.clock)
    result = drive(interruptible(), lambda: plans.take_pedestal(device, shutter=shutter))
    assert result.error is None
    assert shutter.positions == ["Closed", "Open"]
    data = result.named("event_page")[0]["data"]
    (file,) = data[f"sfdaq_{DETECTOR}_pedestal"]
    assert file.endswith(f".{DETECTOR}.res.h5")
    later = drive(interruptible(), lambda: sf_count([device], 1))
    known = later.named("start")[0]["sf_daq"]["pedestals"][DETECTOR]
    assert known["file"] == file
    assert known["run_uid"] == result.named("start")[0]["uid"]
    assert known["age"] >= 0


def test_run_when_its_number_comes_with_the_first_acquisition_then_it_carries_the_pedestal_all_the_same(
    bench,
):
    device = bench.device()
    dark = drive(interruptible(), lambda: plans.take_pedestal(device))
    start = drive(interruptible(), lambda: sf_count([device], 1, policy="first_acquisition")).named("start")[
        0
    ]
    known = start["sf_daq"]["pedestals"][DETECTOR]
    assert known["run_uid"] == dark.named("start")[0]["uid"]


def test_pedestal_when_it_is_too_old_then_preflight_says_so_and_by_how_much(bench):
    device = bench.device()
    assert drive(interruptible(), lambda: plans.take_pedestal(device)).error is None
    device.max_pedestal_age.put(3600.0)
    assert {check.what: check.ok for check in device.preflight()}[f"pedestal {DETECTOR}"]
    folder = bench.raw / "JF_pedestals"
    for path in folder.glob("*.res.h5"):
        path.rename(folder / path.name.replace(path.name[:8], "20200101"))
    with pytest.raises(PreflightFailed, match=f"pedestal {DETECTOR}: .* h old.*Take a new one"):
        device.stage()


def test_pedestal_when_it_fails_then_shutter_is_back_and_run_says_why(bench):
    device, shutter = bench.device(), Shutter(bench.facility.clock)
    bench.part.fail_next("writer_fails", source=DETECTOR, message="no dark frames")
    result = drive(interruptible(), lambda: plans.take_pedestal(device, shutter=shutter))
    assert "no dark frames" in result.stop["reason"]
    assert shutter.get() == "Open"


def test_power_on_when_a_module_does_not_answer_then_names_it_and_restarts_nothing(bench):
    device = bench.device()
    module = bench.part.site.hardware[DETECTOR].modules[0]
    module.reachable = False
    before = len(bench.part.requests("power_on_detector"))
    try:
        result = drive(interruptible(), lambda: plans.power_on(device, DETECTOR))
    finally:
        module.reachable = True
    assert "modules 0 do not answer" in str(result.error)
    assert len(bench.part.requests("power_on_detector")) == before


def test_power_on_when_it_fails_then_ends_with_the_last_state(bench):
    device = bench.device()
    hardware = bench.part.site.hardware[DETECTOR]
    bench.part.fail_next("power_on_fails")
    hardware.set_state("idle")
    try:
        result = drive(interruptible(), lambda: plans.power_on(device, DETECTOR, start_timeout=0.5))
    finally:
        hardware.set_state("running")
    assert "idle" in str(result.error)


def test_power_on_when_the_restart_of_a_running_detector_does_not_begin_then_it_is_not_taken_for_done(
    bench, monkeypatch
):
    device, delays = bench.device(), bench.part.site.delays
    go_on, wait = threading.Event(), delays.wait
    monkeypatch.setattr(delays, "wait", lambda seconds: (go_on.wait(60), wait(seconds)))
    try:
        result = drive(interruptible(), lambda: plans.power_on(device, DETECTOR, start_timeout=0.5))
    finally:
        go_on.set()
    assert "running" in str(result.error) and "was not seen to begin" in str(result.error)


def test_update_pv_list_when_nothing_changes_then_nothing_is_written(bench):
    device = bench.device()
    before = len(bench.part.requests("set_pvlist"))
    result = drive(interruptible(), lambda: plans.update_pv_list(device, add=["SIM:PRESSURE"]))
    assert result.error is None
    assert len(bench.part.requests("set_pvlist")) == before


def test_update_pv_list_when_pvs_come_and_go_then_the_others_stay_in_order(bench):
    device = bench.device()
    device.client.set_pvlist(["A:1", "A:2", "A:3"])
    plan = plans.update_pv_list(device, add=["A:4", "A:1"], remove=["A:2", "A:9"])
    result = drive(interruptible(), lambda: plan)
    assert result.error is None
    assert device.client.get_pvlist() == ["A:1", "A:3", "A:4"]
    result = drive(interruptible(), lambda: plans.update_pv_list(device, add=["A:5"], remove=["A:5"]))
    assert "each PV in one of them" in str(result.error)


def test_update_pv_list_when_a_camera_is_recorded_by_mistake_then_it_can_be_taken_out(bench, monkeypatch):
    device = bench.device()
    stored = iter([["A:1", "X:FPICTURE", " A:2"]])
    device.client.set_pvlist(["A:1"])
    monkeypatch.setattr(device.client, "get_pvlist", lambda: next(stored))
    plan = plans.update_pv_list(device, add=["A:3"], remove=["X:FPICTURE", " A:2"])
    assert drive(interruptible(), lambda: plan).error is None
    monkeypatch.undo()
    assert device.client.get_pvlist() == ["A:1", "A:3"]


@pytest.mark.parametrize(
    "make",
    [
        lambda d: plans.set_detector_settings(d, DETECTOR, {"exposure_time": 1}),
        lambda d: plans.set_detector_settings(d, DETECTOR, {"gain_mode": "high"}),
        lambda d: plans.set_dap_settings(d, DETECTOR, {"beam_energy": "9 keV"}),
        lambda d: plans.update_pv_list(d, add="SIM:PRESSURE"),
        lambda d: plans.close_pgroup(d, "p00000"),
        lambda d: plans.retrieve_from_buffers(d),
        lambda d: plans.retrieve_from_buffers(d, pulse_ids=[]),
        lambda d: plans.sf_count([], 1),
    ],
)
def test_plan_when_an_argument_is_wrong_then_refuses_before_anything_is_sent(bench, make):
    device = bench.device()
    before = len(sent(bench))
    with pytest.raises(RequestError):
        list(make(device))
    assert len(sent(bench)) == before


def test_copy_user_files_when_one_fails_then_names_it(bench):
    device = bench.device()
    first_run(bench, device)
    result = drive(interruptible(), lambda: plans.copy_user_files(device, 1, ["/sf/bernina/nothing.txt"]))
    assert "nothing.txt" in str(result.error)
    assert isinstance(result.error.args[0].exception(), DetectorStateError)


def test_decorator_when_used_then_numbers_every_run_of_the_plan(bench):
    device = bench.device()

    @run_number_decorator(device)
    def two_runs():
        yield from bp.count([device], 1)
        yield from bp.count([device], 1)

    result = drive(interruptible(), two_runs)
    assert result.error is None
    assert [start["sf_daq"]["run_number"] for start in result.named("start")] == [1, 2]


def test_preprocessor_when_installed_twice_then_one_number_per_run(bench):
    device = bench.device()
    engine = interruptible()
    engine.preprocessors.append(lambda plan: run_number_wrapper(plan, device, "staged"))
    result = drive(engine, lambda: sf_count([device], 1))
    assert result.error is None
    assert bench.last_run() == 1
    assert [d["name"] for d in result.named("descriptor")] == ["primary", "sfdaq_data"]


def test_preprocessor_when_plan_does_not_use_the_broker_then_does_nothing(bench):
    device = bench.device()
    engine = interruptible()
    engine.preprocessors.append(lambda plan: run_number_wrapper(plan, device, "staged"))
    result = drive(engine, lambda: bp.count([MOTOR], 1))
    assert result.error is None
    assert "sf_daq" not in result.named("start")[0]
    assert bench.last_run() == 0


def test_run_when_its_plan_fails_then_files_asked_for_are_in_the_documents(bench):
    device = bench.device()

    @run_number_decorator(device)
    def fails():
        yield from bps.stage(device)
        yield from bps.open_run()
        yield from bps.trigger_and_read([device])
        raise ValueError("the cryostat is empty")

    result = drive(interruptible(), fails)
    assert isinstance(result.error, ValueError)
    files = [row for stream in streams(result).values() for row in stream.rows]
    assert any("acq0001" in str(row) for row in files)
    assert result.stop["reason"] == "the cryostat is empty"
