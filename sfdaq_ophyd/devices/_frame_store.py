"""Frames that come to this process, in HDF5 files of our own.

A file belongs to one event stream of one run. The device is not told the stream, but the RunEngine asks for
its description once per stream and run, so a new description means a new file. While several
streams are open (dark and primary, or those of two runs, one inside the other), nobody tells whose the next
point is: every point gets a file of its own then, and the catalog joins the files of a stream.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from ..errors import ShapeError
from ..files.frame_file import FrameFile, dataset_of, dataset_of_column
from ..files.storage import check_folder, make_folder, sync
from ..wire.frame import Frame, FrameFormat, MissingFrame, Tables
from ._assets import FileAssets, column_in_hdf5, columns_of, frames_in_hdf5
from ._store import PointStore, row_of

SYNC_PERIOD = 5.0
"""s after which frames are on the disk itself, at the latest when the next point is."""


class FrameStore(PointStore):
    """Write frames, and take back what was not saved.

    Parameters
    ----------
    directory : Path
        Files are made here, one per stream and run, none without a frame.
    name, frame_format, frames_per_point
        See `PointStore`.
    threads : int
        Frames compressed at the same time.
    sync_period : float
        Frames are handed to the system at once, and are on the disk itself (fsync) after so many s, at the
        latest with the next frame: what a power cut can cost.

    Raises
    ------
    StorageError
        No file can be made there.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        frame_format: FrameFormat,
        frames_per_point: int,
        threads: int = 2,
        sync_period: float = SYNC_PERIOD,
    ):
        super().__init__(name, frame_format, frames_per_point)
        self._directory, self._threads = Path(directory), threads
        check_folder(self._directory)
        self._sync_period, self._synced = sync_period, time.monotonic()
        self._not_synced: set[Path] = set()
        self._file: FrameFile | None = None
        self._tables: Tables | None = None
        self._homeless: list[Tables] = []  # the file has no place for them: the next one is made with one
        self._assets: FileAssets | None = None
        self._n_saved = 0  # points, in this file

    def append(self, item: Frame | MissingFrame | Tables | FrameFormat) -> None:
        """Take one more frame, or the tables of those that come next, or what those will look like.

        Raises
        ------
        ShapeError
            A frame came, or was described, that looks otherwise.
        """
        with self._lock:
            file = self._file
            if isinstance(item, FrameFormat):
                if not self.is_fresh or file is not None:
                    raise ShapeError(
                        f"{self.name}: frames look otherwise than the run describes them already"
                    )
                self.frame_format = item
                return
            if isinstance(item, Tables):
                self._tables = item
                if file is not None and (self._homeless or not file.add_tables(item)):
                    self._homeless.append(item)
                return
            if file is None:
                make_folder(self._directory)
                path, threads = self._new_path(), self._threads
                file = self._use(FrameFile(path, self.frame_format, threads=threads, tables=self._tables))
            file.append(item)
            self._rows.append(row_of(item, self.frame_format))
            self._not_synced.add(file.path)
        self._sync_if_due()

    def take_back_partial(self) -> int:
        """Forget the frames that do not make a whole point; return how many those were."""
        with self._lock:
            n_frames = len(self._rows) % self.frames_per_point
            for _ in range(n_frames):
                self._rows.pop()
            if n_frames:
                assert self._file is not None  # rows are of the open file
                self._file.truncate(self._n_saved * self.frames_per_point + len(self._rows))
            return n_frames

    def flush(self) -> None:
        """Bring every frame to the system, and to the disk itself if `sync_period` has passed."""
        with self._lock:
            if self._file is not None:
                self._file.flush()
        self._sync_if_due()

    def _sync_if_due(self) -> None:
        """Sync without the lock: the RunEngine may go on."""
        if time.monotonic() < self._synced + self._sync_period:
            return
        with self._lock:
            if self._file is not None:
                self._file.flush(wait=False)
        self._sync()

    def _sync(self) -> None:
        with self._lock:
            paths, self._not_synced = self._not_synced, set()
        sync(path for path in paths if path.exists())  # one without a row was removed
        self._synced = time.monotonic()

    @property
    def n_ready(self) -> int:
        """Points on disk, not saved yet."""
        with self._lock:
            self.settle()
            if self._file is None:
                return 0
            n_frames = self._file.n_flushed if self._file.broken else self._file.flush(wait=False)
            return max(0, n_frames // self.frames_per_point - self._n_saved)

    @property
    def more_files(self) -> bool:
        """Whether further files have points: never, one file is written at a time."""
        return False

    @property
    def columns_in_file(self) -> dict[str, dict]:
        """Return where ids and numbers of every frame are."""
        return {column: column_in_hdf5(dataset_of_column(column)) for column in columns_of(self.frame_format)}

    def take_back_unsaved(self) -> None:
        """Forget every frame after the last saved point."""
        with self._lock:
            self.settle()
            self._n_handed = 0
            self._rows.clear()
            if self._file is None:
                return
            if self._file.broken is None:
                self._file.truncate(self._n_saved * self.frames_per_point)
            goes_on = self._stream is not None and self._stream is self._only_stream
            if self._file.broken is not None or (self._n_saved and not goes_on):
                self._close_file()

    def close(self) -> None:
        """Take back what was not saved, and close. Safe twice."""
        with self._lock:
            try:
                self.take_back_unsaved()
            finally:
                self._close_file()
            self._sync()

    def _next_file(self) -> tuple[FileAssets, int]:
        assert self._file is not None and self._assets is not None  # its points are asked for
        if self._homeless or (self._asked and self._n_saved):
            old, homeless = self._file, self._homeless
            first, tables = self._n_saved * self.frames_per_point, homeless[0] if homeless else None
            self._use(old.move_tail(first, self._new_path(), tables))
            old.close()
            for tables in homeless[1:]:
                self.append(tables)
        return self._assets, self._n_saved

    def _saved(self, n_points: int) -> None:
        self._n_saved += n_points

    def _new_path(self) -> Path:
        return self._directory / f"{self.name}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:8]}.h5"

    def _use(self, file: FrameFile) -> FrameFile:
        keys = {
            f"{self.name}_{image}": frames_in_hdf5(dataset_of(image), shape, self.frames_per_point)
            for image, (shape, _) in self.frame_format.images.items()
        }
        self._file, self._n_saved, self._homeless = file, 0, []
        self._assets = FileAssets(file.path, keys)
        return file

    def _close_file(self) -> None:
        file, self._file, self._assets, self._homeless = self._file, None, None, []
        self._n_saved = self._n_handed = 0
        if file is not None:
            file.close()
