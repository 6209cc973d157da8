"""A file whose writer was killed, met by the catalog: any reader opens it afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import h5py
import pytest
from tiled.adapters.hdf5 import HDF5Adapter

from sfdaq_ophyd.catalog.plugin import GrowingHDF5Adapter

from ..files.test_repair import kill, opens_plainly, writer  # noqa: F401  a fixture


@pytest.mark.parametrize("alive", [False, True])
def test_catalog_when_a_writer_was_killed_then_its_file_is_repaired_as_it_is_read(
    writer,  # noqa: F811
    monkeypatch,
    alive,
):
    path, process = writer()
    if not alive:
        kill(process)
    seen = []

    def stock(cls, data_source, node, **kwargs):
        with h5py.File(path, "r", swmr=True) as file:
            seen.append(len(file["entry/data/data"]))

    monkeypatch.setattr(HDF5Adapter, "from_catalog", classmethod(stock))
    source = SimpleNamespace(assets=[SimpleNamespace(data_uri=f"file://localhost{path}")])
    GrowingHDF5Adapter.from_catalog(source, None, swmr=True)
    assert seen == [35] and opens_plainly(path) is not alive
