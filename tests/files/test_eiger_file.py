"""Data files of an Eiger's filewriter: whole ones are read, others refused by name."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np
import pytest

from sfdaq_ophyd.errors import FileFormatError
from sfdaq_ophyd.files.eiger_file import count_images, read_eiger_data_file, read_eiger_master_file

SHAPE = (32, 48)


@pytest.fixture
def make(tmp_path):
    """Make a file: ``make(n, inner=SHAPE, low=1, **columns)``."""

    def make(n=3, inner=SHAPE, low=1, high=None, n_written=None, chunks=True, **columns):
        path = tmp_path / "x_data_000001.h5"
        with h5py.File(path, "w") as file:
            options = {"chunks": (1,) * (1 + len(inner) - 2) + SHAPE, **hdf5plugin.Bitshuffle(cname="lz4")}
            images = file.create_dataset("entry/data/data", (n, *inner), "u2", **(options if chunks else {}))
            n_written = n if n_written is None else n_written
            rng = np.random.default_rng(0)
            images[:n_written] = rng.integers(0, 1000, (n_written, *inner))
            if low is not None:
                images.attrs["image_nr_low"], images.attrs["image_nr_high"] = low, high or low + n - 1
            for name, values in columns.items():
                file[f"entry/data/{name}"] = values
        return path

    return make


def read(path, **options):
    return read_eiger_data_file(path, **{"shape": SHAPE, "dtype": "u2"} | options)


@pytest.mark.parametrize("chunks", [True, False])
def test_file_when_legacy_then_its_numbers_and_no_times(make, chunks):
    path = make(low=1001, chunks=chunks)
    file = read(path)
    assert file.n_images == count_images(path) == 3 and file.n_channels is None
    assert file.numbers.tolist() == [1001, 1002, 1003] and np.isnan(file.start_time).all()


def test_file_when_it_has_channels_then_numbers_and_times_of_its_images(make):
    path = make(inner=(2, *SHAPE), image_id=[1, 2, 4], start_time=[0.0, 0.1, 0.3])
    file = read(path, n_channels=2)
    assert file.n_channels == 2 and file.numbers.tolist() == [1, 2, 4]
    assert (file.first_number, file.last_number) == (1, 4) and file.start_time.tolist() == [0.0, 0.1, 0.3]


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [(1, 4, [1, -1, 4]), (1, 9, [1, -1, 9]), (1, 2, [-1] * 3), (4, 1, [-1] * 3), (None, None, None)],
)
def test_file_when_it_does_not_number_each_image_then_the_first_and_the_last_are_known(
    make, low, high, numbers
):
    file = read(make(low=low, high=high))
    assert (None if file.numbers is None else file.numbers.tolist()) == numbers
    assert (file.first_number, file.last_number) == (low, high)


@pytest.mark.parametrize("rows", [1, 2])
def test_file_when_images_were_never_written_and_holes_are_taken_then_the_others_are_known(
    make, tmp_path, rows
):
    path = make(low=None)
    with h5py.File(path, "w") as file:
        images = file.create_dataset("entry/data/data", (5, *SHAPE), "u2", chunks=(rows, 16, SHAPE[1]))
        images.attrs["image_nr_low"], images.attrs["image_nr_high"] = 11, 15
        images[0], images[1, :16], images[4] = 1, 2, 3
    expected = {1: [11, -1, -1, -1, 15], 2: [11, 12, -1, -1, 15]}[rows]
    assert read(path, holes=True).numbers.tolist() == expected
    with pytest.raises(FileFormatError, match="found . chunks, expected"):
        read(path)


@pytest.mark.parametrize(("low", "n_written"), [(1, 0), (None, 2)])
def test_file_when_it_tells_nothing_of_its_holes_or_has_no_image_then_refused_all_the_same(
    make, low, n_written
):
    with pytest.raises(FileFormatError, match=f"found {n_written} chunks, expected 3"):
        read(make(low=low, n_written=n_written), holes=True)


@pytest.mark.parametrize(
    ("made", "options", "said"),
    [
        ({"n_written": 2}, {}, "found 2 chunks, expected 3 chunks"),
        ({}, {"dtype": "u4"}, "found uint16, expected uint32"),
        ({}, {"shape": (32, 32)}, r"found uint16 \(3, 32, 48\)"),
        ({"inner": (2, *SHAPE)}, {}, r"found uint16 \(3, 2, 32, 48\)"),
        ({}, {"n_channels": 2}, r"found uint16 \(3, 32, 48\)"),
        ({"n": 0, "chunks": False}, {}, r"found uint16 \(0, 32, 48\)"),
    ],
)
def test_file_when_it_is_not_what_was_announced_then_refused(make, made, options, said):
    with pytest.raises(FileFormatError, match=f"x_data_000001.h5: dataset '/entry/data/data': {said}"):
        read(make(**made), **options)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_file_when_truncated_then_refused(make, share):
    path = make()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(FileFormatError, match=r"x_data_000001\.h5"):
        read(path)


def test_file_when_its_images_are_in_others_then_refused(make, tmp_path):
    make()
    with h5py.File(tmp_path / "joined.h5", "w") as file:
        layout = h5py.VirtualLayout((3, *SHAPE), "u2")
        layout[:] = h5py.VirtualSource("gone.h5", "entry/data/data", (3, *SHAPE))
        file.create_virtual_dataset("entry/data/data", layout)
    with pytest.raises(FileFormatError, match="links to other files"):
        read(tmp_path / "joined.h5")


@pytest.mark.parametrize("link", ["entry", "entry/data", "entry/data/data", "entry/data/image_id"])
def test_file_when_a_link_leads_into_another_then_refused(make, tmp_path, link):
    make(start_time=[0.0, 0.1, 0.2])
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        if link.endswith("_id"):
            file["entry/data/data"] = np.ones((3, *SHAPE), "u2")
        file[link] = h5py.ExternalLink("x_data_000001.h5", f"/{link}".replace("image_id", "data"))
    with pytest.raises(FileFormatError, match="linked.h5: .* found a link to another file"):
        read(tmp_path / "linked.h5")
    if link == "entry":
        with pytest.raises(FileFormatError, match="found a link to another file"):
            read_eiger_master_file(tmp_path / "linked.h5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2024-05-14T08:59:56.123Z", 1715677196.123), ("soon", np.nan), (None, np.nan), (5.0, np.nan)],
)
def test_master_when_it_tells_a_time_then_that_else_not_a_number(tmp_path, text, expected):
    with h5py.File(tmp_path / "master.h5", "w") as file:
        if text is not None:
            file["entry/start_time"] = text
    found = read_eiger_master_file(tmp_path / "master.h5")
    assert np.isclose(found.start_of_times, expected, rtol=0, atol=1e-6, equal_nan=True)
    assert not found.times_in


def test_times_when_the_master_says_where_they_are_then_read_from_there(make, tmp_path):
    path = make(other=[0.5, 0.6, 0.7])
    with h5py.File(tmp_path / "master.h5", "w") as file:
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(path.name, "entry/data/other", (3,))
        file.create_virtual_dataset("entry/data/start_time", layout)
    times_in = read_eiger_master_file(tmp_path / "master.h5").times_in
    assert times_in == {path.name: "entry/data/other"}
    assert read(path, times=times_in[path.name]).start_time.tolist() == [0.5, 0.6, 0.7]
