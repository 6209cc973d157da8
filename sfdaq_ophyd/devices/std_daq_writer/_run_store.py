"""Points of one file for a whole run."""

from __future__ import annotations

from collections.abc import Callable

from ...wire.frame import FrameFormat
from .._foreign_store import ForeignStore


class RunFileStore(ForeignStore):
    """Points of a file that stays open from trigger to trigger.

    A point that was taken but not saved leaves images in the file that belong to none: the file is ended
    then, and the next point begins another one.

    Parameters
    ----------
    name, frame_format, frames_per_point
        As for `ForeignStore`.
    is_open : callable
        Whether the file of the last point takes images.
    end : callable
        Ends it.
    """

    def __init__(
        self,
        name: str,
        frame_format: FrameFormat,
        frames_per_point: int,
        is_open: Callable[[], bool],
        end: Callable[[], None],
    ):
        super().__init__(name, frame_format, frames_per_point)
        self._is_open, self._end = is_open, end

    def take_back_unsaved(self) -> None:
        """Forget points that were not saved; go on with the file if there were none."""
        with self._lock:
            self.settle()
            if self._rows or not self._is_open():
                self._end()
                super().take_back_unsaved()
            self._n_handed = 0
