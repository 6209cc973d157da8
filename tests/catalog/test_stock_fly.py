"""A fly scan by bluesky's own stubs, read back: ids and numbers are columns of the detector's file."""

from __future__ import annotations

import numpy as np
import pytest
from bluesky import RunEngine

from sfdaq_ophyd.sim.stamp import read_stamp

from ..devices.fake import FakeDetector, FakeSource
from ..devices.test_stock_stubs import flown


@pytest.mark.parametrize("frames_per_trigger", [1, 2])
def test_stock_fly_when_read_back_then_each_image_has_its_ids(catalog, tmp_path, frames_per_trigger):
    det = FakeDetector(name="det", directory=tmp_path, source=FakeSource(period=0.002))
    other = FakeDetector(name="other", directory=tmp_path, source=FakeSource(period=0.003))
    det.frames_per_trigger.put(frames_per_trigger)
    engine = RunEngine(context_managers=[])
    catalog.subscribe(engine)
    (uid,) = engine(flown(det, other, n=6, times=2))
    stream = catalog[uid]["primary"]
    shape = (12,) if frames_per_trigger == 1 else (12, frames_per_trigger)
    ids = stream["det_event_id"].read()
    assert ids.shape == shape and ids.dtype.kind == "S"
    stamps = [read_stamp(image) for image in stream["det_image"].read().reshape(-1, 16, 16)]
    assert stamps == ids.ravel().astype(int).tolist()
    np.testing.assert_array_equal(stream["det_pulse_id"].read(), 1000 + ids.astype(int))
    assert stream["det_is_good"].read().all() and stream["det_timestamp"].read().dtype == "f8"
    assert stream["other_event_id"].read().astype(int).tolist() == list(range(1, 13))
