"""Runs of the standard DAQ read back through the catalog, also while their file is open."""

from __future__ import annotations

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from tiled.client.utils import ClientError

from sfdaq_ophyd import setup
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from .documents import both_controls, points_dropped


def ran(catalog, plan):
    """Run a plan; return its run as the catalog gives it back."""
    engine = RunEngine(context_managers=[])
    setup(engine, catalog)
    (uid,) = engine(plan)
    return catalog[uid]


def check(run, n_points, frames_per_point=1):
    """Check that every image is the one its frame number says, and that all were good."""
    stream = run["primary"]
    images, numbers = stream["writer_image"].read(), stream["writer_image_id"].read()
    assert images.shape[:2] == (n_points, frames_per_point)
    stamps = [read_stamp(image) for image in images.reshape(-1, *images.shape[-2:])]
    assert stamps == numbers.reshape(-1).tolist() and len(set(stamps)) == len(stamps)
    assert not stream["writer_image_status"].read().any()


@both_controls
def test_catalog_when_a_fly_scan_runs_then_points_are_there_and_the_file_is_said_to_be_open(
    daq, writer, catalog, wait_for
):
    """Fly for long, read while the file is open, which is refused by its name; then give up, and read."""
    writer.stage()
    engine = RunEngine(context_managers=[])
    setup(engine, catalog)
    seen = []

    @bpp.run_decorator()
    def plan():
        yield from bps.declare_stream(writer, name="primary", collect=True)
        yield from bps.prepare(writer, 10_000, wait=True)
        yield from bps.kickoff(writer, wait=True)
        wait_for(lambda: writer.n_ready >= 5, "points")
        yield from bps.collect(writer, name="primary")
        run = catalog[-1]
        wait_for(lambda: "primary" in run and "writer_image" in run["primary"], "the stream")
        wait_for(lambda: run["primary"]["writer_image"].shape[0] >= 5, "points")
        with pytest.raises(ClientError, match="409: .*is not readable now: its writer has it open") as caught:
            run["primary"]["writer_image"].read()
        seen.append(str(caught.value))
        writer.pause()

    (uid,) = engine(plan())
    assert writer.file.get() in seen[0]
    check(catalog[uid], catalog[uid]["primary"]["writer_image"].shape[0])


@pytest.mark.usefixtures("stops_are_answered")
def test_catalog_when_two_files_hold_more_than_their_points_then_the_points_are_read(daq, writer, catalog):
    writer.timeout.put(4.0)
    writer.loss_policy.put("retake")
    writer.frames_per_trigger.put(2)
    daq.fail_next("stall", after=7)
    flown = ran(catalog, fly([writer], 10))
    check(flown, 10, 2)
    assert len(flown["primary"]["writer_event_id"].read()) == 10


def test_catalog_when_an_event_of_a_run_file_is_dropped_then_the_others_are_read(daq, writer, catalog):
    writer.mode.put("run")
    writer.n_points.put(1000)

    check(ran(catalog, points_dropped(writer, keeps=(True, False, True, True))), 3)
