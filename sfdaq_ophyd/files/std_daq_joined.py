"""Files of one acquisition of the standard DAQ as one: a virtual dataset with the images of points, in order.

Nothing is copied but ids and statuses. The DAQ's own interleaved file is never used: it lacks the last frame
of each file (wire reference std-daq, section 12).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..wire.std_daq_writing import DataFile, FileLayout, layout_of_one_file, layout_of_several_files
from ._hdf5 import looking_into
from ._lazy_imports import h5py
from .std_daq_file import StdDaqFile, count_std_daq_images, read_std_daq_file

Parts = Sequence[tuple[DataFile, StdDaqFile]]


MOST_IMAGES = 2**24
"""Images per file that are looked for where nobody says how many it can hold: a start's default."""

OF_POINTS = "_points"
"""End of the name of a file of ours beside a single one of the DAQ, which has that name without it."""


def in_order(parts: Parts, n_images: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return frame numbers and statuses of the images of all parts, in the order of the acquisition.

    Parameters
    ----------
    parts : sequence of (DataFile, StdDaqFile)
        All files of the acquisition, read at least as far as they hold images of the first `n_images`.
    n_images : int

    Returns
    -------
    ndarray of uint64, shape (n_images,)
        Frame numbers.
    ndarray of uint64, shape (n_images,)
        Statuses; 0 is good.
    """
    image_id, status = np.zeros(n_images, "u8"), np.zeros(n_images, "u8")
    for data, part in parts:
        places = data.places(n_images)
        image_id[places], status[places] = part.image_id[: len(places)], part.status[: len(places)]
    return image_id, status


def write_joined(
    path: Path, layout: FileLayout, parts: Parts, n_images: int, *, shape: tuple[int, int], dtype: str
) -> StdDaqFile:
    """Write the file that joins others, in their folder; one of that name is replaced as a whole.

    Parameters
    ----------
    path : Path
        Beside the files: these are found by their names, so a folder may be moved.
    layout : FileLayout
        Of the new file, with ids and statuses in datasets of their own.
    parts : sequence of (DataFile, StdDaqFile)
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
    image_id, status = in_order(parts, n_images)
    images = h5py.VirtualLayout((n_images, *shape), dtype)
    for data, part in parts:
        if n := data.share(n_images):
            with h5py.File(part.path, "r") as file:
                stored = file[part.dataset].shape
            source = h5py.VirtualSource(part.path.name, part.dataset, stored, dtype)
            for first, places in _runs(data, n_images, n):
                images[places] = source[first : first + len(range(n_images)[places])]
    half = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with h5py.File(half, "w") as file:
            file.create_virtual_dataset(layout.images, images)
            file[layout.image_id.dataset], file[layout.status.dataset] = image_id, status
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    return StdDaqFile(path, layout.images, image_id, status)


def of_points(path: str) -> str:
    """Return the name of the file that has the images of points alone, of an acquisition with one file."""
    stem, dot, extension = path.rpartition(".")
    return f"{stem}{OF_POINTS}{dot}{extension}"


def join_again(path: Path) -> bool:
    """Join the files of an acquisition whose device was killed: only the empty file of its name is there.

    Parameters
    ----------
    path : Path
        ``NAME.h5``, beside ``NAME_0.h5``, ``NAME_1.h5`` and so on; or ``NAME_points.h5`` beside ``NAME.h5``.

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
    alone = path.with_name(path.stem.removesuffix(OF_POINTS) + path.suffix)
    layout_of, paths = layout_of_one_file, [alone]
    if alone == path or not alone.is_file():
        numbered = (path.with_name(f"{path.stem}_{k}{path.suffix}") for k in itertools.count())
        layout_of, paths = layout_of_several_files, list(itertools.takewhile(Path.is_file, numbered))
    if not paths:
        return False
    with h5py.File(paths[0], "r") as file, looking_into(paths[0]):
        name = next(iter(file), "")
        images = file[f"{name}/data"]
        shape, dtype = (images.shape[1], images.shape[2]), str(images.dtype)
        n_images = images.shape[0]
    layout = layout_of(name)
    if layout_of is layout_of_several_files:
        n_images = sum(count_std_daq_images(part, layout, MOST_IMAGES, timeout=0.0) for part in paths)
    parts = []
    for k, part in enumerate(paths):
        data = DataFile(str(part), layout, k, len(paths))
        n = data.share(n_images)
        found = read_std_daq_file(part, layout, n_written=n, shape=shape, dtype=dtype, timeout=0.0)
        parts.append((data, found))
    if n_images:
        write_joined(path, layout_of_one_file(name), parts, n_images, shape=shape, dtype=dtype)
    return n_images > 0


def _runs(data: DataFile, n_images: int, n: int) -> list[tuple[int, slice]]:
    """Return row in the file, and places in the whole, of what can be mapped in one piece."""
    if data.block == 1:
        return [(0, slice(data.index, n_images, data.n_files))]
    begins = range(0, n, data.block)
    places = data.places(n_images)
    return [(row, slice(int(places[row]), int(places[row]) + min(data.block, n - row))) for row in begins]
