"""The Eiger read out by its stream: every frame in its place, what is missing named, all put back."""

from __future__ import annotations

import json

import bluesky.plans as bp
import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.clients import EigerStream, SimplonClient
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ...clients.stream_peers import Refilled
from ..run_engine_driver import check_files, check_run, drive, interruptible, streams
from ..suspended import scan_suspended
from .conftest import EXPOSES, LOOKS, SHAPE, check_as_found, dark_and_primary, make_eiger, stamp_of
from .stream_line import rows_of

motor = SynAxis(name="motor")

AS_FOUND = {
    "mode": "disabled",
    "format": "legacy",
    "header_detail": "basic",
    "header_appendix": "of somebody",
    "image_appendix": "else",
}


@pytest.fixture
def eiger(part, tmp_path):
    return make_streamed(part, tmp_path)


def make_streamed(part, directory, **options):
    return make_eiger(part, directory, readout="stream", stream=part.stream_endpoint, **options)


def check_stream_as_found(part, client):
    check_as_found(part, client)
    assert {name: client.get("stream", "config", name).value for name in AS_FOUND} == AS_FOUND


@pytest.fixture
def part(part):
    client = SimplonClient(part.url)
    for name, value in AS_FOUND.items():
        client.put("stream", name, value)
    return part


@pytest.mark.parametrize(
    ("plan", "n"),
    [(lambda e: bp.scan([e], motor, 0, 1, 3), 3), (lambda e: fly([e], 5, period=0.01), 5)],
    ids=["step", "fly"],
)
@pytest.mark.parametrize("frames", [1, 3])
def test_plan_when_streamed_then_every_frame_is_in_its_place_and_all_is_as_found(
    part, eiger, tmp_path, plan, n, frames
):
    eiger.frames_per_trigger.put(frames)
    run = drive(interruptible(), lambda: plan(eiger))
    check_run(run, n, stamp_of=stamp_of)
    check_files(run, tmp_path)
    check_stream_as_found(part, eiger.client)
    rows = rows_of(run)
    assert all(row["eiger_n_stale"] == 0 for row in rows if "eiger_n_stale" in row)
    times = np.ravel([row["eiger_timestamp"] for row in rows])
    assert (np.diff(times) > 0).all()
    assert len({str(uid) for row in rows for uid in np.ravel(row["eiger_series_uid"])}) == 1


def test_old_frames_when_more_come_than_are_dropped_then_those_that_waited_are(eiger):
    source = eiger.source
    source._events = Refilled()
    for event in (None, None, None):
        source._events.put(event)
    source._drain()
    assert source._events.n_taken == 3


def files_of(run):
    return sorted({path for path, *_ in streams(run)["primary"].images["eiger_image"]})


def test_count_when_streamed_then_chunks_are_as_sent_tables_beside_them_and_numbers_right(
    part, eiger, tmp_path
):
    run = drive(interruptible(), lambda: bp.count([eiger], 2))
    check_run(run, 2, stamp_of=stamp_of)
    (path,) = files_of(run)
    mask = eiger.client.get_array("pixel_mask")
    with h5py.File(path, "r") as file:
        images = file["entry/data/data"]
        detector = file["entry/instrument/detector"]
        assert [uid.decode() for uid in detector["series_uid"]] == [rows_of(run)[0]["eiger_series_uid"]]
        np.testing.assert_array_equal(detector["pixel_mask/threshold_1"][0], mask)
        assert detector["flatfield/threshold_1"].shape == (1, *SHAPE)
        assert detector["countrate_correction_lookup_table"].ndim == 2
        for row, image in zip(rows_of(run), images):
            good = image[mask == 0].astype("u8")
            assert (row["eiger_total"], row["eiger_max"]) == (good.sum(), good.max())
            assert row["eiger_receive_time"] > 0 and row["eiger_real_time"] > 0


def test_fly_when_two_thresholds_are_enabled_then_each_has_its_images(part, eiger, tmp_path):
    client = SimplonClient(part.url)
    client.put("detector", "threshold/2/mode", "enabled")
    try:
        run = drive(interruptible(), lambda: fly([eiger], 4, period=0.01))
    finally:
        client.put("detector", "threshold/2/mode", "disabled")
    check_run(run, 4, stamp_of=stamp_of)
    keys = streams(run)["primary"].data_keys
    assert keys["eiger_image_2"]["shape"] == keys["eiger_image"]["shape"] == [1, *SHAPE]
    (path,) = files_of(run)
    with h5py.File(path, "r") as file:
        stamps = [stamp_of(row["eiger_event_id"]) for row in rows_of(run)]
        assert [read_stamp(image) for image in file["entry/data/image_2"]] == stamps
        assert set(file["entry/instrument/detector/pixel_mask"]) == {"threshold_1", "threshold_2"}


@pytest.mark.parametrize("compression", ["lz4", "none"])
def test_fly_when_compressed_otherwise_then_the_file_has_the_same_chunks(part, eiger, compression):
    client = SimplonClient(part.url)
    client.put("detector", "compression", compression)
    try:
        run = drive(interruptible(), lambda: fly([eiger], 3, period=0.01))
    finally:
        client.put("detector", "compression", "bslz4")
    check_run(run, 3, stamp_of=stamp_of)
    (path,) = files_of(run)
    with h5py.File(path, "r") as file:
        filters = file["entry/data/data"].id.get_create_plist()
        assert filters.get_nfilters() == (compression == "lz4")


def test_staging_when_armed_twice_then_tables_are_asked_for_once_and_again_for_another_energy(part, eiger):
    eiger.n_triggers.put(1)
    energy = eiger.photon_energy.get()

    def details():
        told = [e for e in part.requests.entries() if e.method == "PUT" and e.path.endswith("header_detail")]
        return [json.loads(entry.body)["value"] for entry in told]

    part.requests.clear()
    eiger.stage()
    try:
        for _ in range(2):
            eiger.trigger().wait(60)
        eiger.photon_energy.put(energy + 500)
        eiger.trigger().wait(60)
        assert details() == ["all", "basic", "all"]
    finally:
        eiger.unstage()
        eiger.photon_energy.put(energy)
    check_stream_as_found(part, eiger.client)


def test_scan_when_somebody_initializes_the_stream_in_between_then_it_is_enabled_again(part, eiger):
    client = SimplonClient(part.url)
    eiger.n_triggers.put(1)
    eiger.stage()
    try:
        for _ in range(2):
            eiger.trigger().wait(60)
            assert eiger.read()["eiger_is_good"]["value"]
            client.command("stream", "initialize")
    finally:
        eiger.unstage()
    assert client.get("stream", "config", "mode").value == "disabled"


@pytest.mark.parametrize(("every", "allowed"), [(0, set()), (3, {0, 3})])
def test_fly_when_numbers_are_of_some_frames_then_the_others_have_none(part, eiger, every, allowed):
    eiger.statistics_every.put(every)
    eiger.exposure_time.put(0.03)
    try:
        run = drive(interruptible(), lambda: fly([eiger], 6, period=0.03))
    finally:
        eiger.exposure_time.put(0.002)
    check_run(run, 6, stamp_of=stamp_of)
    found = {k for k, row in enumerate(rows_of(run)) if not np.isnan(row["eiger_total"])}
    assert found <= allowed and (0 in found) == (0 in allowed)


def test_stage_when_the_stream_was_in_use_then_it_is_found_and_put_back(part, eiger):
    client = SimplonClient(part.url)
    found = {"format": "legacy", "header_detail": "none", "mode": "enabled", "image_appendix": {"run": 7}}
    for name, value in found.items():
        client.put("stream", name, value)
    try:
        check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
        assert {name: client.get("stream", "config", name).value for name in found} == found
    finally:
        client.put("stream", "mode", "disabled")


def test_stream_when_not_staged_then_no_connection_takes_frames_from_others(part, eiger):
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    assert eiger.source.stream.connected == [False]
    with EigerStream(part.stream_endpoint, timeout=60.0) as other:
        other.wait_connected(60)
        client = SimplonClient(part.url)
        client.put("stream", "format", "cbor")
        client.put("stream", "mode", "enabled")
        try:
            queue = other.frames()
            series_id = client.arm()
            client.trigger(0.1)
            assert queue.get().event_id == f"{series_id}_0"
            assert other.series[queue_uid(other)].start is not None
        finally:
            client.abort()
            client.put("stream", "mode", "disabled")


def queue_uid(stream):
    return next(reversed(stream.series))


def test_step_when_the_process_was_suspended_then_no_limit_is_reached_and_no_frame_lost(part, tmp_path):
    make = (
        "from sfdaq_ophyd.devices import Eiger\n"
        f"det = Eiger({part.url!r}, name='det', directory={str(tmp_path)!r}, readout='stream', "
        f"stream={part.stream_endpoint!r})\n"
        "det.exposure_time.put(1.2)\n"
        f"det.timeout.put(1.0)\n{LOOKS}"
    )
    ids = scan_suspended(make, 3, seconds=4.0, under_way=EXPOSES)
    series = ids[0].split("_")[0]
    assert ids == [f"{series}_{k}" for k in range(3)]
    SimplonClient(part.url).initialize()


def test_dark_and_primary_when_in_one_run_then_both_files_have_the_tables(part, eiger):
    run = drive(interruptible(), lambda: dark_and_primary(eiger))
    check_run(run, 2, stamp_of=stamp_of)
    for stream in streams(run).values():
        for path, *_ in stream.images["eiger_image"]:
            with h5py.File(path, "r") as file:
                assert len(file["entry/instrument/detector/pixel_mask/threshold_1"]) == 1


def test_point_when_the_difference_is_enabled_then_it_is_the_last_image(part, eiger):
    client = SimplonClient(part.url)
    modes = ("threshold/2/mode", "threshold/difference/mode")
    for name in modes:
        client.put("detector", name, "enabled")
    try:
        eiger.stage()
        eiger.trigger().wait(60)
        keys = eiger.describe()
        assert [f"eiger_image{n}" in keys for n in ("", "_2", "_3", "_4")] == [True, True, True, False]
        (path,) = {doc["uri"] for kind, doc in eiger.collect_asset_docs() if kind == "stream_resource"}
        with h5py.File(path.removeprefix("file://localhost"), "r", swmr=True) as file:
            images = [file[f"entry/data/{name}"][0] for name in ("data", "image_2", "image_3")]
        assert [read_stamp(one) for one in images] == [stamp_of(eiger.read()["eiger_event_id"]["value"])] * 3
        rest = images[2][1:]
        assert not rest[rest < 2**16 - 1].any()  # thresholds of the simulator see the same
    finally:
        eiger.unstage()
        for name in modes:
            client.put("detector", name, "disabled")
        client.put("detector", "threshold/1/mode", "enabled")
