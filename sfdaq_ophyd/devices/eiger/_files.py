"""Frames in the files that the detector control unit writes itself: registered as they are."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import (
    DetectorStateError,
    FileFormatError,
    FramesMissing,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    StorageError,
    WireError,
)
from ...files.eiger_file import (
    IMAGES,
    START_TIME,
    EigerDataFile,
    EigerMasterFile,
    join_eiger_images,
    read_eiger_data_file,
    read_eiger_master_file,
)
from ...files.joined_images import of_points
from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame
from ...wire.simplon import DetectorState, event_id
from .._acquisition import LossPolicy
from .._assets import frames_in_hdf5
from .._source import Progress, Request, WrittenFile
from ._control import UID_LENGTH, EigerControl
from ._file_folder import WAIT, FileFolder, data_file, master_file
from ._order import Ending
from ._series import EigerSettings, TimestampSource
from ._source import SeriesSource, SoftwareTriggers

logger = logging.getLogger(__name__)

IMAGES_PER_FILE = 1000
"""Where the filewriter is set to put all images into the master file: that is whole at the end only."""

CHANNELS = "hdf5 nexus v2024.2 nxmx"
"""Format of the files that has more than one image per exposure."""

SOON = 0.02
"""s between the first two looks after an exposure."""

GRACE = 2.0
"""s after an exposure for a file to come, before the series is ended, which closes the last one."""

Items = Iterator[Frame | MissingFrame | Progress | WrittenFile]
Place = tuple[EigerDataFile, int] | None
"""Where an image is: file, and row in it; None where it is lost."""

Places = Sequence[Place]

UNREADABLE = (FileFormatError, WireError, ServiceRefused)
"""What is raised where one file is wrong, and not the unit or the disk."""


class Seen(NamedTuple):
    """What detector and filewriter tell of themselves, as far as they do."""

    state: str = "unknown"
    writer: str = "unknown"
    free: object = "unknown"

    def __str__(self) -> str:
        return f"detector '{self.state}', filewriter '{self.writer}', {self.free} bytes free"


class FilesSource(SeriesSource):
    """Frames in the files of the filewriter; with `delete` these go on the unit once they are here."""

    interface = "filewriter"

    def __init__(self, control: EigerControl, folder: FileFolder, delete: bool = False):
        super().__init__(control)
        self._folder, self._delete = folder, delete
        self._pattern = self._series = self._uid = ""
        self._series_id = self._n_files = self._n_taken = 0
        self._per_file = self._first_number = 1
        self._master: Path | None = None
        self._told = EigerMasterFile()
        self._n_channels: int | None = None  # as in `EigerDataFile`
        self._held: dict[int, Place] = {}  # images without a point as yet, by number

    # hooks of the base

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it and its filewriter, and say what its frames look like."""
        if settings.timestamp_source is TimestampSource.HOST:
            expected = (
                "'detector' where frames come from the filewriter, which does not hand them on one by one"
            )
            raise RequestError(f"{self.name}.timestamp_source", settings.timestamp_source.value, expected)
        self._folder.check()
        self._series = ""
        return super().open(settings)

    def read_format(self) -> FrameFormat:
        """Say what frames look like: an image per threshold."""
        found = super().read_format()
        n = len(self.control.channels())
        return replace(found, more_images={f"image_{k}": (found.shape, found.dtype) for k in range(2, n + 1)})

    def close(self) -> None:
        """Leave detector and filewriter as they were found. Safe twice."""
        try:
            super().close()
        finally:
            self._folder.end()
            self._end_with_files()

    def _interface_settings(self) -> dict[str, object]:
        found = {name: self.control.read(f"filewriter/config/{name}") for name in ("mode", "format")}
        if found["mode"] is None:
            raise DetectorStateError(f"{self.name}: this detector has no filewriter")
        first = self.control.value("filewriter/config/image_nr_start")
        self._first_number = first if isinstance(first, int) else 1
        wanted = self._new_names()
        n, file_format = len(self.control.channels()), found["format"]
        if n > 1:
            if file_format is None or CHANNELS not in file_format.allowed_values:
                raise DetectorStateError(
                    f"{self.name}: {n} images per exposure, and the filewriter has no format {CHANNELS!r}, "
                    "which keeps them: leave one threshold enabled"
                )
            wanted["filewriter/config/format"] = CHANNELS
        has_channels = n > 1 or (file_format is not None and file_format.value == CHANNELS)
        self._n_channels = n if has_channels else None
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
        self._held.clear()
        self._master, self._told = None, EigerMasterFile()
        self._uid = self.control.told_uid()

    # frames of our own series

    def _take_series(
        self, request: Request, triggers: SoftwareTriggers | None, stop: threading.Event
    ) -> Items:
        n_left, tolerant = request.n_frames, self._is_tolerant
        yield from self._fetch_master(stop)
        while n_left and not stop.is_set():
            name = data_file(self._series, self._n_files + 1)
            why = yield from self._until_ready(name, n_left, triggers, stop)
            if stop.is_set():
                return
            if why:
                if not tolerant:
                    raise self._missing(request, n_left, why, self._ids_not_there(n_left))
                n_absent = next(self._later(n_left), 0)
                if not n_absent:
                    logger.warning("%s: no more images come: %s", self.name, why)
                    yield from self._frames(n_left, request, last=True)
                    return
                told = (self.name, n_absent, name, why)
                logger.warning("%s: the images of %d files are lost, from %s on: %s", *told)
                self._pass_over(n_absent, n_left)
                continue
            yield from self._fetch_master(stop)  # some may write it later than others
            try:
                path = yield from self._folder.bring(name, self._series, stop, self._settings.timeout)
                if path is None:
                    return
                file = self._read(path)
            except UNREADABLE as exc:
                if not tolerant:
                    raise self._missing(
                        request, n_left, str(exc), self._ids(self._images_in(1, n_left))
                    ) from exc
                logger.warning("%s: the images of %s are lost: %s", self.name, name, exc)
                n_past = self._pass_over(1, n_left)
            else:
                self._check_series(path)
                why = self._lost_before(file)
                if why and not tolerant:
                    raise self._missing(request, n_left, why, self._ids_lacking(file, n_left))
                if self._delete:
                    self._delete_on_unit(name)
                self._n_files += 1
                n_past = self._hold(file)
            n = max(0, min(n_past, n_left))
            n_whole = n - n % request.frames_per_trigger  # a point may go on in the next file
            n_left -= n_whole
            yield from self._frames(n_whole, request, last=not n_left)  # closed at the last one

    def _until_ready(
        self, name: str, n_left: int, triggers: SoftwareTriggers | None, stop: threading.Event
    ) -> Generator[Progress, None, str]:
        """Yield progress until a file is ready; return why it does not come, and no more of its series."""
        end = Ending(self._longest + n_left * self.frame_time, GRACE)
        away, looked, pause, seen = Limit(self._settings.timeout), Limit(WAIT), SOON, Seen()
        n_images = min(self._per_file, n_left - (self._next_in_file - self._next_number))
        while not stop.is_set():
            if triggers is not None:
                triggers.check(self.control)
            exposing = triggers is not None and not triggers.done
            end.exposed = triggers is not None and not exposing
            if exposing:
                end.grace.restart()
            try:
                if self._is_ready(name, n_images if end.rest is None else 1):
                    return ""
                if looked.left == 0:
                    looked.restart()
                    before, seen = seen, self._look()
                    yield Progress(0, str(seen))
                    if exposing or seen != before:
                        end.limit.restart()
                    if self._is_over(seen, end):
                        return f"{end.why}; {self._folder.why}" if self._folder.why else end.why
                away.restart()
            except (ServiceUnreachable, ServiceTimeout, ServiceRefused) as exc:
                if away.reached() or (isinstance(exc, ServiceRefused) and (exc.code or 0) < 500):
                    raise
                logger.warning("%s: %s; trying again", self.name, exc)
            stop.wait(WAIT if exposing else pause)
            pause = min(WAIT, pause * (1 if exposing else 2))
        return ""

    @property
    def _is_tolerant(self) -> bool:
        return self._settings.loss_policy is LossPolicy.TOLERANT

    def _is_ready(self, name: str, n_images: int) -> bool:
        """Ask whether a file is ready; where losses are tolerated, one that the unit refuses is not there."""
        self._folder.why = ""
        try:
            return self._folder.is_ready(name, n_images)
        except ServiceRefused as exc:
            if not self._is_tolerant:
                raise
            self._folder.why = str(exc)
            return False

    def _look(self) -> Seen:
        """Ask for the states of detector and filewriter."""
        seen = Seen(self.control.working_state())
        try:
            writer = str(self.client.get("filewriter", "status", "state").value)
            return seen._replace(
                writer=writer, free=self.client.get("filewriter", "status", "buffer_free").value
            )
        except ServiceRefused as exc:
            if (exc.code or 0) >= 500:
                raise
            return seen

    def _is_over(self, seen: Seen, end: Ending) -> bool:
        """Find out whether a file that is not there can still come; end the series if it should be there."""
        if end.rest is not None:
            end.n_quiet += seen.writer != "acquire"  # then it is done
            return end.over or (end.n_quiet > 1 and end.rest.elapsed > GRACE)
        exposed = end.exposed and end.grace.reached()
        if seen.state == DetectorState.IDLE or exposed or end.limit.reached() or seen.writer == "error":
            end.why, end.rest = str(seen), Limit(self._settings.timeout)
            if seen.state != DetectorState.IDLE:
                self._armed_for = None
                self.client.disarm()  # which closes the last file
        return False

    def _fetch_master(self, stop: threading.Event) -> Iterator[Progress]:
        """Bring the master file beside the images, unless it is there."""
        if self._master is not None and self._master.exists():
            return
        name = master_file(self._series)
        if not self._is_ready(name, 0):
            return
        try:
            self._master = yield from self._folder.bring(name, self._series, stop, self._settings.timeout)
        except UNREADABLE as exc:
            if not self._is_tolerant:
                raise
            logger.warning("%s: %s", self.name, exc)
            return
        if self._master is not None:
            try:
                self._told = read_eiger_master_file(self._master)
            except FileFormatError as exc:
                logger.warning("%s: %s", self.name, exc)

    def _check_series(self, path: Path) -> None:
        """Raise if the detector has begun anew since it was armed: another series may have this file name.

        What somebody else arms has a master file from then on, of our pattern and its own number. Where
        these are higher than ours alone, it came after our series, and leaves its files as they are.
        """
        uid = self.control.told_uid()
        if not self._uid or uid in ("", self._uid):
            return
        if self.control.value("filewriter/config/name_pattern") != self._pattern:
            return
        before, _, after = self._pattern.partition("$id")
        ids = [
            name.removeprefix(before).removesuffix(f"{after}_master.h5")
            for name in self.client.files.names()
            if name.startswith(before) and name.endswith(f"{after}_master.h5")
        ]
        others = {int(one) for one in ids if one.isascii() and one.isdecimal()} - {self._series_id}
        if others and min(others) > self._series_id:
            return
        raise DetectorStateError(
            f"{self.name}: {path} may be of the series {uid!r}, expected {self._uid!r}: the detector was "
            f"initialized and armed by somebody else, and numbers of series begin anew with that"
        )

    def _read(self, path: Path) -> EigerDataFile:
        """Return what a file tells; raise unless it is whole, with images as they were said at stage."""
        form = self.frame_format
        assert form is not None  # `open` said it
        return read_eiger_data_file(
            path,
            shape=form.shape,
            dtype=form.dtype,
            n_channels=len(form.images),
            times=self._told.times_in.get(path.name, START_TIME),
            holes=self._settings.loss_policy is not LossPolicy.STRICT,
        )

    def _lost_before(self, file: EigerDataFile) -> str:
        """Say what is wrong with the numbers of a file's images; empty if they are those that are next."""
        first, n = self._next_in_file, file.n_images
        if file.first_number is None and file.numbers is None:
            return ""
        if file.numbers is not None and [*file.numbers] == [*range(first, first + n)]:
            return ""
        return (
            f"{file.path} holds {n} images, of the numbers {file.first_number} to {file.last_number}, "
            f"expected {first} to {first + n - 1}: the filewriter lost some"
        )

    def _later(self, n_left: int) -> Iterator[int]:
        """Yield, for each file after the next one that is there, how many come before it from that one on."""
        n_images = n_left - (self._next_in_file - self._next_number)
        for n in range(1, -(-n_images // self._per_file)):
            if self._stop.is_set():
                return
            if self._folder.has(data_file(self._series, self._n_files + 1 + n)):
                yield n

    def _images_in(self, n_files: int, n_left: int) -> range:
        """Return the numbers of the images that belong into the next files."""
        first, end = self._next_in_file, self._next_number + n_left
        return range(first, max(first, min(first + n_files * self._per_file, end)))

    def _pass_over(self, n_files: int, n_left: int) -> int:
        """Take the images of the next files as lost; return how many numbers are past."""
        self._held |= dict.fromkeys(self._images_in(n_files, n_left))
        self._n_files += n_files
        return self._next_in_file - self._next_number

    def _ids(self, numbers: Iterable[int]) -> list[str]:
        return [event_id(self._series_id, number - self._first_number) for number in numbers]

    def _ids_not_there(self, n_left: int) -> list[str]:
        """Return the ids of the images in the files that are not there, from the next one on."""
        there, numbers = set(self._later(n_left)), self._images_in(n_left, n_left)
        return self._ids(number for k, number in enumerate(numbers) if k // self._per_file not in there)

    def _ids_lacking(self, file: EigerDataFile, n_left: int) -> list[str]:
        """Return the ids that a file passes over; none where it does not tell which these are."""
        numbers, first, last = file.numbers, file.first_number, file.last_number
        if numbers is None or first is None or last is None:
            return []
        if np.any(numbers < 0) and last - first != file.n_images - 1:
            return []
        end = min(last + 1, self._next_number + n_left)
        return self._ids(sorted({*range(self._next_in_file, end)} - {*numbers.tolist()}))

    def _hold(self, file: EigerDataFile) -> int:
        """Keep the images of a file for the points that they belong to; return how many numbers are past."""
        numbers = file.numbers
        if numbers is None:
            numbers = self._next_in_file + np.arange(file.n_images)
        elif n_unknown := np.count_nonzero(numbers < 0):
            told = (self.name, file.path, n_unknown)
            logger.warning("%s: of %s %d images were not written, or have numbers that are not known", *told)
        self._held |= {int(number): (file, row) for row, number in enumerate(numbers) if number >= 0}
        return max([*self._held, file.last_number or 0]) + 1 - self._next_number

    def _frames(self, n: int, request: Request, last: bool) -> Items:
        """Yield a file that has the next `n` images in their places, and their frames; some may be lost.

        It is the filewriter's where that has these images alone, and of one point; else it is one of ours.
        What more there is belongs to no point, where these are the `last` ones of a request.
        """
        if not n:
            return
        first, number, self._n_taken = self._n_taken, self._next_number, self._n_taken + n
        places = [self._held.pop(number + k, None) for k in range(n)]
        if last:
            self._n_taken = self._next_in_file - self._first_number
            self._held.clear()
        n_used = Counter(place[0] for place in places if place is not None)
        used = list(n_used)
        n_channels = used[0].n_channels if used else self._n_channels
        path = self._folder.path / f"{self._series}_data_from_{number:06d}.h5"
        if used and places == [(used[0], row) for row in range(n)]:
            path = used[0].path
            if (n, used[0].n_images) != (request.frames_per_trigger,) * 2:
                ours = Path(of_points(str(path)))
                try:
                    self._join(ours, places, n_channels)
                    path = ours
                except StorageError as exc:
                    logger.info("%s: no file can be made beside %s: %s", self.name, path, exc)
        else:
            if None in places:
                self._armed_for = None
            self._join(path, places, n_channels)
        whole = [file for file in used if n_used[file] == file.n_images]  # no other point has images of it
        yield from self._announced(path, places, first, n_channels, whole, request)

    def _join(self, path: Path, places: Places, n_channels: int | None) -> None:
        """Write a file of ours that has images in their places."""
        form = self.frame_format
        assert form is not None  # `open` said it
        join_eiger_images(path, places, shape=form.shape, dtype=form.dtype, n_channels=n_channels)

    def _announced(
        self,
        path: Path,
        places: Places,
        first: int,
        n_channels: int | None,
        files: Sequence[EigerDataFile],
        request: Request,
    ) -> Items:
        """Yield a file with images in their places, and their frames; `files` go if these are not kept."""
        series, series_id = self._series, self._series_id
        ours = all(place is None or path != place[0].path for place in places)

        def drop() -> None:
            if ours:
                path.unlink(missing_ok=True)
            for file in files:
                self._folder.drop(series, file.path)

        def keep(n_frames: int) -> None:
            if ours and n_frames < len(places):
                self._join(path, places[:n_frames], n_channels)

        yield WrittenFile(path, len(places), self._keys(n_channels, request), drop=drop, keep=keep)
        for k, place in enumerate(places, first):
            yield MissingFrame(event_id(series_id, k)) if place is None else self._frame(*place, k)

    def _keys(self, n_channels: int | None, request: Request) -> dict[str, dict]:
        form, keys = self.frame_format, {}
        assert form is not None  # `open` said it
        for k, image in enumerate(form.images):
            keys[image] = {**frames_in_hdf5(IMAGES, form.shape, request.frames_per_trigger), "swmr": False}
            if n_channels is not None:
                keys[image]["slice"] = f":,{k}"
        return keys

    def _frame(self, file: EigerDataFile, row: int, image_id: int) -> Frame:
        timestamp = self._told.start_of_times + float(file.start_time[row])
        scalars: dict[str, float | str] = {"series_uid": self._uid or self._own_uid}
        return Frame(None, timestamp, event_id(self._series_id, image_id), scalars=scalars)

    @property
    def _next_number(self) -> int:
        """What the filewriter calls the next image of a point."""
        return self._first_number + self._n_taken

    @property
    def _next_in_file(self) -> int:
        """What it calls the first image of the next file."""
        return max([*self._held, self._next_number - 1]) + 1

    def _missing(self, request: Request, n_left: int, why: str, ids: Sequence[str]) -> FramesMissing:
        self._armed_for = None
        got = request.n_frames - n_left
        return FramesMissing(self.name, asked=request.n_frames, got=got, missing=ids, detail=why)

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
