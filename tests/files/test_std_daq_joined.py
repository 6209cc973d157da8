"""Several files of one acquisition as one, all images in order and nothing beyond them."""

from __future__ import annotations

import fcntl
import itertools

import h5py
import numpy as np
import pytest

from sfdaq_ophyd.errors import FileFormatError, SfdaqError
from sfdaq_ophyd.files.repair import repair
from sfdaq_ophyd.files.std_daq_file import count_std_daq_images, read_std_daq_file, write_joined
from sfdaq_ophyd.wire.std_daq import DataFile, FileLayout

SHAPE = (2, 3)
LAYOUT = FileLayout("det", compound=True)


def written(folder, n_images, n_files, block=1, codes=(1,)):
    """Write the files of an acquisition as the real writers leave them; return what they hold."""
    parts = []
    for k in range(n_files):
        data = DataFile(str(folder / f"x_{k}.h5"), LAYOUT, k, n_files, block)
        places = np.flatnonzero(np.arange(n_images) // block % n_files == k)
        n = len(places)
        assert places.tolist() == list(itertools.chain(*data.places(n_images)))
        images = np.zeros((64 if n == 1 else n, *SHAPE), "u2")
        images[:n] = places[:, None, None]
        metadata = np.zeros(4096 if n == 1 else n, [("image_id", "u8"), ("status", "u8")])
        metadata["image_id"][:n], metadata["status"][:n] = places + 100, np.resize(codes, n_images)[places]
        with h5py.File(data.path, "w") as file:
            file["det/data"], file["det/metadata"] = images, metadata
        parts.append((data, read_std_daq_file(data.path, LAYOUT, n_written=n, shape=SHAPE, dtype="uint16")))
    return parts


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("n_files", [1, 2, 5])
@pytest.mark.parametrize("n_images", [1, 2, 7, 25])
def test_joined_when_images_are_dealt_to_files_then_all_are_there_in_order(
    tmp_path, n_images, n_files, block
):
    parts = written(tmp_path, n_images, n_files, block)
    assert sum(count_std_daq_images(part.path, LAYOUT, 10**6) for _, part in parts) == n_images
    layout = FileLayout("det")
    write_joined(tmp_path / "x.h5", layout, parts, n_images, shape=SHAPE, dtype="uint16")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["det/image_id"][:].tolist() == list(range(100, 100 + n_images))
        assert not file["det/status"][:].any()
        n_used = sum(data.share(n_images) > 0 for data, _ in parts)
        assert file["det/data"].is_virtual == (n_used > 1 or n_images == 1), "one whole file keeps its chunks"
        assert file["det/data"].shape == (n_images, *SHAPE), "no padding"
        assert file["det/data"][:, 0, 0].tolist() == list(range(n_images))


def test_file_when_its_data_are_a_link_into_another_then_refused(tmp_path):
    written(tmp_path, 2, 1)
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["det"] = h5py.ExternalLink("x_0.h5", "/det")
    with pytest.raises(FileFormatError, match="found a link to another file"):
        read_std_daq_file(tmp_path / "linked.h5", LAYOUT, n_written=2, shape=SHAPE, dtype="uint16")


def test_joined_when_the_folder_is_moved_then_the_images_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    parts = written(tmp_path / "a", 5, 2)
    write_joined(tmp_path / "a" / "x.h5", FileLayout("det"), parts, 5, shape=SHAPE, dtype="uint16")
    (tmp_path / "a").rename(tmp_path / "b")
    with h5py.File(tmp_path / "b" / "x.h5") as file:
        assert file["det/data"][:, 1, 1].tolist() == [0, 1, 2, 3, 4]


def test_joined_when_images_are_not_good_then_the_codes_are_those_of_all_generations(tmp_path):
    ((_, part),) = written(tmp_path, 5, 1, codes=(1, 2, 3, 0, 9))
    assert part.status.tolist() == [0, 1, 2, 3, 3] and part.is_good.tolist() == [True] + [False] * 4


def test_joined_when_it_cannot_be_written_then_nothing_half_is_left(tmp_path):
    parts = written(tmp_path, 4, 2)
    parts[1][1].path.unlink()
    with pytest.raises(OSError, match="No such file"):
        write_joined(tmp_path / "x.h5", FileLayout("det"), parts, 4, shape=SHAPE, dtype="uint16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x_0.h5"]


@pytest.mark.parametrize("dtype", ["u8", [("image_id", "f8"), ("status", "u8")], [("status", "u8")]])
def test_part_when_its_columns_are_others_then_it_is_refused(tmp_path, dtype):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["det/data"], file["det/metadata"] = np.zeros((2, *SHAPE), "u2"), np.zeros(2, dtype)
    with pytest.raises(FileFormatError, match="image_id"):
        read_std_daq_file(tmp_path / "x.h5", LAYOUT, n_written=2, shape=SHAPE, dtype="uint16")


@pytest.mark.parametrize("n_images", [1, 2, 7])
@pytest.mark.parametrize("name", ["x.h5", "x.nxs"])
def test_repair_when_the_device_was_killed_before_it_joined_the_files_then_they_are_joined(
    tmp_path, n_images, name
):
    written(tmp_path, n_images, 3)
    path = tmp_path / name
    path.touch()
    assert repair(path) and not repair(path)
    with h5py.File(path) as file:
        assert file["det/data"][:, 0, 0].tolist() == list(range(n_images))


def test_repair_when_an_image_is_missing_among_the_files_then_nothing_is_joined(tmp_path):
    written(tmp_path, 7, 3)
    with h5py.File(tmp_path / "x_0.h5", "a") as file:
        metadata = file["det/metadata"][:]
        del file["det/metadata"]
        file["det/metadata"] = metadata[:-2]
    path = tmp_path / "x.h5"
    path.touch()
    with pytest.raises(FileFormatError, match="x_0.h5"):
        repair(path)
    assert path.stat().st_size == 0


def test_repair_when_the_files_are_still_written_or_none_then_it_is_said(tmp_path):
    path = tmp_path / "x.h5"
    path.touch()
    with pytest.raises(FileFormatError, match="another beginning"):
        repair(path)
    written(tmp_path, 4, 2)
    with open(tmp_path / "x_1.h5", "rb") as writing, pytest.raises(SfdaqError, match="repairing"):
        fcntl.flock(writing, fcntl.LOCK_EX)  # as HDF5 does
        repair(path)
