"""The filewriter's own files as the images of a run: in order, whole, with what they tell."""

from __future__ import annotations

import time

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from .conftest import SHAPE, make_eiger, stamp_of

V2024 = "hdf5 nexus v2024.2 nxmx"


@pytest.fixture
def make(part, tmp_path):
    """Make a device that reads out by files; what a test set on the unit is as before afterwards."""
    made = []

    def make(**options):
        made.append(make_eiger(part, tmp_path / "here", readout="filewriter", **options))
        return made[-1]

    yield make
    client = made[-1].client
    client.command("filewriter", "initialize")
    client.command("filewriter", "clear")
    for eiger in made:
        eiger.client.close()


def check_as_found(client, **changed):
    found = {"mode": "disabled", "name_pattern": "series_$id", "nimages_per_file": 1000} | changed
    assert {name: client.get("filewriter", "config", name).value for name in found} == found


def take(catalog, plan):
    engine = RunEngine({})
    engine.subscribe(catalog)
    documents = []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    (uid,) = engine(plan)
    return catalog[uid]["primary"], documents


def check_stamps(stream, n_points, frames_per_point=1, image="image"):
    ids = np.asarray(stream["eiger_event_id"].read()).reshape(-1)
    images = stream[f"eiger_{image}"].read()
    assert images.shape == (n_points, frames_per_point, *SHAPE)
    stamps = [read_stamp(one) for one in images.reshape(-1, *SHAPE)]
    assert stamps == [stamp_of(str(one)) for one in ids]
    assert np.asarray(stream["eiger_is_good"].read()).all()
    return [str(one) for one in ids]


def test_step_scan_when_read_back_then_each_point_is_one_file_of_one_series(part, make, catalog, tmp_path):
    eiger = make()
    stream, documents = take(catalog, bp.count([eiger], 3))
    ids = check_stamps(stream, 3)
    series = {one.split("_")[0] for one in ids}
    assert len(series) == 1 and [one.split("_")[1] for one in ids] == ["0", "1", "2"]
    names = sorted(path.name for path in (tmp_path / "here").glob("*.h5"))
    assert [name.split("_", 4)[4] for name in names] == [
        f"{ids[0].split('_')[0]}_{what}.h5"
        for what in ("data_000001", "data_000002", "data_000003", "master")
    ]
    assert sum(request.path.endswith("command/arm") for request in part.requests.entries()) == 1
    uids = set(stream["eiger_series_uid"].read())
    assert uids == {eiger.client.get("detector", "status", "series_unique_id").value}
    assert np.isnan(np.asarray(stream["eiger_timestamp"].read())).all()
    assert "eiger_total" not in next(doc for name, doc in documents if name == "descriptor")["data_keys"]
    check_as_found(eiger.client)


@pytest.mark.parametrize(("frames_per_trigger", "n_points", "n_files"), [(1, 10, 3), (3, 5, 5)])
def test_fly_scan_when_it_has_several_files_then_they_are_read_in_order(
    part, make, catalog, tmp_path, frames_per_trigger, n_points, n_files
):
    eiger = make()
    eiger.images_per_file.put(4)
    eiger.frames_per_trigger.put(frames_per_trigger)
    stream, documents = take(catalog, fly([eiger], n_points, period=0.02))
    ids = check_stamps(stream, n_points, frames_per_trigger)
    assert [int(one.split("_")[1]) for one in ids] == list(range(n_points * frames_per_trigger))
    assert len(list((tmp_path / "here").glob("*_data_*.h5"))) == n_files
    assert sum(name == "stream_resource" for name, _ in documents) == n_files
    check_as_found(eiger.client, nimages_per_file=4)


def test_scan_when_the_format_tells_more_then_times_and_an_image_per_threshold(part, make, catalog):
    eiger = make()
    eiger.file_format.put(V2024)
    eiger.client.put("detector", "threshold/2/mode", "enabled")
    before = time.time()
    try:
        stream, _ = take(catalog, fly([eiger], 4, period=0.02))
    finally:
        eiger.client.put("detector", "threshold/2/mode", "disabled")
    check_stamps(stream, 4)
    check_stamps(stream, 4, image="image_2")
    times = np.asarray(stream["eiger_timestamp"].read())
    assert before - 1 < times[0] < times[-1] < time.time() and np.all(np.diff(times) > 0)
    check_as_found(eiger.client, format=V2024)


def test_scan_when_two_thresholds_are_enabled_then_the_format_that_has_both(part, make, catalog):
    eiger = make()
    eiger.client.put("detector", "threshold/2/mode", "enabled")
    try:
        stream, _ = take(catalog, bp.count([eiger], 2))
    finally:
        eiger.client.put("detector", "threshold/2/mode", "disabled")
    check_stamps(stream, 2, image="image_2")
    check_as_found(eiger.client, format="hdf5 nexus legacy nxmx")
