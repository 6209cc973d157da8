"""The standard DAQ's writer as an ophyd device."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Signal

from ...clients.std_daq import StdDaqClient
from ...clients.std_daq_redis import StdDaqRedis
from ...clients.std_daq_socket import StdDaqWriterSocket
from ...errors import DetectorStateError, Discarded, RequestError, SfdaqError
from ...wire.frame import FrameFormat
from ...wire.std_daq import WriteRequest, Writing
from ...wire.std_daq_config import INTEGERS, DaqConfig, DaqStats
from .._acquisition import LossPolicy
from .._assets import number_key
from .._status import ActionStatus, Setting
from .._store import WrittenFileStore
from ._control import Configuring, WriterControl
from ._daq_file import PER_IMAGE, RunFileStore
from ._paths import DEFAULT_TEMPLATE, PathMaker
from ._rates import RatesFollower, Stats, StreamedStats
from ._rest_control import RestControl
from ._socket_control import SocketControl
from ._source import START_LIMIT, StdDaqSource, WriterSettings
from ._with_detectors import DetectorGroup, Opening, WithDetectors

logger = logging.getLogger(__name__)

MODES = ("point", "run")

MAX_SETTLE_TIME = 5.0

MAX_UNUSED = 20
"""Files named in `unused`; the newest are kept."""


class ConfigSignal(Signal):
    """``set`` changes the DAQ's configuration, all keys or some, and is done when the DAQ is back."""

    def set(self, value, *, timeout: float = 60.0, **kwargs):
        """Change the DAQ's configuration.

        Parameters
        ----------
        value : mapping
            The keys to be changed, all or some; the others stay.
        timeout : float
            Longest time until the DAQ is back, s.

        Returns
        -------
        ActionStatus
            Done when the change is stored and the DAQ is back; see `StdDaqWriter.change_config`.
        """
        return self.parent.change_config(value, timeout)


class StdDaqWriter(WithDetectors):
    """One standard DAQ: each trigger writes one file of `frames_per_trigger` images.

    Parameters
    ----------
    url : str
        Base address of the REST service; or of a DAQ with control by websocket, ``ws://host:8080``.
    name : str
    redis_url : str, optional
        The DAQ's Redis: its news make the end of an acquisition seen sooner.
    directory : str or Path
        Where files go, on the DAQ's hosts.
    mode : {"point", "run"}
        "run" writes one file of ``n_points * frames_per_trigger`` images: started at the first trigger, and
        each trigger waits for its images. For detectors that send images only when they are triggered.
    template : str
        File name below `directory`; may have folders, and ``{pgroup} {run_number} {scan_id} ...`` out of
        `fields`, besides ``{name} {point} {run_id}``.
    fields : Mapping or callable
        Values for the template, or a function that returns them; looked at before every file. A dict that is
        kept up to date will do: ``RE.subscribe(lambda name, doc: fields.update(doc), "start")``. The
        attribute `fields` may be set later.
    mounted : Mapping
        Folder on the DAQ's hosts to folder on this machine, where they differ.
    detectors : sequence of Device
        Detectors whose frames the DAQ writes: staged, triggered (once the writer is open) and read with it.
    dialect : {"auto", "flask", "fastapi", "websocket"}
        Which generation; "auto" finds out each time it is staged, without side effects.
    config_url, user : str
        For `StdDaqWriterSocket`: where the configuration is, and as whom it is read.
    timeout_of_requests, restart_time
        For `StdDaqClient` or `StdDaqWriterSocket`.
    **kwargs
        For `FileDetector`.

    Notes
    -----
    ``NAME_event_id`` is the detector's frame number of each image, as in the live stream of that detector.

    In fly scans and in mode "run" points are registered while the file is open, and can be read once it is
    closed. Nobody knows the frame numbers until then: ``NAME_event_id`` is ``<run_id>:<image>``, and the
    numbers and the DAQ's judgement (0 is good, in every generation) come out of the file, as external
    arrays ``NAME_image_id`` and ``NAME_image_status`` beside the images; there is no ``NAME_is_good``. A file
    that does not hold, once closed, what was registered fails the scan. ``NAME_file`` is one of ours then,
    ``..._points.h5`` beside the DAQ's where the folder can be written: the images of saved points, no more.

    Of a DAQ with control by websocket, whose writers have a file each, ``NAME_file`` is one of ours beside
    them that has all images in order; so this machine must see the folder, and may write to it.

    The DAQ's files carry no time of a frame, nor does anything else it says: ``NAME_timestamp`` is NaN.
    ``NAME_start_time`` and ``NAME_stop_time`` are those of the file. A file that belongs to no point, for its
    acquisition failed or was given up, stays where it is: it is the DAQ's; ``NAME_unused`` lists it.
    """

    mode = Cpt(Setting, value="point", kind="config", doc='"point" or "run": one file per what')
    settle_time = Cpt(Setting, value=0.3, kind="config", doc="s from WRITING to others, if no images flow")
    file = Cpt(Signal, value="", doc="file of the point, on the DAQ's hosts")
    n_images = Cpt(Signal, value=0, doc="images asked for")
    run_id = Cpt(Signal, value="", doc="text: it exceeds 2**53")
    message = Cpt(Signal, value="", doc="the DAQ's last word on the acquisition")
    n_requested = Cpt(Signal, value=0, doc="images handed to the writer")
    n_completed = Cpt(Signal, value=0, doc="images acknowledged by the writer")
    start_time = Cpt(Signal, value=math.nan, doc="of the file, s since the epoch, the DAQ's clock")
    stop_time = Cpt(Signal, value=math.nan, doc="of the file; NaN while it is open")
    ring_lag = Cpt(Signal, value=0.0, doc="images the writer was seen behind the detector, of a ring of 100")
    unused = Cpt(Signal, value="", doc="files since stage that belong to no point, one per line")
    writer_state = Cpt(Signal, value="", kind="omitted")
    acquisition_state = Cpt(Signal, value="", kind="omitted")
    detector_rate = Cpt(Signal, value=math.nan, kind="omitted", doc="images per second; NaN if unknown")
    writer_rate = Cpt(Signal, value=math.nan, kind="omitted", doc="images per second; NaN if unknown")
    detector_name = Cpt(Signal, value="", kind="config")
    detector_type = Cpt(Signal, value="", kind="config")
    config_id = Cpt(Signal, value="", kind="config")
    bit_depth = Cpt(Signal, value=0, kind="config")
    image_pixel_height = Cpt(Signal, value=0, kind="config")
    image_pixel_width = Cpt(Signal, value=0, kind="config")
    n_modules = Cpt(Signal, value=0, kind="config")
    start_udp_port = Cpt(Signal, value=0, kind="config")
    writer_user_id = Cpt(Signal, value=0, kind="config")
    module_positions = Cpt(Signal, value="", kind="config", doc="JSON text")
    daq_config = Cpt(ConfigSignal, value=0, kind="omitted")

    source: StdDaqSource
    client: StdDaqClient | StdDaqWriterSocket

    def __init__(
        self,
        url: str,
        *,
        name: str,
        directory: str | Path,
        redis_url: str | None = None,
        mode: str = "point",
        template: str = DEFAULT_TEMPLATE,
        fields: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        mounted: Mapping[str, str] | None = None,
        detectors: Sequence = (),
        dialect: str = "auto",
        config_url: str | None = None,
        user: str = "sfdaq",
        timeout_of_requests: float = 10.0,
        restart_time: float = 10.0,
        **kwargs,
    ):
        both: dict[str, Any] = {"timeout": timeout_of_requests, "restart_time": restart_time}
        self._by_rest = partial(StdDaqClient, url, dialect, **both)
        self._by_websocket = partial(StdDaqWriterSocket, url, config_url, user=user, **both)
        self._address = url
        by_websocket = isinstance(url, str) and url.startswith(("ws://", "wss://"))
        self._dialect = "websocket" if by_websocket else dialect
        self.client = self._by_websocket() if self._dialect == "websocket" else self._by_rest()
        self._template, self.fields, self._mounted = template, fields or {}, dict(mounted or {})
        self._detectors = DetectorGroup(detectors)
        self._redis_url = redis_url
        self._rates: RatesFollower | None = None
        self.opening = Opening(self)
        source = StdDaqSource(
            self._find_control,
            name,
            on_request=self._show_request,
            on_config=self._show_stored,
            on_armed=self._armed,
            on_lag=lambda lag: self.ring_lag.put(round(lag, 1)),
            on_unused=self._show_unused,
            wait_for_others=self._wait_for_others,
            others_done=lambda: False if self.opening.asked else self._detectors.done,
        )
        super().__init__(source=source, name=name, directory=directory, **kwargs)
        self._configuring = Configuring(name, url, self.directory)
        self.mode.put(mode)

    def _find_control(self, now: WriterControl | None) -> WriterControl:
        """Return the control of the DAQ that is there, `now` unless it is of another generation.

        Where nobody told which it is the DAQ is asked, without side effects.
        """
        found = self.client.ask_dialect() if self._dialect == "auto" else self._dialect
        if now is not None:
            if now.dialect == found:
                return now
            logger.warning("%s: the DAQ at %s is of generation %r now", self.name, self._address, found)
            now.close()
        if found == "websocket":
            if not isinstance(self.client, StdDaqWriterSocket):
                self.client = self._by_websocket()
            return SocketControl(self.name, self.client, found, self._show_status)
        if not isinstance(self.client, StdDaqClient):
            self.client = self._by_rest()
        return RestControl(self.name, self.client, found, self._show_status)

    def settings(self) -> WriterSettings:
        """Return what the source needs."""
        paths = PathMaker(str(self.directory), self._template, self.fields, self._mounted)
        if self.mode.get() not in MODES:
            raise RequestError(f"{self.name}.mode", self.mode.get(), f"one of {MODES}")
        if not 0 <= self.settle_time.get() < MAX_SETTLE_TIME:
            expected = f"s from 0 to below {MAX_SETTLE_TIME:g}"
            raise RequestError(f"{self.name}.settle_time", self.settle_time.get(), expected)
        n_images = int(self.n_points.get() * self.frames_per_trigger.get()) if self.mode.get() == "run" else 0
        tolerant = self.loss_policy.get() == LossPolicy.TOLERANT
        timeout, settle_time = float(self.timeout.get()), float(self.settle_time.get())
        return WriterSettings(paths, timeout, settle_time, tolerant, n_images)

    def _show_stored(self, config: DaqConfig) -> None:
        self._show_config(config)
        self._configuring.compare(config)

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> WrittenFileStore:
        if self.mode.get() == "point":
            return super()._new_store(frame_format, frames_per_point)
        source = self.source
        is_open, end = lambda: source.run_file_is_open, source.end_run_file
        return RunFileStore(self.name, frame_format, frames_per_point, is_open=is_open, end=end)

    def change_config(self, changes: Mapping[str, Any], timeout: float) -> ActionStatus:
        """Change the DAQ's configuration in the thread that writes settings.

        Parameters
        ----------
        changes : Mapping
            Keys of the configuration and their new values; the others stay.
        timeout : float
            For the DAQ to be READY again, s.

        Returns
        -------
        ActionStatus
            Done when it is stored, deployed, and the writer is READY again.
        """

        def change() -> None:
            self._show_config(self._configuring.change(self.source.control, changes, timeout))

        status = ActionStatus(self, "configuration", timeout + START_LIMIT, unit="steps")
        return self.write_aside(status, change)

    # ---- verbs: those of the base, and the companions' ----------------------------------------------

    def stage(self) -> list[object]:
        """Read the configuration, make the writer READY, follow Redis; stage the detectors."""
        self.unused.put("")
        self.next_window.current = None  # of a point that was given up
        try:
            staged = super().stage()
        except SfdaqError as exc:
            if unfinished := self._configuring.unfinished:
                raise DetectorStateError(f"{exc}; {unfinished}") from exc
            raise
        try:
            self._detectors.each("stage")
        except BaseException:
            self.unstage()
            raise
        self._follow()
        return staged + list(self._detectors.detectors)

    def _follow(self) -> None:
        """Begin to listen to what is said beside the status."""
        if self._rates is not None:
            return
        stats: Stats | None = self.source.control.stats()
        if self._redis_url:
            follower = StdDaqRedis(self._redis_url, ["status", "stat"])
            follower.subscribe("status", lambda message: self.source.control.news.set())
            stats = StreamedStats(follower)
            follower.start()
        if stats is not None:
            self.source.stats = stats
            self._rates = RatesFollower(f"{self.name} rates", stats, self._acquiring, self._show_rates)

    def unstage(self) -> list[object]:
        """Leave the writer READY if what it does is ours, or say who must restart it. Safe twice."""
        rates, self._rates, self.source.stats = self._rates, None, None
        problems: list[BaseException] = []
        unstaged: list[object] = []
        close_rates = rates.close if rates is not None else lambda: None
        for step in (close_rates, partial(self._detectors.each, "unstage"), super().unstage):
            try:
                unstaged = step() or unstaged
            except BaseException as exc:
                problems.append(exc)
        if problems:
            raise problems[0]
        return unstaged

    def trigger(self) -> ActionStatus:
        """Write one file; the detectors are triggered once the writer takes images.

        Returns
        -------
        ActionStatus
            Done when the file is closed, checked and counted, and the detectors are done.
        """
        self._detectors.forget()
        opening = self.opening = Opening(self)
        exposure = super().trigger()
        self._settle_with(self.next_window.take(), exposure)
        exposure.add_callback(lambda done: opening.end(None if done.success else done.exception()))
        return exposure

    def kickoff(self) -> ActionStatus:
        """Start one file for `n_points` points; the detectors are kicked off once it is open.

        Returns
        -------
        ActionStatus
            Done when all are armed.

        Raises
        ------
        RequestError
            One of several has the `loss_policy` "retake"; nothing was started.
        """
        self._check_policies()
        self._detectors.forget()
        return super().kickoff()

    # ---- inside -------------------------------------------------------------------------------------

    def _grows(self, flying: bool) -> bool:
        """Whether points are registered while their file is open."""
        return flying or self.mode.get() == "run"

    def _frame_keys(self, flying: bool = False) -> dict:
        keys = super()._frame_keys(flying)
        if self._grows(flying):
            del keys[f"{self.name}_is_good"]
            n = self._need_stage("describe").frames_per_point
            for key in PER_IMAGE:
                keys[f"{self.name}_{key}"] = number_key(self.name, np.dtype("u8"), n)
        return keys

    def _columns(self, n_points: int) -> dict[str, list]:
        columns = super()._columns(n_points)
        if self._grows(self.flying):
            del columns["is_good"]
        return columns

    def _armed(self, flying: bool, given_up: threading.Event) -> None:
        if given_up.is_set():  # while the DAQ was asked
            raise Discarded(f"{self.name}: given up before the detectors inside were triggered")
        if flying:
            self._detectors.fly(START_LIMIT, given_up)
        else:
            self._detectors.trigger()
        self.opening.end()

    def _wait_for_others(self, given_up: threading.Event) -> None:
        self._detectors.wait(float(self.timeout.get()) + START_LIMIT, given_up)

    def _acquiring(self) -> bool:
        return self._acquisition is not None and self._acquisition.running

    # ---- what is shown -------------------------------------------------------------------------------

    def _show_status(self, writing: Writing) -> None:
        self.writer_state.put(writing.writer_state)
        if writing.run_id is not None and str(writing.run_id) == self.run_id.get():
            self.message.put(writing.text)
            for key in ("acquisition_state", "n_requested", "n_completed", "start_time", "stop_time"):
                value = getattr(writing, key)
                getattr(self, key).put(math.nan if value is None else value)

    def _show_request(self, request: WriteRequest, path: str) -> None:
        asked = {"file": path, "n_images": request.n_images, "run_id": str(request.run_id)}
        nothing_yet = {"message": "", "n_requested": 0, "n_completed": 0, "ring_lag": 0.0}
        no_times = {"start_time": math.nan, "stop_time": math.nan}
        for key, value in (asked | nothing_yet | no_times).items():
            getattr(self, key).put(value)

    def _show_config(self, config: DaqConfig) -> None:
        for key in ("detector_name", "detector_type", *INTEGERS):
            getattr(self, key).put(getattr(config, key))
        self.module_positions.put(json.dumps(config.module_positions))
        self.config_id.put(config.config_id or "")

    def _show_rates(self, stats: DaqStats | None) -> None:
        self.detector_rate.put(math.nan if stats is None else stats.detector_images_per_second)
        self.writer_rate.put(math.nan if stats is None else stats.writer_images_per_second)

    def _show_unused(self, path: str) -> None:
        self.unused.put("\n".join([*self.unused.get().splitlines(), path][-MAX_UNUSED:]))
