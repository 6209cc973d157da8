"""Frames of one staging: in files, as rows of events, and as documents.

A point is `frames_per_trigger` frames. Points are counted from 0 in each file. A point is on disk first, then
handed to the RunEngine, then saved by it; whatever was not saved is taken back from the file.

A file belongs to one event stream of one run. The device is not told the stream, but the RunEngine asks for
its description once per stream and run, so a new description means a new file. While a run has several
streams (dark, primary), every point gets a file of its own: the catalog joins the files of a stream.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np

from ..files.frame_file import IMAGE, FrameFile
from ..wire.frame import Frame, FrameFormat, MissingFrame
from ._assets import FileAssets, frames_in_hdf5
from ._keys import columns_of


class FrameStore:
    """Where a detector's frames go, and what is told about them.

    Parameters
    ----------
    directory : Path
        Files are made here, one per stream and run, none without a frame.
    name : str
        Of the device: start of file names and of data keys.
    frame_format : FrameFormat
        What every frame looks like.
    frames_per_point : int
        Frames that belong to one event.
    threads : int
        Frames compressed at the same time.
    """

    def __init__(
        self, directory: Path, name: str, frame_format: FrameFormat, frames_per_point: int, threads: int = 2
    ):
        self._directory, self._name, self._threads = Path(directory), name, threads
        self.frame_format, self.frames_per_point = frame_format, frames_per_point
        self._lock = threading.RLock()
        self._file: FrameFile | None = None
        self._assets: FileAssets | None = None
        self._rows: deque[tuple] = deque()  # of every frame after the last saved point, without its image
        self._saved = self._handed = 0
        self._run = ""
        self._streams = 0
        self._new_streams = 0

    # from the thread that acquires

    def append(self, item: Frame | MissingFrame) -> None:
        """Take one more frame."""
        with self._lock:
            if self._file is None:
                self._open()
            self._file.append(item)
            self._rows.append(_row(item, self.frame_format))

    def take_back(self, n_frames: int) -> None:
        """Forget the last `n_frames`."""
        with self._lock:
            if n_frames and self._file is not None:
                self._file.truncate(self._file.n_frames - n_frames)
                for _ in range(n_frames):
                    self._rows.pop()

    def flush(self) -> None:
        """Bring every frame to disk."""
        with self._lock:
            if self._file is not None:
                self._file.flush()

    # from the RunEngine's thread

    def described(self) -> None:
        """Note that the RunEngine begins a stream: what was saved so far belongs to another one."""
        self._new_streams += 1

    @property
    def n_ready(self) -> int:
        """Points on disk that the RunEngine has not saved yet."""
        with self._lock:
            self.settle()
            if self._file is None:
                return 0
            return self._file.flush(wait=False) // self.frames_per_point - self._saved

    def settle(self) -> None:
        """Look whether the points handed out last were saved."""
        with self._lock:
            if self._assets is None or not self._handed or not self._assets.saved:
                return
            n_frames, self._handed = self._handed * self.frames_per_point, 0
            for _ in range(n_frames):
                self._rows.popleft()
            self._saved += n_frames // self.frames_per_point
            new_run = self._assets.run_start != self._run
            self._run = self._assets.run_start
            self._streams = self._new_streams + (0 if new_run else self._streams)
            self._new_streams = 0

    def take_back_unsaved(self) -> None:
        """Forget every frame after the last saved point."""
        with self._lock:
            self.settle()
            self._handed = 0
            self._rows.clear()
            if self._file is not None:
                self._file.truncate(self._saved * self.frames_per_point)
            if self._streams > 1 and self._saved:
                self._close_file()

    def columns(self, n_points: int) -> dict[str, list]:
        """Return the rows of the next `n_points` points, by column; a point of several frames is a list."""
        with self._lock:
            n = self.frames_per_point
            rows = list(islice(self._rows, n_points * n))
        names = columns_of(self.frame_format)
        columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
        if n == 1:
            return columns
        return {name: [column[i : i + n] for i in range(0, len(rows), n)] for name, column in columns.items()}

    def documents(self, n_points: int) -> list[tuple[str, dict]]:
        """Return the documents of the next `n_points` points."""
        with self._lock:
            if self._new_streams and self._saved:
                self._move_to_new_file()
            self._handed = n_points
            return list(self._assets.documents(self._saved, self._saved + n_points))

    def close(self) -> None:
        """Take back what was not saved, and close. Safe twice."""
        with self._lock:
            try:
                self.take_back_unsaved()
            finally:
                self._close_file()

    @property
    def path(self) -> Path | None:
        """The file written now, if any."""
        return None if self._file is None else self._file.path

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._use(FrameFile(self._new_path(), self.frame_format, threads=self._threads))

    def _new_path(self) -> Path:
        return self._directory / f"{self._name}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:8]}.h5"

    def _use(self, file: FrameFile) -> None:
        parameters = frames_in_hdf5(IMAGE, self.frame_format.shape, self.frames_per_point)
        self._file, self._saved, self._handed = file, 0, 0
        self._assets = FileAssets(file.path, {f"{self._name}_image": parameters})

    def _move_to_new_file(self) -> None:
        old = self._file
        self._use(old.move_tail(self._saved * self.frames_per_point, self._new_path()))
        old.close()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = self._assets = None
            self._saved = self._handed = 0


def _row(item: Frame | MissingFrame, fmt: FrameFormat) -> tuple:
    if isinstance(item, Frame):
        pulse_id = (int(item.pulse_id),) if fmt.has_pulse_id else ()
        numbers = (kind.type(item.scalars[name]).item() for name, kind in fmt.scalars.items())
        return (float(item.timestamp), item.event_id, *pulse_id, bool(item.is_good), *numbers)
    pulse_id = (-1,) if fmt.has_pulse_id else ()
    return (np.nan, "", *pulse_id, False, *(_nothing(kind) for kind in fmt.scalars.values()))


def _nothing(kind: np.dtype) -> float | int:
    return float("nan") if kind.kind == "f" else 0
