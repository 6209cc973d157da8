"""Files back through the catalog, in the run and after it; flying; a crash in between."""

from __future__ import annotations

import shutil
import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis

from sfdaq_ophyd import setup
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.files import daq_file
from sfdaq_ophyd.files.daq_file import Look
from sfdaq_ophyd.plans import run_number_wrapper, sf_count, sf_record
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.broker.writers import PV_PERIOD, channel_value
from sfdaq_ophyd.sim.stamp import read_stamp

from .broker_bench import DETECTOR, streams_of
from .run_engine_driver import drive


@pytest.fixture
def engine(catalog):
    engine = RunEngine(context_managers=[])
    setup(engine, catalog)
    return engine


def check_frames(run, n_rows, n_pulses):
    """Every frame is the one of its pulse."""
    data = run["sfdaq_data"]
    images = data[f"sfdaq_{DETECTOR}"].read()
    ids = data[f"sfdaq_{DETECTOR}_pulse_id"].read()[..., 0]
    assert images.shape[:2] == ids.shape == (n_rows, n_pulses)
    table = data.read(variables=["sfdaq_start_pulse_id", "sfdaq_acquisition_number"])
    assert ids[:, 0].tolist() == table["sfdaq_start_pulse_id"].values.tolist()
    for row in range(n_rows):
        for k in range(n_pulses):
            assert read_stamp(images[row, k]) == ids[row, k]
    return table["sfdaq_acquisition_number"].values.tolist()


def test_catalog_when_run_is_closed_then_gives_the_frames_aligned_with_the_events(bench, catalog, engine):
    device = bench.device(channels=["CH:A"])
    (uid,) = engine(sf_count([device], 3))
    run = catalog[uid]
    assert check_frames(run, 3, 2) == [1, 2, 3]
    assert run["sfdaq_data"]["sfdaq_CH:A"].read().shape == (3, 2)
    files = run["primary"]["sfdaq_files"].read()
    assert files.shape == (3, 2) and files[2, 1].endswith(f"acq0003.{DETECTOR}.h5")


def test_catalog_when_a_gap_is_tolerated_then_it_is_nan_and_the_rest_is_there(bench, catalog, engine):
    device = bench.device(detectors={DETECTOR: {"adc_to_energy": True}}, n_pulses=3)
    device.tolerate_missing.put(True)
    bench.part.fail_next("missing_pulses", source=DETECTOR)
    (uid,) = engine(sf_count([device], 2))
    images = catalog[uid]["sfdaq_data"][f"sfdaq_{DETECTOR}"].read()
    assert images.shape[:2] == (2, 3)
    assert np.isnan(images[0, 0]).all() and not np.isnan(images[0, 1:]).any()
    assert not np.isnan(images[1]).any()


def test_catalog_when_channels_are_texts_or_missing_then_texts_come_back_and_the_mark(
    bench, catalog, engine, monkeypatch
):
    def some_text(name, pulse_ids):
        return np.array([f"{name} {pulse_id} ä" for pulse_id in pulse_ids], object)

    monkeypatch.setattr("sfdaq_ophyd.sim.broker.writers.channel_value", some_text)
    device = bench.device(channels=["CH:A", "CH:B"])
    bench.part.fail_next("channels_offline", channels=["CH:A"])
    (uid,) = engine(sf_count([device], 2))
    data = catalog[uid]["sfdaq_data"]
    ids = data["sfdaq_CH:B_pulse_id"].read()
    assert data["sfdaq_CH:B"].read().tolist() == [[f"CH:B {one} ä" for one in row] for row in ids]
    assert data["sfdaq_CH:A"].read()[0].tolist() == ["", ""]
    assert data["sfdaq_missing_channels"].read().tolist() == ["CH:A is not in the file", ""]


def test_late_registration_when_run_is_over_then_adds_the_streams(bench, catalog, engine):
    device = bench.device(register="late", directory=bench.directory / "late")
    (uid,) = engine(sf_count([device], 2))
    assert "sfdaq_data" not in catalog[uid]
    assert device.register_late(catalog) == {uid: ["sfdaq_data"]}
    assert check_frames(catalog[uid], 2, 2) == [1, 2]
    assert device.register_late(catalog) == {}


def test_late_registration_when_session_crashed_then_goes_on_from_the_run_table(
    bench, catalog, engine, wait_for
):
    before = bench.directory / "before"
    device = bench.device(register="late", directory=before)
    (uid,) = engine(sf_count([device], 2))
    (table,) = (before / device.pgroup.get()).glob("*.jsonl")
    wait_for(lambda: device.runner.follower.n_pending == 0, "files")
    after = bench.directory / "after"
    shutil.copytree(before, after)
    copy = after / device.pgroup.get() / table.name
    lines = [line for line in table.read_text().splitlines() if '"what": "complete"' not in line]
    copy.write_text("\n".join([*lines, '{"what": "comp']))
    again = bench.device(register="late", directory=after)
    assert again.register_late(catalog) == {uid: ["sfdaq_data"]}
    assert check_frames(catalog[uid], 2, 2) == [1, 2]


def test_late_registration_when_run_is_not_in_the_catalog_then_it_waits(bench, catalog):
    device = bench.device(register="late", directory=bench.directory / "elsewhere")
    RunEngine(context_managers=[])(sf_count([device], 1))
    assert device.register_late(catalog) == {}


def test_plain_plan_when_catalog_is_subscribed_then_files_are_registered_before_the_run_closes(
    bench, catalog, engine
):
    device = bench.device(directory=bench.directory / "plain")
    seen = []
    engine.subscribe(lambda name, doc: seen.append((name, doc)))
    (uid,) = engine(bp.count([device], 5))
    names = [name for name, _ in seen]
    assert names[-1] == "stop" and names.count("stream_resource") == 2 * 5
    assert seen[0][1]["sf_daq"]["run_number"] == bench.last_run() == 1
    assert check_frames(catalog[uid], 5, 2) == [1, 2, 3, 4, 5]


def test_plain_scan_when_the_broker_stands_beside_another_detector_then_both_are_in_the_run(
    bench, catalog, engine, tmp_path
):
    device, motor = bench.device(), SynAxis(name="motor")
    with Facility(only=["eiger"], eiger_shape=(32, 48), eiger_dwell=0) as facility:
        eiger = Eiger(facility.eiger.url, name="eiger", directory=tmp_path)
        eiger.exposure_time.put(0.002)
        (uid,) = engine(bp.scan([device, eiger], motor, -1, 1, 3))
    run = catalog[uid]
    assert check_frames(run, 3, 2) == [1, 2, 3]
    assert run["primary"]["eiger_image"].read().reshape(-1, 32, 48).shape[0] == 3
    scan = bench.scan_json()
    assert scan["scan_values"] == [[value] for value in run["primary"]["motor_setpoint"].read()]


def test_plain_plan_when_the_engine_is_bare_then_says_so_once_and_files_are_registered_late(
    bench, catalog, caplog
):
    device = bench.device(directory=bench.directory / "bare")
    bare = RunEngine(context_managers=[])
    bare.subscribe(catalog)
    uids = [bare(bp.count([device], 2))[0] for _ in range(2)]
    assert bench.last_run() == 2
    warnings = [record.message for record in caplog.records if record.levelname != "INFO"]
    assert [text.count("register_late(catalog)") for text in warnings] == [1]
    assert device.register_late(catalog) == {uid: ["sfdaq_data"] for uid in uids}
    for uid in uids:
        assert check_frames(catalog[uid], 2, 2) == [1, 2]
    assert device.register_late(catalog) == {}


def test_late_registration_when_told_so_then_bare_runs_are_taken_too_and_nothing_is_said(
    bench, catalog, caplog
):
    device = bench.device(directory=bench.directory / "bare-late", register="late")
    bare = RunEngine(context_managers=[])
    bare.subscribe(catalog)
    (uid,) = bare(bp.count([device], 1))
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert device.register_late(catalog) == {uid: ["sfdaq_data"]}


def test_late_registration_when_tables_are_of_another_device_or_a_run_in_use_then_they_are_left(
    bench, catalog, engine
):
    device = bench.device(directory=bench.directory / "shared", register="late")
    (uid,) = engine(bp.count([device], 1))
    other = bench.device(directory=bench.directory / "shared")
    other.name = other.runner.name = "other"
    assert other.register_late(catalog) == {}
    found = {}

    @bpp.stage_decorator([device])
    @bpp.run_decorator()
    def looks():
        yield from bps.trigger_and_read([device])
        found.update(device.register_late(catalog))

    engine(looks())
    assert list(found) == [uid]


def staged_inside(device):
    yield from bps.open_run()
    for _ in range(2):
        yield from bps.stage(device)
        yield from bps.trigger_and_read([device])
        yield from bps.unstage(device)
    yield from bps.close_run()


def never_staged(device):
    yield from bps.open_run()
    yield from bps.trigger_and_read([device])
    yield from bps.trigger_and_read([device])
    yield from bps.close_run()


@pytest.mark.parametrize("plan", [staged_inside, never_staged])
def test_plan_when_the_broker_is_not_staged_as_the_run_opens_then_files_are_registered_all_the_same(
    bench, catalog, engine, plan
):
    device = bench.device()
    (uid,) = engine(plan(device))
    assert check_frames(catalog[uid], 2, 2) == [1, 2]
    assert bench.last_run() == 1
    assert {request["bluesky_run_uid"] for request in bench.acquisitions()} == {uid}
    RunEngine(context_managers=[])(plan(device))
    assert not any("bluesky_run_uid" in request for request in bench.acquisitions(2))


def test_pvs_when_recorded_then_the_value_at_each_pulse_is_in_the_data(bench, catalog, engine):
    device = bench.device(pvs=["SIM:PRESSURE", "SIM:NONE"], n_pulses=40, rate_multiplicator=2)
    (uid,) = engine(bp.count([device], 2))
    data = catalog[uid]["sfdaq_data"]
    values, ids = data["sfdaq_SIM:PRESSURE"].read(), data["sfdaq_SIM:PRESSURE_pulse_id"].read()
    assert values.shape == ids.shape == (2, 40)
    np.testing.assert_array_equal(ids, data[f"sfdaq_{DETECTOR}_pulse_id"].read()[..., 0])
    np.testing.assert_array_equal(values, channel_value("SIM:PRESSURE", ids // PV_PERIOD * PV_PERIOD))
    assert data["sfdaq_SIM:PRESSURE_n_frames"].read().tolist() == [40, 40]


def test_record_when_run_then_everything_between_kickoff_and_complete_is_there(bench, catalog, engine):
    device = bench.device()
    (uid,) = engine(sf_record(device, 0.1))
    run = catalog[uid]
    (start,) = run["primary"]["sfdaq_start_pulse_id"].read()
    (stop,) = run["primary"]["sfdaq_stop_pulse_id"].read()
    assert stop - start >= 9
    assert run["sfdaq_data"][f"sfdaq_{DETECTOR}_pulse_id"].read().reshape(-1).tolist() == list(
        range(start, stop + 1)
    )


def flight(device, n_points, rest):
    """A fly scan in a run of its own: kicked off, then `rest`."""

    @bpp.stage_decorator([device])
    @bpp.run_decorator()
    def inner():
        if n_points is not None:
            yield from bps.prepare(device, n_points, wait=True)
        yield from bps.declare_stream(device, name="flight", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from rest()

    return inner()


def collected(device):
    return bps.collect_while_completing([device], [device], flush_period=0.1, stream_name="flight")


def test_fly_scan_when_made_of_bluesky_s_own_stubs_then_numbered_and_registered(bench, catalog, engine):
    device, clock = bench.device(), bench.facility.clock

    def rest():
        assert clock.wait_for(clock.now() + 5, timeout=60)
        yield from collected(device)

    (uid,) = engine(flight(device, None, rest))
    run = catalog[uid]
    (start,), (stop,) = (run["flight"][f"sfdaq_flown_{end}_pulse_id"].read() for end in ("start", "stop"))
    assert stop - start >= 4
    assert check_frames(run, 1, stop - start + 1) == [1]


def test_complete_when_called_twice_then_the_same_status(bench):
    device = bench.device()
    device.stage()
    device.kickoff().wait(120)
    assert device.complete() is device.complete()
    device.complete().wait(60)
    assert device.get_index() == device.n_ready == 1
    assert {name for name, _ in device.collect_asset_docs()} == {"stream_resource", "stream_datum"}
    assert device.get_index() == 1 and list(device.collect_asset_docs()) == []
    device.unstage()


def test_record_when_longer_than_a_request_can_be_then_several_acquisitions_of_one_run(bench):
    device = bench.device(detectors={}, pvs=["SIM:PRESSURE"], check=False)
    device.stage()
    device.kickoff().wait(120)
    device._flight.first -= 130_000  # as if it had flown for 20 minutes
    first = device._flight.first
    device.complete().wait(60)
    assert list(device.collect_flown(device.n_ready)) == []
    (page,) = device.flown_pages()
    device.unstage()
    starts, stops = (page["data"][f"sfdaq_{end}_pulse_id"] for end in ("start", "stop"))
    assert len(starts) == 3 and starts[0] == first
    assert starts[1:] == [stop + 1 for stop in stops[:-1]]
    assert page["data"]["sfdaq_run_number"] == [1, 1, 1]


@pytest.fixture
def held(monkeypatch):
    """Files are not there until it is set."""
    there = threading.Event()

    def look_at(path, *args, **options):
        return daq_file.look_at(path, *args, **options) if there.is_set() else Look(seen="held by the test")

    monkeypatch.setattr("sfdaq_ophyd.devices.broker._follower.look_at", look_at)
    yield there
    there.set()


@pytest.mark.parametrize("way", ["fails", "abort", "halt"])
def test_flight_when_it_ends_before_its_files_come_then_they_are_registered_late(
    bench, catalog, engine, held, way
):
    device = bench.device(directory=bench.directory / f"flight {way}")

    def rest():
        yield from collected(device)
        if way == "fails":
            raise RuntimeError("the beam is gone")
        yield from bps.sleep(60)

    result = drive(engine, lambda: flight(device, 3, rest), way, ("sleep", 0))
    assert result.stop["exit_status"] != "success"
    device.unstage()
    uid = result.named("start")[0]["uid"]
    if way != "halt":
        assert catalog[uid]["sfdaq_unused"]["sfdaq_state"].read().tolist() == ["asked"]
    assert "sfdaq_data" not in catalog[uid]
    held.set()
    assert device.register_late(catalog) == {uid: ["sfdaq_data"]}
    first = int(catalog[uid]["flight"]["sfdaq_flown_start_pulse_id"].read()[0])
    ids = catalog[uid]["sfdaq_data"][f"sfdaq_{DETECTOR}_pulse_id"].read().ravel()
    assert ids.tolist() == list(range(first, first + 6))
    assert device.register_late(catalog) == {}


def test_scan_when_it_fails_before_its_last_files_come_then_these_have_a_stream_of_their_own(
    bench, catalog, engine, held, wait_for
):
    device = bench.device(directory=bench.directory / "last files")

    @bpp.stage_decorator([device])
    @bpp.run_decorator()
    def scan():
        held.set()
        yield from bps.trigger_and_read([device])
        wait_for(lambda: device.runner.follower.n_pending == 0, "files")
        held.clear()
        yield from bps.trigger_and_read([device])
        raise RuntimeError("the beam is gone")

    result = drive(engine, scan)
    uid = result.named("start")[0]["uid"]
    held.set()
    assert device.register_late(catalog) == {uid: ["sfdaq_data_2"]}
    numbers = [catalog[uid][stream]["sfdaq_acquisition_number"].read().tolist() for stream in STREAMS]
    assert numbers == [[1, 2], [1], [2]]


STREAMS = ("primary", "sfdaq_data", "sfdaq_data_2")


@pytest.mark.parametrize("completes", [False, True])
def test_flight_when_it_ends_before_its_request_then_the_run_names_the_pulses_and_how_to_get_them(
    bench, engine, completes
):
    device = bench.device()

    def rest():
        if completes:
            yield from bps.complete(device)
        bench.facility.clock.wait_for(bench.pulse_id.get() + 4, 30)
        raise RuntimeError("a companion failed")

    result = drive(engine, lambda: flight(device, 100_000, rest))
    assert str(result.error) == "a companion failed" and not bench.acquisitions()
    ((row,), _) = streams_of(result)["sfdaq_unused"]
    first, last = row["sfdaq_start_pulse_id"], row["sfdaq_stop_pulse_id"]
    assert row["sfdaq_state"] == "not asked" and first < last <= bench.pulse_id.get()
    assert f"retrieve_from_buffers(sfdaq, {first}, {last})" in row["sfdaq_detail"]


def test_record_when_aborted_then_nothing_is_asked_for(bench):
    device = bench.device()

    @bpp.stage_decorator([device])
    @bpp.run_decorator()
    def fails():
        yield from bps.kickoff(device, wait=True)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        RunEngine(context_managers=[])(run_number_wrapper(fails(), device))
    assert not bench.acquisitions()
