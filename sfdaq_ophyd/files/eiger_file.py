"""Data files of an Eiger's filewriter: checked to be whole, counted, with what they tell of each image.

Source: wire reference eiger, section 8. The legacy format has the images in a dataset (n, y, x), the newer
one in (n, channel, y, x), a channel for each threshold, with numbers and times of the images beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import FileFormatError, WireError
from ..wire.tiff import parse_time_ns
from ._hdf5 import dataset, h5py, opened, own, read
from .joined_images import Images, join_images, pieces

IMAGES = "/entry/data/data"
"""Dataset of the images."""

START_TIME = "/entry/data/start_time"
"""Dataset of their times, s after the reference of the master file."""

MOST_IMAGES = 10_000_000
"""Of a file."""


@dataclass(frozen=True, eq=False)
class EigerDataFile:
    """What a data file holds.

    Attributes
    ----------
    path : Path
    n_images : int
    n_channels : int or None
        Images per exposure, in the newer format; None in the legacy one, whose dataset is (n, y, x).
    numbers : ndarray of int64, shape (n,), or None
        Of the images, as the filewriter counts them: from its ``image_nr_start`` on in each series. -1 for
        one that was never written, or whose number is not known: a file that tells those of the first and
        the last image alone, and lacks some between. None where the file tells nothing.
    first_number, last_number : int or None
        As far as they are told.
    start_time : ndarray of float64, shape (n,)
        s after the reference of the master file; NaN where the file does not tell.
    """

    path: Path
    n_images: int
    n_channels: int | None
    numbers: npt.NDArray[np.int64] | None
    first_number: int | None
    last_number: int | None
    start_time: npt.NDArray[np.float64]


@dataclass(frozen=True)
class EigerMasterFile:
    """What a master file tells of the times of the images.

    Attributes
    ----------
    start_of_times : float
        What they are counted from, s since the epoch; NaN where it does not tell: legacy files do not.
    times_in : mapping of str to str
        Name of a data file to the dataset of the times in it.
    """

    start_of_times: float = math.nan
    times_in: Mapping[str, str] = field(default_factory=dict)


def read_eiger_data_file(
    path: str | Path,
    *,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    n_channels: int = 1,
    times: str = START_TIME,
    holes: bool = False,
) -> EigerDataFile:
    """Check that a data file is whole and return what it tells; the images stay where they are.

    Parameters
    ----------
    path : str or Path
    shape : (int, int)
        (y, x) of an image, pixels.
    dtype : numpy dtype, or what makes one
        Of a pixel.
    n_channels : int
        Images per exposure.
    times : str
        Dataset of the images' times, where there is one.
    holes : bool
        Take a file as well in which some images were never written, if it tells numbers.

    Raises
    ------
    FileFormatError
        It is truncated, images of it were never written, or they are of another shape or dtype.
    """
    expected = f"(n, {', '.join(map(str, shape))}) or (n, {n_channels}, {', '.join(map(str, shape))})"

    def fits(found: tuple[int, ...]) -> bool:
        inner = found[1:]
        return 0 < found[0] <= MOST_IMAGES and (
            inner == (n_channels, *shape) or (n_channels == 1 and inner == tuple(shape))
        )

    with opened(path) as file:
        images = dataset(file, IMAGES, kinds="u", shape=expected, fits=lambda s: len(s) > 2 and fits(s))
        own(file, IMAGES)
        if images.dtype != np.dtype(dtype):
            raise FileFormatError(path, IMAGES, found=str(images.dtype), expected=str(np.dtype(dtype)))
        n = images.shape[0]
        first, last = (_number(images.attrs.get(f"image_nr_{end}")) for end in ("low", "high"))
        numbers = _column(file, "/entry/data/image_id", n, "iu")
        if numbers is not None:
            numbers = numbers.astype(np.int64)
            first, last = int(numbers[0]), int(numbers[-1])
        elif first is not None and last is not None:
            numbers = np.arange(first, first + n)
            if last - first != n - 1:
                numbers[:] = -1
                if 1 < n <= last - first:
                    numbers[0], numbers[-1] = first, last
        written = _written(images, path, holes and numbers is not None)
        if numbers is not None:
            numbers[~written] = -1
        start_time = _column(file, times, n, "f")
        return EigerDataFile(
            Path(path),
            n_images=n,
            n_channels=images.shape[1] if images.ndim == 4 else None,
            numbers=numbers,
            first_number=first,
            last_number=last,
            start_time=np.full(n, math.nan) if start_time is None else start_time.astype(np.float64),
        )


def join_eiger_images(
    path: Path,
    places: Sequence[tuple[EigerDataFile, int] | None],
    *,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    n_channels: int | None,
) -> None:
    """Write a file that shows images of data files in its folder as its own, and zeros where there is none.

    Parameters
    ----------
    path : Path
        See `join_images`.
    places : sequence of (EigerDataFile, int) or None
        Where each image is: file, and row in it; None where the filewriter lost it.
    shape, dtype
        Of an image, as in `read_eiger_data_file`.
    n_channels : int or None
        As in `EigerDataFile`.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    inner = tuple(shape) if n_channels is None else (n_channels, *shape)
    found = pieces(
        place and (Images(place[0].path.name, IMAGES, place[0].n_images), place[1]) for place in places
    )
    join_images(path, IMAGES, found, (len(places), *inner), dtype)


def count_images(path: str | Path) -> int:
    """Return the images of a data file as it is now.

    Parameters
    ----------
    path : str or Path
        A data file of the filewriter, not its master file.

    Raises
    ------
    FileFormatError
        It cannot be read, or has none.

    Notes
    -----
    See wire reference eiger, section 8.
    """
    with opened(path) as file:
        expected = "(n, y, x) or (n, channel, y, x)"
        return dataset(file, IMAGES, kinds="u", shape=expected, fits=lambda s: len(s) in (3, 4)).shape[0]


def read_eiger_master_file(path: str | Path) -> EigerMasterFile:
    """Return what a master file tells of the times of the images.

    Parameters
    ----------
    path : str or Path
        The filewriter's master file.

    Raises
    ------
    FileFormatError
        It cannot be read.

    Notes
    -----
    See wire reference eiger, section 8.
    """
    with opened(path) as file:
        begun, times = own(file, "/entry/start_time"), own(file, START_TIME)
        text = begun[()] if isinstance(begun, h5py.Dataset) and begun.shape == () else ""
        sources = times.virtual_sources() if isinstance(times, h5py.Dataset) and times.is_virtual else []
        places = {Path(source.file_name).name: str(source.dset_name) for source in sources}
    try:
        text = text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
        return EigerMasterFile(parse_time_ns(text) / 1e9, places)
    except WireError:
        return EigerMasterFile(math.nan, places)


def _written(images: h5py.Dataset, path: str | Path, holes: bool) -> npt.NDArray[np.bool_]:
    """Say for each image whether there is data for it: HDF5 reads zeros where a part was never written.

    Raises
    ------
    FileFormatError
        There is none for some, and no `holes` are taken; or for none of them.
    """
    if images.is_virtual or images.external:
        raise FileFormatError(path, IMAGES, found="links to other files", expected="the images themselves")
    written = np.ones(images.shape[0], bool)
    if images.chunks is None:
        found, wanted, unit = images.id.get_storage_size(), images.nbytes, "bytes"
    else:
        found, unit = images.id.get_num_chunks(), "chunks"
        wanted = math.prod(-(-n // chunk) for n, chunk in zip(images.shape, images.chunks))
    if found == wanted:
        return written
    if holes and found and images.chunks is not None:
        rows = images.chunks[0]
        n_chunks = np.zeros(-(-images.shape[0] // rows), int)

        def count(chunk: h5py.h5d.StoreInfo) -> None:
            n_chunks[chunk.chunk_offset[0] // rows] += 1

        images.id.chunk_iter(count)
        written = np.repeat(n_chunks == wanted // len(n_chunks), rows)[: images.shape[0]]
        if written.any():
            return written
    raise FileFormatError(path, IMAGES, found=f"{found} {unit}", expected=f"{wanted} {unit}")


def _column(file: h5py.File, name: str, n: int, kinds: str) -> npt.NDArray | None:
    """Return one number per image; None where the file has none."""
    found = own(file, name)
    if not isinstance(found, h5py.Dataset) or found.shape != (n,) or found.dtype.kind not in kinds:
        return None
    return read(found)


def _number(value: object) -> int | None:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return int(value) if isinstance(value, int | np.integer) else None
