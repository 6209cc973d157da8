"""Open an HDF5 file and look into it, with errors that name file, dataset, found and expected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (brings the filter of processed files)
import numpy as np

from ..errors import FileFormatError
from ..wire.detector_name import DetectorName


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open for reading; FileFormatError if there is no such file, or it is not HDF5."""
    file = open_file(path)
    with file:
        yield file


def open_file(path: str | Path) -> h5py.File:
    """Return the open file; FileFormatError if there is none, or it is not HDF5. The caller closes."""
    if not Path(path).is_file():
        raise FileFormatError(path, "/", found="no such file", expected="an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as exc:
        raise FileFormatError(path, "/", found=f"no readable HDF5 ({exc})", expected="an HDF5 file") from exc


def check_detector(path: str | Path, name: str, detector_name: str) -> None:
    """Refuse a file that says it is another detector's, by its own name or by that of its folder.

    Files hold no detector name, but the facility calls them ``<time>.<detector>.res.h5`` and
    ``<detector>/gains.h5``. Versions of one detector are the same modules.
    """
    path = Path(path)
    says = _DETECTOR.search(path.name) or _DETECTOR.fullmatch(path.absolute().parent.name)
    if says and DetectorName.parse(says[0]).family != DetectorName.parse(detector_name).family:
        raise FileFormatError(
            path, name, found=f"constants of {says[0]}, by its name", expected=f"those of {detector_name}"
        )


def dataset(file: h5py.File, name: str, *, kinds: str, shape: str, fits) -> h5py.Dataset:
    """Return a dataset whose dtype kind is among `kinds` and whose shape `fits`.

    Parameters
    ----------
    file : h5py.File
        Where.
    name : str
        Path inside.
    kinds : str
        Letters of `numpy.dtype.kind`.
    shape : str
        The expected shape in words, for the message.
    fits : callable
        Takes the shape found, says whether it will do.
    """
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        there = "nothing" if found is None else f"a {type(found).__name__.lower()}"
        raise FileFormatError(file.filename, name, found=there, expected=f"a dataset of shape {shape}")
    if found.dtype.kind not in kinds or not fits(found.shape):
        words = " or ".join(_KINDS[kind] for kind in kinds)
        raise FileFormatError(
            file.filename, name, found=f"{found.dtype} {found.shape}", expected=f"{words} of shape {shape}"
        )
    return found


def read(source: h5py.Dataset, where=()) -> np.ndarray:
    """Read a dataset or part of it; FileFormatError if the file is truncated or a filter fails."""
    try:
        return source[where]
    except OSError as exc:
        raise FileFormatError(
            source.file.filename, source.name, found=f"unreadable data ({exc})", expected="whole data"
        ) from exc


_DETECTOR = re.compile(r"(?<![A-Za-z0-9])JF\d{1,4}T0*[1-9]\d{0,3}V\d{1,4}(?![0-9])", re.ASCII)
_KINDS = {"u": "unsigned integers", "i": "integers", "f": "floats", "b": "booleans"}
