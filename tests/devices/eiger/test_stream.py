"""The Eiger read out by its stream: every frame in its place, what is missing named, all put back."""

from __future__ import annotations

import bluesky.plans as bp
import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.plans import fly

from ..run_engine_driver import check_files, check_run, drive, interruptible, streams
from .conftest import SHAPE, check_as_found, make_eiger, stamp_of

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


def rows_of(run):
    return streams(run)["primary"].rows


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
