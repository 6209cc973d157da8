"""Files that somebody else writes: registered when their writer is done with them."""

from __future__ import annotations

from collections import deque

from ..errors import RequestError
from ..wire.frame import Frame, FrameFormat, MissingFrame
from ._assets import FileAssets
from ._source import WrittenFile
from ._store import PointStore, row_of


class _Entry:
    def __init__(self, file: WrittenFile, name: str, frames_per_point: int):
        keys = {f"{name}_{key}": parameters for key, parameters in file.keys.items()}
        self.file, self.assets = file, FileAssets(file.path, keys, file.mimetype)
        self.n_points, self.n_saved = file.n_frames // frames_per_point, 0


class ForeignStore(PointStore):
    """Rows of frames, and the files that hold their images.

    The source yields a `Frame` without an image for every image, and a `WrittenFile` per file. Points are
    handed out once their file is there. A file is kept or dropped as a whole.
    """

    def __init__(self, name: str, frame_format: FrameFormat, frames_per_point: int):
        super().__init__(name, frame_format, frames_per_point)
        self._files: deque[_Entry] = deque()  # with points that are not saved

    def append(self, item: Frame | MissingFrame | WrittenFile) -> None:
        """Take one more frame, or the file that holds some."""
        with self._lock:
            if not isinstance(item, WrittenFile):
                self._rows.append(row_of(item, self.frame_format))
            elif item.n_frames < 1 or item.n_frames % self.frames_per_point:
                whole = f"a multiple of {self.frames_per_point}, the frames of a point"
                raise RequestError("n_frames", item.n_frames, whole)
            else:
                self._files.append(_Entry(item, self.name, self.frames_per_point))

    @property
    def _n_in_files(self) -> int:
        """Unsaved frames that a file is there for."""
        return sum(entry.n_points - entry.n_saved for entry in self._files) * self.frames_per_point

    def take_back_partial(self) -> int:
        """Forget the frames without a file, and files without all of their frames."""
        with self._lock:
            before = len(self._rows)
            while self._n_in_files > len(self._rows) and not self._files[-1].n_saved:
                self._files.pop().file.drop()
            while len(self._rows) > self._n_in_files:
                self._rows.pop()
            return before - len(self._rows)

    def flush(self) -> None:
        """Nothing waits here."""

    @property
    def n_ready(self) -> int:
        """Points of the oldest file with unsaved points."""
        with self._lock:
            self.settle()
            if not self._files:
                return 0
            left = self._files[0].n_points - self._files[0].n_saved
            return min(left, len(self._rows) // self.frames_per_point)

    @property
    def more_files(self) -> bool:
        """Whether a second file with unsaved points is there."""
        with self._lock:
            self.settle()
            return len(self._files) > 1

    def take_back_unsaved(self) -> None:
        """Forget every frame after the last saved point; drop files of which nothing was saved."""
        with self._lock:
            self.settle()
            self._n_handed = 0
            self._rows.clear()
            files, self._files = self._files, deque()
            for entry in files:
                if not entry.n_saved:
                    entry.file.drop()

    def close(self) -> None:
        """Take back what was not saved. Safe twice."""
        self.take_back_unsaved()

    def _next_file(self) -> tuple[FileAssets, int]:
        return self._files[0].assets, self._files[0].n_saved

    def _saved(self, n_points: int) -> None:
        entry = self._files[0]
        entry.n_saved += n_points
        if entry.n_saved == entry.n_points:
            self._files.popleft()
