"""The base of all detectors: the verbs of bluesky, right once for all of them.

A concrete detector brings a `FrameSource` (see `_source.py`; the how-to "add a detector" has a whole one) and
declares signals; a `Setting` is fixed while the device is staged::

    class Camera(Detector):
        exposure_time = Cpt(Setting, value=0.1, kind="config")
        hinted = ("total",)

        def __init__(self, url, *, name, directory, **kwargs):
            super().__init__(source=CameraSource(url), name=name, directory=directory, **kwargs)

        def settings(self):
            return CameraSettings(exposure_time=self.exposure_time.get())

What happens when:

====================  ==================================================================================
stage                 ``source.open(self.settings())``; a failure calls ``source.close()`` and is raised
trigger               frames of a point that was not saved are taken back; ``source.frames`` runs in a thread
read, describe        the point's ids and scalars; from memory
collect_asset_docs    the documents of the point, which is on disk by now
pause                 an exposure in flight: ``source.discard()``, its frames are taken back, its status ends
                      without an error, and the RunEngine triggers again. A complete point is kept.
resume                a fly scan goes on with the points that are still wanted
stop                  as pause, for good
unstage               as stop; what was not saved is taken back; ``source.close()``
====================  ==================================================================================

When a point failed and unstage fails too, the failure of the point is raised and recorded; the other one is
logged, and noted on it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal

from ..errors import DetectorStateError, Discarded, RequestError
from ..wire.frame import FrameFormat
from ._acquisition import Acquisition, Crew, LossPolicy, Rules
from ._assets import data_keys, event_columns, external_key
from ._flying import OUR_PLAN, Flying, FrameFlight
from ._pulse_window import PulseWindow
from ._source import FrameSource, Request
from ._status import GRACE, ActionStatus, Setting, naming, whole_number
from ._store import SYNC_PERIOD, FrameStore, PointStore, WrittenFileStore


class Detector(Flying):
    """A detector whose frames come to this process and go into HDF5 files.

    Parameters
    ----------
    source : FrameSource
        The detector itself, without ophyd.
    name : str
        Start of all data keys and file names.
    directory : str or Path
        Where files are made.
    threads : int
        Frames compressed at the same time.
    sync_period : float
        s after which points are on the disk itself (fsync); see `FrameStore`.
    **kwargs
        For `ophyd.Device`.

    Attributes
    ----------
    failure : Exception or None
        Of the staging, or of a point since then.
    """

    frames_per_trigger = Cpt(Setting, value=1, kind="config")
    timeout = Cpt(Setting, value=10.0, kind="config", doc="s without a new frame, on top of the exposure")
    loss_policy = Cpt(Setting, value=LossPolicy.STRICT.value, kind="config")
    max_retakes = Cpt(Setting, value=3, kind="config")
    n_points = Cpt(Signal, value=1, kind="config", doc="points of the next fly scan")

    source: FrameSource
    hinted: tuple[str, ...] = ()
    """Scalars that live plots show."""

    _flight: FrameFlight | None = None
    _prepared: Any = None

    def __init__(
        self,
        *,
        source: FrameSource,
        name: str,
        directory: str | Path,
        threads: int = 2,
        sync_period: float = SYNC_PERIOD,
        **kwargs,
    ):
        self.source = source
        self.directory = Path(directory)
        self._threads, self._sync_period = threads, sync_period
        self._store: PointStore | None = None
        self._crew = Crew(name, lambda: self.is_staged)
        self.failure: Exception | None = None
        self._acquisition: Acquisition | None = None
        self._exposure: ActionStatus | None = None
        self._ready = False
        self._values: dict[str, dict] = {}
        super().__init__(name=name, **kwargs)

    def settings(self) -> Any:
        """Return what `FrameSource.open` needs; the signals as they are at stage."""
        return None

    # staging

    @property
    def is_staged(self) -> bool:
        """Whether the device is staged: settings of the run are fixed."""
        return self._store is not None

    def stage(self) -> list[object]:
        """Open the source and make ready; the hardware is as found if this fails."""
        self._check_signals()
        staged = super().stage()
        self._join_together()
        try:
            frame_format = self.source.open(self.settings())
            self._store = self._new_store(frame_format, int(self.frames_per_trigger.get()))
        except BaseException as exc:
            if isinstance(exc, Exception):
                self.failure = naming(exc, self.name)
            self.unstage()
            raise
        self._ready = False
        self._values = {}
        return staged

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> PointStore:
        kind = (self.name, frame_format, frames_per_point)
        return FrameStore(self.directory, *kind, self._threads, self._sync_period)

    def _ending(self) -> tuple[Callable[[], object], ...]:
        return self._give_up, self.source.close, self._close_store, self._crew.end

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _check_signals(self) -> None:
        whole_number(f"{self.name}.frames_per_trigger", self.frames_per_trigger.get(), 1)
        whole_number(f"{self.name}.max_retakes", self.max_retakes.get(), 0)
        if not self.timeout.get() > 0:
            raise RequestError(f"{self.name}.timeout", self.timeout.get(), "s above 0")
        if self.loss_policy.get() not in list(LossPolicy):
            raise RequestError(f"{self.name}.loss_policy", self.loss_policy.get(), ", ".join(LossPolicy))

    def _rules(self) -> Rules:
        policy, retakes = LossPolicy(self.loss_policy.get()), int(self.max_retakes.get())
        frame_format = self._need_stage("acquire").frame_format
        return Rules(float(self.timeout.get()), frame_format.frame_time, policy, retakes)

    def _need_stage(self, verb: str, hint: str = "") -> PointStore:
        if self._store is None:
            more = f" ({hint})" if hint else ""
            raise DetectorStateError(f"{self.name}: {verb} needs a staged device; stage it first{more}")
        return self._store

    # step scans

    def trigger(self) -> ActionStatus:
        """Take one point of `frames_per_trigger` frames; a fly scan before is over.

        Returns
        -------
        ActionStatus
            Done when the frames are on disk.

        Raises
        ------
        DetectorStateError
            The device is not staged, or an acquisition is running.
        """
        store = self._need_stage("trigger")
        if self._is_acquiring:
            raise DetectorStateError(f"{self.name}: trigger, while an acquisition is running")
        self._end_flight(None)
        self._ready = False
        store.take_back_unsaved()
        n, rules = store.frames_per_point, self._rules()
        status = self._exposure = ActionStatus(self, "exposure", rules.longest(n) + GRACE, target=n)

        def success() -> None:
            now, columns = time.time(), self._columns(1).items()
            self._values = {f"{self.name}_{k}": {"value": v[0], "timestamp": now} for k, v in columns}
            self._ready = True
            status.succeed()

        self._acquire(
            Request(n, n), rules, on_progress=status.progress, on_success=success, on_failure=status.fail
        )
        return status

    @property
    def _is_acquiring(self) -> bool:
        return self._acquisition is not None and self._acquisition.running

    def _settle_with(self, window: PulseWindow | None, status: ActionStatus) -> None:
        """Tell a window when this device has its point, or has failed; not when it was given up."""
        if window is None:
            return

        def settle(status: ActionStatus) -> None:
            given_up = isinstance(status.exception(timeout=0), Discarded)
            if self._ready or not (status.success or given_up):
                window.settle(self.name)

        status.add_callback(settle)

    def _acquire(
        self,
        request: Request,
        rules: Rules,
        *,
        on_success: Callable[[], object],
        on_failure: Callable[[Exception], object],
        on_progress: Callable[[int, str], None],
        on_armed: Callable[[], None] = lambda: None,
    ) -> None:
        def end(exc: Exception | None) -> None:
            if exc is None:
                try:
                    on_success()
                except Exception as problem:
                    exc = problem
            if exc is not None and not isinstance(exc, Discarded):
                self.failure = naming(exc, self.name)
                on_failure(exc)  # of one given up, whoever did that says what becomes of the status

        self._acquisition = Acquisition(
            self.name,
            self.source,
            request,
            self._need_stage("acquire"),
            rules,
            self._crew,
            on_armed=on_armed,
            on_progress=on_progress,
            on_end=end,
        )

    def write_aside(self, status: ActionStatus, write: Callable[[], object]) -> ActionStatus:
        """Have settings written in a thread, after those before; `status` ends when `write` does."""
        self._crew.writes.do(lambda: status.outcome(write)())
        return status

    @property
    def _tolerant(self) -> bool:
        return self.loss_policy.get() == LossPolicy.TOLERANT

    def read(self) -> OrderedDict:
        """Return ids and scalars of the point taken last; the image is external.

        DetectorStateError where there is none: not triggered, failed, or given up by a pause.
        """
        if self._store is not None and not self._ready:
            raise DetectorStateError(f"{self.name}: read, but no point is there; trigger first")
        return OrderedDict(super().read(), **self._values)

    def describe(self) -> OrderedDict:
        """Return the data keys of `read`, and that of the image; the frames' keys once it was staged."""
        keys = super().describe()
        if self._store is not None:
            keys.update(self._frame_keys())
            self._store.described(keys)
        return keys

    def _frame_keys(self, flying: bool = False) -> dict:
        """Return the data keys of a point of a step scan, or of a fly scan."""
        store = self._need_stage("describe")
        return data_keys(self.name, store.frame_format, store.frames_per_point, self._tolerant)

    def _columns(self, n_points: int) -> dict[str, list]:
        """Return what the next points say beside their images, by column."""
        return event_columns(self._need_stage("read").columns(n_points), self._tolerant)

    @property
    def hints(self) -> dict:
        """A few scalars for live plots, never an image."""
        one = int(self.frames_per_trigger.get()) == 1
        return {"fields": [f"{self.name}_{key}" for key in self.hinted if one]}

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict]]:
        """Yield the documents of points on disk that were not handed out yet.

        Raises
        ------
        DetectorStateError
            In a step scan: the point was saved before, there is no new one.
        """
        if self.flying:
            yield from super().collect_asset_docs(index)
        elif self._ready:
            store = self._need_stage("read")
            if not store.n_ready:
                raise DetectorStateError(f"{self.name}: this point is in an event already; trigger a new one")
            yield from store.documents(1)

    # fly scans

    def _prepare(self, settings: dict[str, Any]) -> None:
        n_points = settings.pop("n_points", self.n_points.get())
        self.n_points.put(whole_number(f"{self.name}.n_points", n_points, 1))
        self._prepared = settings or None
        if self._store is not None:
            self._store.prepared()

    def kickoff(self) -> ActionStatus:
        """Start a fly scan of `n_points` points; what an earlier one left uncollected is taken back."""
        store = self._need_stage("kickoff", OUR_PLAN)
        self._give_up()
        store.take_back_unsaved()
        n = store.frames_per_point
        n_points = whole_number(f"{self.name}.n_points", self.n_points.get(), 1)
        request = Request(n_points * n, n, flying=True, settings=self._prepared)
        limit = self._rules().longest(request.n_frames)
        self._flight = FrameFlight(
            ActionStatus(self, "kickoff", limit, unit="steps"),
            ActionStatus(self, "fly scan", limit, target=request.n_frames),
            request=request,
        )
        self._fly(self._flight)
        return self._flight.kicked_off

    @property
    def _is_declared(self) -> bool:
        return self._need_stage("describe_collect").has_streams

    def _external_keys(self) -> dict:
        store = self._need_stage("describe_collect")
        in_file = {f"{self.name}_{column}" for column in store.columns_in_file}
        keys = OrderedDict(
            (key, external_key(data_key))
            for key, data_key in self._frame_keys(flying=True).items()
            if key in in_file or "external" in data_key
        )
        store.described(keys)
        return keys

    def describe_flown(self) -> dict:
        """Return the data keys of a point whose ids and numbers are in events."""
        self._need_stage("describe_flown").described()
        return self._frame_keys(flying=True)

    @property
    def n_ready(self) -> int:
        """Points of a fly scan on disk that were not collected yet."""
        return self._need_stage("collect").n_ready if self.flying else 0

    @property
    def n_collected(self) -> int:
        """Points saved since the stream was described, or the fly scan prepared."""
        return self._need_stage("collect").n_collected

    def get_index(self) -> int:
        """Return how many points the stream has, or may have now; counted anew after a `prepare`."""
        return self._need_stage("get_index").index

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points; see `Flying.collect_flown`."""
        store = self._need_stage("collect")
        self._page = None
        if n_points:
            self._page = None if in_file else self._page_of(self._columns(n_points))
            yield from store.documents(n_points, in_file=in_file)
        self._finish_flight()

    def _fly(self, flight: FrameFlight) -> None:
        flight.paused = False
        n_before = flight.n_done

        def progress(n_frames: int, seen: str) -> None:
            flight.completed.progress(n_before + n_frames, seen)

        def ended() -> None:
            flight.ended = True
            self._finish_flight()

        if flight.n_done == flight.request.n_frames:
            self._need_stage("complete").flush()
            return ended()
        self._acquire(
            flight.request.rest(flight.n_done),
            self._rules(),
            on_armed=flight.kicked_off.succeed,
            on_progress=progress,
            on_success=ended,
            on_failure=flight.end,
        )

    def _finish_flight(self) -> None:
        """Complete once a single collection brings the rest; each brings the points of one file."""
        flight = self._flight
        if flight is not None and flight.ended and not self._need_stage("complete").more_files:
            flight.completed.succeed()

    # interruptions

    def pause(self) -> None:
        """Give up what is in flight; whole points stay. A step is triggered again, a fly scan goes on."""
        flight, acquisition = self._flight, self._acquisition
        if flight is None:
            return self._give_up()
        if acquisition is None or flight.paused or flight.ended or flight.completed.done:
            return
        acquisition.discard()
        if flight.ended or flight.completed.done:  # the last frame was faster
            return
        flight.n_done += acquisition.n_done - self._need_stage("pause").take_back_partial()
        flight.paused = True
        for status in (flight.kicked_off, flight.completed):
            status.hold()

    @property
    def n_flown(self) -> int | None:
        """Points of a fly scan that is paused, or over; None if there is none, if it goes on, or failed."""
        flight = self._flight
        if flight is None or not (flight.paused or flight.ended):
            return None
        if flight.completed.done and not flight.completed.success:
            return None
        n_frames = flight.request.n_frames if flight.ended else flight.n_done
        return n_frames // flight.request.frames_per_trigger

    def go_back(self, n_points: int) -> None:
        """Keep so many of the points that `n_flown` tells; the others are taken at resume."""
        flight, n_flown = self._flight, self.n_flown
        if flight is None or n_flown is None or n_flown <= n_points:
            return
        self._need_stage("pause").take_back_last(n_flown - n_points)
        flight.n_done = n_points * flight.request.frames_per_trigger
        flight.paused, flight.ended = True, False
        if flight.completed.done:
            limit, n_frames = flight.completed.timeout, flight.request.n_frames
            flight.completed = ActionStatus(self, "fly scan", limit, target=n_frames)
        flight.completed.hold()

    def resume(self) -> None:
        """Go on with a fly scan."""
        flight = self._flight
        if flight is not None and flight.paused:
            for status in (flight.kicked_off, flight.completed):
                if not status.done:
                    status.release()
            self._fly(flight)

    def stop(self, *, success: bool = False) -> None:
        """Give up what is in flight; whether its status ends well, is said. Safe at any time, and twice."""
        self._give_up(None if success else Discarded(f"{self.name}: stopped on request"))

    def _give_up(self, exc: Exception | None = None) -> None:
        """Discard the acquisition in flight, if any; its status ends, with `exc` if there is one."""
        acquisition, self._acquisition = self._acquisition, None
        try:
            if acquisition is not None:
                acquisition.discard()
        finally:
            exposure, self._exposure = self._exposure, None
            if exposure is not None:
                exposure.succeed() if exc is None else exposure.fail(exc)
            self._end_flight(exc)

    def _end_flight(self, exc: Exception | None) -> None:
        flight, self._flight, self._page = self._flight, None, None
        if flight is not None:
            flight.end(exc)


class FileDetector(Detector):
    """The base for writers: all of `Detector`, but the source brings `WrittenFile` and frames without images.

    For each file the source yields a `WrittenFile`, then one `Frame` with ``image=None`` per image in it, and
    `Progress` as often as it knows more: once the file is closed and was checked, or, where it can, while it
    grows. The file of an acquisition that is given up is not registered, or keeps the points registered so
    far; `WrittenFile.drop` is called for one of which no point is kept.
    """

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> WrittenFileStore:
        return WrittenFileStore(self.name, frame_format, frames_per_point)
