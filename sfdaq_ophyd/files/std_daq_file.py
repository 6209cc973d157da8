"""Files of the standard DAQ's writer: checked, counted, without padding; those of an acquisition as one.

Source: wire reference std-daq, section 9. Image ids are never cut by the writer, and images only from two on,
so only the count the writer acknowledged says what a file holds.

As one: a virtual dataset with the images of points, in order. Nothing is copied but ids and statuses. The
DAQ's own interleaved file is never used: it lacks the last frame of each file (wire reference std-daq,
section 12.3).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from ..limits import Limit
from ..wire.std_daq import (
    GOOD,
    MISMATCHED,
    NOT_KNOWN,
    DataFile,
    FileLayout,
)
from ._hdf5 import h5py, looking_into, own
from .joined_images import Images, Piece, join_images
from .storage import new_hdf5

MOST_IMAGES = 2**24
"""Images per file that are looked for where nobody says how many it can hold: a start's default."""


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


def read_std_daq_file(
    path: str | Path,
    layout: FileLayout,
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
    layout : FileLayout
        Where the file has what.
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
    with _opened(path, timeout) as file, looking_into(path):
        images = _dataset(file, path, layout.images)
        if images.shape[1:] != tuple(shape) or images.dtype != np.dtype(dtype) or images.shape[0] < n_written:
            raise FileFormatError(
                path,
                images.name,
                found=f"{images.dtype} {images.shape}",
                expected=f"{dtype} ({n_written} or more, {shape[0]}, {shape[1]})",
            )
        image_id = _column(file, path, layout, "image_id", n_written, n_written)
        codes = _column(file, path, layout, "status", n_written, n_written) - np.uint64(layout.good)
        codes[codes > MISMATCHED] = NOT_KNOWN  # also what was never judged, for that has no sign
        return StdDaqFile(Path(path), layout.images, image_id, codes)


def count_std_daq_images(path: str | Path, layout: FileLayout, most: int, *, timeout: float = 5.0) -> int:
    """Return how many images of a closed file were judged, of `most` it can hold: what is beyond is padding.

    The codes of its `layout` must not hold 0, which is that of the padding. Else as `read_std_daq_file`.
    """
    with _opened(path, timeout) as file, looking_into(path):
        return int(np.count_nonzero(_column(file, path, layout, "status", 0, most)))


def is_cut(path: str | Path, layout: FileLayout) -> bool:
    """Tell whether a file of several writers was cut to what it holds, as it is when it is closed.

    False also of one that cannot be read, or holds no image, or a single one: nobody can tell then.
    """
    try:
        with h5py.File(path, "r") as file, looking_into(path):
            return bool(_column(file, path, layout, "status", 1, MOST_IMAGES)[-1])
    except (OSError, FileFormatError):
        return False


def _opened(path: str | Path, timeout: float) -> h5py.File:
    limit = Limit(timeout)
    while True:
        try:
            return h5py.File(path, "r")
        except OSError:
            if limit.reached():
                raise
            time.sleep(0.05)


def _column(
    file: h5py.File, path: object, layout: FileLayout, what: str, least: int, most: int
) -> np.ndarray:
    """Return the first `most` numbers of a column, which has `least` at the least."""
    name, field = layout.column(what)
    column = _dataset(file, path, name)
    dtype = column.dtype
    if field is not None:
        dtype = dtype[field] if field in (dtype.names or ()) else None
    if column.ndim != 1 or column.shape[0] < least or dtype is None or dtype.kind != "u":
        raise FileFormatError(
            path,
            column.name,
            found=f"{column.dtype} {column.shape}",
            expected=f"unsigned ({least} or more,)" + (f", field {field}" if field else ""),
        )
    rows = column[:most]
    return (rows if field is None else rows[field]).astype("u8")


def _dataset(file: h5py.File, path: object, name: str) -> h5py.Dataset:
    dataset = own(file, name)
    if not isinstance(dataset, h5py.Dataset):
        raise FileFormatError(path, name, found=f"only {', '.join(file) or 'nothing'}", expected="a dataset")
    return dataset


Parts = Sequence[tuple[DataFile, StdDaqFile]]


def write_joined(
    path: Path, layout: FileLayout, parts: Parts, n_images: int, *, shape: tuple[int, int], dtype: str
) -> StdDaqFile:
    """Write the file that joins others, in their folder: see `join_images`.

    Parameters
    ----------
    path : Path
        Beside the files.
    layout : FileLayout
        Of the new file, with ids and statuses in datasets of their own.
    parts : sequence of (DataFile, StdDaqFile)
        All files of the acquisition, read at least as far as they hold images of the first `n_images`.
    n_images : int
        Of all; what the files hold beyond is left out.
    shape : tuple of int
        (y, x) of an image.
    dtype : str
        Of a pixel.

    Returns
    -------
    StdDaqFile

    Raises
    ------
    OSError
        It cannot be written.
    """
    image_id, status = np.zeros(n_images, "u8"), np.zeros(n_images, "u8")
    found: list[Piece] = []
    for data, part in parts:
        with h5py.File(part.path, "r") as file:
            images = Images(part.path.name, part.dataset, len(file[part.dataset]))
        row = 0
        for places in filter(None, data.places(n_images)):
            theirs, ours = slice(row, row + len(places)), slice(places.start, places.stop, places.step)
            image_id[ours], status[ours] = part.image_id[theirs], part.status[theirs]
            found.append(Piece(images, row, places))
            row += len(places)
    columns = {layout.column("image_id")[0]: image_id, layout.column("status")[0]: status}
    join_images(path, layout.images, found, (n_images, *shape), dtype, columns)
    return StdDaqFile(path, layout.images, image_id, status)


def link_columns(path: Path, layout: FileLayout, theirs: Path) -> None:
    """Make the file `path` whose images, ids and statuses are those of the file `theirs` beside it.

    That one has the same layout, and may come later. OSError if the new one is there, or cannot be made.
    """
    with new_hdf5(path, replace=False) as file:
        for name in (layout.images, layout.column("image_id")[0], layout.column("status")[0]):
            file[name] = h5py.ExternalLink(theirs.name, name)


def join_again(path: Path) -> bool:
    """Join the files of an acquisition whose device was killed: only the empty file of its name is there.

    Parameters
    ----------
    path : Path
        ``NAME.h5``, or of another extension, beside ``NAME_0.h5``, ``NAME_1.h5`` and so on.

    Returns
    -------
    bool
        False if there are no such files, or no image in them.

    Raises
    ------
    FileFormatError
        They are no files of several writers, or an image is missing among them.
    OSError
        One is still written, or the file cannot be.
    """
    numbered = (path.with_name(f"{path.stem}_{k}.h5") for k in itertools.count())
    paths = list(itertools.takewhile(Path.is_file, numbered))
    if not paths:
        return False
    with h5py.File(paths[0], "r") as file, looking_into(paths[0]):
        name = next(iter(file), "")
        images = file[f"{name}/data"]
        shape, dtype = (images.shape[1], images.shape[2]), str(images.dtype)
    layout = FileLayout(name, compound=True)
    n_images = sum(count_std_daq_images(part, layout, MOST_IMAGES, timeout=0.0) for part in paths)
    parts = []
    for k, part in enumerate(paths):
        data = DataFile(str(part), layout, k, len(paths))
        n = data.share(n_images)
        found = read_std_daq_file(part, layout, n_written=n, shape=shape, dtype=dtype, timeout=0.0)
        parts.append((data, found))
    if n_images:
        write_joined(path, FileLayout(name), parts, n_images, shape=shape, dtype=dtype)
    return n_images > 0
