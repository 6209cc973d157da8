"""Runs of all detectors, written by bluesky's own TiledWriter into a stock server, each image checked.

Nothing of ours is between the documents and what a stock client reads.
"""

from __future__ import annotations

import re

import bluesky.callbacks.tiled_writer
import bluesky.plans as bp
import bluesky_tiled_plugins
import numpy as np
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.plans import run_number_wrapper
from sfdaq_ophyd.sim.stamp import read_stamp

from ..catalog.composed import Composed, frames_of, image_key, scalar, write_frames
from ..devices.eiger.conftest import stamp_of
from ..devices.run_engine_driver import interruptible
from .conftest import NAME

pytestmark = [
    # bluesky's own writer calls Tiled the old way
    pytest.mark.filterwarnings("ignore:The order of arguments has changed:DeprecationWarning"),
    # Tiled stores arrays of strings, such as the files of a point, as zarr
    pytest.mark.filterwarnings("ignore:The data type:Warning"),
]


def check_eiger(stream, n, facility):
    ids = stream["eiger_event_id"].read().astype(str)
    images = stream["eiger_image"].read().reshape(n, 32, 48)
    assert [read_stamp(image) for image in images] == [stamp_of(each) for each in ids]
    assert len(set(ids)) == n
    uids = np.asarray(stream["eiger_series_uid"].read()).astype(str)
    assert uids.shape == (n,) and all(uids)
    whole = stream.read()  # which fails as a whole if one column is not as it was described
    assert whole["eiger_series_uid"].values.astype(str).tolist() == uids.tolist()


def check_jungfrau(stream, n, facility):
    pulse_ids, images = stream["jf_pulse_id"].read(), stream["jf_image"].read()
    for pulse_id, image in zip(pulse_ids, images.reshape(n, 512, 1024), strict=True):
        np.testing.assert_array_equal(image, facility.jungfrau.scene.raw(int(pulse_id)))
    assert len(set(pulse_ids)) == n


def check_writer(stream, n, facility):
    """The stamp is the pulse id, and there is one per frame number."""
    key = "writer_image_id" if "writer_image_id" in stream else "writer_event_id"
    numbers = re.findall(r"\d+", str(stream[key].read().tolist()))  # bluesky's writes text
    images = stream["writer_image"].read().reshape(n * 2, 512, 1024)
    assert len({read_stamp(image) - int(number) for image, number in zip(images, numbers, strict=True)}) == 1
    assert len(set(numbers)) == n * 2


def check_broker(run, n, facility):
    data, first = run["sfdaq_data"], run["primary"]["sfdaq_start_pulse_id"].read()
    asked = np.asarray(first)[:, None] + np.arange(2)
    for key in (NAME, "SIM:INTENSITY"):
        np.testing.assert_array_equal(data[f"sfdaq_{key}_pulse_id"].read().reshape(n, 2), asked)
    images = data[f"sfdaq_{NAME}"].read().reshape(n * 2, 512, 1024)
    assert [read_stamp(image) for image in images] == asked.ravel().tolist()


def check_same_pulses(run, n):
    """Pulse by pulse: the live frame is the first of the broker's, and so is every channel's value."""
    live = np.asarray(run["primary"]["jf_pulse_id"].read())
    data, images = run["sfdaq_data"], np.asarray(run["primary"]["jf_image"].read()).reshape(n, 512, 1024)
    for key in (NAME, "SIM:INTENSITY"):
        np.testing.assert_array_equal(data[f"sfdaq_{key}_pulse_id"].read().reshape(n, 2)[:, 0], live)
    saved = np.asarray(data[f"sfdaq_{NAME}"].read()).reshape(n, 2, 512, 1024)[:, 0]
    np.testing.assert_array_equal(saved, images)


M, N = SynAxis(name="m"), SynAxis(name="n")
WRITERS = {
    "bluesky": bluesky.callbacks.tiled_writer.TiledWriter,
    "plugins": bluesky_tiled_plugins.TiledWriter,
}


@pytest.mark.parametrize(
    ("writer", "plan"),
    [
        ("bluesky", lambda detectors: bp.scan(detectors, M, 0, 1, 3)),
        ("plugins", lambda detectors: bp.count(detectors, 3)),
        ("plugins", lambda detectors: bp.grid_scan(detectors, M, 0, 1, 1, N, 0, 1, 3)),
    ],
    ids=["scan", "count", "grid_scan"],
)
def test_run_when_written_and_read_by_stock_parts_then_each_image_is_that_of_its_id(
    facility, detectors, stock_client, writer, plan
):
    engine = interruptible()
    engine.subscribe(WRITERS[writer](stock_client))
    (uid,) = engine(run_number_wrapper(plan(detectors)))
    run = stock_client[uid]
    for check in (check_eiger, check_jungfrau, check_writer):
        check(run["primary"], 3, facility)
    check_broker(run, 3, facility)
    check_same_pulses(run, 3)


def test_file_when_it_holds_more_than_was_registered_then_what_was_reads_back(stock_client, tmp_path):
    """Such as a standard DAQ's whose run was aborted: frames came after the last point."""
    frames = frames_of(1, 9)
    path = write_frames(tmp_path / "frames.h5", frames)
    run = Composed(WRITERS["plugins"](stock_client))
    stream = run.stream("primary", {"image": image_key(), "x": scalar("number")})
    resource = run.frames("image", path)
    for i in range(3):
        stream.datum(resource, i, i + 1)
        stream.event(x=i / 2)
    run.stop()
    stream = stock_client[run.uid]["primary"]
    np.testing.assert_array_equal(stream["image"].read(), frames[:3])
    np.testing.assert_array_equal(stream["image"][1], frames[1])
    np.testing.assert_array_equal(stream.read()["image"], frames[:3])
