"""Odd HDF5 files, and files that are none, for every reader: only our errors, and no gigabytes asked for.

`ODD` has the files found to break readers on 2026-11-26 (golden/found, odd-hdf5), for each of them.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import FileFormatError, RequestError, SfdaqError
from sfdaq_ophyd.files.constants import files_of
from sfdaq_ophyd.files.convert import raw_detectors
from sfdaq_ophyd.files.daq_file import read_daq_file
from sfdaq_ophyd.files.gain_file import read_gain, read_gain_binary
from sfdaq_ophyd.files.pedestal_file import read_om_darks, read_pedestal, read_pixel_mask
from sfdaq_ophyd.files.repair import repair
from sfdaq_ophyd.files.std_daq_file import read_std_daq_file
from sfdaq_ophyd.files.swissfel_file import SwissfelFile
from sfdaq_ophyd.wire.std_daq import FileLayout

DETECTOR = "JF01T01V01"
SHAPE = (512, 1024)


def every_image(path):
    with SwissfelFile(path) as file:
        for frame in file.frames(good_only=False):
            assert frame.image.ndim == 2


def std_daq(path):
    read_std_daq_file(path, FileLayout(DETECTOR), n_written=2, shape=SHAPE, dtype="uint16", timeout=0)


READERS = {
    "gain": lambda path: read_gain(path, DETECTOR),
    "binary gain": read_gain_binary,
    "pedestal": lambda path: read_pedestal(path, DETECTOR),
    "pixel mask": lambda path: read_pixel_mask(path, DETECTOR),
    "darks of OM": lambda path: read_om_darks([path], DETECTOR),
    "raw or processed": every_image,
    "detectors": raw_detectors,
    "of an acquisition": lambda path: read_daq_file(path, DETECTOR),
    "of channels": lambda path: read_daq_file(path, "BSDATA"),
    "of the standard DAQ": std_daq,
    "to repair": repair,
}
"""What takes a file from outside; each by its path alone."""

TRIED_AGAIN = ("of an acquisition", "of channels", "of the standard DAQ")
"""These say OSError of a file that may be whole a moment later."""

PLACES = {
    "gain": ("gains",),
    "pedestal": ("gains", "gainsRMS", "pixel_mask"),
    "darks of OM": ("gain0", "gain1", "gain2"),
    "raw or processed": tuple(
        f"data/{DETECTOR}/{name}"
        for name in ("data", "pulse_id", "is_good_frame", "daq_rec", "frame_index", "module_map")
    ),
    "of the standard DAQ": tuple(f"{DETECTOR}/{name}" for name in ("data", "image_id", "status")),
}
"""Where the datasets of a file of each kind are; all kinds are put into one file."""


def whole(file):
    """Put what every reader is content with into one file."""
    planes = np.array([2900.0, 15200, 14600, 2900])[:, None, None] * np.ones((4, *SHAPE))
    kwargs = {"compression": "gzip", "compression_opts": 1}
    file.create_dataset("gains", data=planes, **kwargs)
    file.create_dataset("gainsRMS", data=planes, **kwargs)
    file.create_dataset("pixel_mask", data=np.zeros(SHAPE, "i8"), **kwargs)
    for stage in range(3):
        file.create_dataset(f"gain{stage}", data=planes[stage] + 16384 * (0, 1, 3)[stage], **kwargs)
    group = file.create_group(f"data/{DETECTOR}")
    group.create_dataset("data", data=np.zeros((2, *SHAPE), "u2"), **kwargs)
    for name in ("pulse_id", "is_good_frame", "daq_rec", "frame_index"):
        group[name] = np.array([[5], [6]], "u8")
    group["module_map"] = np.zeros((2, 1), "i8")
    file.create_dataset(f"{DETECTOR}/data", data=np.zeros((2, *SHAPE), "u2"), **kwargs)
    for name in ("image_id", "status"):
        file[f"{DETECTOR}/{name}"] = np.zeros(2, "u8")


def _bitfield(file, name):
    kind = h5py.h5t.STD_B8LE.copy()
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((2,)))


def _huge(n):
    def make(file, name):
        file.create_dataset(name, shape=(n,), chunks=(1024,), dtype="u8")

    return make


def _external(path, name):
    def make(file, where):
        file[where] = h5py.ExternalLink(path, name)

    return make


ODD = {
    "nothing": lambda file, name: None,
    "a group": lambda file, name: file.create_group(name),
    "a link to nothing": lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    "a link to itself": lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
    "a link to no file": _external("/nowhere.h5", "/x"),
    "a type": lambda file, name: file.__setitem__(name, np.dtype("f4")),
    "a compound": lambda file, name: file.__setitem__(name, np.zeros(2, [("a", "i4"), ("b", "i4")])),
    "bits": _bitfield,
    "texts": lambda file, name: file.__setitem__(name, ["a", "b"]),
    "references": lambda file, name: file.create_dataset(name, (2,), h5py.ref_dtype),
    "rows of any length": lambda file, name: file.create_dataset(name, (2,), h5py.vlen_dtype("i4")),
    "a scalar": lambda file, name: file.__setitem__(name, 1.0),
    "empty": lambda file, name: file.__setitem__(name, h5py.Empty("f8")),
    "another length": lambda file, name: file.__setitem__(name, np.zeros(5)),
    "no rows": lambda file, name: file.__setitem__(name, np.zeros((0, *SHAPE))),
    "10^13 rows": _huge(10**13),
    "10^9 rows": _huge(10**9),
    "complex numbers": lambda file, name: file.__setitem__(name, np.zeros((2, *SHAPE), "c8")),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    with h5py.File(path, "w") as file:
        whole(file)
    return path


def read(name, path):
    try:
        READERS[name](path)
    except (SfdaqError, OSError) as exc:
        assert isinstance(exc, SfdaqError) or name in TRIED_AGAIN, f"{type(exc).__name__}: {exc}"
        assert not isinstance(exc, FileFormatError) or exc.path == str(path)


@pytest.mark.parametrize("name", READERS)
def test_reader_when_the_file_is_whole_then_it_is_content(content, name):
    if name in ("of channels", "binary gain", "gain"):
        pytest.skip("reads nothing of this file, whose /gains are pedestals")
    READERS[name](content)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", PLACES)
def test_odd_hdf5_when_a_dataset_is_something_else_then_only_our_errors_come(content, tmp_path, name, odd):
    for k, place in enumerate(PLACES[name]):
        path = tmp_path / f"{k}.h5"
        path.write_bytes(content.read_bytes())
        with h5py.File(path, "r+") as file:
            del file[place]
            ODD[odd](file, place)
        read(name, path)
        if name == "raw or processed":
            for more in ("detectors", "of an acquisition"):
                read(more, path)


@pytest.mark.parametrize("group", ["data", f"data/{DETECTOR}", DETECTOR])
@pytest.mark.parametrize("odd", ODD)
def test_odd_hdf5_when_a_group_is_something_else_then_only_our_errors_come(content, tmp_path, group, odd):
    path = tmp_path / "x.h5"
    path.write_bytes(content.read_bytes())
    with h5py.File(path, "r+") as file:
        del file[group]
        ODD[odd](file, group)
    for name in ("raw or processed", "detectors", "of an acquisition", "of channels", "of the standard DAQ"):
        read(name, path)


@pytest.mark.parametrize("name", READERS)
def test_reader_when_there_is_no_file_then_only_our_errors_come(tmp_path, name):
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("# no HDF5\n" * 1000)
    for path in ("none.h5", "empty.h5", "text.h5", ".", "x" * 3000, "nul\0l.h5"):
        try:
            READERS[name](tmp_path / path)
        except SfdaqError:
            pass
        except (OSError, ValueError) as exc:
            assert name in TRIED_AGAIN, repr(exc)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(READERS)),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    head=st.booleans(),
    end=st.floats(0, 1),
)
def test_reader_when_bytes_are_damaged_then_only_our_errors_come(content, tmp_path, name, places, head, end):
    damaged = bytearray(content.read_bytes())
    size = 4096 if head else len(damaged)
    for place, value in places:
        damaged[min(size - 1, int(place * size))] = value
    path = tmp_path / "damaged.h5"
    path.write_bytes(damaged[: int(end * len(damaged))] if end < 0.5 else damaged)
    read(name, path)


@pytest.mark.parametrize("names", ["[", "[1]", "[null]", "[" * 10_000, '["a",]', "[{}]"])
def test_files_of_when_a_list_is_broken_then_it_is_refused(names):
    with pytest.raises(RequestError, match="JSON list of file names"):
        files_of(names)


def test_detectors_when_another_group_is_a_dead_link_then_the_others_are_found(content, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(content.read_bytes())
    with h5py.File(path, "r+") as file:
        file["data/JF02T01V01"] = h5py.ExternalLink("/nowhere.h5", "/x")
    assert raw_detectors(path) == [DETECTOR]
    with pytest.raises(FileFormatError, match="JF02T01V01"):
        SwissfelFile(path, "JF02T01V01")
