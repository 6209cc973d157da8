"""Whole scans on the simulated Eiger: every plan, every document, every image through the catalog."""

from __future__ import annotations

import bluesky.plans as bp
import bluesky.protocols
import numpy as np
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd import setup
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..run_engine_driver import check_files, check_run, drive, interruptible, streams
from .conftest import check_as_found, dark_and_primary, make_eiger, stamp_of

motor, other = SynAxis(name="motor"), SynAxis(name="other")

PLANS = {
    "count": (lambda e: bp.count([e], 3), 3),
    "scan": (lambda e: bp.scan([e], motor, 0, 1, 4), 4),
    "rel_grid_scan": (lambda e: bp.rel_grid_scan([e], motor, 0, 1, 2, other, 0, 1, 3, True), 6),
    "list_scan": (lambda e: bp.list_scan([e], motor, [3, 1, 2]), 3),
    "adaptive_scan": (lambda e: bp.adaptive_scan([e], "eiger_total", motor, 0, 2, 0.5, 1, 100, False), None),
    "fly": (lambda e: fly([e], 5, period=0.01), 5),
}


def check_points(run, n=None):
    n = n or len(streams(run)["primary"].rows)
    assert n > 0
    check_run(run, n, stamp_of=stamp_of)
    return streams(run)["primary"].rows


@pytest.mark.parametrize("plan", list(PLANS))
def test_plan_when_run_then_every_point_is_there_and_the_detector_as_found(
    part, eiger, catalog, tmp_path, plan
):
    make_plan, n = PLANS[plan]
    engine = interruptible()
    setup(engine, catalog)
    run = drive(engine, lambda: make_plan(eiger))
    rows = check_points(run, n)
    check_files(run, tmp_path)
    check_as_found(part, eiger.client)
    assert len({row["eiger_event_id"] for row in rows}) == len(rows)
    assert all(row["eiger_n_stale"] == 0 for row in rows if "eiger_n_stale" in row)
    times = [row["eiger_timestamp"] for row in rows]
    assert times == sorted(times)
    primary = catalog[run.named("start")[0]["uid"]]["primary"]
    ids, images = list(primary["eiger_event_id"].read()), primary["eiger_image"].read()
    assert images.shape == (len(rows), 1, 32, 48) or images.shape == (len(rows), 32, 48)
    assert [read_stamp(image.reshape(32, 48)) for image in images] == [stamp_of(str(i)) for i in ids]


@pytest.mark.parametrize("plan", ["scan", "fly"])
def test_plan_when_a_trigger_is_several_frames_then_ids_are_arrays_and_images_stacks(part, tmp_path, plan):
    eiger = make_eiger(part, tmp_path)
    eiger.frames_per_trigger.put(3)
    make_plan, n = PLANS[plan]
    run = drive(interruptible(), lambda: make_plan(eiger))
    rows = check_points(run, n)
    assert [len(row["eiger_event_id"]) for row in rows] == [3] * n
    keys = streams(run)["primary"].data_keys
    assert keys["eiger_image"]["shape"] == [3, 32, 48]
    assert keys["eiger_timestamp"]["shape"] == [3]


def test_scan_when_it_has_many_points_then_it_arms_once_and_again_when_triggers_are_used_up(part, tmp_path):
    eiger = make_eiger(part, tmp_path)
    eiger.n_triggers.put(4)
    part.requests.clear()
    run = drive(interruptible(), lambda: bp.count([eiger], 10))
    rows = check_points(run, 10)
    sent = [entry.path.rsplit("/", 1)[1] for entry in part.requests.entries() if "/command/" in entry.path]
    assert (sent.count("arm"), sent.count("trigger")) == (3, 10)
    series = [row["eiger_event_id"].split("_")[0] for row in rows]
    assert [series.count(one) for one in dict.fromkeys(series)] == [4, 4, 2]


def test_two_detectors_when_in_one_scan_then_rows_hold_frames_of_both(part, make_part, tmp_path):
    eiger = make_eiger(part, tmp_path / "a")
    second = Eiger(make_part(shape=(16, 24)).url, name="second", directory=tmp_path / "b")
    second.exposure_time.put(0.003)
    plans = [
        lambda: bp.scan([eiger, second], motor, 0, 1, 3),
        lambda: fly([eiger, second], 4, period=0.01),
    ]
    for make_plan in plans:
        run = drive(interruptible(), make_plan)
        rows = check_points(run)
        assert {"eiger_event_id", "second_event_id"} <= set(rows[0])
        keys = streams(run)["primary"].data_keys
        assert (keys["eiger_image"]["shape"], keys["second_image"]["shape"]) == ([1, 32, 48], [1, 16, 24])


def test_fly_when_prepared_then_one_trigger_takes_all_frames(part, eiger):
    part.requests.clear()
    run = drive(interruptible(), lambda: fly([eiger], 20, period=0.01))
    rows = check_points(run, 20)
    sent = [entry.path.rsplit("/", 1)[1] for entry in part.requests.entries() if "/command/" in entry.path]
    assert (sent.count("arm"), sent.count("trigger")) == (1, 1)
    steps = np.diff([row["eiger_timestamp"] for row in rows])
    np.testing.assert_allclose(steps, eiger.frame_time.get(), atol=0.0011)


def test_dark_and_primary_when_in_one_run_then_each_stream_has_its_own_frames(eiger):
    run = drive(interruptible(), lambda: dark_and_primary(eiger))
    check_run(run, 2, stamp_of=stamp_of)
    assert {name: len(stream.rows) for name, stream in streams(run).items()} == {"dark": 2, "primary": 2}


def test_progress_when_watched_then_it_ends_at_the_target(eiger):
    seen = []
    eiger.frames_per_trigger.put(5)
    eiger.stage()
    try:
        status = eiger.trigger()
        status.watch(lambda **progress: seen.append(progress))
        status.wait(60)
    finally:
        eiger.unstage()
    assert seen[-1]["current"] == seen[-1]["target"] == 5
    assert {"name", "initial", "unit", "fraction", "time_elapsed", "time_remaining"} <= set(seen[-1])


@pytest.mark.parametrize(
    "protocol",
    [
        "Stageable",
        "Triggerable",
        "Readable",
        "Configurable",
        "Pausable",
        "Stoppable",
        "Flyable",
        "Preparable",
    ],
)
def test_eiger_when_checked_against_bluesky_then_it_follows_the_protocol(eiger, protocol):
    assert isinstance(eiger, getattr(bluesky.protocols, protocol))
