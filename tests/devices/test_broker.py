"""SfDaqBroker in plain plans: numbers, requests, files."""

from __future__ import annotations

import itertools
import json
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky import RunEngine
from bluesky.protocols import Collectable, Flyable, Pausable, Readable, Stageable, Triggerable
from ophyd.sim import SynAxis

import sfdaq_ophyd
from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.clients._http import HttpClient
from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.devices.broker import _follower, _runner
from sfdaq_ophyd.devices.broker._hardware import Hardware, QueuedPedestal
from sfdaq_ophyd.devices.broker._run import RunTable
from sfdaq_ophyd.errors import (
    DetectorStateError,
    FilesMissing,
    PreflightFailed,
    RequestError,
    ServiceTimeout,
    ServiceUnreachable,
)
from sfdaq_ophyd.files import daq_file
from sfdaq_ophyd.plans import fly, retrieve_from_buffers, run_number_wrapper, sf_count, sf_scan
from sfdaq_ophyd.sim.broker import detector_files
from sfdaq_ophyd.wire.broker import local_path
from sfdaq_ophyd.wire.broker_operations import OPERATIONS

from .broker_bench import DETECTOR, run, streams_of
from .run_engine_driver import drive, interruptible

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.mark.parametrize(
    ("options", "pv"),
    [
        ({}, None),
        ({"beamline": "bernina"}, "SAR-CVME-TIFALL5-EVG0:SoftEvt-EvtCode-SP"),
        ({"beamline": "bernina", "event_code": "MY:CODE"}, "MY:CODE"),
        ({"beamline": "bernina", "event_code": ""}, None),
    ],
)
def test_trigger_pv_when_the_beamline_is_known_then_it_is_that_of_the_beamline(options, pv):
    device = SfDaqBroker("http://127.0.0.1:1", name="sfdaq", pgroup="p12345", **options)
    assert (device.event_code and device.event_code.pvname) == pv
    assert device.hardware.trigger.runs() is None


def test_device_when_made_then_contacts_nothing_and_has_the_verbs():
    device = SfDaqBroker("http://127.0.0.1:9", name="sfdaq", pgroup="p12345", detectors=[DETECTOR])
    for protocol in (Readable, Triggerable, Stageable, Pausable, Flyable, Collectable):
        assert isinstance(device, protocol)
    assert device.client.slow_url == "http://127.0.0.1:10"


@pytest.mark.parametrize(
    ("options", "field"),
    [({"beamline": "nowhere"}, "beamline"), ({"register": "sometimes"}, "register")],
)
def test_device_when_made_with_a_bad_argument_then_names_it(options, field):
    with pytest.raises(RequestError, match=field):
        SfDaqBroker("http://127.0.0.1:9", name="sfdaq", pgroup="p12345", **options)


@pytest.mark.parametrize(("signal", "value"), [("n_pulses", 3), ("detectors", {}), ("pgroup", "p1")])
def test_setting_when_changed_in_a_run_then_refused_by_name_and_what_was_taken_stays(bench, signal, value):
    """configure-in-run"""
    device = bench.device()

    @bpp.stage_decorator([device])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([device])
        yield from bps.configure(device, {signal: value})
        yield from bps.trigger_and_read([device])

    result = run(plan())
    assert f"sfdaq_{signal}" in result.stop["reason"] and "unstage first" in result.stop["reason"]
    assert len(result.named("event")) == 1


def test_plain_count_when_run_then_one_run_number_and_one_acquisition_per_trigger(bench):
    device = bench.device()
    result = run(bp.count([device], 3))
    assert result.error is None
    events = [event["data"] for event in result.named("event")]
    assert [event["sfdaq_run_number"] for event in events] == [1, 1, 1]
    assert [event["sfdaq_acquisition_number"] for event in events] == [1, 2, 3]
    assert all(event["sfdaq_stop_pulse_id"] - event["sfdaq_start_pulse_id"] == 1 for event in events)
    starts = [event["sfdaq_start_pulse_id"] for event in events]
    assert starts == sorted(set(starts))
    assert bench.last_run() == 1
    assert [request["start_pulseid"] for request in bench.acquisitions()] == starts


def test_scan_when_run_then_one_thread_makes_its_calls_in_few_steps_and_none_is_left(
    bench, wait_for, monkeypatch
):
    device, motor, seen = bench.device(), SynAxis(name="motor"), []
    before, request = set(threading.enumerate()), HttpClient.request
    package = str(Path(sfdaq_ophyd.__file__).parent)

    def noted(self, method, path, **kwargs):
        ours = [frame.name for frame in traceback.extract_stack() if frame.filename.startswith(package)]
        seen.append((path, threading.current_thread(), ours))
        return request(self, method, path, **kwargs)

    monkeypatch.setattr(HttpClient, "request", noted)
    assert run(sf_scan([device], motor, 0, 1, 3)).error is None
    paths, threads, ours = zip(*(one for one in seen if one[1].name == "sfdaq at the broker"))
    assert paths == ("/advance_run_number", *["/retrieve_from_buffers"] * 3) and len(set(threads)) == 1
    assert len([*ours[0], "request"]) <= 7, ours[0]

    def ours():
        names = ("sfdaq at the broker", "sfdaq files")
        return {thread for thread in threading.enumerate() if thread.name in names}

    wait_for(lambda: ours() <= before, "the threads of the run to go")


def test_plain_count_when_run_then_configuration_is_in_the_descriptor(bench):
    device = bench.device(channels=["CH:A"], user_tag="gold")
    result = run(bp.count([device], 1))
    configuration = result.named("descriptor")[0]["configuration"]["sfdaq"]["data"]
    assert configuration["sfdaq_detectors"] == f'{{"{DETECTOR}": {{}}}}'
    assert configuration["sfdaq_channels"] == '["CH:A"]'
    assert configuration["sfdaq_user_tag"] == "gold"


def test_plain_count_when_over_then_files_are_followed_to_the_run_table(bench, wait_for):
    device = bench.device()
    run(bp.count([device], 2))
    (table,) = (bench.directory / "runs" / device.pgroup.get()).glob("*.jsonl")
    rows = wait_for(
        lambda: [r for r in RunTable(table).rows() if r["state"] == "complete"][1:], "files checked"
    )
    assert rows[0]["found"][0]["n_got"] == 2


def test_second_run_when_started_then_takes_another_number(bench):
    device = bench.device()
    engine = RunEngine(context_managers=[])
    engine(bp.count([device], 1))
    engine(bp.count([device], 1))
    assert bench.last_run() == 2


@pytest.mark.parametrize(("rate", "n"), [(1, 5), (4, 3), (10, 2)])
def test_trigger_when_rate_multiplicator_given_then_exactly_n_frames(bench, rate, n):
    device = bench.device(rate_multiplicator=rate, n_pulses=n)
    result = run(sf_count([device], 1))
    assert result.error is None
    data = result.named("event")[0]["data"]
    assert data["sfdaq_start_pulse_id"] % rate == 0
    assert data["sfdaq_stop_pulse_id"] - data["sfdaq_start_pulse_id"] == (n - 1) * rate
    page = result.named("event_page")[0]["data"]
    assert page[f"sfdaq_{DETECTOR}_n_frames"] == [n]


@pytest.mark.parametrize(
    ("rate", "pvs", "more"), [(4, ["SIM:PRESSURE"], 1), (4, [], 0), (1, ["SIM:PRESSURE"], 0)]
)
def test_requests_when_pvs_come_at_a_lower_rate_then_they_wait_for_the_pulse_that_the_server_adds(
    bench, monkeypatch, rate, pvs, more
):
    device, waits = bench.device(rate_multiplicator=rate, pvs=pvs, check=False), []
    wait_past = bench.pulse_id.wait_past
    monkeypatch.setattr(bench.pulse_id, "wait_past", lambda last: (waits.append(last), wait_past(last))[1])
    last = bench.facility.clock.now() // rate * rate
    assert run(sf_count([device], 1)).error is None
    assert run(fly([device], 2)).error is None
    assert run(retrieve_from_buffers(device, last - 2 * rate, last)).error is None
    asked = [request["stop_pulseid"] for k in (1, 2, 3) for request in bench.acquisitions(k)]
    assert waits == [stop + more for stop in asked]


def test_trigger_when_watched_then_counts_pulses(bench):
    device = bench.device(n_pulses=30)
    device.stage()
    seen = []
    status = device.trigger()
    status.watch(lambda **kw: seen.append((kw["current"], kw["target"], kw["unit"])))
    status.wait(60)
    device.unstage()
    assert {(target, unit) for _, target, unit in seen} == {(30, "pulses")}
    assert [current for current, _, _ in seen] == sorted(current for current, _, _ in seen)
    assert seen[-1][0] == 30


def test_request_when_sent_then_carries_run_uid_and_its_own_id_which_its_table_has_before(bench, monkeypatch):
    device, request, noted = bench.device(), HttpClient.request, []

    def sent(self, method, path, **kwargs):
        if path == "/retrieve_from_buffers":
            (line,) = device.runner.run.table.rows()[len(noted) :]
            noted.append((line["state"], line["client_request_id"].encode() in kwargs["data"]))
        return request(self, method, path, **kwargs)

    monkeypatch.setattr(HttpClient, "request", sent)
    result = run(sf_count([device], 2))
    assert noted == [("asking", True)] * 2
    uid = result.named("start")[0]["uid"]
    requests = bench.acquisitions()
    assert [request["bluesky_run_uid"] for request in requests] == [uid, uid]
    assert len({request["client_request_id"] for request in requests}) == 2


def test_start_document_when_run_then_carries_number_pgroup_and_beamline(bench):
    device = bench.device()
    start = run(sf_count([device], 1)).named("start")[0]
    facts = {"run_number": 1, "pgroup": device.pgroup.get(), "beamline": "bernina"}
    assert start["sf_daq"] == facts


def test_data_stream_when_run_closes_then_row_k_is_event_k(bench):
    device = bench.device(channels=["CH:A"])
    result = run(sf_scan([device], SynAxis(name="motor"), 0, 2, 3))
    found = streams_of(result)
    assert result.error is None
    rows, parts = found["sfdaq_data"]
    assert [row["sfdaq_acquisition_number"] for row in rows] == [
        event["data"]["sfdaq_acquisition_number"] for event in result.named("event")
    ]
    for key in (f"sfdaq_{DETECTOR}", "sfdaq_CH:A"):
        assert len(parts[key]) == 3
    for row, (uri, dataset) in zip(rows, parts[f"sfdaq_{DETECTOR}_pulse_id"]):
        with h5py.File(uri) as file:
            asked = list(range(row["sfdaq_start_pulse_id"], row["sfdaq_stop_pulse_id"] + 1))
            assert file[dataset][:, 0].tolist() == asked
    order = [name for name, _ in result.documents]
    assert order[-1] == "stop" and result.stop["exit_status"] == "success"


@pytest.mark.parametrize("parameters", [{}, {"adc_to_energy": True}])
def test_missing_pulse_when_tolerated_then_gap_is_marked_and_rows_stay_aligned(bench, parameters):
    device = bench.device(n_pulses=3, detectors={DETECTOR: parameters})
    device.tolerate_missing.put(True)
    bench.part.fail_next("missing_pulses", source=DETECTOR)
    result = run(sf_count([device], 2))
    assert result.error is None
    rows, parts = streams_of(result)["sfdaq_data"]
    assert [row[f"sfdaq_{DETECTOR}_n_frames"] for row in rows] == [2, 3]
    gaps = []
    for (path, dataset), (_, images) in zip(parts[f"sfdaq_{DETECTOR}_pulse_id"], parts[f"sfdaq_{DETECTOR}"]):
        with h5py.File(path) as file:
            ids = file[dataset][:, 0]
            gaps.append([k for k, one in enumerate(ids) if not one])
            assert len(file[images]) == 3
            for k in gaps[-1]:
                image = file[images][k]
                assert (image == 0).all() if image.dtype.kind == "u" else (image != image).all()
    assert gaps == [[0], []]


@pytest.mark.filterwarnings("ignore:.*save_ppicker_events_only")
@pytest.mark.parametrize("empty", [(1,), (0, 1)])
def test_filtered_detector_when_no_frame_passes_then_the_run_goes_on_and_it_is_told(
    bench, monkeypatch, caplog, empty
):
    monkeypatch.setattr(daq_file, "SETTLED", 0.0)
    rows_of, asked = detector_files._rows, itertools.count()
    monkeypatch.setattr(
        detector_files, "_rows", lambda *args: rows_of(*args)[: 0 if next(asked) in empty else None]
    )
    device = bench.device(detectors={DETECTOR: {"save_ppicker_events_only": True}})
    result = run(sf_count([device], 2))
    assert result.error is None
    streams = streams_of(result)
    if len(empty) == 2:
        rows, _ = streams["sfdaq_unused"]
        assert {row["sfdaq_state"] for row in rows} == {"complete"} and "sfdaq_data" not in streams
        assert f"{DETECTOR} has no frame that passed the filters" in rows[0]["sfdaq_detail"]
    else:
        rows, parts = streams["sfdaq_data"]
        assert [row[f"sfdaq_{DETECTOR}_n_frames"] for row in rows] == [2, 0]
        path, dataset = parts[f"sfdaq_{DETECTOR}_pulse_id"][1]
        with h5py.File(path) as file:
            assert not file[dataset][()].any()
    assert "has no frame that passed the filters; the run goes on without" in caplog.text


def test_converted_file_when_it_is_not_made_and_only_missing_frames_are_tolerated_then_the_run_fails(
    bench, monkeypatch
):
    monkeypatch.setattr(daq_file, "SETTLED", 0.0)
    monkeypatch.setattr(detector_files, "_rows", lambda *args: [])
    device = bench.device(detectors={DETECTOR: {"adc_to_energy": True}})
    device.tolerate_missing.put(True)
    result = run(sf_count([device], 1))
    assert "the writer says it is done, and there is no file" in str(result.error)


def test_converted_file_when_pulses_are_selected_by_rate_then_channels_are_aligned_by_pulse(bench):
    device = bench.device(n_pulses=3, rate_multiplicator=4, channels=["CH:A"])
    result = run(sf_count([device], 1))
    rows, parts = streams_of(result)["sfdaq_data"]
    path, dataset = parts["sfdaq_CH:A_pulse_id"][0]
    with h5py.File(path) as file:
        first = rows[0]["sfdaq_start_pulse_id"]
        assert file[dataset][:].tolist() == [first, first + 4, first + 8]


@pytest.mark.parametrize("value", [0, 1.5, "3", None, {}, {"points": 3}, {"n_points": -1}])
def test_prepare_when_it_is_no_number_of_points_then_refused_by_name(bench, value):
    with pytest.raises(RequestError, match="n_points"):
        bench.device().prepare(value)


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda bench, device: bench.part.fail_next("detector_stopped", detector=DETECTOR), "does not write"),
        (lambda bench, device: device.detectors.put({"JF16T03V02": {}}), "not of this beamline"),
        (lambda bench, device: device.pgroup.put("p99999"), "not reachable"),
        (
            lambda bench, device: (bench.raw / "run_info").mkdir() or (bench.raw / "run_info/CLOSED").touch(),
            "closed for writing",
        ),
        (
            lambda bench, device: device.user_tag.put("a/b") or device.append_user_tag.put(True),
            "would become 'a_b'",
        ),
        (
            lambda bench, device: setattr(
                bench.pulse_id, "broken", ServiceUnreachable("pulse id", url="PV", reason="gone")
            ),
            "nothing is acquired",
        ),
        (lambda bench, device: device.max_pedestal_age.put(60.0), "Take one with take_pedestal"),
    ],
)
def test_preflight_when_something_is_wrong_then_no_number_is_taken(bench, prepare, what):
    device = bench.device()
    before = bench.part.requests("advance_run_number")
    prepare(bench, device)
    try:
        result = run(sf_count([device], 1))
    finally:
        bench.part.site.hardware[DETECTOR].set_state("running")
        bench.part.site.hardware.write_latest(DETECTOR, 0)
    assert isinstance(result.error, PreflightFailed)
    assert what in str(result.error)
    assert bench.part.requests("advance_run_number") == before
    assert not result.documents


def test_preflight_when_all_is_well_then_one_table_by_calls_that_only_read(bench):
    device, before = bench.device(user_tag="gold"), len(bench.part.requests())
    device.append_user_tag.put(True)
    table = {check.what: check for check in device.preflight()}
    asked = bench.part.requests()[before:]
    assert asked and all(OPERATIONS[entry.endpoint].only_reads for entry in asked)
    assert table[f"detector {DETECTOR}"].found == "running"
    assert table["user tag"].ok and table["pulse id"].ok
    assert table[f"pedestal {DETECTOR}"].ok is None


def test_acquisition_when_no_pulse_id_pv_then_nothing_is_asked_for(bench):
    device = bench.device(pulse_id=None, beamline="", check=False)
    result = run(bp.count([device], 1))
    assert isinstance(result.error, DetectorStateError)
    assert "never made up" in str(result.error)
    assert bench.last_run() == 0


def test_read_when_nothing_was_taken_then_refuses(bench):
    device = bench.device()
    with pytest.raises(DetectorStateError, match="trigger first"):
        device.read()


def test_local_path_when_files_are_announced_then_they_exist(bench):
    device = bench.device()
    result = run(sf_count([device], 1))
    for file in result.named("event")[0]["data"]["sfdaq_files"]:
        assert local_path(file, bench.part.root).exists()


def test_decorated_plan_when_policy_is_first_acquisition_then_empty_run_burns_no_number(bench):
    import bluesky.plan_stubs as bps

    def empty():
        yield from bps.open_run()
        yield from bps.close_run()

    device = bench.device()
    result = run(run_number_wrapper(empty(), device, "first_acquisition"))
    assert result.error is None
    assert bench.last_run() == 0


@pytest.mark.parametrize("interruption", ["pause", "suspend"])
def test_scan_when_interrupted_at_any_message_then_every_point_is_taken_and_saved_once(
    bench, interruption, monkeypatch
):
    for module in (_follower, _runner):
        monkeypatch.setattr(module, "PERIOD", 0.01)

    def plan(device):
        return sf_scan([device], SynAxis(name="motor"), 0, 1, 2)

    quiet = drive(interruptible(True), lambda: plan(bench.device(check=False)))
    last = len(quiet.commands) - 1 - quiet.commands[::-1].index("close_run")
    for at in range(0, quiet.n_messages, 2):
        device = bench.device(check=False)
        result = drive(interruptible(True), lambda device=device: plan(device), interruption, at)
        where = f"{interruption} at {at} ({(*result.commands, 'end')[min(at, result.n_messages)]})"
        assert result.error is None or at >= last, f"{where}: {result.error}"
        numbers = [event["data"]["sfdaq_acquisition_number"] for event in result.named("event")]
        assert numbers == [1, 2], where
        assert bench.last_run() == 1, where
        assert len(bench.acquisitions()) == 2, where
        rows, _ = streams_of(result)["sfdaq_data"]
        assert [row["sfdaq_acquisition_number"] for row in rows] == numbers, where


def shown(show=lambda *seen: None):
    """A status that waits in no hurry."""
    return SimpleNamespace(show=show, pause=time.sleep)


def test_pedestals_when_one_follows_at_once_then_its_files_are_of_another_second(bench):
    hardware = bench.device().hardware
    begun = [hardware.begin_pedestal([DETECTOR]) for _ in range(2)]
    files = [hardware.wait_for_pedestal(shown(), each, [DETECTOR], 60)["files"][DETECTOR] for each in begun]
    assert len(set(files)) == 2
    for each, file in zip(begun, files):
        (request,) = bench.raw.glob(f"JF_pedestals/{Path(file).name.partition('.')[0]}.json")
        assert json.loads(request.read_text())["client_request_id"] == each.request_id


def test_pedestal_when_one_of_the_same_second_is_done_then_that_is_not_taken_for_it(bench, monkeypatch):
    now = time.time()
    monkeypatch.setattr(bench.part.site.delays, "wall_clock", lambda: now)
    hardware = bench.device().hardware
    first = hardware.begin_pedestal([DETECTOR])
    assert hardware.wait_for_pedestal(shown(), first, [DETECTOR], 60)["files"]
    second = hardware.begin_pedestal([DETECTOR])
    with pytest.raises(FilesMissing, match="another pedestal was asked for within the same second"):
        hardware.wait_for_pedestal(shown(), second, [DETECTOR], 60)


@pytest.mark.parametrize("extra", [{}, {"client_request_id": "of another client"}])
def test_pedestal_when_another_of_its_second_takes_its_place_then_an_error_that_says_so(
    bench, monkeypatch, extra
):
    delays, now = bench.part.site.delays, time.time()
    monkeypatch.setattr(delays, "wall_clock", lambda: now)
    device = bench.device()
    factor, others = delays.factor, BrokerClient(bench.part.url)

    def show(*_):
        if delays.factor != factor:  # the first look
            others.take_pedestal(device.pgroup.get(), [DETECTOR], extra=extra)
            delays.factor = factor

    delays.factor = 0.1
    try:
        pedestal = device.hardware.begin_pedestal([DETECTOR])
        with pytest.raises(FilesMissing, match="another pedestal was asked for within the same second"):
            device.hardware.wait_for_pedestal(shown(show), pedestal, [DETECTOR], 60)
    finally:
        delays.factor = factor


def test_pedestal_when_only_time_can_tell_then_every_module_is_given_some(tmp_path):
    waited = []
    status = SimpleNamespace(show=lambda *seen: None, pause=waited.append)
    client = SimpleNamespace(sf_root=None, url="http://sf-daq:10002")
    pedestals = Hardware("sfdaq", client, lambda: None, None, tmp_path)
    asked = status, QueuedPedestal("some id", 40.0), ["JF01T03V01", "JF07T32V02"]
    result = pedestals.wait_for_pedestal(*asked, 1000.0)
    assert waited == [40 + 10 + 5 * 35] and "225 s went by: a guess" in result["evidence"]
    with pytest.raises(ServiceTimeout, match="pedestal: not done after 60 s.*waiting 225 s, a guess"):
        pedestals.wait_for_pedestal(*asked, 60.0)
    assert waited[1:] == [60]
