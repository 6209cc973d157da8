"""Pictures, HDF5 files of them as all generations write them, and the folders where files may go.

As in wire reference std-daq, section 9. A picture's pixels follow from its image id or, with a Jungfrau in
the facility, from its pulse id.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...errors import SfdaqError
from ...wire.std_daq import OUTPUT_FILE
from ..clock import View
from ..jungfrau.scene import Scene
from ..stamp import STAMP_PIXELS, write_stamp
from .image_source import Image
from .settings import ServiceError

logger = logging.getLogger(__name__)


class Pictures:
    """Fill frames of one detector.

    A Jungfrau's frames come from its `Scene` and carry the pulse id; others show ramps with the image id.
    `seed` and `view` are the scene's, `shape` is (y, x), `bit_depth` 8, 16 or 32.
    """

    def __init__(
        self,
        detector_name: str,
        shape: tuple[int, int],
        bit_depth: int,
        seed: int = 0,
        view: Callable[[int], View] | None = None,
    ):
        self.shape, self.dtype = shape, np.dtype(f"u{bit_depth // 8}")
        self._scene = _scene(detector_name, self.shape, bit_depth, seed, view)

    def frame(self, image_id: int, pulse_id: int) -> np.ndarray:
        """Return a new picture, shape (y, x)."""
        self.fill(frame := np.empty(self.shape, self.dtype), image_id, pulse_id)
        return frame

    def fill(self, frame: np.ndarray, image_id: int, pulse_id: int) -> None:
        """Write the picture into `frame`, shape (y, x)."""
        if self._scene is not None:
            self._scene.raw(pulse_id, frame)
            return
        np.add(self._ramp, image_id % 1000, out=frame, casting="unsafe")
        if self.shape[1] >= STAMP_PIXELS:
            write_stamp(frame, image_id)

    @cached_property
    def _ramp(self) -> np.ndarray:
        y, x = np.indices(self.shape, dtype="u4")
        return (y + x) % 4096


def _scene(detector_name: str, shape: tuple[int, int], bit_depth: int, seed: int, view) -> Scene | None:
    try:
        scene = Scene(detector_name, seed, view)
    except SfdaqError:
        return None
    return scene if scene.shape == shape and bit_depth == 16 else None


class WriterFile:
    """A file of the REST generations, open and locked: ``/<detector_name>/{data,image_id,status}``.

    An existing file is truncated, and all chunks of `n_images` frames are allocated now. A `compressed` one
    has bitshuffle with LZ4, filter 32008. OSError, if it cannot be created or somebody has it open.
    """

    def __init__(self, path: str, detector_name: str, n_images: int, pictures: Pictures, *, compressed: bool):
        self.n_images, self.n_written, self._pictures = n_images, 0, pictures
        self._frame = np.empty(pictures.shape, pictures.dtype)
        self._direct = not compressed
        self._file = h5py.File(path, "w", libver=("earliest", "v108"), locking=True)
        group = self._file.create_group(detector_name)
        options: dict[str, Any] = {}
        if compressed:
            import hdf5plugin  # a tenth of the start of a writer, most of which write plainly

            options |= hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        options |= {"chunks": (1, *pictures.shape), "fill_time": "never", "dcpl": _early()}
        self._data = group.create_dataset("data", (n_images, *pictures.shape), pictures.dtype, **options)
        self._image_id = group.create_dataset("image_id", (n_images,), "u8", dcpl=_early())
        self._status = group.create_dataset("status", (n_images,), "u8", dcpl=_early())

    def write(self, image_id: int, pulse_id: int, status: int, ahead: int = 0) -> None:
        """Append one frame with its id and status (0 good, 1 missing packets, 2 id mismatch).

        Its pixels are those of the image `ahead` images later, if the ring was overrun.
        """
        row = self.n_written
        self._pictures.fill(self._frame, image_id + ahead, pulse_id + ahead)
        if self._direct:
            self._data.id.write_direct_chunk((row, 0, 0), self._frame)
        else:
            self._data[row] = self._frame
        self._image_id[row], self._status[row] = image_id, status
        self.n_written += 1

    def close(self) -> None:
        """Close; from two frames on the data are cut to what was written, the ids never."""
        if 2 <= self.n_written < self.n_images:
            self._data.resize(self.n_written, axis=0)
        self._file.close()


def _early() -> h5py.h5p.PropDCID:
    """Return the plan of a dataset all of which is allocated at once."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return plan


def check_path(path: str) -> str:
    """Return `path` if the service takes it, whether or not the folder is there; ServiceError otherwise."""
    if not path.startswith("/"):
        raise ServiceError(f'Invalid output_file={path}. Path must be absolute - starts with "/".')
    if not OUTPUT_FILE.match(path):
        raise ServiceError(f"Invalid output_file={path}. Must be a valid posix path.")
    return path


def is_below(path: str, roots: Sequence[str]) -> bool:
    """Tell whether a path of this machine, all links followed, lies below one of `roots`."""
    real = os.path.realpath(path)
    return any(os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root) for root in roots)


MISSING = "Output file folder {} does not exist. Please create it first."


class Folders:
    """Translate and judge the folders of requests: `mapping` is theirs to those on this machine.

    Below `writable`, and the folders of `mapping`, files are written; all else is not there for the service.
    """

    def __init__(self, mapping: Mapping[str, str], writable: Sequence[str] = ()):
        self._mapping = dict(mapping)
        self.writable = (*writable, *self._mapping.values())

    def local(self, path: str) -> str:
        """Return the path on this machine."""
        for outside, inside in self._mapping.items():
            if path == outside or path.startswith(outside.rstrip("/") + "/"):
                return inside + path[len(outside.rstrip("/")) :]
        return path

    def missing(self, folder: str, user_id: int) -> str | None:
        """Return what the service says of a folder that `user_id` cannot see; None if it can.

        Below 1 it is the user of the service.
        """
        local, words = self.local(folder), MISSING.format(folder)
        if not os.path.isdir(local):
            return words
        if not is_below(local, self.writable):
            return (
                f"{words} (It does, but this simulated DAQ writes below {', '.join(self.writable)} only; "
                "others are named when it is started: std_daq_writable, --writable)"
            )
        parents = map(str, Path(local).parents)
        sees = user_id < 1 or all(_may(stat.S_IXUSR, stat.S_IXOTH, each, user_id) for each in parents)
        return None if sees else words


def may_write(folder: str, user_id: int) -> bool:
    """Tell whether `user_id` can create files in a folder of this machine; below 1 nobody is asked."""
    return user_id < 1 or _may(stat.S_IWUSR | stat.S_IXUSR, stat.S_IWOTH | stat.S_IXOTH, folder, user_id)


def _may(as_owner: int, as_other: int, folder: str, user_id: int) -> bool:
    info = os.stat(folder)
    bits = as_owner if info.st_uid == user_id else as_other
    return info.st_mode & bits == bits


# ---- files of the websocket generation ---------------------------------------------------------------

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

SMALL = 2**20
"""Files up to so many bytes keep the room of what is not written."""

GOOD = 1
"""Status of a good image: one more than in the files of the REST generations."""


class _BlockFile:
    """A file of the websocket generation: its datasets grow by chunks of up to `block_size` bytes.

    They are cut to what they hold when it is closed; of a single image they stay as long as their first
    chunk. What is not written of the last chunk takes no room on the disk.
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
        self._file.close()
        if os.path.exists(self.path) and os.path.getsize(self.path) > SMALL:
            with contextlib.suppress(OSError):  # no such tool, or no such file any more
                subprocess.run(["fallocate", "--dig-holes", self.path], stderr=subprocess.DEVNULL)

    def abandon(self) -> None:
        """Leave the file as a process that was killed does: nobody can read it."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, 2048)


class ImageFile(_BlockFile):
    """The file of one writer: ``/<detector_name>/{data, metadata}``.

    OSError, if it cannot be created, somebody has it open, or an image is larger than a block.
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


class Writer:
    """One writer process, which can die on its own.

    Its `name` stands between prefix and ``.h5``: its number, or ``Meta``. It makes the file of a path with
    `open_file`, if `user_id` may write to the folder. A writer with `on_death` dies of a file that it cannot
    create, and calls that with itself; others refuse.
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
            inside = is_below(path, self._folders.writable)
            if not inside or not may_write(os.path.dirname(path), self._user_id):
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
