"""Files of the standard DAQ's writer: checked, counted, without their padding.

Source: wire reference std-daq, section 9. Image ids are never cut by the writer, and images only from two on,
so only the count the writer acknowledged says what a file holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from ..limits import Limit
from ._hdf5 import looking_into
from ._lazy_imports import h5py

GOOD = 0
"""Value of ``status`` of an image without missing packets or mismatched ids."""


@dataclass(frozen=True, eq=False)
class StdDaqFile:
    """What a closed file holds.

    Attributes
    ----------
    path : Path
    dataset : str
        Of the images, (n, y, x).
    image_id : ndarray of uint64, shape (n,)
        Frame numbers of the detector; a gap means a frame that was lost on the way.
    status : ndarray of uint64, shape (n,)
        0 good, 1 missing packets, 2 ids of the modules disagree.
    """

    path: Path
    dataset: str
    image_id: np.ndarray
    status: np.ndarray

    @property
    def is_good(self) -> np.ndarray:
        """Whether each image is whole, shape (n,)."""
        return self.status == GOOD

    @property
    def n_images(self) -> int:
        """Images it holds."""
        return len(self.image_id)


def read_std_daq_file(
    path: str | Path,
    detector_name: str,
    *,
    n_written: int,
    shape: tuple[int, int],
    dtype: str,
    timeout: float = 5.0,
) -> StdDaqFile:
    """Check a closed file and read its ids; the images stay where they are.

    Parameters
    ----------
    path : str or Path
        As this machine sees it.
    detector_name : str
        Name of the group.
    n_written : int
        Images the writer acknowledged; ids are cut to it.
    shape : tuple of int
        (y, x) of an image.
    dtype : str
        Of a pixel.
    timeout : float
        s for which a file that is not visible yet, or still locked, is waited for.

    Raises
    ------
    FileFormatError
        A dataset is missing, too short, or of another shape or dtype.
    FileNotFoundError, BlockingIOError, OSError
        It cannot be opened within `timeout`.
    """
    limit = Limit(timeout)
    while True:
        try:
            file = h5py.File(path, "r")
            break
        except OSError:
            if limit.reached():
                raise
            time.sleep(0.05)
    with looking_into(path), file:
        group = f"/{detector_name}"
        images = _dataset(file, path, f"{group}/data")
        if images.shape[1:] != tuple(shape) or images.dtype != np.dtype(dtype) or images.shape[0] < n_written:
            raise FileFormatError(
                path,
                images.name,
                found=f"{images.dtype} {images.shape}",
                expected=f"{dtype} ({n_written} or more, {shape[0]}, {shape[1]})",
            )
        columns = []
        for name in ("image_id", "status"):
            column = _dataset(file, path, f"{group}/{name}")
            if column.ndim != 1 or column.shape[0] < n_written or column.dtype.kind != "u":
                raise FileFormatError(
                    path,
                    column.name,
                    found=f"{column.dtype} {column.shape}",
                    expected=f"unsigned ({n_written} or more,)",
                )
            columns.append(column[:n_written])
        return StdDaqFile(Path(path), images.name, *columns)


def _dataset(file: h5py.File, path: object, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise FileFormatError(path, name, found=f"only {', '.join(file) or 'nothing'}", expected="a dataset")
    return dataset
