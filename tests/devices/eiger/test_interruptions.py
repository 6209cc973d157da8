"""The Eiger paused, suspended and ended at every message: the right points, the detector as found."""

from __future__ import annotations

import threading

import bluesky.plans as bp
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..run_engine_driver import COMING_BACK, ENDING, check_files, check_run, drive, interruptible, streams
from .conftest import SHAPE, check_as_found, make_eiger, stamp_of
from .files_bench import check_here, check_writer_as_found

N = 2


def step_scan(eigers):
    return bp.scan(eigers, SynAxis(name="motor"), 0, 1, N)


def fly_scan(eigers):
    return fly(eigers, N, period=0.006)


STRIDES = {"deferred pause": 6}
"""Pause and suspend at every message; a deferred pause, which takes 0.5 s, at some."""

READ_BACK = 24
"""Each so many messages an interrupted run is read back through the catalog: five times the work of a run."""


PLANS = {"step": step_scan, "fly": fly_scan}
SHORT = {"step": lambda eigers: bp.count(eigers, N), "fly": fly_scan}


def check_catalog(catalog, run):
    """Every event of the run is a row of the catalog, and every image there carries the id of its row."""
    for name, doc in run.documents:
        catalog(name, doc)
    for start in run.named("start"):
        rows = len(streams(run)["primary"].rows) if run.named("event") + run.named("event_page") else 0
        if rows:
            primary = catalog[start["uid"]]["primary"]
            ids = primary["eiger_event_id"].read()
            images = primary["eiger_image"].read().reshape(rows, -1, *SHAPE)
            assert len(ids) == rows
            for point, images_of_point in zip(ids, images):
                named = [str(one) for one in (point if getattr(point, "ndim", 0) else [point])]
                assert [read_stamp(image) for image in images_of_point] == [stamp_of(one) for one in named]


def every_message(
    part, catalog, directory, plan, kinds, *, frames_per_trigger=1, check_files=check_files, **options
):
    """Interrupt at one message after the other, by one of `kinds` after the other."""
    before = set(threading.enumerate())

    def fresh(k):
        eiger = make_eiger(part, directory / str(k), exposure_time=None, **options)
        eiger.frames_per_trigger.put(frames_per_trigger)
        eiger.configuration_attrs = ["exposure_time"]  # a third of a run's calls are for the others
        return eiger

    make_eiger(part, directory)  # short exposures
    quiet = drive(interruptible(True), lambda: plan([fresh(-1)]))
    check_run(quiet, N, stamp_of=stamp_of)
    for at in range(0, quiet.n_messages, STRIDES.get(kinds[0], 1) if len(kinds) == 1 else 1):
        eiger, interruption = fresh(at), kinds[at % len(kinds)]
        came_back = interruption in COMING_BACK
        run = drive(interruptible(came_back), lambda eiger=eiger: plan([eiger]), interruption, at)
        try:
            check_run(run, N if came_back else None, stamp_of=stamp_of)
            check_files(run, directory / str(at))
            if at % READ_BACK == READ_BACK // 2 and catalog is not None:
                check_catalog(catalog, run)
            check_as_found(part, eiger.client)
            assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("eiger")]
        except AssertionError as exc:
            where = (*run.commands, "end")[min(at, run.n_messages)]
            raise AssertionError(f"{interruption} at {at} ({where}): {exc}") from exc
        eiger.client.close()


@pytest.mark.parametrize("kinds", [*([kind] for kind in COMING_BACK), ENDING], ids=" or ".join)
@pytest.mark.parametrize("plan", list(PLANS))
def test_scan_when_interrupted_at_any_message_then_frames_and_detector_are_right(
    part, catalog, tmp_path, plan, kinds
):
    """What ends a scan ends it alike: these take turns."""
    every_message(part, catalog, tmp_path, PLANS[plan], kinds)


def test_scan_of_several_frames_when_paused_at_any_message_then_points_are_whole(part, catalog, tmp_path):
    every_message(part, catalog, tmp_path, fly_scan, ["pause"], frames_per_trigger=3)


@pytest.mark.parametrize("kinds", [COMING_BACK, ENDING], ids=["coming back", "ending"])
@pytest.mark.parametrize("plan", list(SHORT))
def test_stream_when_interrupted_at_any_message_then_frames_and_detector_are_right(
    part, catalog, tmp_path, plan, kinds
):
    """Its frames come by another way, and all else is the same: the kinds take turns."""
    stream = {"readout": "stream", "stream": part.stream_endpoint}
    every_message(part, catalog, tmp_path, SHORT[plan], kinds, **stream)


@pytest.mark.parametrize("plan", list(SHORT))
def test_files_when_interrupted_at_any_message_then_points_and_filewriter_are_right(part, tmp_path, plan):
    every_message(
        part,
        None,
        tmp_path,
        SHORT[plan],
        [*COMING_BACK, *ENDING],
        check_files=check_here,
        readout="filewriter",
    )
    check_writer_as_found(SimplonClient(part.url))
