"""Frames in HDF5: images and ids side by side, appended while acquiring.

::

    /entry            NXentry, default "data"
      data            NXdata, signal "data"
        data          (n, y, x), one frame per chunk, bitshuffle-LZ4 or as the detector compressed it
        timestamp     (n,) float64, s since the epoch; NaN in a gap
        event_id      (n,) bytes, UTF-8; empty in a gap
        pulse_id      (n,) int64, where the source has one; -1 in a gap
        is_good       (n,) bool; False in a gap
        <scalar>      (n,) one per number computed from each frame, or text known of it, as bytes
        <name>      (n, y, x), one per further form of the image, e.g. raw
      instrument/detector           NXdetector, where masks, flat fields or the like came with the frames
        series_uid                  (m,) bytes, UTF-8: from which series on row k of each table holds
        <table>                     (m, ...), e.g. pixel_mask/threshold_1: (m, y, x) uint32

The file is written in HDF5's SWMR mode: another process reads it at any time with
``h5py.File(path, "r", swmr=True)``, also after the writer was killed; `repair` makes it a plain file then.
The ids of a frame are in the file before its image is, and HDF5 orders the index of a chunk before the new
length of its dataset, so that every row of ``data`` is whole and has its id. A gap (a frame that did not
come) holds no chunk: it reads as zeros, NaN in float data. Which tables there are is known when the file is
made; later ones of the same names and shapes are appended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StorageError, WireError
from ..wire import compression
from ..wire.frame import MAX_ID_BYTES, Frame, FrameFormat, MissingFrame, Tables
from ._frame_rows import PendingFrame, images_of, kinds_of, row_of
from ._hdf5 import chunk_filter, h5py
from .repair import WRITER_HOST, hold
from .storage import begin_writeback, leave_open, refused, writing

logger = logging.getLogger(__name__)

IMAGE = "/entry/data/data"
"""Where the images are."""


def dataset_of(image: str) -> str:
    """Return where a form of the image is; ``"image"`` is the image itself."""
    return IMAGE if image == "image" else f"/entry/data/{image}"


def dataset_of_column(name: str) -> str:
    """Return where an id or a number of every frame is."""
    return f"/entry/data/{name}"


IDS_PER_CHUNK = 1024

TOGETHER, TOGETHER_BYTES = 0.05, 8 << 20
"""s and bytes up to which chunks that come as they are wait for the next ones, to be written with them."""


class FrameFile:
    """Append frames to a new file.

    All calls come from one thread at a time. Frames in a row are compressed in threads of the file, one alone
    by the thread that flushes.

    Parameters
    ----------
    path : str or Path
        Must not exist yet.
    frame_format : FrameFormat
        What every frame looks like.
    threads : int
        Frames compressed at the same time.
    tables : Tables, optional
        Those that hold for the first frames.

    Attributes
    ----------
    n_flushed : int
        Rows that the last `flush` brought where readers see them; 0 once the file is gone.
    broken : StorageError or None
        What the disk refused: nothing more goes into this file.
    """

    def __init__(
        self, path: str | Path, frame_format: FrameFormat, *, threads: int = 2, tables: Tables | None = None
    ):
        self.path, self._last_tables = Path(path), tables
        self.frame_format = frame_format
        self._limit = threads + 2
        self._pending: deque[PendingFrame] = deque()
        self._n_written = 0
        self._n_held, self._held_until = 0, 0.0
        self._n_begun = self.n_flushed = 0
        self.broken: StorageError | None = None
        with writing(self.path, "making"):
            self._file = h5py.File(self.path, "x", libver="latest")
            try:
                self._create()
                self._file.swmr_mode = True
                self._lock = hold(self.path)
                self._stat = os.stat(self.path)
            except BaseException:
                self._file.close()
                self.path.unlink(missing_ok=True)
                raise
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compress")

    def _create(self) -> None:
        fmt = self.frame_format
        self._file.attrs.update(default="entry", NX_class="NXroot", **{WRITER_HOST: socket.gethostname()})
        entry = self._file.create_group("entry")
        entry.attrs.update(default="data", NX_class="NXentry")
        group = entry.create_group("data")
        group.attrs.update(signal="data", NX_class="NXdata")
        self._images = {name: self._create_images(name, *kind) for name, kind in fmt.images.items()}
        self._kinds = kinds_of(fmt)
        self._columns = {
            name: group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(IDS_PER_CHUNK,))
            for name, kind in self._kinds.items()
        }
        self._columns["timestamp"].attrs["units"] = "s"
        self._tables = None if self._last_tables is None else TablesInFile(self._file, self._last_tables)

    def _create_images(self, name: str, shape: tuple[int, int], dtype: np.dtype) -> h5py.Dataset:
        images = self._file.create_dataset(
            dataset_of(name),
            shape=(0, *shape),
            maxshape=(None, *shape),
            chunks=(1, *shape),
            dtype=dtype.newbyteorder("<"),
            fillvalue=np.nan if dtype.kind == "f" else None,
            **chunk_filter(self.frame_format.compression),
        )
        images.attrs["interpretation"] = "image"
        return images

    def add_tables(self, tables: Tables) -> bool:
        """Keep the tables of a further series; False if they are unlike those the file was made with."""
        self._last_tables = tables
        with self._writing():
            return self._tables is not None and self._tables.add(tables)

    @property
    def n_frames(self) -> int:
        """Rows appended so far, gaps included."""
        return self._n_written + len(self._pending)

    def append(self, frame: Frame | MissingFrame) -> None:
        """Take one more frame; blocks while too many wait to be written.

        The image is read until the next `flush`; nobody may change it before.

        Raises
        ------
        ShapeError
            The frame is not of the file's format; nothing was written.
        StorageError
            The disk did not take an earlier frame.
        """
        if isinstance(frame, Frame):
            self.frame_format.check(frame)
        pending = PendingFrame(frame, images_of(frame, self.frame_format))
        hold = pending.as_it_came and self._may_wait(pending)
        self._pending.append(pending)
        if hold:
            return
        if len(self._pending) > 1:  # one alone is compressed by whoever flushes: no thread is woken for it
            self._compress()
        while self._pending and (len(self._pending) > self._limit or self._can_write):
            self._write_next()

    def _may_wait(self, pending: PendingFrame) -> bool:
        """Whether a frame as it came, next to be appended, may wait for others to be written with it."""
        if not self._pending:
            self._n_held, self._held_until = 0, time.monotonic() + TOGETHER
        self._n_held += sum(len(image) for image in pending.images.values())
        return self._n_held < TOGETHER_BYTES and time.monotonic() < self._held_until

    @property
    def _compresses(self) -> bool:
        """Whether pixels are compressed outside of HDF5."""
        return self.frame_format.compression == "bslz4" and compression.available()

    @property
    def _can_write(self) -> bool:
        """Whether the next frame can be written without waiting for its compression."""
        return self._pending[0].ready or not self._compresses

    def _compress(self) -> None:
        """Have all that wait compressed in threads."""
        if self._compresses:
            for pending in self._pending:
                pending.compress(self._pool)

    def flush(self, wait: bool = True) -> int:
        """Bring every frame to where readers see it; return the number of rows there.

        Without `wait`, frames still being compressed are left for later.

        Raises
        ------
        StorageError
            The disk did not take it, or the file is not there any more.
        """
        if not wait:
            self._compress()
        while self._pending and (wait or self._can_write):
            self._write_next()
        with self._writing():
            for images in self._images.values():
                images.flush()
        self._check_there()
        self.n_flushed = self._n_written
        return self._n_written

    def _check_there(self) -> None:
        try:
            with writing(self.path):
                there = os.stat(self.path)
            if not os.path.samestat(there, self._stat):
                raise refused(self.path, None, reason="another file stands there now")
        except StorageError as exc:
            self.broken, self.n_flushed = exc, 0
            raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Do something that writes; once the disk refused, nothing is written any more."""
        if self.broken is not None:
            raise self.broken
        try:
            with writing(self.path):
                yield
        except StorageError as exc:
            self.broken = exc
            leave_open(self._file, *self._images.values(), *self._columns.values())
            raise

    def _write_next(self) -> None:
        """Write the next frame; if it is as it came, those that follow and are so, too."""
        rows = [self._pending.popleft()]
        while rows[0].as_it_came and self._pending and self._pending[0].as_it_came:
            rows.append(self._pending.popleft())
        try:
            pixels = [pending.pixels(self._compresses) for pending in rows]
            with self._writing():
                self._write([row_of(pending.frame, self.frame_format) for pending in rows], pixels)
        except BaseException:
            self._pending.clear()  # the rows after a lost one would be in the wrong place
            raise

    def _write(self, rows: list[dict[str, object]], pixels: list[dict[str, Any]]) -> None:
        """Add rows: ids first, images last, as they are or as the bytes of their chunks."""
        first, n_rows = self._n_written, len(rows)
        try:
            place = h5py.h5s.create_simple((first + n_rows,))
            place.select_hyperslab((first,), (n_rows,))
            for name, column in self._columns.items():
                _append(column.id, np.array([row[name] for row in rows], self._kinds[name]), place)
            for row, forms in enumerate(pixels, first):
                for name, images in reversed(self._images.items()):
                    images.id.set_extent((row + 1, *self.frame_format.images[name][0]))
                    if isinstance(image := forms.get(name), np.ndarray):
                        images[row] = image
                    elif image is not None:
                        images.id.write_direct_chunk((row, 0, 0), image)
        except BaseException:
            with contextlib.suppress(OSError, RuntimeError):  # on a full disk not even that
                self._cut(first)
            raise
        self._n_written += n_rows
        self._n_begun = begin_writeback(self._lock, self._n_begun)

    def _cut(self, n_frames: int) -> None:
        """Leave `n_frames` rows, images first."""
        for images in self._images.values():
            images.id.set_extent((n_frames, *images.shape[1:]))
            images.id.flush()
        for column in self._columns.values():
            column.id.set_extent((n_frames,))
            column.id.flush()
        self._n_written = n_frames

    def truncate(self, n_frames: int) -> None:
        """Take back all rows after the first `n_frames`, written or not."""
        while self._pending and self.n_frames > n_frames:
            self._pending.pop()
        self.flush()
        if n_frames < self._n_written:
            with self._writing():
                self._cut(n_frames)

    def move_tail(self, first: int, path: str | Path, tables: Tables | None = None) -> FrameFile:
        """Move the rows from `first` on into a new file, compressed as they are, and return it.

        It is made with `tables`, by default those that came last.
        """
        self.flush()
        tables = tables or self._last_tables
        tail = FrameFile(path, self.frame_format, threads=self._limit - 2, tables=tables)
        for row in range(first, self._n_written):
            chunks = {}
            for name, images in self._images.items():
                if images.id.get_chunk_info_by_coord((row, 0, 0)).byte_offset is not None:
                    _, chunks[name] = images.id.read_direct_chunk((row, 0, 0))
            tail._write([{name: column[row] for name, column in self._columns.items()}], [chunks])
        tail.flush()
        self.truncate(first)
        return tail

    def close(self) -> None:
        """Write what is pending and close; a file without a row is removed. Safe twice.

        One that is `broken` stays as the last flush left it; see `repair`.
        """
        if self._lock.closed:
            return
        try:
            if self.broken is None:
                self.flush()
        finally:
            self._pool.shutdown()
            try:
                if self.broken is None:
                    with self._writing():
                        self._file.close()
            finally:
                self._lock.close()
                with contextlib.suppress(OSError):
                    if self._n_written == 0 and os.path.samestat(os.stat(self.path), self._stat):
                        self.path.unlink()


def _append(column: h5py.h5d.DatasetID, values: np.ndarray, place: h5py.h5s.SpaceID) -> None:
    """Make `values` the last rows, at `place`, and bring them to disk; the short way of h5py."""
    column.set_extent(place.shape)
    column.write(h5py.h5s.create_simple(values.shape), place, values)
    column.flush()


class TablesInFile:
    """The tables of one frame file, which is not in SWMR mode as yet."""

    def __init__(self, file: h5py.File, tables: Tables):
        instrument = file.create_group("entry/instrument")
        instrument.attrs["NX_class"] = "NXinstrument"
        group = instrument.create_group("detector")
        group.attrs["NX_class"] = "NXdetector"
        self._since = group.create_dataset(
            "series_uid", (0,), f"S{MAX_ID_BYTES}", maxshape=(None,), chunks=(64,)
        )
        self._tables = {
            name: group.create_dataset(
                name,
                (0, *table.shape),
                table.dtype.newbyteorder("<"),
                maxshape=(None, *table.shape),
                chunks=(1, *table.shape),
                **chunk_filter(),
            )
            for name, table in _readable(tables).items()
        }
        self.add(tables)

    def add(self, tables: Tables) -> bool:
        """Append a row to every table; False, with nothing done, if these are not all of those, and alike."""
        row, arrays = len(self._since), _readable(tables)
        kinds = {name: (table.shape, table.dtype.newbyteorder("<")) for name, table in arrays.items()}
        if kinds != {name: (dataset.shape[1:], dataset.dtype) for name, dataset in self._tables.items()}:
            return False
        for name, dataset in self._tables.items():
            dataset.resize(row + 1, axis=0)
            dataset[row] = arrays[name]
            dataset.flush()
        self._since.resize(row + 1, axis=0)
        self._since[row] = tables.since.encode()
        self._since.flush()
        return True


def _readable(tables: Tables) -> dict[str, np.ndarray]:
    """Return what can be unpacked; the rest is told in the log."""
    found = {}
    for name, table in tables.arrays.items():
        try:
            found[name] = table.unpack()
        except WireError as exc:
            logger.warning("%s of series %s is not readable: %s", name, tables.since, exc)
    return found
