"""Files that somebody else writes: registered closed and checked, or row by row while they grow."""

from __future__ import annotations

from collections import deque

from ..errors import DetectorStateError, RequestError
from ..wire.frame import Frame, FrameFormat, MissingFrame
from ._assets import FileAssets
from ._source import WrittenFile
from ._store import PointStore, row_of


class _Entry:
    """A file, how many frames of it came, and how many of its points were saved."""

    def __init__(self, file: WrittenFile, name: str):
        keys = {f"{name}_{key}": parameters for key, parameters in file.keys.items()}
        self.file, self.assets = file, FileAssets(file.path, keys, file.mimetype)
        self.n_frames = self.n_saved = 0


class ForeignStore(PointStore):
    """Rows of frames, and the files that hold their images.

    The source yields a `WrittenFile`, then a `Frame` without an image for every image of it; a row belongs to
    the file announced last. A file of which no point was saved is dropped when its points are taken back.
    """

    def __init__(self, name: str, frame_format: FrameFormat, frames_per_point: int):
        super().__init__(name, frame_format, frames_per_point)
        self._files: deque[_Entry] = deque()  # the last one, and those with points that are not saved

    def append(self, item: Frame | MissingFrame | WrittenFile) -> None:
        """Take one more frame, or the file that holds the next ones."""
        with self._lock:
            if isinstance(item, WrittenFile):
                if item.n_frames < 1 or item.n_frames % self.frames_per_point:
                    whole = f"a multiple of {self.frames_per_point}, the frames of a point"
                    raise RequestError("n_frames", item.n_frames, whole)
                self._files.append(_Entry(item, self.name))
                return
            last = self._files[-1] if self._files else None
            if last is None or last.n_frames == last.file.n_frames:
                raise RequestError("frame", str(item), f"{self.name}: a file announced before that holds it")
            self._rows.append(row_of(item, self.frame_format))
            last.n_frames += 1

    def take_back_partial(self) -> int:
        """Forget the frames that do not make a whole point; drop a file without any whole one."""
        with self._lock:
            if not self._files:
                return 0
            last = self._files[-1]
            n_frames = last.n_frames % self.frames_per_point
            for _ in range(n_frames):
                self._rows.pop()
            last.n_frames -= n_frames
            if not last.n_frames:
                self._files.pop().file.drop()
            return n_frames

    def flush(self) -> None:
        """Nothing waits here."""

    @property
    def n_ready(self) -> int:
        """Points of the oldest file with unsaved points."""
        with self._lock:
            self.settle()
            return self._n_unsaved(self._files[0]) if self._files else 0

    @property
    def more_files(self) -> bool:
        """Whether a second file with unsaved points is there."""
        with self._lock:
            self.settle()
            return sum(self._n_unsaved(entry) > 0 for entry in self._files) > 1

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

    def _n_unsaved(self, entry: _Entry) -> int:
        return entry.n_frames // self.frames_per_point - entry.n_saved

    def _next_file(self) -> tuple[FileAssets, int]:
        entry = self._files[0]
        if self._asked and entry.n_saved:
            raise DetectorStateError(
                f"{self.name}: {entry.file.path} holds points of another stream or run already, and a file "
                "belongs to one; take all its points in one stream, or one file per point"
            )
        return entry.assets, entry.n_saved

    def _saved(self, n_points: int) -> None:
        self._files[0].n_saved += n_points

    def settle(self) -> None:
        """Look whether the points handed out last were saved; forget files that are done."""
        with self._lock:
            super().settle()
            while len(self._files) > 1 and not self._n_unsaved(self._files[0]):
                self._files.popleft()
