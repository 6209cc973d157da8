"""Frames through a Tiled server, by both writers: the arrays in the catalog are those of the ids."""

from __future__ import annotations

import re

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest

from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from .fake import FakeDetector, FakeFileSource, FakeSource, FakeWriter
from .run_engine_driver import check_run, drive, interruptible

pytestmark = [
    # bluesky's own writer calls Tiled the old way
    pytest.mark.filterwarnings("ignore:The order of arguments has changed:DeprecationWarning"),
    # Tiled stores arrays of strings, such as the ids of a point of several frames, as zarr
    pytest.mark.filterwarnings("ignore:The data type:Warning"),
]


@pytest.fixture(scope="module")
def client(tiled_server):
    from tiled.client import from_uri

    return from_uri(tiled_server.uri)


@pytest.fixture(params=["bluesky", "bluesky_tiled_plugins"])
def catalog(client, request):
    """An engine whose documents one of the two writers brings to the server, and the server's client."""
    if request.param == "bluesky":
        from bluesky.callbacks.tiled_writer import TiledWriter
    else:
        from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
    engine = interruptible(exact=True)
    engine.subscribe(TiledWriter(client, batch_size=1))
    return engine, client


def stream_of(catalog, plan, name="primary", n_points=None):
    engine, client = catalog
    run = drive(engine, plan)
    assert run.error is None
    check_run(run, n_points, stream=name)
    return client[run.named("start")[0]["uid"]][name]


def read(stream, key, frames_per_point=1):
    """One column; bluesky's own writer puts the array of a row into one cell, as text."""
    values = np.asarray(stream[key].read())
    if frames_per_point > 1 and values.ndim == 1:
        values = np.array([re.findall(r"[0-9.]+", str(cell)) for cell in values])
    return values


def check_images(stream, name, n_points, frames_per_point):
    images = read(stream, f"{name}_image")
    assert images.shape[:2] == (n_points, frames_per_point)
    stamps = [[read_stamp(frame) for frame in point] for point in images]
    ids = read(stream, f"{name}_event_id", frames_per_point).reshape(n_points, frames_per_point)
    assert stamps == [[int(i) for i in point] for point in ids]
    return images


@pytest.mark.parametrize("frames_per_point", [1, 3])
def test_count_when_read_back_then_images_are_those_of_the_ids(catalog, tmp_path, frames_per_point):
    det = FakeDetector(name="det", directory=tmp_path)
    det.frames_per_trigger.put(frames_per_point)
    stream = stream_of(catalog, lambda: bp.count([det], 3), n_points=3)
    images = check_images(stream, "det", 3, frames_per_point)
    assert images.dtype == "uint16"
    totals = read(stream, "det_total", frames_per_point).reshape(3, frames_per_point)
    assert (images.sum(axis=(2, 3), dtype="i8") == totals.astype("i8")).all()


def test_fly_when_read_back_then_images_are_those_of_the_ids(catalog, tmp_path):
    det = FakeDetector(name="det", directory=tmp_path, source=FakeSource(period=0.005))
    stream = stream_of(catalog, lambda: fly([det], 8, period=0.03), n_points=8)
    check_images(stream, "det", 8, 1)


def test_fly_when_two_detectors_then_both_are_in_one_stream(catalog, tmp_path):
    ours = FakeDetector(name="ours", directory=tmp_path, source=FakeSource(period=0.005))
    theirs = FakeWriter(name="theirs", directory=tmp_path, source=FakeFileSource(tmp_path, shape=(8, 12)))
    stream = stream_of(catalog, lambda: fly([ours, theirs], 4, period=0.02), n_points=4)
    check_images(stream, "ours", 4, 1)
    assert check_images(stream, "theirs", 4, 1).shape == (4, 1, 8, 12)


def test_run_when_every_point_has_a_foreign_file_then_they_are_joined(catalog, tmp_path):
    det = FakeWriter(name="det", directory=tmp_path)
    det.frames_per_trigger.put(2)
    stream = stream_of(catalog, lambda: bp.count([det], 3), n_points=3)
    check_images(stream, "det", 3, 2)


def test_run_when_it_has_two_streams_then_each_has_its_own_frames(catalog, tmp_path):
    det = FakeDetector(name="det", directory=tmp_path)

    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        for name in ("dark", "primary", "primary", "dark", "primary"):
            yield from bps.trigger_and_read([det], name)

    engine, client = catalog
    run = drive(engine, plan)
    check_run(run, 3)
    node = client[run.named("start")[0]["uid"]]
    check_images(node["primary"], "det", 3, 1)
    check_images(node["dark"], "det", 2, 1)


def test_gap_when_read_back_then_it_is_marked_and_empty(catalog, tmp_path):
    det = FakeDetector(name="det", directory=tmp_path)
    det.loss_policy.put("tolerant")
    det.source.faults = {2: "lose"}
    stream = stream_of(catalog, lambda: bp.count([det], 3), n_points=3)
    assert read(stream, "det_event_id").tolist() == ["1", "", "3"]
    assert read(stream, "det_is_good").tolist() == [True, False, True]
    assert np.isnan(read(stream, "det_timestamp").astype(float)).tolist() == [False, True, False]
    assert not read(stream, "det_image")[1].any()


@pytest.mark.parametrize("plan", ["step", "fly"])
def test_scan_when_paused_at_any_message_then_catalog_has_each_point_once(catalog, tmp_path, plan):
    engine, client = catalog
    for at in (11, 23):
        det = FakeDetector(name="det", directory=tmp_path, source=FakeSource(period=0.004))
        plans = {
            "step": lambda det=det: bp.count([det], 3),
            "fly": lambda det=det: fly([det], 3, period=0.006),
        }
        run = drive(engine, plans[plan], "pause", at)
        check_run(run, 3)
        check_images(client[run.named("start")[0]["uid"]]["primary"], "det", 3, 1)
