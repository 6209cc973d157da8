"""A detector whose frames somebody else writes to files; this process sees ids, counts and paths."""

from __future__ import annotations

from ..wire.frame import FrameFormat
from ._detector import Detector
from ._foreign_store import ForeignStore


class FileDetector(Detector):
    """The base for writers: all of `Detector`, but the source brings `WrittenFile` and frames without images.

    For each file the source yields a `WrittenFile`, once it is closed and was checked, then one `Frame` with
    ``image=None`` per image in it; before that, `Progress` as often as it knows more. An acquisition that is
    given up leaves no file: the source stops the writer in `discard`, `WrittenFile.drop` cleans up behind a
    point that was taken but not kept.
    """

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> ForeignStore:
        return ForeignStore(self.name, frame_format, frames_per_point)
