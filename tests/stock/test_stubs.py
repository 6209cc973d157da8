"""Our devices in bluesky's own plans and stubs, through stock parts alone; each image checked by stamp."""

from __future__ import annotations

import warnings

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from cycler import cycler
from ophyd.sim import SynGauss

from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.plans import run_number_wrapper

from ..devices.eiger.conftest import stamp_of
from ..devices.run_engine_driver import check_run, drive, interruptible, streams
from .conftest import NAME
from .test_documents import M, N, check_broker, check_eiger, check_jungfrau, check_same_pulses, check_writer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The data type:Warning"),
]


@pytest.fixture
def engine(stock_client):
    """A bare RunEngine, and a stock writer to a stock server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bluesky_tiled_plugins import TiledWriter
    engine = interruptible()
    engine.subscribe(TiledWriter(stock_client))
    return engine


PLANS = {
    "rel_scan": lambda d: bp.rel_scan(d, M, -1, 1, 2),
    "rel_list_scan": lambda d: bp.rel_list_scan(d, M, [0, 1]),
    "rel_grid_scan": lambda d: bp.rel_grid_scan(d, M, 0, 1, 1, N, 0, 1, 2),
    "log_scan": lambda d: bp.log_scan(d, M, 1, 2, 2),
    "rel_log_scan": lambda d: bp.rel_log_scan(d, M, 1, 2, 2),
    "list_grid_scan": lambda d: bp.list_grid_scan(d, M, [0], N, [0, 1]),
    "rel_list_grid_scan": lambda d: bp.rel_list_grid_scan(d, M, [0], N, [0, 1]),
    "scan_nd": lambda d: bp.scan_nd(d, cycler(M, [0, 1]) + cycler(N, [0, 1])),
    "spiral": lambda d: bp.spiral(d, M, N, 0, 0, 1, 1, 0.3, 2),
    "spiral_square": lambda d: bp.spiral_square(d, M, N, 0, 0, 1, 1, 2, 2),
    "adaptive_scan": lambda d: bp.adaptive_scan(d, "theirs", M, 0, 1, 0.5, 1, 0.5, backstep=False),
    "tune_centroid": lambda d: bp.tune_centroid(d, "theirs", M, -1, 1, 0.5, 3),
}
"""Beside those that `test_documents` and the scan below read back from Tiled."""


@pytest.mark.parametrize("name", PLANS)
def test_plan_when_standard_then_each_image_is_that_of_its_id(detectors, name):
    eiger, *_ = detectors
    theirs = SynGauss("theirs", M, "m", center=0, Imax=1)
    run = drive(interruptible(), lambda: PLANS[name]([eiger, theirs]))
    check_run(run, stamp_of=stamp_of)
    assert len(streams(run)["primary"].rows) > 1


@pytest.mark.parametrize("readout", ["stream", "filewriter"])
def test_eiger_when_it_reads_out_at_full_rate_then_each_image_is_that_of_its_id(
    engine, facility, stock_client, tmp_path, readout
):
    options = {"stream": facility.eiger.stream_endpoint} if readout == "stream" else {}
    eiger = Eiger(facility.eiger.url, name="eiger", directory=tmp_path, readout=readout, **options)
    (uid,) = engine(flown([eiger], 3) if readout == "stream" else bp.count([eiger], 3))
    stream = stock_client[uid]["primary"]
    check_eiger(stream, 3, facility)


def flown(detectors, n):
    @bpp.stage_decorator(detectors)
    @bpp.run_decorator()
    def plan():
        for detector in detectors:
            yield from bps.prepare(detector, n, group="prepare")
        yield from bps.wait("prepare")
        yield from bps.declare_stream(*detectors, name="primary", collect=True)
        yield from bps.kickoff_all(*detectors, wait=True)
        yield from bps.collect_while_completing(detectors, detectors, flush_period=0.1, stream_name="primary")

    return plan()


def test_fly_stubs_when_all_kinds_share_a_stream_then_each_image_is_that_of_its_id(
    engine, detectors, facility, stock_client
):
    (uid,) = engine(run_number_wrapper(flown(detectors, 3)))
    run = stock_client[uid]
    stream = run["primary"]
    for check in (check_eiger, check_jungfrau, check_writer):
        check(stream, 3, facility)
    first = stream["sfdaq_flown_start_pulse_id"].read()
    assert np.diff(first).tolist() == [2, 2], "three points of two pulses, without a gap"
    np.testing.assert_array_equal(stream["sfdaq_flown_stop_pulse_id"].read(), first + 1)
    ids = run["sfdaq_data"][f"sfdaq_{NAME}_pulse_id"].read().ravel()
    assert ids.tolist() == list(range(first[0], first[0] + 6))


def test_fly_during_when_a_scan_goes_on_then_all_are_there(engine, detectors, facility, stock_client):
    *flying, _ = detectors

    def scan():
        yield from bps.open_run()
        for detector in flying:  # which the wrapper collects one by one
            yield from bps.declare_stream(detector, name=f"{detector.name}_flown", collect=True)
        yield from bps.trigger_and_read([M])
        yield from bps.close_run()

    for detector in flying:
        detector.n_points.put(3)
    (uid,) = engine(bpp.stage_wrapper(bpp.fly_during_wrapper(scan(), flying), flying))
    for detector, check in zip(flying, (check_eiger, check_jungfrau, check_writer), strict=True):
        check(stock_client[uid][f"{detector.name}_flown"], 3, facility)
    assert len(stock_client[uid]["primary"]["m"].read()) == 1


def test_bp_fly_when_it_declares_no_stream_then_the_error_names_our_plan(detectors):
    for detector in detectors:
        run = drive(
            interruptible(), lambda detector=detector: bpp.stage_wrapper(bp.fly([detector]), [detector])
        )
        assert "sfdaq_ophyd.plans.fly" in str(run.error), detector.name


def test_runs_when_they_take_turns_then_each_has_its_own_images(engine, detectors, facility, stock_client):
    """Parent and child, and all staged once."""
    eiger, jungfrau, writer, sfdaq = detectors
    devices = [eiger, jungfrau, writer]

    @bpp.stage_decorator(devices)
    def plan():
        parent = yield from bpp.set_run_key_wrapper(bps.open_run(), "parent")
        uids = [parent]
        for _ in range(2):
            yield from bpp.set_run_key_wrapper(bps.trigger_and_read(devices), "parent")
            child = bpp.run_wrapper(bps.trigger_and_read(devices))
            uids.append((yield from bpp.set_run_key_wrapper(child, f"child {len(uids)}")))
        yield from bpp.set_run_key_wrapper(bps.close_run(), "parent")
        return uids

    for uid, n in zip(engine(plan()), (2, 1, 1), strict=True):
        stream = stock_client[uid]["primary"]
        for check in (check_eiger, check_jungfrau, check_writer):
            check(stream, n, facility)


def test_runs_when_the_broker_is_read_in_two_then_each_has_what_it_read(engine, detectors, stock_client):
    """Without a wrapper the numbers and pulses are in each run, and no acquisition is in both."""
    sfdaq = detectors[3]

    @bpp.stage_decorator([sfdaq])
    def plan():
        for key in "12":
            yield from bpp.set_run_key_wrapper(bps.open_run(), key)
        for key in "1212":
            yield from bpp.set_run_key_wrapper(bps.trigger_and_read([sfdaq]), key)
        for key in "12":
            yield from bpp.set_run_key_wrapper(bps.close_run(), key)

    numbers = [stock_client[uid]["primary"]["sfdaq_acquisition_number"].read() for uid in engine(plan())]
    assert [list(each) for each in numbers] == [[1, 3], [2, 4]]


def test_scan_when_devices_are_in_any_order_then_live_frames_are_the_broker_s(
    engine, detectors, facility, stock_client
):
    eiger, jungfrau, writer, sfdaq = detectors
    plan = bp.list_scan([sfdaq, eiger, jungfrau, writer], M, [0, 1])
    (uid,) = engine(run_number_wrapper(plan))
    run = stock_client[uid]
    for check in (check_eiger, check_jungfrau, check_writer):
        check(run["primary"], 2, facility)
    check_broker(run, 2, facility)
    check_same_pulses(run, 2)
