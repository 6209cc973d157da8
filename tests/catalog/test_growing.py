"""Files whose writer is ahead of the documents, as the server reads them."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource

from sfdaq_ophyd.catalog._growing import GrowingHDF5Adapter
from sfdaq_ophyd.files.frame_file import IMAGE, FrameFile
from sfdaq_ophyd.sim.stamp import read_stamp, write_stamp
from sfdaq_ophyd.wire.frame import Frame, FrameFormat

Node = collections.namedtuple("Node", ["metadata_", "specs"])
N_FRAMES = 6


@pytest.fixture
def path(tmp_path):
    file = FrameFile(tmp_path / "frames.h5", FrameFormat((8, 10), "u2"))
    for number in range(N_FRAMES):
        image = np.zeros((8, 10), "u2")
        write_stamp(image, number)
        file.append(Frame(image, 1e9, str(number)))
    file.flush()
    yield file.path
    file.close()


@pytest.mark.parametrize("shape", [(0, 1, 8, 10), (1, 1, 8, 10), (6, 1, 8, 10), (2, 2, 8, 10), (4, 8, 10)])
def test_file_when_ahead_of_the_catalog_then_registered_frames_are_read(path, shape):
    structure = ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(np.dtype("u2")),
        shape=shape,
        chunks=((1,) * shape[0] or (0,), *((n,) for n in shape[1:])),
    )
    asset = Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=0)
    source = DataSource(structure_family=StructureFamily.array, structure=structure, assets=[asset])
    adapter = GrowingHDF5Adapter.from_catalog(source, Node({}, []), dataset=IMAGE, swmr=True)
    frames = adapter.read().reshape(-1, 8, 10)
    assert [read_stamp(frame) for frame in frames] == list(range(int(np.prod(shape[:-2]))))
