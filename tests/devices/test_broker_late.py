"""Files back through the catalog, in the run and after it; flying; a crash in between."""

from __future__ import annotations

import shutil

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine

from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.plans import run_number_wrapper, sf_count, sf_record
from sfdaq_ophyd.sim.stamp import read_stamp

from .broker_bench import DETECTOR, BrokerBench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with BrokerBench(tmp_path_factory.mktemp("broker")) as bench:
        yield bench


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    with embedded_catalog(tmp_path_factory.mktemp("catalog")) as catalog:
        yield catalog


@pytest.fixture
def engine(catalog):
    engine = RunEngine(context_managers=[])
    catalog.subscribe(engine)
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
    wait_for(lambda: device.asking.follower.n_pending == 0, "files")
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


def test_plain_plan_when_preprocessor_is_installed_then_files_are_registered(bench, catalog, engine):
    device = bench.device(directory=bench.directory / "plain")
    engine.preprocessors.append(lambda plan: run_number_wrapper(plan, device, "staged"))
    (uid,) = engine(bp.count([device], 2))
    assert check_frames(catalog[uid], 2, 2) == [1, 2]


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


def test_complete_when_called_twice_then_the_same_status(bench):
    device = bench.device()
    device.stage()
    device.kickoff().wait(5)
    assert device.complete() is device.complete()
    device.complete().wait(10)
    assert len(list(device.collect_pages())) == 1
    assert list(device.collect_pages()) == []
    device.unstage()


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
