"""One catalog for all tests that only add runs to it: a start takes seconds."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.catalog import embedded_catalog


@pytest.fixture(scope="session")
def catalog(tmp_path_factory):
    with embedded_catalog(tmp_path_factory.mktemp("catalog")) as catalog:
        yield catalog
