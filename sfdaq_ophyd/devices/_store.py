"""Points of one staging: rows of events, and the documents of their images.

A point is `frames_per_trigger` frames. It is on disk first, then handed to the RunEngine, then saved by it;
whatever was not saved is taken back.

A file of our own belongs to one event stream of one run. The device is not told the stream, but the RunEngine
asks for its description once per stream and run, so a new description means a new file. While several streams
are open (dark and primary, or those of two runs, one inside the other), nobody tells whose the next point is:
every point gets a file of its own then, and the catalog joins the files of a stream.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import DetectorStateError, RequestError, ShapeError
from ..files.frame_file import FrameFile, dataset_of, dataset_of_column
from ..files.storage import check_folder, make_folder, sync
from ..wire.frame import Frame, FrameFormat, MissingFrame, Tables, nothing
from ._assets import FileAssets, column_in_hdf5, columns_of, frames_in_hdf5
from ._source import WrittenFile

NO_PULSE_ID = -1
"""`NAME_pulse_id` of a frame that did not come, or whose source did not know its pulse."""

Item = TypeVar("Item")
"""What a store takes: frames, and what its source yields beside them."""


class PointStore(ABC, Generic[Item]):
    """Rows after the last saved point, and whose turn it is.

    `name` is the device's, with which data keys begin; `has_streams` tells whether the RunEngine asked for a
    description since stage.
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
    def append(self, item: Item) -> None:
        """Take one more frame, or what else the source yields beside frames; may block for a bounded time."""

    @abstractmethod
    def take_back_partial(self) -> int:
        """Forget the frames that do not make a whole point; return how many those were."""

    @abstractmethod
    def take_back_last(self, n_points: int) -> None:
        """Forget so many whole points, the last ones, none of which was handed out."""

    @abstractmethod
    def flush(self) -> None:
        """Bring every frame to where readers see it."""

    # from the RunEngine's thread

    def described(self, description: OrderedDict | None = None) -> None:
        """Note that the RunEngine begins a stream: what was saved so far belongs to another one.

        It keeps the description that it gets until the run is closed, which nobody tells a device otherwise:
        a stream is open as long as its description is alive; without one, until unstage.
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
    def more_files(self) -> bool:
        """Whether points of further files will be ready once those of `n_ready` are saved."""
        return False

    def columns(self, n_points: int) -> dict[str, list]:
        """Return the rows of the next points, by column; a point of several frames is a list of values."""
        n = self.frames_per_point
        with self._lock:
            rows = list(islice(self._rows, n_points * n))
        names = columns_of(self.frame_format)
        columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
        if n == 1:
            return columns
        return {name: [column[i : i + n] for i in range(0, len(rows), n)] for name, column in columns.items()}

    def documents(self, n_points: int, *, in_file: bool = False) -> list[tuple[str, dict]]:
        """Return the documents of the next points; if ids are to be `in_file`, of those columns too."""
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
            if self._n_handed and self._handed_to is not None and self._handed_to.saved:
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

    def close(self) -> None:
        """Take back what was not saved, and close. Safe twice."""
        self.take_back_unsaved()


def _for_ever() -> bool:
    return True


def row_of(item: Frame | MissingFrame, fmt: FrameFormat) -> tuple:
    """Return everything about a frame but its image, in the order of `columns_of`."""
    if isinstance(item, Frame):
        pulse_id = (NO_PULSE_ID if item.pulse_id is None else int(item.pulse_id),) if fmt.has_pulse_id else ()
        numbers = (kind.type(item.scalars[name]).item() for name, kind in fmt.scalars.items())
        return (float(item.timestamp), item.event_id, *pulse_id, bool(item.is_good), *numbers)
    pulse_id = (NO_PULSE_ID,) if fmt.has_pulse_id else ()
    return (math.nan, "", *pulse_id, False, *(nothing(kind) for kind in fmt.scalars.values()))


class _Entry:
    """A file, how many frames of it came, and how many of its points were saved."""

    def __init__(self, file: WrittenFile, name: str):
        keys = {f"{name}_{key}": parameters for key, parameters in file.keys.items()}
        self.file, self.assets = file, FileAssets(file.path, keys, file.mimetype)
        self.n_frames = self.n_saved = 0


class WrittenFileStore(PointStore[Frame | MissingFrame | WrittenFile]):
    """Rows of frames, and the files that hold their images.

    The source yields a `WrittenFile`, then a `Frame` without an image for every image of it; a row belongs to
    the file announced last. A file of which no point was saved is dropped when its points are taken back.
    """

    def __init__(self, name: str, frame_format: FrameFormat, frames_per_point: int):
        super().__init__(name, frame_format, frames_per_point)
        self._files: deque[_Entry] = deque()  # the last one, and those with points that are not saved

    def append(self, item: Frame | MissingFrame | WrittenFile) -> None:
        """Take one more frame, or the file that holds the next ones.

        RequestError where no file was announced that holds the frame, or a file holds no whole points.
        """
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

    def take_back_last(self, n_points: int) -> None:
        """Forget the last points; drop files without any other."""
        with self._lock:
            self.settle()
            n_frames = n_points * self.frames_per_point
            while n_frames:
                last = self._files[-1]
                n_of_file = min(n_frames, last.n_frames)
                for _ in range(n_of_file):
                    self._rows.pop()
                last.n_frames -= n_of_file
                n_frames -= n_of_file
                if not last.n_frames:
                    self._files.pop().file.drop()

    def flush(self) -> None:
        """Do nothing: no frame waits here to be written."""

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
                self._done_with(entry)

    def _done_with(self, entry: _Entry) -> None:
        if entry.n_saved:
            entry.file.keep(entry.n_saved * self.frames_per_point)
        else:
            entry.file.drop()

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
                self._done_with(self._files.popleft())


SYNC_PERIOD = 5.0
"""s after which frames are on the disk itself, at the latest when the next point is."""


class FrameStore(PointStore[Frame | MissingFrame | Tables | FrameFormat]):
    """Write frames, and take back what was not saved.

    Files are made in `directory`, one per stream and run, none without a frame.

    Parameters
    ----------
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

        ShapeError where a frame came, or was described, that looks otherwise.
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
            self._take_back(n_frames)
            return n_frames

    def take_back_last(self, n_points: int) -> None:
        """Forget the last points, and cut them off the file."""
        with self._lock:
            self.settle()
            self._take_back(n_points * self.frames_per_point)

    def _take_back(self, n_frames: int) -> None:
        for _ in range(n_frames):
            self._rows.pop()
        if n_frames:
            assert self._file is not None  # rows are of the open file
            self._file.truncate(self._n_saved * self.frames_per_point + len(self._rows))

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
        self._not_synced.add(file.path)  # one that takes over points has rows before any is appended
        return file

    def _close_file(self) -> None:
        file, self._file, self._assets, self._homeless = self._file, None, None, []
        self._n_saved = self._n_handed = 0
        if file is not None:
            file.close()
