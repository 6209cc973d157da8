"""The writers of the websocket generation, each with a HDF5 file of its own, each can die on its own.

As in wire reference std-daq, section 9. Chunks are as large as a block of the file system, and what is not
written of the last one takes no room on the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Callable

import h5py
import numpy as np

from .files import Folders, Pictures, is_below, may_write
from .image_source import Image

logger = logging.getLogger(__name__)


PER_IMAGE = np.dtype([("image_id", "<u8"), ("status", "<u8")])
"""What a writer notes of each of its images; status 1 good, 2 missing packets, 3 ids that do not agree."""

PER_IMAGE_OF_ALL = np.dtype(
    [
        ("image_id", "<u8"),
        ("scan_id", "<u8"),
        ("scan_time", "<u4"),
        ("sync_time", "<u4"),
        ("frame_timestamp", "<u8"),
        ("exposure_time", "<u8"),
    ]
)
"""What the metadata writer notes of each image of all writers; only the id is not 0 here."""

GOOD = 1
"""Status of a good image: one more than in the files of the REST generations."""


class _BlockFile:
    """A file whose datasets grow by whole chunks, and are cut to what they hold when it is closed.

    Not by a single image: then they stay as long as their first chunk.

    Parameters
    ----------
    path : str
        An existing file is truncated.
    group : str
        Name of the group: the detector's.
    block_size : int
        Bytes of a chunk at the most.

    Raises
    ------
    OSError
        The file cannot be created, or somebody has it open.
    """

    def __init__(self, path: str, group: str, block_size: int):
        self.path, self._block_size, self._n = path, block_size, 0
        self._file = h5py.File(path, "w", libver=("earliest", "v108"), locking=True)
        self._group = self._file.create_group(group)

    def _dataset(self, name: str, dtype: np.dtype, shape: tuple[int, ...] = ()) -> h5py.Dataset:
        rows = self._block_size // (dtype.itemsize * int(np.prod(shape, dtype=int)))
        return self._group.create_dataset(
            name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape)
        )

    def _append(self, **values: np.ndarray | tuple) -> None:
        """Write one row of each dataset."""
        for name, value in values.items():
            dataset = self._group[name]
            if self._n % dataset.chunks[0] == 0:
                dataset.resize(self._n + dataset.chunks[0], axis=0)
            dataset[self._n] = value
        self._n += 1

    def close(self) -> None:
        """Cut and close."""
        if self._n > 1:
            for dataset in self._group.values():
                dataset.resize(self._n, axis=0)
        self._file.flush()
        unused = [hole for dataset in self._group.values() for hole in self._holes(dataset)]
        self._file.close()
        _punch(self.path, unused)

    def abandon(self) -> None:
        """Leave the file as a process that was killed does: nobody can read it."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, 2048)

    def _holes(self, dataset: h5py.Dataset) -> list[tuple[int, int]]:
        """Return (offset, size) of what is not used in the last chunk."""
        rows = dataset.chunks[0]
        found, row = [], max(0, self._n - 1) // rows * rows
        if self._n:
            chunk = dataset.id.get_chunk_info_by_coord((row, *[0] * (dataset.ndim - 1)))
            used = chunk.size // rows * (self._n - row)
            if chunk.byte_offset is not None and used < chunk.size:
                found.append((chunk.byte_offset + used, chunk.size - used))
        return found


class ImageFile(_BlockFile):
    """The file of one writer: ``/<detector_name>/{data, metadata}``.

    Parameters
    ----------
    path, group, block_size
        As above.
    pictures : Pictures
        Says shape and dtype.

    Raises
    ------
    OSError
        As above; also if an image is larger than a block.
    """

    def __init__(self, path: str, group: str, block_size: int, pictures: Pictures):
        if pictures.dtype.itemsize * int(np.prod(pictures.shape)) > block_size:
            raise OSError(f"an image is larger than a block of {block_size} bytes")
        super().__init__(path, group, block_size)
        self._pictures = pictures
        self._frame = np.empty(pictures.shape, pictures.dtype)
        self._dataset("data", pictures.dtype, pictures.shape)
        self._dataset("metadata", PER_IMAGE)

    def write(self, image: Image) -> None:
        """Append an image."""
        self._pictures.fill(self._frame, image.image_id, image.pulse_id)
        self._append(data=self._frame, metadata=(image.image_id, GOOD + image.status))


class MetadataFile(_BlockFile):
    """The file of the metadata writer: ``/<detector_name>/metadata``."""

    def __init__(self, path: str, group: str, block_size: int):
        super().__init__(path, group, block_size)
        self._dataset("metadata", PER_IMAGE_OF_ALL)

    def write(self, image: Image) -> None:
        """Append what is known of an image."""
        self._append(metadata=(image.image_id, 0, 0, 0, 0, 0))


_KEEP_SIZE_AND_PUNCH = 1 | 2


def _punch(path: str, holes: list[tuple[int, int]]) -> None:
    """Give ranges of a file back to the disk, where the system can: they read as zeros."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    if fallocate is None or not holes:
        return
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:  # it was removed meanwhile
        return
    try:
        for offset, size in holes:
            fallocate(file, _KEEP_SIZE_AND_PUNCH, ctypes.c_int64(offset), ctypes.c_int64(size))
    finally:
        os.close(file)


class Writer:
    """One writer process.

    Parameters
    ----------
    name : str
        What stands between prefix and ``.h5``: its number, or ``Meta``.
    open_file : callable
        Makes the file of a path.
    folders : Folders
    user_id : int
        Who must be able to write to the folder; below 1 nobody is asked.
    on_death : callable, optional
        A writer with it dies of a file that it cannot create, and calls it with itself; others refuse.

    Attributes
    ----------
    alive : bool
    """

    def __init__(
        self,
        name: str,
        open_file: Callable[[str], ImageFile | MetadataFile],
        folders: Folders,
        user_id: int = 0,
        on_death: Callable[[Writer], object] | None = None,
    ):
        self.name, self.alive = name, True
        self._open_file, self._folders, self._user_id = open_file, folders, user_id
        self._on_death = on_death
        self._file: ImageFile | MetadataFile | None = None
        self._lock = threading.Lock()

    def create(self, folder: str, prefix: str) -> bool:
        """Create a file in place of the one that is open, if any; tell whether it could."""
        self.save()
        path = self._folders.local(f"{folder}/{prefix}{self.name}.h5")
        try:
            if not is_below(path, self._folders.writable) or not may_write(
                os.path.dirname(path), self._user_id
            ):
                raise PermissionError(path)
            with self._lock:
                self._file = self._open_file(path)
        except (OSError, ValueError) as exc:
            logger.debug("writer %s: %s", self.name, exc)
            if self._on_death is not None:
                self.die()
                self._on_death(self)
            return False
        return True

    def write(self, image: Image) -> None:
        """Write an image; without a file, or room for it, it dies."""
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.write(image)
                return
        self.die()

    def save(self) -> None:
        """Close the file, if one is open."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):  # the disk is full
                    file.close()

    def die(self) -> None:
        """Be killed: the file is not readable any more."""
        with self._lock:
            self.alive = False
            file, self._file = self._file, None
            if file is not None:
                file.abandon()

    def revive(self) -> None:
        """Be started again, with no file."""
        self.alive = True
