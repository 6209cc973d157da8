"""Golden inputs and results, and detectors with plain constants."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sfdaq_ophyd.calibration import JungfrauCalibration

from ..jungfrau_recordings import golden_folder

ENGINES = ["numpy", "numba"]


@pytest.fixture(scope="session")
def golden_dir(pytestconfig):
    return golden_folder(pytestconfig)


@pytest.fixture(scope="session")
def given(golden_dir):
    """Raw images and constants of one module, JF03T01V02."""
    return dict(np.load(golden_dir / "calibration_input.npz"))


@pytest.fixture(scope="session")
def expected(golden_dir):
    """What the facility's library makes of them."""
    return dict(np.load(golden_dir / "calibration_expected.npz"))


@pytest.fixture(scope="session")
def exported(golden_dir):
    return dict(np.load(golden_dir / "export_expected.npz"))


@pytest.fixture(scope="session")
def worked(golden_dir):
    return json.loads((golden_dir / "worked_pixels.json").read_text())


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def golden(given, engine):
    """``golden(**options)``: a calibration with the golden constants."""

    def make(
        *, gain=given["gain"], pedestal=given["pedestal"][:3], pixel_mask=given["pixel_mask"], **options
    ):
        return JungfrauCalibration("JF03T01V02", gain, pedestal, pixel_mask, engine=engine, **options)

    return make


def plain(detector, n, *, masked=True, **options):
    """Gain 1 and pedestal 0 everywhere: a calibration that only moves pixels."""
    rows = 512 * n
    mask = np.zeros((rows, 1024), dtype=np.int64) if masked else None
    gain, pedestal = np.ones((4, rows, 1024), "f4"), np.zeros((3, rows, 1024), "f4")
    return JungfrauCalibration(detector, gain, pedestal, mask, **options)
