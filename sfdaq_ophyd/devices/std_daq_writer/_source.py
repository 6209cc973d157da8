"""The standard DAQ as a source of files: one per point, or one that grows over many points."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...errors import DetectorStateError, Discarded, SfdaqError, UnknownOutcome
from ...files.joined_images import of_points
from ...wire.frame import Frame, FrameFormat
from ...wire.std_daq import WriteRequest, Writing
from ...wire.std_daq_config import DaqConfig
from .._source import Progress, Request, WrittenFile
from ._control import MissedStart, PointsLost, WriterControl
from ._daq_file import DaqFile
from ._paths import PathMaker
from ._rates import Beginning, FreeRunning, RingLag, Stats

logger = logging.getLogger(__name__)

START_LIMIT = 40.0
"""s after which a start has failed, whatever happens to it: two attempts and their reset."""

Items = Iterator[Frame | Progress | WrittenFile | None]


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Settings of one staging.

    Attributes
    ----------
    paths : PathMaker
    timeout : float
        s without a new image after which the acquisition has stalled.
    settle_time : float
        s from WRITING until others may send images where none come by themselves: the DAQ's driver subscribes
        to them up to 0.1 s later, and does not tell.
    tolerant : bool
        Whether points whose pixels may be overrun are marked; else they fail.
    n_images_per_run : int
        0 writes one file per call; otherwise one file of so many images, over several calls.
    """

    paths: PathMaker
    timeout: float
    settle_time: float
    tolerant: bool = False
    n_images_per_run: int = 0


class StdDaqSource:
    """Hooks of a `FileDetector`.

    Parameters
    ----------
    find_control : callable
        Called whenever it is opened, with the control so far or None; returns that of the DAQ that is there.
    name : str
        Of the device.
    on_request : callable
        Called with a request, and the path the documents will name.
    on_config : callable
        Called with the configuration.
    on_armed : callable
        Called once the writer takes images, in the source's thread; with whether it is a fly scan, and the
        event that gives it up.
    on_lag : callable
        Called with the images by which the writer was behind, when that grows.
    on_unused : callable
        Called with the path of a file that belongs to no point.
    wait_for_others : callable
        Called when all images came; returns once the point is complete elsewhere too, raises if the event it
        is given is set.
    others_done : callable
        Whether the others have their frames, as far as is known; None if nobody waits for the writer.

    Attributes
    ----------
    stats : Stats or None
        Throughput, while somebody follows it.
    """

    def __init__(
        self,
        find_control: Callable[[WriterControl | None], WriterControl],
        name: str,
        *,
        on_request: Callable[[WriteRequest, str], None],
        on_config: Callable[[DaqConfig], None],
        on_armed: Callable[[bool, threading.Event], None],
        on_lag: Callable[[float], None],
        on_unused: Callable[[str], None],
        wait_for_others: Callable[[threading.Event], None],
        others_done: Callable[[], bool | None],
    ):
        self.name, self._find_control = name, find_control
        self._control: WriterControl | None = None
        self._on_request, self._on_config = on_request, on_config
        self._on_armed, self._on_unused, self._on_lag = on_armed, on_unused, on_lag
        self._wait_for_others, self._others_done = wait_for_others, others_done
        self.stats: Stats | None = None
        self._given_up = threading.Event()
        self._point = self._last_run_id = 0
        self._growing: DaqFile | None = None
        self._lost: SfdaqError | None = None

    @property
    def control(self) -> WriterControl:
        """The DAQ, of whatever generation it turns out to be."""
        if self._control is None:
            self._control = self._find_control(None)
        return self._control

    @property
    def run_file_is_open(self) -> bool:
        """Whether the file of a run takes images for further points."""
        return self._growing is not None and not self._given_up.is_set()

    def end_run_file(self) -> None:
        """End the file of a run; its saved points stay. PointsLost if it does not hold their images."""
        self._end_growing()
        self._tell_lost()

    def open(self, settings: WriterSettings) -> FrameFormat:
        """Read the configuration, make the writer READY; refuse if somebody else is writing."""
        self._control = self._find_control(self._control)
        config = self.control.config()
        if config is None:
            raise DetectorStateError(f"{self.name}: the DAQ has no configuration; set one first")
        self._on_config(config)
        self.control.make_ready()
        self._settings, self._config, self._point = settings, config, 0
        self._free_running = FreeRunning()
        return FrameFormat(config.image_shape, config.dtype, frame_time=START_LIMIT)

    def frames(self, request: Request) -> Items:
        """Write one file of `request.n_frames` images; or hand out as many of one that grows."""
        self._tell_lost()
        given_up = self._given_up = threading.Event()
        if request.flying or self._settings.n_images_per_run:
            return self._grow(request, given_up)
        return self._write_point(request, given_up)

    def _write_point(self, request: Request, given_up: threading.Event) -> Items:
        file = self._start(request.n_frames, given_up, grows=False)
        finished = False
        writing = None
        try:
            for writing in self._watch(file, request.flying, given_up):
                yield None if writing is None else Progress(writing.n_completed, writing.words)
            self._wait_for_others(given_up)
            file.check_count(writing, request.n_frames)
            found = file.closed(request.n_frames)
            finished = True
            yield self._announced(file, request)
            for image_id, is_good in zip(found.image_id, found.is_good):
                yield Frame(None, math.nan, str(image_id), is_good=bool(is_good) and not file.overrun)
            logger.info("%s: %d images in %s", self.name, request.n_frames, file.path)
        finally:
            if not finished:
                self._end_quietly()
                self._tell_unused(file)

    def _grow(self, request: Request, given_up: threading.Event) -> Items:
        """Hand out images as they are acknowledged; the last of a file once it is closed and checked."""
        finished, writing = False, None
        try:
            if self._growing is None:
                n_images = request.n_frames if request.flying else self._settings.n_images_per_run
                self._growing = self._start(n_images, given_up, grows=True)
            file = self._growing
            wanted, announced = file.n_handed + request.n_frames, file.n_handed > 0
            for writing in self._watch(file, request.flying, given_up):
                if writing is None:
                    yield None
                    if not announced:
                        announced = True
                        yield self._announced(file, request)
                    continue
                n = writing.n_completed
                yield from file.hand_out(min(n, wanted - 1))
                yield Progress(0, writing.words)
                if n >= wanted and wanted < file.write.n_images:
                    break
            else:
                file.closed(file.check_count(writing, wanted))
                self._growing = None
            self._wait_for_others(given_up)
            if not announced:  # it was over before it was seen to take images
                yield self._announced(file, request)
            finished = True  # the generator is closed at its last frame
            yield from file.hand_out(wanted)
        except Discarded:
            raise
        except SfdaqError as exc:
            self._end_growing()
            lost, self._lost = self._lost, None
            if lost is not None:
                raise PointsLost(f"{exc}; and {lost}") from exc
            raise
        finally:
            if not finished:
                self._end_growing()

    def discard(self) -> None:
        """Give up; the thread in `frames` stops the writer."""
        self._given_up.set()
        if self._control is not None:
            self._control.news.set()

    def close(self) -> None:
        """Leave the writer READY, if what it does is ours; one whose death was told is asked the next time.

        WriterNotReady if a person must restart it; PointsLost if a file does not hold those of its points.
        """
        self.discard()
        if (control := self._control) is None:
            return
        # what is ours is remembered, and stopped the next time
        lost: tuple[type[SfdaqError], ...] = (*control.gone, UnknownOutcome)
        try:
            control.leave_ready()
        except lost as exc:
            logger.error("%s: could not be left READY: %s", self.name, exc)
        finally:
            self._end_growing()
            control.dead = False
            control.close()
        self._tell_lost()

    # ---- inside -------------------------------------------------------------------------------------

    def _start(self, n_images: int, given_up: threading.Event, *, grows: bool, attempts: int = 2) -> DaqFile:
        """Start; once more, under another name, if the first start was missed. Return what runs."""
        write, local = self._next(n_images), self._settings.paths.local
        files, ring = self.control.files(write), RingLag(lambda: self.stats)
        file = DaqFile(self.name, write, files, local, self._config, ring, grows=grows)
        file.reserve()
        self._on_request(write, file.path)
        try:
            self.control.start(write, given_up, file.is_closed)
        except BaseException as exc:
            self._end_quietly()
            self._tell_unused(file)
            if isinstance(exc, MissedStart) and attempts > 1:
                logger.warning("%s; starting once more", exc)
                return self._start(n_images, given_up, grows=grows, attempts=attempts - 1)
            raise
        return file

    def _watch(self, file: DaqFile, flying: bool, given_up: threading.Event) -> Iterator[Writing | None]:
        """Yield None once the writer takes images and the others were told, then what each look shows."""
        told, settings, writing = False, self._settings, None
        began = Beginning(
            self.name,
            settings.settle_time,
            settings.timeout,
            free_running=self._free_running,
            stats=self.stats,
            others_done=self._others_done,
            fresh=not file.n_handed,
            takes_images_from=self.control.takes_images_from,
        )
        for writing in self.control.watch(file.write, given_up, settings.timeout, began.why_silent):
            if not told and began.takes_images(writing):
                told = True
                self._on_armed(flying, given_up)
                yield None
            if (lost := file.look_at_ring(writing, self._on_lag)) is not None:
                if not settings.tolerant:
                    raise lost
                logger.warning("%s", lost)
            if told:
                yield writing
        if not told:  # it ended without any image
            yield writing

    def _next(self, n_images: int) -> WriteRequest:
        self._last_run_id = max(time.time_ns(), self._last_run_id + 1)
        values = {"name": self.name, "point": self._point, "run_id": self._last_run_id}
        path = self._settings.paths.next(lambda path: [*self.control.makes(path), of_points(path)], **values)
        self._point += 1
        return WriteRequest(path, n_images, self._last_run_id)

    def _announced(self, file: DaqFile, request: Request) -> WrittenFile:
        return file.announced(request.frames_per_trigger, lambda: self._tell_unused(file))

    def _end_growing(self) -> None:
        """End the file that grows, if there is one; remember if it does not hold what was handed out."""
        file, self._growing = self._growing, None
        if file is None:
            return
        self._end_quietly()
        if not file.n_handed:
            self._tell_unused(file)
            return
        try:
            file.closed(file.n_handed)
        except SfdaqError as exc:
            self._lost = PointsLost(
                f"{self.name}: {file.n_handed} images are registered in {file.write.output_file}, but {exc}"
            )
            logger.error("%s", self._lost)

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _end_quietly(self) -> None:
        """Stop what is ours; the reason why is told by another exception already."""
        try:
            self.control.leave_ready()
        except SfdaqError as exc:
            logger.error("%s: after giving up: %s", self.name, exc)

    def _tell_unused(self, file: DaqFile) -> None:
        """Say that no point needs the files; they are the DAQ's and stay."""
        with contextlib.suppress(OSError):
            for path in file.release():
                logger.warning("%s: %s belongs to no point", self.name, path)
                self._on_unused(path)
