"""Open an HDF5 file and look into it, with errors that name file, dataset, found and expected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, SfdaqError
from ..wire.detector_name import DetectorName
from ._late import h5py


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open for reading; FileFormatError if there is no such file, it is not HDF5, or odd in any other way."""
    file = open_file(path)
    with looking_into(path), file:
        yield file


@contextmanager
def looking_into(path: str | Path, where: str = "/") -> Iterator[None]:
    """Turn whatever an odd file provokes inside into a FileFormatError; ours pass."""
    try:
        yield
    except SfdaqError:
        raise
    except Exception as exc:  # h5py and numpy have many words for what is not as it should be
        found = f"unreadable data ({type(exc).__name__}: {exc})"
        raise FileFormatError(path, where, found=found, expected="whole data") from exc


def open_file(path: str | Path) -> h5py.File:
    """Return the open file; FileFormatError if there is none, or it is not HDF5. The caller closes."""
    with looking_into(path):
        if not Path(path).is_file():
            raise FileFormatError(path, "/", found="no such file", expected="an HDF5 file")
        try:
            return h5py.File(path, "r")
        except OSError as exc:
            found = f"no readable HDF5 ({exc})"
            raise FileFormatError(path, "/", found=found, expected="an HDF5 file") from exc


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
    try:
        found = file.get(name)
    except (RuntimeError, OSError, KeyError) as exc:  # a damaged index, or links in a circle
        raise FileFormatError(file.filename, name, found=f"{exc}", expected=f"{shape}") from exc
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
    with looking_into(source.file.filename, source.name):
        return source[where]


_DETECTOR = re.compile(r"(?<![A-Za-z0-9])JF\d{1,4}T0*[1-9]\d{0,3}V\d{1,4}(?![0-9])", re.ASCII)
_KINDS = {"u": "unsigned integers", "i": "integers", "f": "floats", "b": "booleans"}
