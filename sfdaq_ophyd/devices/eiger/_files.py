"""Frames in the files that the detector control unit writes itself: registered as they are."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

from ...clients.simplon import SimplonClient
from ...errors import (
    DetectorStateError,
    FileFormatError,
    FramesMissing,
    SfdaqError,
)
from ...files.eiger_file import (
    IMAGES,
    START_TIME,
    EigerDataFile,
    EigerMasterFile,
    read_eiger_data_file,
    read_eiger_master_file,
)
from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame
from ...wire.simplon import event_id
from .._assets import frames_in_hdf5
from .._source import Progress, Request, WrittenFile
from .._worker import JOIN_TIMEOUT, Worker
from ..debts import Debts
from ._file_folder import FileFolder, data_file, master_file
from ._file_wait import WAIT, FileWait
from ._readings import n_images_per_exposure
from ._series import EigerSettings
from ._source import SeriesSource
from ._stream import UID_LENGTH
from ._triggers import SoftwareTriggers

logger = logging.getLogger(__name__)

IMAGES_PER_FILE = 1000
"""Where the filewriter is set to put all images into the master file: that is whole at the end only."""

CHANNELS = "hdf5 nexus v2024.2 nxmx"
"""Format of the files that has more than one image per exposure."""

Items = Iterator[Frame | MissingFrame | Progress | WrittenFile]


class FilesSource(SeriesSource):
    """Frames of one Eiger in the files of its filewriter.

    Parameters
    ----------
    client, name, debts, on_stale
        For `SeriesSource`.
    folder : FileFolder
        Where this machine finds the files.
    delete : bool
        Whether files are deleted on the unit once they are here.
    """

    interface = "filewriter"

    def __init__(
        self,
        client: SimplonClient,
        name: str,
        debts: Debts,
        on_stale: Callable[[int], None],
        folder: FileFolder,
        delete: bool = False,
    ):
        super().__init__(client, name, debts, on_stale)
        self._folder, self._delete = folder, delete
        self._fetching = Worker(f"{name} files")
        self._pattern = self._series = self._uid = ""
        self._series_id = self._n_files = self._n_taken = 0
        self._per_file = self._first_number = 1
        self._master: Path | None = None
        self._told = EigerMasterFile()

    # hooks of the base

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it and its filewriter, and say what its frames look like."""
        self._folder.check()
        self._series = ""
        return super().open(settings)

    def read_format(self) -> FrameFormat:
        """Say what frames look like: an image per threshold."""
        found = super().read_format()
        n = n_images_per_exposure(self.control)
        return replace(found, more_images={f"image_{k}": (found.shape, found.dtype) for k in range(2, n + 1)})

    def close(self) -> None:
        """Leave detector and filewriter as they were found. Safe twice."""
        try:
            super().close()
        finally:
            self._fetching.end()
            self._end_with_files()

    def _interface_settings(self) -> dict[str, object]:
        found = {name: self.control.read("filewriter", name) for name in ("mode", "format")}
        if found["mode"] is None:
            raise DetectorStateError(f"{self.name}: this detector has no filewriter")
        first = self.control.read("filewriter", "image_nr_start")
        self._first_number = first.value if first is not None and isinstance(first.value, int) else 1
        wanted = self._new_names()
        n, file_format = n_images_per_exposure(self.control), found["format"]
        if n > 1:
            if file_format is None or CHANNELS not in file_format.allowed_values:
                raise DetectorStateError(
                    f"{self.name}: {n} images per exposure, and the filewriter has no format {CHANNELS!r}, "
                    "which keeps them: leave one threshold enabled"
                )
            wanted["filewriter/config/format"] = CHANNELS
        return wanted | {"filewriter/config/mode": "enabled"}

    def _new_names(self) -> dict[str, object]:
        """Name the files of the next series as no others: numbers of series begin anew with the detector."""
        self._pattern = f"{self.name}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:8]}_$id"
        return {"filewriter/config/name_pattern": self._pattern}

    def _scalars(self, dtype: str) -> dict[str, str]:
        return {"series_uid": f"U{UID_LENGTH}"}

    def _room_for(self, n_frames: int) -> dict[str, object]:
        """Have a point in one file, and as few files as were wanted before."""
        per_point = self._settings.frames_per_trigger
        found = self.control.found("filewriter/config/nimages_per_file")
        found = found if isinstance(found, int) and found else IMAGES_PER_FILE
        most = max(per_point, found // per_point * per_point)
        self._per_file = min(n_frames, most)
        per_file: dict[str, object] = {"filewriter/config/nimages_per_file": self._per_file}
        return self._new_names() | per_file | {"filewriter/config/mode": "enabled"}

    def _drop_old(self) -> None:
        self._end_with_files()

    def _begin_series(self, series_id: int) -> None:
        self._series_id, self._series = series_id, self._pattern.replace("$id", str(series_id))
        self._n_files = self._n_taken = 0
        self._master, self._told = None, EigerMasterFile()
        self._uid = self._told_uid()

    def _told_uid(self) -> str:
        """Return the unique id of the series, as the detector says; empty where it does not."""
        try:
            uid = self.client.get("detector", "status", "series_unique_id").value
        except SfdaqError:
            return ""
        return uid[:UID_LENGTH] if isinstance(uid, str) else ""

    # frames of our own series

    def _take_series(
        self, request: Request, triggers: SoftwareTriggers | None, stop: threading.Event
    ) -> Items:
        n_left = request.n_frames
        yield from self._fetch_master(stop)
        while n_left and not stop.is_set():
            name = data_file(self._series, self._n_files + 1)
            awaited = FileWait(
                self.control,
                self._folder,
                triggers,
                stop,
                timeout=self._settings.timeout,
                longest=self._longest + n_left * self.frame_time,
            )
            yield from awaited.until_ready(name, min(self._per_file, n_left))
            if awaited.ended:
                self._armed_for = None
            if stop.is_set():
                return
            if awaited.over:
                raise self._missing(request, n_left, awaited.why)
            path = yield from self._fetched(name, stop)
            if path is None:
                return
            yield from self._fetch_master(stop)  # some may write it later than others
            file = self._checked(path, request, n_left)
            if self._delete:
                self._delete_on_unit(name)
            n = min(file.n_images, n_left)
            n_whole = n - n % request.frames_per_trigger
            first, self._n_taken = self._n_taken, self._n_taken + file.n_images
            self._n_files, n_left = self._n_files + 1, n_left - n_whole
            yield from self._frames(file, first, n_whole, request)  # closed at the last one
            if n_left and n_whole < n:
                why = f"{path} holds {file.n_images} images, and a point cannot go on in another file"
                raise self._missing(request, n_left, why)

    def _fetch_master(self, stop: threading.Event) -> Iterator[Progress]:
        """Bring the master file beside the images, unless it is there."""
        if self._master is not None and self._master.exists():
            return
        name = master_file(self._series)
        if not self._folder.is_ready(name, 0):
            return
        self._master = yield from self._fetched(name, stop)
        if self._master is not None:
            try:
                self._told = read_eiger_master_file(self._master)
            except FileFormatError as exc:
                logger.warning("%s: %s", self.name, exc)

    def _fetched(self, name: str, stop: threading.Event) -> Generator[Progress, None, Path | None]:
        """Yield progress, and return the path of the file; None if it was given up."""
        outcome: list[Path | Exception] = []
        there, told, wanted = [0, 0], 0, False

        def on_progress(n_bytes: int, size: int) -> None:
            there[:] = n_bytes, size

        def fetch() -> None:
            try:
                patience = self._settings.timeout
                outcome.append(
                    self._folder.fetch(name, stop=stop, on_progress=on_progress, patience=patience)
                )
            except Exception as exc:
                outcome.append(exc)

        ended = self._fetching.do(fetch)
        try:
            while not ended.wait(WAIT):
                if stop.is_set():
                    self.client.files.interrupt()
                elif there[0] > told:
                    told = there[0]
                    yield Progress(0, f"{name}: {there[0]} of {there[1]} bytes are here")
            wanted = not stop.is_set()
        finally:
            limit = Limit(JOIN_TIMEOUT)
            while not ended.is_set() and not limit.reached():  # the acquisition was given up
                stop.set()
                self.client.files.interrupt()
                limit.wait(ended, WAIT)
            if not wanted and outcome and isinstance(outcome[0], Path):
                self._folder.drop(self._series, outcome[0])
        if not wanted:
            return None
        (found,) = outcome
        if isinstance(found, Exception):
            raise found
        return found

    def _checked(self, path: Path, request: Request, n_left: int) -> EigerDataFile:
        """Return what a file tells; raise unless it holds the images that are next, and all of them."""
        form = self.frame_format
        assert form is not None  # `open` said it
        file = read_eiger_data_file(
            path,
            shape=form.shape,
            dtype=form.dtype,
            n_channels=len(form.images),
            times=self._told.times_in.get(path.name, START_TIME),
        )
        first, n = self._first_number + self._n_taken, file.n_images
        if file.first_number is None and file.numbers is None:
            return file
        if file.numbers is None or [*file.numbers] != [*range(first, first + n)]:
            why = (
                f"{path} holds {n} images, of the numbers {file.first_number} to {file.last_number}, "
                f"expected {first} to {first + n - 1}: the filewriter lost some"
            )
            raise self._missing(request, n_left, why)
        return file

    def _frames(
        self, file: EigerDataFile, first: int, n: int, request: Request
    ) -> Iterator[WrittenFile | Frame]:
        """Yield the file, and `n` frames that it holds, whose numbers begin with `first`."""
        if not n:
            return
        form, series, path = self.frame_format, self._series, file.path
        assert form is not None  # `open` said it
        keys = {}
        for k, image in enumerate(form.images):
            keys[image] = {**frames_in_hdf5(IMAGES, form.shape, request.frames_per_trigger), "swmr": False}
            if file.n_channels is not None:
                keys[image]["slice"] = f":,{k}"
        yield WrittenFile(path, n, keys, drop=lambda: self._folder.drop(series, path))
        scalars: dict[str, float | str] = {"series_uid": self._uid or self._own_uid}
        for k in range(n):
            timestamp = self._told.start_of_times + float(file.start_time[k])
            yield Frame(None, timestamp, event_id(self._series_id, first + k), scalars=scalars)

    def _missing(self, request: Request, n_left: int, why: str) -> FramesMissing:
        self._armed_for = None
        got = request.n_frames - n_left
        return FramesMissing(self.name, asked=request.n_frames, got=got, detail=why)

    def _delete_on_unit(self, name: str) -> None:
        try:
            self.client.files.delete(name)
        except SfdaqError as exc:
            logger.warning("%s: %s stays on the unit: %s", self.name, name, exc)

    def _end_with_files(self) -> None:
        """Take leave of the last series: nothing more comes of its master file."""
        master, self._master = self._master, None
        if self._series:
            self._folder.tidy(self._series)
        if self._delete and master is not None:
            self._delete_on_unit(master.name)
