"""A detector whose frames somebody else writes to files; this process sees ids, counts and paths."""

from __future__ import annotations

from ..wire.frame import FrameFormat
from ._detector import Detector
from ._store import WrittenFileStore


class FileDetector(Detector):
    """The base for writers: all of `Detector`, but the source brings `WrittenFile` and frames without images.

    For each file the source yields a `WrittenFile`, then one `Frame` with ``image=None`` per image in it, and
    `Progress` as often as it knows more: once the file is closed and was checked, or, where it can, while it
    grows. The file of an acquisition that is given up is not registered, or keeps the points registered so
    far; `WrittenFile.drop` is called for one of which no point is kept.
    """

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> WrittenFileStore:
        return WrittenFileStore(self.name, frame_format, frames_per_point)
