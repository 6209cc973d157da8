"""Points of one staging: rows of events, and the documents of their images. What all stores have in common.

A point is `frames_per_trigger` frames. It is on disk first, then handed to the RunEngine, then saved by it;
whatever was not saved is taken back.
"""

from __future__ import annotations

import math
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice

from ..wire.frame import Frame, FrameFormat, MissingFrame, nothing
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

    Attributes
    ----------
    has_streams : bool
        Whether the RunEngine asked for a description since stage.
    """

    def __init__(self, name: str, frame_format: FrameFormat, frames_per_point: int):
        self.name, self.frame_format, self.frames_per_point = name, frame_format, frames_per_point
        self._lock = threading.RLock()
        self._rows: deque[tuple] = deque()
        self._handed_to: FileAssets | None = None
        self._n_handed = 0
        self._n_collected = 0
        self._asked: list[Callable] = []  # descriptions of streams without a point
        self._open: list[Callable] = []  # those of streams with points that may get more
        self._stream: Callable | None = None  # of the last file, where it is known
        self.has_streams = False

    @property
    def is_fresh(self) -> bool:
        """Whether nobody was told yet what frames look like, and none came."""
        return not self.has_streams and not self._rows

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

    def described(self, description: OrderedDict | None = None) -> None:
        """Note that the RunEngine begins a stream: what was saved so far belongs to another one.

        Parameters
        ----------
        description : OrderedDict, optional
            What the RunEngine gets. It keeps it until the run is closed, which nobody tells a device
            otherwise: a stream is open as long as its description is alive. Without one, until unstage.
        """
        with self._lock:
            self.settle()
            self.has_streams = True
            self._asked.append(_for_ever if description is None else weakref.ref(description))
            self._n_collected = 0

    @property
    def _only_stream(self) -> Callable | None:
        """The stream to which a point belongs if there is one; None as long as there are several."""
        streams = [stream for stream in self._open + self._asked if stream() is not None]
        return streams[0] if len(streams) == 1 else None

    @property
    def _goes_on(self) -> bool:
        """Whether the next point belongs to the stream of the last file for sure."""
        return self._stream is not None and self._stream is self._only_stream

    def prepared(self) -> None:
        """Begin to count points anew, as other packages' detectors do with a new fly scan; see `index`."""
        with self._lock:
            self.settle()
            self._n_collected = 0

    @property
    def n_collected(self) -> int:
        """Points saved since the stream was described or the fly scan prepared."""
        with self._lock:
            self.settle()
            return self._n_collected

    @property
    def index(self) -> int:
        """Points saved, as in `n_collected`, and those that are ready to be."""
        with self._lock:
            return self.n_collected + self.n_ready

    @property
    def columns_in_file(self) -> dict[str, dict]:
        """What the file of the images holds beside them, by column: parameters of its StreamResource."""
        return {}

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

    def documents(self, n_points: int, *, in_file: bool = False) -> list[tuple[str, dict]]:
        """Return the documents of the next `n_points` points.

        With `in_file` the `columns_in_file` are registered as well: nobody will ask for their rows.
        """
        more = self.columns_in_file if in_file else {}
        with self._lock:
            self._handed_to, first = self._next_file()
            self._n_handed = n_points
            # the run is open; a description that is gone was joined with others': its death tells nothing
            self._asked = [asked if asked() is not None else _for_ever for asked in self._asked]
            if first == 0:
                self._stream = self._only_stream
            keys = {f"{self.name}_{column}": parameters for column, parameters in more.items()}
            return list(self._handed_to.documents(first, first + n_points, keys))

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
                self._n_collected += n_points
                for _ in range(n_points * self.frames_per_point):
                    self._rows.popleft()
                self._saved(n_points)
                self._open = [asked for asked in self._open + self._asked if asked() is not None]
                self._asked = []

    @abstractmethod
    def take_back_unsaved(self) -> None:
        """Forget every frame after the last saved point."""

    @abstractmethod
    def close(self) -> None:
        """Take back what was not saved, and close. Safe twice."""


def _for_ever() -> bool:
    return True


def row_of(item: Frame | MissingFrame, fmt: FrameFormat) -> tuple:
    """Return everything about a frame but its image, in the order of `columns_of`."""
    if isinstance(item, Frame):
        pulse_id = (int(item.pulse_id),) if fmt.has_pulse_id else ()
        numbers = (kind.type(item.scalars[name]).item() for name, kind in fmt.scalars.items())
        return (float(item.timestamp), item.event_id, *pulse_id, bool(item.is_good), *numbers)
    pulse_id = (-1,) if fmt.has_pulse_id else ()
    return (math.nan, "", *pulse_id, False, *(nothing(kind) for kind in fmt.scalars.values()))
