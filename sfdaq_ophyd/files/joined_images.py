"""A file of ours beside others, with images of theirs as its own: those of points, in order.

Nothing is copied but numbers, and no reader has to know which images of the other files belong to no point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ._hdf5 import h5py
from .storage import new_hdf5

OF_POINTS = "_points"
"""End of the name of a file of ours beside a single one, which has that name without it."""


@dataclass(frozen=True, slots=True)
class Images:
    """A dataset of another file, the first axis of which counts images.

    Attributes
    ----------
    file : str
        As the file of ours names it: one in its own folder without the folder, so that this may be moved.
    dataset : str
    n_stored : int
        All that it has.
    """

    file: str
    dataset: str
    n_stored: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Images that follow each other in a dataset: from row `row` on, and in which places of the new one."""

    images: Images
    row: int
    places: range


def pieces(places: Iterable[tuple[Images, int] | None]) -> list[Piece]:
    """Return the pieces for images one by one: dataset and row of each, None where there is none."""
    found: list[Piece] = []
    for k, place in enumerate(places):
        if place is None:
            continue
        last = found[-1] if found else None
        if last and place == (last.images, last.row + len(last.places)) and last.places.stop == k:
            found[-1] = Piece(last.images, last.row, range(last.places.start, k + 1))
        else:
            found.append(Piece(*place, range(k, k + 1)))
    return found


def join_images(
    path: str | Path,
    dataset: str,
    parts: Sequence[Piece],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    columns: Mapping[str, npt.NDArray] | None = None,
) -> None:
    """Write the file; one of that name is replaced as a whole.

    All images of a single file are linked, so that readers see its chunks; others are a virtual dataset.

    Parameters
    ----------
    path : str or Path
    dataset : str
        Of the images.
    parts : sequence of Piece
        What is in none reads as NaN, integers as 0.
    shape : tuple of int
        Of all images, the number of them first.
    dtype : numpy dtype, or what makes one
        Of a pixel.
    columns : mapping of str to ndarray, optional
        Further datasets.

    Raises
    ------
    StorageError
        It cannot be written; nothing half is left.
    """
    dtype = np.dtype(dtype)
    joined = h5py.VirtualLayout(shape, dtype)
    for part in parts:
        stored, places = part.images, part.places
        source = h5py.VirtualSource(stored.file, stored.dataset, (stored.n_stored, *shape[1:]), dtype)
        joined[places.start : places.stop : places.step] = source[part.row : part.row + len(places)]
    everything = [(part.images.n_stored, part.places) for part in parts] == [(shape[0], range(shape[0]))]
    with new_hdf5(path) as file:
        if everything:
            file[dataset] = h5py.ExternalLink(parts[0].images.file, parts[0].images.dataset)
        else:
            file.create_virtual_dataset(dataset, joined, fillvalue=nothing(dtype))
        for name, values in (columns or {}).items():
            file[name] = values


def nothing(dtype: np.dtype) -> float:
    """Return what stands where there is no number."""
    return np.nan if dtype.kind in "fc" else 0


def of_points(path: str) -> str:
    """Return the name of the file that has the images of points alone, beside a single file."""
    stem, dot, extension = path.rpartition(".")
    return f"{stem}{OF_POINTS}{dot}{extension}"
