"""Files whose writer is ahead of the documents, as the server reads them."""

from __future__ import annotations

import collections
import contextlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
from tiled.ndslice import NDSlice
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource
from tiled.utils import Conflicts

from sfdaq_ophyd.catalog import plugin
from sfdaq_ophyd.catalog.plugin import GrowingHDF5Adapter
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


def test_files_when_each_holds_more_than_is_registered_then_their_registered_points_are_read(tmp_path):
    paths, shape = [], (8, 10)
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["data"] = np.arange(100 * k, 100 * k + 9)[:, None, None] * np.ones(shape, "i8")
            file["id"] = np.arange(100 * k, 100 * k + 9)
            paths.append(file.filename)
    read = lambda *args: [int(x) for x in adapter_of(*args).read().reshape(6, -1)[:, 0]]  # noqa: E731
    rows = [[0, 2], [1, 2]]
    assert read(paths, "data", (3, 2, *shape), rows) == [0, 1, 2, 3, 102, 103]
    assert read(paths, "id", (3, 2), rows) == [0, 1, 2, 3, 102, 103]
    assert read(paths, "id", (6,), [[0, 3], [0, 3]]) == [0, 1, 2, 100, 101, 102]
    assert read(paths, "id", (6,), [[0, 3, 2]]) == [0, 1, 2, 100, 101, 102], "in one, as of many files"
    assert read([*paths, paths[0]], "data", (3, 2, *shape), [[1, 2, 2], [3, 4, 1]]) == [2, 3, 102, 103, 6, 7]


def test_files_when_one_part_of_each_frame_is_registered_then_that_of_the_registered_points(tmp_path):
    paths = []
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            frames = np.arange(100 * k, 100 * k + 9)[:, None, None, None] * np.ones((2, 8, 10), "i8")
            frames[:, 1] += 1000
            file["data"] = frames
            paths.append(file.filename)
    adapter = adapter_of(paths, "data", (3, 2, 8, 10), [[0, 2], [1, 2]], slice=":,1")
    assert adapter.read()[..., 0, 0].tolist() == [[1000, 1001], [1002, 1003], [1102, 1103]]


def test_file_when_its_writer_has_it_open_then_the_answer_is_a_conflict(tmp_path):
    with h5py.File(tmp_path / "open.h5", "w", locking=True) as file:
        file["id"] = np.arange(4)
        with pytest.raises(Conflicts, match="open.h5 is not readable now: its writer has it open"):
            adapter_of([file.filename], "id", (4,), [[0, 4]])


@pytest.fixture(params=[True, False], ids=["slices", "whole files"])
def joined(tmp_path, request):
    """One file that joins two, image k of the whole being k."""
    layout = h5py.VirtualLayout((6,), "i8")
    for k in range(2):
        with h5py.File(tmp_path / f"part{k}.h5", "w") as file:
            file["id"] = np.arange(k, 6, 2)
            source = h5py.VirtualSource(f"part{k}.h5", "id", (3,))
            layout[k::2] = source[:3] if request.param else source
    with h5py.File(tmp_path / "joined.h5", "w") as file:
        file.create_virtual_dataset("id", layout)
    return tmp_path / "joined.h5"


def test_file_when_it_joins_others_then_they_are_read_through_it(joined):
    assert adapter_of([joined], "id", (5,), [[0, 5]]).read().tolist() == [0, 1, 2, 3, 4]


def test_file_when_it_joins_images_then_one_is_read_alone(tmp_path, monkeypatch):
    layout = h5py.VirtualLayout((6, 2, 3), "i8")
    for k in range(2):
        with h5py.File(tmp_path / f"part{k}.h5", "w") as file:
            file["images"] = np.repeat(np.arange(k, 6, 2), 6).reshape(3, 2, 3)
        layout[k::2] = h5py.VirtualSource(f"part{k}.h5", "images", (3, 2, 3))
    with h5py.File(tmp_path / "joined.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    adapter = adapter_of([tmp_path / "joined.h5"], "images", (2, 2, 2, 3), [[0, 2]])
    read, looks = plugin._Images.__getitem__, []
    monkeypatch.setattr(plugin._Images, "__getitem__", lambda i, key: looks.append(key) or read(i, key))
    assert adapter.read()[:, :, 0, 0].tolist() == [[0, 1], [2, 3]]
    looks.clear()
    assert adapter.read(NDSlice(1, 1))[0, 0] == 3 and [key[0] for key in looks] == [slice(3, 4)]


def test_file_when_the_one_it_links_to_is_gone_then_it_is_said(tmp_path):
    with h5py.File(tmp_path / "points.h5", "w") as file:
        file["images"] = h5py.ExternalLink("gone.h5", "/images")
    with pytest.raises(Conflicts, match="points.h5 is not readable now"):
        adapter_of([tmp_path / "points.h5"], "images", (3, 2, 3), [[0, 3]])


def test_file_when_the_one_it_links_to_is_still_written_then_it_is_said(tmp_path):
    with h5py.File(tmp_path / "points.h5", "w") as file:
        file["images"] = h5py.ExternalLink("growing.h5", "/images")
    write = "f = h5py.File(sys.argv[1], 'w'); f['images'] = range(3); f.flush(); print(); input()"
    command = [sys.executable, "-c", f"import h5py, sys; {write}", str(tmp_path / "growing.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(Conflicts, match="points.h5 is not readable now"):
            adapter_of([tmp_path / "points.h5"], "images", (3,), [[0, 3]], locking=False)  # as in the server
        writer.communicate(b"\n")
    assert adapter_of([tmp_path / "points.h5"], "images", (3,), [[0, 3]]).read().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda part: part.unlink(), "joins .*part1.h5, which cannot be read"),
        (lambda part: h5py.File(part, "w").close(), "joins .*part1.h5, which cannot be read"),
        (lambda part: shortened(part), "joins .*part1.h5, which has 2 images, not the 3 that it takes"),
    ],
)
def test_file_when_one_that_it_joins_is_not_whole_then_no_zeros_are_read(joined, spoil, said):
    spoil(joined.parent / "part1.h5")
    with h5py.File(joined) as file, contextlib.suppress(OSError):
        assert 5 not in file["id"][:], "HDF5 itself says nothing, as a rule"
    with pytest.raises(Conflicts, match=said):
        adapter_of([joined], "id", (5,), [[0, 5]])


def shortened(part):
    with h5py.File(part, "w") as file:
        file["id"] = [1, 3]


def adapter_of(paths, dataset, shape, rows, **more):
    structure = ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(np.dtype("i8")),
        shape=shape,
        chunks=tuple((n,) for n in shape),
    )
    assets = [
        Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=k)
        for k, path in enumerate(paths)
    ]
    source = DataSource(structure_family=StructureFamily.array, structure=structure, assets=assets)
    return GrowingHDF5Adapter.from_catalog(
        source, Node({}, []), dataset=dataset, rows=rows, swmr=False, **more
    )
