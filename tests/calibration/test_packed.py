"""Constants in 24-bit codes give back every bit, also of numbers that have no code."""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.calibration._fused import pack

SHAPE = (512, 1024)


def constants(share: float):
    """Gains and pedestals of which a share is anything but usual: negative, tiny, huge."""
    rng = np.random.default_rng(0)
    gain = rng.normal(1, 0.02, (4, *SHAPE)) * np.array([41.5, -1.4, -0.11, 104])[:, None, None]
    pedestal = rng.normal(1, 0.02, (3, *SHAPE)) * np.array([2900, 15200, 14600])[:, None, None]
    for plane in (*gain, *pedestal):
        odd = rng.random(SHAPE) < share
        plane[odd] = rng.normal(size=odd.sum()) * 10.0 ** rng.integers(-12, 12, odd.sum())
    pixel_mask = (rng.random(SHAPE) < 0.01).astype(np.int64)
    return {"gain": gain, "pedestal": pedestal, "pixel_mask": pixel_mask}


@pytest.mark.parametrize(
    "share, options",
    [
        (0.0, {"factor": 2.0}),
        (0.01, {}),
        (0.01, {"masked_value": np.nan, "mask_undefined_gain": True}),
        (1.0, {"mask_lost_packets": True}),
    ],
)
def test_kernel_when_constants_are_odd_then_every_bit_is_as_with_numpy(share, options):
    raw = np.random.default_rng(1).integers(0, 1 << 16, SHAPE, dtype=np.uint16)
    given = constants(share)
    fused, plain = (
        JungfrauCalibration("JF03T01V02", **given, engine=engine, **options)(raw)
        for engine in ("numba", "numpy")
    )
    np.testing.assert_array_equal(fused.view(np.int32), plain.view(np.int32))


def test_pack_when_constants_are_usual_then_only_masked_pixels_are_listed():
    rng = np.random.default_rng(2)
    pedestal = rng.normal(3000, 60, (3, 512 * 1024)).astype(np.float32)
    scale = rng.normal(-0.7, 0.01, (3, 512 * 1024)).astype(np.float32)
    pedestal[:, :99], scale[:, :99] = 0, 0
    packed = pack([(pedestal, scale)], 0.0)
    assert packed.exceptions[0].tolist() == [[0, 0]]
    assert packed.common.nbytes + packed.rare.nbytes == 18 * 512 * 1024
