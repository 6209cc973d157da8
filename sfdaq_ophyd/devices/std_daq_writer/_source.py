"""The standard DAQ as a source of files: one acquisition per call, registered once closed and checked."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...clients.std_daq_writers import FileWriter
from ...errors import DetectorStateError, Discarded, ServiceTimeout, ServiceUnreachable, SfdaqError
from ...files.std_daq_file import StdDaqFile, read_std_daq_file
from ...wire.frame import Frame, FrameFormat
from ...wire.std_daq import DaqStatus, WriteRequest
from ...wire.std_daq_config import DaqConfig
from .._assets import frames_in_hdf5
from .._source import Progress, Request, WrittenFile
from ._errors import MissedStart, ShortFile
from ._flow import Flow
from ._paths import PathMaker
from ._run_file import RunFile

logger = logging.getLogger(__name__)

START_LIMIT = 40.0
"""s after which a start has failed, whatever happens to it: two attempts and their reset."""


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Settings of one staging.

    Attributes
    ----------
    paths : PathMaker
    timeout : float
        s without a new image after which the acquisition has stalled.
    n_images_per_run : int
        0 writes one file per call; otherwise one file of so many images, over several calls.
    """

    paths: PathMaker
    timeout: float
    n_images_per_run: int = 0


class StdDaqSource:
    """Hooks of a `FileDetector`.

    Parameters
    ----------
    writer : FileWriter
    name : str
        Of the device.
    on_status, on_request, on_config : callable
        Called with what is known anew, for the device's signals.
    on_armed : callable
        Called once the writer takes images, in the source's thread.
    wait_for_others : callable
        Called when the file is closed; returns once the point is complete elsewhere too.
    """

    def __init__(
        self,
        writer: FileWriter,
        name: str,
        *,
        on_status: Callable[[DaqStatus], None],
        on_request: Callable[[WriteRequest], None],
        on_config: Callable[[DaqConfig], None],
        on_armed: Callable[[], None],
        wait_for_others: Callable[[], None] = lambda: None,
    ):
        self.name = name
        self.flow = Flow(name, writer, on_status)
        self._on_request, self._on_config, self._on_armed = on_request, on_config, on_armed
        self._wait_for_others = wait_for_others
        self._given_up = threading.Event()
        self._settings: WriterSettings | None = None
        self._config: DaqConfig | None = None
        self._point = 0
        self._last_run_id = 0
        self._run_file: RunFile | None = None

    @property
    def run_file_is_open(self) -> bool:
        """Whether the file of a run takes images for further points."""
        return self._run_file is not None and not self._given_up.is_set()

    def end_run_file(self) -> None:
        """End the file of a run; its saved points stay. Safe twice."""
        run_file, self._run_file = self._run_file, None
        if run_file is not None:
            self.flow.leave_ready()

    def open(self, settings: WriterSettings) -> FrameFormat:
        """Read the configuration, make the writer READY; refuse if somebody else is writing."""
        config = self.flow.writer.config()
        if config is None:
            raise DetectorStateError(f"{self.name}: the DAQ has no configuration; set one first")
        self._on_config(config)
        self.flow.make_ready()
        self._settings, self._config, self._point = settings, config, 0
        return FrameFormat(config.image_shape, config.dtype, frame_time=START_LIMIT)

    def frames(self, request: Request) -> Iterator[Frame | Progress | WrittenFile | None]:
        """Write one file of `request.n_frames` images; or wait for as many in the file of the run."""
        if self._settings.n_images_per_run and not request.flying:
            yield from self._frames_of_run(request)
            return
        given_up = self._given_up = threading.Event()
        write = self._start(request.n_frames, given_up)
        finished = False
        try:
            yield None
            self._on_armed()
            for status in self.flow.watch(write, given_up, self._settings.timeout):
                yield Progress(status.acquisition.n_completed, str(status))
            finished = True
            self._wait_for_others()
            yield from self._written(write, status, request.frames_per_trigger)
        finally:
            if not finished:
                self._end_quietly()
                self._put_aside(write)

    def _frames_of_run(self, request: Request) -> Iterator[Frame | Progress | WrittenFile | None]:
        given_up = self._given_up = threading.Event()
        finished = False
        try:
            if self._run_file is None:
                self._run_file = RunFile(self._start(self._settings.n_images_per_run, given_up))
            run_file = self._run_file
            yield None
            self._on_armed()
            if not run_file.n_used:
                yield self._open_file(run_file.write, request.frames_per_trigger)
            wanted = run_file.n_used + request.n_frames
            for status in self.flow.watch(run_file.write, given_up, self._settings.timeout):
                n = status.acquisition.n_completed
                yield Progress(min(n, wanted) - run_file.n_used, str(status))
                if n >= wanted and wanted < run_file.write.n_images:
                    break
            else:
                self._check_count(run_file.write, status)
            self._wait_for_others()
            if wanted == run_file.write.n_images:
                self._run_file = None
                self._read(run_file.write, wanted)
            for k in range(run_file.n_used, wanted):
                finished = k == wanted - 1  # the generator is closed at its last frame
                run_file.n_used = k + 1
                yield Frame(None, math.nan, f"{run_file.write.run_id}:{k}")
        finally:
            if not finished:
                self._end_quietly()

    def discard(self) -> None:
        """Give up; the thread in `frames` stops the writer."""
        self._given_up.set()
        self.flow.news.set()

    def close(self) -> None:
        """Leave the writer READY, if what it does is ours."""
        self.discard()
        try:
            self._run_file = None
            self.flow.leave_ready()
        except (ServiceUnreachable, ServiceTimeout) as exc:
            logger.error("%s: could not be left READY: %s", self.name, exc)

    # ---- inside -------------------------------------------------------------------------------------

    def _start(self, n_images: int, given_up: threading.Event, attempts: int = 2) -> WriteRequest:
        """Start; once more, under another name, if the first start was missed. Return what runs."""
        write = self._next(n_images)
        try:
            self.flow.start(write)
            if given_up.is_set():
                raise Discarded(f"{self.name}: {write.output_file} given up")
        except BaseException as exc:
            self._end_quietly()
            self._put_aside(write)
            if isinstance(exc, MissedStart) and attempts > 1:
                logger.warning("%s; starting once more", exc)
                return self._start(n_images, given_up, attempts - 1)
            raise
        return write

    def _open_file(self, write: WriteRequest, frames_per_point: int) -> WrittenFile:
        """Announce the file of a run, which is readable once it is closed."""
        (data,) = self.flow.writer.files(write)
        return WrittenFile(
            path=Path(self._settings.paths.local(data.path)),
            n_frames=write.n_images,
            keys={"image": self._parameters(f"/{data.group}/data", frames_per_point)},
            drop=lambda: self._put_aside(write),
        )

    def _check_count(self, write: WriteRequest, status: DaqStatus) -> None:
        a = status.acquisition
        if a.n_completed < write.n_images:
            ended = f"the DAQ ended {write.output_file} with {a.message!r}"
            raise ShortFile(self.name, asked=write.n_images, got=a.n_completed, detail=ended)

    def _next(self, n_images: int) -> WriteRequest:
        self._last_run_id = max(time.time_ns(), self._last_run_id + 1)
        values = {"name": self.name, "point": self._point, "run_id": self._last_run_id}
        path = self._settings.paths.next(**values)
        self._point += 1
        write = WriteRequest(path, n_images, self._last_run_id)
        self._on_request(write)
        return write

    def _written(
        self, write: WriteRequest, status: DaqStatus, frames_per_point: int
    ) -> Iterator[Frame | WrittenFile]:
        n = status.acquisition.n_completed
        n_whole = n // frames_per_point * frames_per_point
        if n_whole and (n == write.n_images or n >= 2):
            file = self._read(write, n)
            yield WrittenFile(
                path=file.path,
                n_frames=n_whole,
                keys={"image": self._parameters(file.dataset, frames_per_point)},
                drop=lambda: self._put_aside(write),
            )
            for image_id, is_good in zip(file.image_id[:n_whole], file.is_good[:n_whole]):
                yield Frame(None, math.nan, str(image_id), is_good=bool(is_good))
        self._check_count(write, status)
        logger.info("%s: %d images in %s", self.name, n, write.output_file)

    def _read(self, write: WriteRequest, n: int) -> StdDaqFile:
        (data,) = self.flow.writer.files(write)
        path = self._settings.paths.local(data.path)
        try:
            return read_std_daq_file(
                path, data.group, n_written=n, shape=self._config.image_shape, dtype=self._config.dtype
            )
        except OSError as exc:
            raise DetectorStateError(
                f"{self.name}: the DAQ wrote {n} images to {data.path}, but {path} cannot be read here "
                f"({exc}). If this machine sees the folder under another name, tell it with mounted={...}"
            ) from exc

    def _parameters(self, dataset: str, frames_per_point: int) -> dict:
        return {**frames_in_hdf5(dataset, self._config.image_shape, frames_per_point), "swmr": False}

    def _end_quietly(self) -> None:
        """Stop what is ours; the reason why is told by another exception already."""
        self._run_file = None
        try:
            self.flow.leave_ready()
        except SfdaqError as exc:
            logger.error("%s: after giving up: %s", self.name, exc)

    def _put_aside(self, write: WriteRequest) -> None:
        """Rename a file no document speaks of, so that nobody takes it for data of a run."""
        path = Path(self._settings.paths.local(write.output_file))
        with contextlib.suppress(OSError):  # of another machine, or of another user: it stays
            os.replace(path, path.with_name(f"{path.name}.discarded"))
