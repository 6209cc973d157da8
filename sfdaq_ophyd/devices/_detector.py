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

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal

from ..wire.frame import FrameFormat
from ._assets import external_key
from ._flying import OUR_PLAN, Flight, Flying
from ._source import Request
from ._status import ActionStatus, whole_number
from ._step_detector import StepDetector
from ._store import WrittenFileStore


@dataclass(kw_only=True)
class FrameFlight(Flight):
    """A fly scan whose frames come to this process: what was asked for, and how far it is."""

    request: Request
    n_done: int = 0
    paused: bool = False
    ended: bool = False


class Detector(StepDetector, Flying):
    """A detector whose frames come to this process and go into HDF5 files.

    Parameters, attributes and signals are those of `StepDetector`, whose verbs are joined here by those of a
    fly scan: one acquisition of many points, collected while it runs.
    """

    n_points = Cpt(Signal, value=1, kind="config", doc="points of the next fly scan")

    _flight: FrameFlight | None = None
    _prepared: Any = None

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
        if not self._is_acquiring:
            self._end_flight(None)
        return super().trigger()

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict]]:
        """Yield the documents of points on disk that were not handed out yet.

        Parameters
        ----------
        index : int, optional
            In a fly scan: no further than so many points; see `get_index`.

        Raises
        ------
        DetectorStateError
            In a step scan: the point was saved before, there is no new one.
        """
        yield from super().collect_asset_docs(index) if self.flying else self._documents()

    # fly scans

    def _prepare(self, settings: dict[str, Any]) -> None:
        n_points = settings.pop("n_points", self.n_points.get())
        self.n_points.put(whole_number(f"{self.name}.n_points", n_points, 1))
        self._prepared = settings or None
        if self._store is not None:
            self._store.prepared()

    def kickoff(self) -> ActionStatus:
        """Start a fly scan of `n_points` points; what an earlier one left uncollected is taken back.

        Returns
        -------
        ActionStatus
            Done when the detector is armed.

        Raises
        ------
        DetectorStateError
            The device is not staged.
        """
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
        """Yield the documents of the next `n_points` points.

        Parameters
        ----------
        n_points : int
            At most `n_ready`.
        in_file : bool
            Ids and numbers are columns of the file of the images; else they are the rows of `flown_pages`.
        """
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

        def failed(exc: Exception) -> None:
            flight.kicked_off.fail(exc)
            flight.completed.fail(exc)

        if flight.n_done == flight.request.n_frames:
            self._need_stage("complete").flush()
            return ended()
        self._acquire(
            flight.request.rest(flight.n_done),
            self._rules(),
            on_armed=flight.kicked_off.succeed,
            on_progress=progress,
            on_success=ended,
            on_failure=failed,
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
            return super().pause()
        if acquisition is None or flight.paused or flight.ended or flight.completed.done:
            return
        acquisition.discard()
        if flight.ended or flight.completed.done:  # the last frame was faster
            return
        flight.n_done += acquisition.n_done - self._need_stage("pause").take_back_partial()
        flight.paused = True
        for status in (flight.kicked_off, flight.completed):
            status.hold()

    def resume(self) -> None:
        """Go on with a fly scan."""
        flight = self._flight
        if flight is not None and flight.paused:
            for status in (flight.kicked_off, flight.completed):
                if not status.done:
                    status.release()
            self._fly(flight)

    def _give_up(self, exc: Exception | None = None) -> None:
        try:
            super()._give_up(exc)
        finally:
            self._end_flight(exc)

    def _end_flight(self, exc: Exception | None) -> None:
        flight, self._flight, self._page = self._flight, None, None
        if flight is not None:
            for status in (flight.kicked_off, flight.completed):
                status.succeed() if exc is None else status.fail(exc)


class FileDetector(Detector):
    """The base for writers: all of `Detector`, but the source brings `WrittenFile` and frames without images.

    For each file the source yields a `WrittenFile`, then one `Frame` with ``image=None`` per image in it, and
    `Progress` as often as it knows more: once the file is closed and was checked, or, where it can, while it
    grows. The file of an acquisition that is given up is not registered, or keeps the points registered so
    far; `WrittenFile.drop` is called for one of which no point is kept.
    """

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> WrittenFileStore:
        return WrittenFileStore(self.name, frame_format, frames_per_point)
