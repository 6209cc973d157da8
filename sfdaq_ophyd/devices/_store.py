"""Points of one staging: rows of events, and the documents of their images. What all stores have in common.

A point is `frames_per_trigger` frames. It is on disk first, then handed to the RunEngine, then saved by it;
whatever was not saved is taken back.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from itertools import islice

import numpy as np

from ..wire.frame import Frame, FrameFormat, MissingFrame
from ._assets import FileAssets
from ._keys import columns_of


class PointStore(ABC):
    """Rows after the last saved point, and whose turn it is.

    Parameters
    ----------
    name : str
        Of the device: start of data keys.
    frame_format : FrameFormat
        What every frame looks like.
    frames_per_point : int
        Frames that belong to one event.
    """

    def __init__(self, name: str, frame_format: FrameFormat, frames_per_point: int):
        self.name, self.frame_format, self.frames_per_point = name, frame_format, frames_per_point
        self._lock = threading.RLock()
        self._rows: deque[tuple] = deque()
        self._handed_to: FileAssets | None = None
        self._n_handed = 0
        self._new_streams = 0

    # from the thread that acquires

    @abstractmethod
    def append(self, item: Frame | MissingFrame) -> None:
        """Take one more frame."""

    @abstractmethod
    def take_back_partial(self) -> int:
        """Forget the frames that do not make a whole point on disk; return how many those were."""

    @abstractmethod
    def flush(self) -> None:
        """Bring every frame to disk."""

    # from the RunEngine's thread

    def described(self) -> None:
        """Note that the RunEngine begins a stream: what was saved so far belongs to another one."""
        self._new_streams += 1

    @property
    @abstractmethod
    def n_ready(self) -> int:
        """Points on disk, not saved yet, that can be handed out together: those of one file."""

    @property
    @abstractmethod
    def more_files(self) -> bool:
        """Whether points of further files will be ready once those of `n_ready` are saved."""

    def columns(self, n_points: int) -> dict[str, list]:
        """Return the rows of the next `n_points` points, by column; a point of several frames is a list."""
        n = self.frames_per_point
        with self._lock:
            rows = list(islice(self._rows, n_points * n))
        names = columns_of(self.frame_format)
        columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
        if n == 1:
            return columns
        return {name: [column[i : i + n] for i in range(0, len(rows), n)] for name, column in columns.items()}

    def documents(self, n_points: int) -> list[tuple[str, dict]]:
        """Return the documents of the next `n_points` points."""
        with self._lock:
            self._handed_to, first = self._next_file()
            self._n_handed = n_points
            return list(self._handed_to.documents(first, first + n_points))

    @abstractmethod
    def _next_file(self) -> tuple[FileAssets, int]:
        """Return the file of the next point, and the point's place in it."""

    @abstractmethod
    def _saved(self, n_points: int) -> None:
        """Note that the RunEngine saved the next `n_points` points; their rows are gone already."""

    def settle(self) -> None:
        """Look whether the points handed out last were saved."""
        with self._lock:
            if self._n_handed and self._handed_to.saved:
                n_points, self._n_handed = self._n_handed, 0
                for _ in range(n_points * self.frames_per_point):
                    self._rows.popleft()
                self._saved(n_points)

    @abstractmethod
    def take_back_unsaved(self) -> None:
        """Forget every frame after the last saved point."""

    @abstractmethod
    def close(self) -> None:
        """Take back what was not saved, and close. Safe twice."""


def row_of(item: Frame | MissingFrame, fmt: FrameFormat) -> tuple:
    """Return everything about a frame but its image, in the order of `columns_of`."""
    if isinstance(item, Frame):
        pulse_id = (int(item.pulse_id),) if fmt.has_pulse_id else ()
        numbers = (kind.type(item.scalars[name]).item() for name, kind in fmt.scalars.items())
        return (float(item.timestamp), item.event_id, *pulse_id, bool(item.is_good), *numbers)
    pulse_id = (-1,) if fmt.has_pulse_id else ()
    return (math.nan, "", *pulse_id, False, *(_nothing(kind) for kind in fmt.scalars.values()))


def _nothing(kind: np.dtype) -> float | int:
    return math.nan if kind.kind == "f" else 0
