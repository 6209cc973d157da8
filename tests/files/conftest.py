"""The golden module's files."""

from __future__ import annotations

import numpy as np
import pytest

from .jungfrau_files import write_constants


@pytest.fixture(scope="session")
def jungfrau_dir(request, data_dir):
    given = request.config.getoption("--recordings")
    if given is not None and (given / "calibration_input.npz").exists():
        return given
    return data_dir / "jungfrau" / "calibration"


@pytest.fixture(scope="session")
def given(jungfrau_dir):
    return dict(np.load(jungfrau_dir / "calibration_input.npz"))


@pytest.fixture(scope="session")
def expected(jungfrau_dir):
    return dict(np.load(jungfrau_dir / "calibration_expected.npz"))


@pytest.fixture(scope="session")
def constants(given, tmp_path_factory):
    """Paths of gain and pedestal file."""
    return write_constants(tmp_path_factory.mktemp("constants"), given)
