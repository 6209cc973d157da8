"""The standard DAQ's writer as an ophyd device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal

from ...clients.std_daq import StdDaqClient
from ...clients.std_daq_redis import StdDaqRedis
from ...clients.std_daq_writers import FileWriter, RestWriter
from ...errors import RequestError
from ...wire.frame import FrameFormat
from ...wire.std_daq import DaqStatus, WriteRequest
from ...wire.std_daq_config import INTEGERS, DaqConfig
from .._file_detector import FileDetector
from .._foreign_store import ForeignStore
from .._status import ActionStatus
from ._companions import Companions
from ._paths import DEFAULT_TEMPLATE, PathMaker
from ._run_file import RunFileStore
from ._source import START_LIMIT, StdDaqSource, WriterSettings

MODES = ("point", "run")


class ArmedSignal(Signal):
    """``set`` gives the status that is done once the writer takes the images of the point just triggered."""

    def set(self, value, **kwargs):
        """Return the status of the start."""
        return self.parent.armed_status


class ConfigSignal(Signal):
    """``set`` changes the DAQ's configuration, all keys or some, and is done when the DAQ is back."""

    def set(self, value, *, timeout: float = 60.0, **kwargs):
        """Return the status of the change; `timeout` in s."""
        return self.parent.change_config(value, timeout)


class StdDaqWriter(FileDetector):
    """One standard DAQ: each trigger writes one file of `frames_per_trigger` images.

    Parameters
    ----------
    url : str or FileWriter
        Base address of the REST service, or anything that can start, stop and say its status.
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
        Values for the template, or a function asked before every file, e.g.
        ``lambda: {"scan_id": RE.md["scan_id"]}``.
    mounted : Mapping
        Folder on the DAQ's hosts to folder on this machine, where they differ.
    detectors : sequence of Device
        Detectors whose frames the DAQ writes: staged, triggered (once the writer is open) and read with it.
    dialect, timeout_of_requests, restart_time
        For `StdDaqClient`.
    **kwargs
        For `FileDetector`.

    Notes
    -----
    ``NAME_event_id`` is the detector's frame number of each image, as in the live stream of that detector.
    In mode "run" it is ``<run_id>:<image>``, for the frame numbers are known only once the file is closed;
    they are in its dataset ``image_id``. The DAQ's files carry no time of a frame: ``NAME_timestamp`` is NaN.
    """

    mode = Cpt(Signal, value="point", kind="config", doc='"point" or "run": one file per what')
    file = Cpt(Signal, value="", doc="file of the point, on the DAQ's hosts")
    n_images = Cpt(Signal, value=0, doc="images asked for")
    run_id = Cpt(Signal, value="", doc="text: it exceeds 2**53")
    message = Cpt(Signal, value="", doc="the DAQ's last word on the acquisition")
    n_requested = Cpt(Signal, value=0, doc="images handed to the writer")
    n_completed = Cpt(Signal, value=0, doc="images acknowledged by the writer")
    writer_state = Cpt(Signal, value="", kind="omitted")
    acquisition_state = Cpt(Signal, value="", kind="omitted")
    detector_rate = Cpt(Signal, value=0.0, kind="omitted", doc="images per second; see update_rates")
    writer_rate = Cpt(Signal, value=0.0, kind="omitted", doc="images per second; see update_rates")
    detector_name = Cpt(Signal, value="", kind="config")
    detector_type = Cpt(Signal, value="", kind="config")
    config_id = Cpt(Signal, value="", kind="config")
    bit_depth = Cpt(Signal, value=0, kind="config")
    image_pixel_height = Cpt(Signal, value=0, kind="config")
    image_pixel_width = Cpt(Signal, value=0, kind="config")
    n_modules = Cpt(Signal, value=0, kind="config")
    start_udp_port = Cpt(Signal, value=0, kind="config")
    writer_user_id = Cpt(Signal, value=0, kind="config")
    armed = Cpt(ArmedSignal, value=0, kind="omitted")
    daq_config = Cpt(ConfigSignal, value=0, kind="omitted")

    def __init__(
        self,
        url: str | FileWriter,
        *,
        name: str,
        directory: str | Path,
        redis_url: str | None = None,
        mode: str = "point",
        template: str = DEFAULT_TEMPLATE,
        fields: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = (),
        mounted: Mapping[str, str] = (),
        detectors: Sequence = (),
        dialect: str = "auto",
        timeout_of_requests: float = 10.0,
        restart_time: float = 10.0,
        **kwargs,
    ):
        self.client = None
        if isinstance(url, str):
            self.client = StdDaqClient(url, dialect, timeout_of_requests, restart_time=restart_time)
            url = RestWriter(self.client)
        self._template, self._fields, self._mounted = template, fields or {}, dict(mounted)
        self._companions = Companions(detectors)
        self._redis_url, self._follower = redis_url, None
        self.armed_status: ActionStatus | None = None
        source = StdDaqSource(
            url,
            name,
            on_status=self._show_status,
            on_request=self._show_request,
            on_config=self._show_config,
            on_armed=self._armed,
            wait_for_others=lambda: self._companions.wait(float(self.timeout.get()) + START_LIMIT),
        )
        super().__init__(source=source, name=name, directory=directory, **kwargs)
        self.mode.put(mode)

    def settings(self) -> WriterSettings:
        """Return what the source needs."""
        paths = PathMaker(str(self.directory), self._template, self._fields, self._mounted)
        if self.mode.get() not in MODES:
            raise RequestError(f"{self.name}.mode", self.mode.get(), f"one of {MODES}")
        n_images = int(self.n_points.get() * self.frames_per_trigger.get())
        return WriterSettings(paths, float(self.timeout.get()), n_images if self.mode.get() == "run" else 0)

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> ForeignStore:
        if self.mode.get() == "point":
            return super()._new_store(frame_format, frames_per_point)
        source = self.source
        return RunFileStore(
            self.name, frame_format, frames_per_point, lambda: source.run_file_is_open, source.end_run_file
        )

    def change_config(self, changes: Mapping[str, Any], timeout: float) -> ActionStatus:
        """Change the DAQ's configuration in a thread.

        Returns
        -------
        ActionStatus
            Done when it is stored, deployed, and the writer is READY again.
        """
        status = ActionStatus(self, "configuration", timeout + START_LIMIT, unit="steps")

        def change() -> None:
            try:
                self.client.set_config(dict(changes), timeout=timeout)
                self._show_config(self.client.config())
                status.succeed()
            except Exception as exc:
                status.fail(exc)

        if self.client is None:
            raise RequestError("daq_config", self.name, "a device with a REST service")
        threading.Thread(target=change, name=f"{self.name} configuration", daemon=True).start()
        return status

    def update_rates(self) -> None:
        """Read the throughput of detector and writer over the last second into their signals."""
        if self.client is None:
            raise RequestError("update_rates", self.name, "a device with a REST service")
        stats = self.client.stats()
        if stats is not None:
            self.detector_rate.put(stats.detector_images_per_second)
            self.writer_rate.put(stats.writer_images_per_second)

    # ---- verbs: those of the base, and the companions' ----------------------------------------------

    def stage(self) -> list[object]:
        """Read the configuration, make the writer READY, follow Redis; stage the detectors."""
        staged = super().stage()
        try:
            self._companions.each("stage")
        except BaseException:
            self.unstage()
            raise
        if self._redis_url and self._follower is None:
            self._follower = StdDaqRedis(self._redis_url, ["status"]).start()
            self._follower.subscribe("status", lambda message: self.source.flow.news.set())
        return staged + list(self._companions.detectors)

    def unstage(self) -> list[object]:
        """Leave the writer READY if what it does is ours, or say who must restart it. Safe twice."""
        follower, self._follower = self._follower, None
        try:
            if follower is not None:
                follower.close()
            self._companions.each("unstage")
        finally:
            unstaged = super().unstage()
        return unstaged

    def trigger(self) -> ActionStatus:
        """Write one file; the detectors are triggered once the writer takes images.

        Returns
        -------
        ActionStatus
            Done when the file is closed, checked and counted, and the detectors are done.
        """
        self._companions.forget()
        armed = self.armed_status = ActionStatus(self, "start", START_LIMIT, unit="steps")
        exposure = super().trigger()
        exposure.add_callback(lambda done: armed.succeed() if done.success else armed.fail(done.exception()))
        return exposure

    def read(self) -> OrderedDict:
        """Return ids, file, run id and counts of the point; then the detectors' readings."""
        return OrderedDict(**super().read(), **self._companions.merged("read"))

    def describe(self) -> OrderedDict:
        """Describe what `read` returns, and the images."""
        return OrderedDict(**super().describe(), **self._companions.merged("describe"))

    def read_configuration(self) -> OrderedDict:
        """Return the DAQ's configuration and the settings; then those of the detectors."""
        return OrderedDict(**super().read_configuration(), **self._companions.merged("read_configuration"))

    def describe_configuration(self) -> OrderedDict:
        """Describe what `read_configuration` returns."""
        own = super().describe_configuration()
        return OrderedDict(**own, **self._companions.merged("describe_configuration"))

    @property
    def hints(self) -> dict:
        """A few scalars for live plots."""
        fields = [f for detector in self._companions.detectors for f in detector.hints.get("fields", ())]
        return {"fields": super().hints["fields"] + fields}

    def collect_asset_docs(self):
        """Yield the documents of the point's file, then those of the detectors."""
        yield from super().collect_asset_docs()
        yield from self._companions.documents()

    def pause(self) -> None:
        """Give up the point in flight, at the detectors too."""
        self._companions.each("pause")
        super().pause()

    def resume(self) -> None:
        """Go on with a fly scan."""
        super().resume()
        self._companions.each("resume")

    def stop(self, *, success: bool = False) -> None:
        """Give up what is in flight, at the detectors too. Safe at any time, and twice."""
        self._companions.each("stop")
        super().stop(success=success)

    # ---- what the source tells ----------------------------------------------------------------------

    def _armed(self) -> None:
        self._companions.trigger()
        if self.armed_status is not None:
            self.armed_status.succeed()

    def _show_status(self, status: DaqStatus) -> None:
        self.writer_state.put(str(status.state))
        a = status.acquisition
        if a is not None and str(a.run_id) == self.run_id.get():
            self.acquisition_state.put(str(a.state))
            self.message.put(a.message)
            self.n_requested.put(a.n_requested)
            self.n_completed.put(a.n_completed)

    def _show_request(self, request: WriteRequest) -> None:
        self.file.put(request.output_file)
        self.n_images.put(request.n_images)
        self.run_id.put(str(request.run_id))
        for signal, nothing in ((self.message, ""), (self.n_requested, 0), (self.n_completed, 0)):
            signal.put(nothing)

    def _show_config(self, config: DaqConfig) -> None:
        for key in ("detector_name", "detector_type", *INTEGERS):
            getattr(self, key).put(getattr(config, key))
        self.config_id.put(config.config_id or "")
