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
from ..wire.std_daq_writing import GOOD, NOT_KNOWN, Column, FileLayout, layout_of_one_file
from ._hdf5 import looking_into
from ._lazy_imports import h5py


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
        0 good, 1 missing packets, 2 ids of the modules disagree, 3 not known; whatever the file's own codes.
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
    layout: FileLayout | str,
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
    layout : FileLayout or str
        Where the file has what; of D1 and D2 the detector's name, which is that of the group, will do.
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
    if isinstance(layout, str):
        layout = layout_of_one_file(layout)
    with _opened(path, timeout) as file, looking_into(path):
        images = _dataset(file, path, layout.images)
        if images.shape[1:] != tuple(shape) or images.dtype != np.dtype(dtype) or images.shape[0] < n_written:
            raise FileFormatError(
                path,
                images.name,
                found=f"{images.dtype} {images.shape}",
                expected=f"{dtype} ({n_written} or more, {shape[0]}, {shape[1]})",
            )
        image_id = _column(file, path, layout.image_id, n_written, n_written)
        status = _column(file, path, layout.status, n_written, n_written)
        codes = np.full(n_written, NOT_KNOWN, "u8")
        for value, code in layout.codes.items():
            codes[status == value] = code
        return StdDaqFile(Path(path), layout.images, image_id, codes)


def count_std_daq_images(path: str | Path, layout: FileLayout, most: int, *, timeout: float = 5.0) -> int:
    """Return how many images of a closed file were judged: what is beyond is padding.

    Parameters
    ----------
    path : str or Path
        As this machine sees it.
    layout : FileLayout
        One whose codes do not hold 0, which is that of the padding.
    most : int
        Images it can hold; no more rows are looked at.
    timeout : float
        s for which a file that is not visible yet, or still locked, is waited for.

    Raises
    ------
    FileFormatError
        A dataset is missing or of another dtype.
    OSError
        It cannot be opened within `timeout`.
    """
    with _opened(path, timeout) as file, looking_into(path):
        return int(np.count_nonzero(_column(file, path, layout.status, 0, most)))


def _opened(path: str | Path, timeout: float) -> h5py.File:
    limit = Limit(timeout)
    while True:
        try:
            return h5py.File(path, "r")
        except OSError:
            if limit.reached():
                raise
            time.sleep(0.05)


def _column(file: h5py.File, path: object, where: Column, least: int, most: int) -> np.ndarray:
    """Return the first `most` numbers of a column, which has `least` at the least."""
    column = _dataset(file, path, where.dataset)
    dtype = column.dtype
    if where.field is not None:
        dtype = dtype[where.field] if where.field in (dtype.names or ()) else None
    if column.ndim != 1 or column.shape[0] < least or dtype is None or dtype.kind != "u":
        raise FileFormatError(
            path,
            column.name,
            found=f"{column.dtype} {column.shape}",
            expected=f"unsigned ({least} or more,)" + (f", field {where.field}" if where.field else ""),
        )
    rows = column[:most]
    return rows if where.field is None else np.ascontiguousarray(rows[where.field])


def _dataset(file: h5py.File, path: object, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise FileFormatError(path, name, found=f"only {', '.join(file) or 'nothing'}", expected="a dataset")
    return dataset
