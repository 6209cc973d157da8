"""The golden module's files."""

from __future__ import annotations

import numpy as np
import pytest

from ..jungfrau_recordings import golden_folder
from .jungfrau_files import write_constants


@pytest.fixture(scope="session")
def jungfrau_dir(pytestconfig):
    return golden_folder(pytestconfig)


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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frames.h5"
