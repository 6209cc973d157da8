"""The Eiger as a source of frames: decisions and HTTP, no ophyd.

A series stays open over the points of a step scan: one arm, many triggers. Anything irregular (a pause, a
missing frame) ends the series, so that the next one starts with a number of its own and nothing old can be
taken for new.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...clients import SimplonClient
from ...clients.simplon import MonitorFrame
from ...errors import DetectorStateError, ServiceRefused, SfdaqError, WireError
from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame
from ...wire.simplon_states import ARMED, BUSY, MANY_PER_TRIGGER, DetectorState, TriggerMode
from .._source import Request
from .._worker import Worker
from ._control import EigerControl
from ._found import Times, make_statistics, newest_image, read_size, read_times
from ._plan import plan_series
from ._series import FrameIds, SeriesFilter
from ._settings import DEFAULT_TRIGGER_MODE, TRIGGER_MODES, EigerSettings, LegacyIds, Mode
from ._triggers import SoftwareTriggers

logger = logging.getLogger(__name__)

WAIT = 0.25
"""s one request for the next image waits."""

LARGEST_BUFFER = 1000
"""Frames the monitor is asked to hold at the most."""


@dataclass
class _End:
    """How a trigger ends when frames do not come."""

    limit: Limit
    why: str = ""
    unreadable: str = ""
    over: bool = False


class EigerSource:
    """Frames of one Eiger, for `sfdaq_ophyd.devices._detector.Detector`.

    Parameters
    ----------
    client : SimplonClient
    name : str
        Of the device, for messages.
    on_stale : callable
        Called with the number of stale frames dropped so far.
    """

    def __init__(self, client: SimplonClient, name: str, on_stale: Callable[[int], None] = lambda n: None):
        self.client, self.name = client, name
        self.control = EigerControl(client, name)
        self._on_stale = on_stale
        self._stop = threading.Event()
        self._triggering = Worker(f"{name} triggers")
        self._series = SeriesFilter()
        self._settings = EigerSettings()
        self.mode = Mode.INTERNAL
        self._times = Times()
        self.n_stale = 0
        self._n_triggers_left = 0
        self._armed_for: int | None = None

    # hooks of the base

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it, and say what its frames look like."""
        self._settings, self._armed_for = settings, None
        self._count_stale(-self.n_stale)
        self._ids = FrameIds(self.client, settings.legacy_ids)
        self.control.check_version()
        self.mode = self._decide_mode(settings.mode)
        if self.mode is not Mode.MONITOR:
            self.control.make_idle()
            self._set_trigger_mode()
            self.control.set("detector", "nimages", self._n_images(settings.frames_per_trigger))
        self.control.set("monitor", "discard_new", self.mode is not Mode.MONITOR)
        self.control.set("monitor", "mode", "enabled")
        shape, bits = self._size()
        self.refresh_times()
        self._statistics = make_statistics(self.control, f"u{bits // 8}", settings.exclude_masked)
        scalars = self._statistics.names | {"receive_time": "f8"}
        return FrameFormat(shape, f"<u{bits // 8}", scalars=scalars, frame_time=self.frame_time)

    def frames(self, request: Request) -> Iterator[Frame | MissingFrame | None]:
        """Acquire; yields None once armed."""
        self._stop = stop = threading.Event()
        take = self._take_passively if self.mode is Mode.MONITOR else self._take_own
        return take(request, stop)

    def discard(self) -> None:
        """Give up the exposure in flight, at the detector too. Safe twice."""
        self._stop.set()
        self.client.interrupt()
        self._armed_for = None
        self.control.abort()

    def close(self) -> None:
        """Leave detector and monitor as they were found. Safe twice."""
        self._stop.set()
        self.client.interrupt()
        self._armed_for = None
        try:
            self.control.restore()
        finally:
            self._triggering.end()

    @property
    def armed(self) -> bool:
        """Whether the next point needs no arming."""
        return self._armed_for is not None

    def end_series(self) -> None:
        """End the open series, before a parameter is written; the next point arms again."""
        self._armed_for = None
        self.control.abort()

    # staging

    def _decide_mode(self, wanted: Mode) -> Mode:
        if wanted is not Mode.AUTO:
            return wanted
        try:
            state = self.client.state()
        except ServiceRefused as exc:
            if exc.code != 404:
                raise
            return Mode.MONITOR
        return Mode.MONITOR if state in ARMED or state in BUSY else Mode.INTERNAL

    def _set_trigger_mode(self) -> None:
        parameter = self.control.read("detector", "trigger_mode")
        if parameter is None:
            raise DetectorStateError(f"{self.name}: the detector has no trigger_mode; is it initialized?")
        self._trigger_mode = parameter.value
        if parameter.value not in TRIGGER_MODES[self.mode]:
            self._trigger_mode = DEFAULT_TRIGGER_MODE[self.mode].value
            self.control.set("detector", "trigger_mode", self._trigger_mode)

    def _n_images(self, n_frames: int) -> int:
        return n_frames if self._trigger_mode in MANY_PER_TRIGGER else 1

    def _size(self) -> tuple[tuple[int, int], int]:
        """Return shape and bit depth, as configured or, where the monitor is all there is, of an image."""
        size = read_size(self.control)
        if size is None:
            frame = newest_image(self.client, self.name, self._settings.timeout)
            size = frame.image.shape, 8 * frame.image.itemsize
        return size

    def refresh_times(self) -> None:
        """Read how long a frame takes."""
        self._times = read_times(self.control)

    @property
    def frame_time(self) -> float:
        """S from frame to frame, as read last; 0 where the detector does not say."""
        return self._times.frame_time

    # frames of our own series

    def _take_own(self, request: Request, stop: threading.Event) -> Iterator[Frame | MissingFrame | None]:
        triggers, complete = None, False
        try:
            self._make_ready(request, stop)
            if stop.is_set():
                return
            yield None
            if self.mode is Mode.INTERNAL:
                triggers = self._send_triggers(request, stop)
            n_left = request.n_frames
            for item in self._collect(request, triggers, stop):
                n_left -= 1
                complete = n_left == 0 and self._armed_for is not None
                yield item
        finally:
            if triggers is not None:
                if complete:
                    triggers.join()
                else:
                    stop.set()
                    self._triggering.leave()  # a reply that does not come holds up no later trigger
            if not complete or (triggers is not None and triggers.problem is not None):
                self.end_series()
            elif self._n_triggers_left == 0:
                self._armed_for = None

    def _make_ready(self, request: Request, stop: threading.Event) -> None:
        """Arm, unless the open series has triggers left for this request."""
        plan = plan_series(self.mode, self._trigger_mode, self._settings.n_triggers, request)
        if self._armed_for == plan.n_images and self._n_triggers_left >= plan.n_needed:
            self._n_triggers_left -= plan.n_needed
            return
        self.end_series()
        self.control.set("detector", "nimages", plan.n_images)
        self.control.set("detector", "ntrigger", plan.n_triggers)
        room = min(max(request.n_frames, 100), LARGEST_BUFFER)
        buffer_size = self.control.read("monitor", "buffer_size")
        if buffer_size is not None and buffer_size.value < room:
            self.control.set("monitor", "buffer_size", room)
        self.refresh_times()
        self._drop_buffered()
        if stop.is_set():
            return
        self._series.start(self.control.arm())
        self._ids.restart()
        self._armed_for, self._n_triggers_left = plan.n_images, plan.n_triggers - plan.n_needed

    def _send_triggers(self, request: Request, stop: threading.Event) -> SoftwareTriggers:
        n, duration, count_time = 1, self._times.delay + request.n_frames * self.frame_time, None
        if self._trigger_mode == TriggerMode.INTE:
            n, duration, count_time = request.n_frames, self._times.count_time, self._times.count_time
        margin = self._settings.timeout
        return SoftwareTriggers(self.client, n, duration, count_time, margin, stop, self._triggering)

    def _collect(self, request, triggers: SoftwareTriggers | None, stop) -> Iterator[Frame | MissingFrame]:
        n_left, end = request.n_frames, _End(self._limit())
        images = self._images(stop)
        while n_left and not end.over:
            frame = next(images, None)
            if stop.is_set():
                return
            if frame is None:
                self._look_for_the_end(triggers, end)
                continue
            if isinstance(frame, WireError):
                end.unreadable = f"{frame}; "  # its number shows as a gap in the ids
                continue
            series_id, image_id, name = self._ids.of(frame, self._series.series_id)
            missing = self._series.accept(series_id, image_id)
            if missing is None:
                self._count_stale(1)
                continue
            end.limit.restart()
            if missing:
                self._armed_for = None
            for lost in missing[:n_left]:
                yield MissingFrame(lost)
            n_left -= len(missing)
            if n_left > 0:
                n_left -= 1
                yield self._finished(frame, name)
        yield from self._lost(n_left, end)

    def _images(self, stop: threading.Event) -> Iterator[MonitorFrame | WireError | None]:
        """Yield what the monitor gives; an unreadable image is raised or, if gaps are tolerated, yielded."""
        while not stop.is_set():
            try:
                yield from self.client.images(stop, WAIT, self._limit().seconds)
            except WireError as exc:
                if self._settings.strict:
                    raise WireError(f"{self.name}: {exc}") from exc
                logger.warning("%s: %s", self.name, exc)
                yield exc

    def _look_for_the_end(self, triggers: SoftwareTriggers | None, end: _End) -> None:
        """Find out whether anything more can come, now that the monitor had no image."""
        if end.why:
            end.over = True
            return
        if triggers is not None and triggers.problem is not None:
            raise triggers.problem
        late = end.limit.reached()
        if triggers is not None and not triggers.done and not late:
            return
        state = self.client.state()
        if state in (DetectorState.ERROR, DetectorState.NA):
            raise self.control.state_error(state)
        if state == DetectorState.IDLE or (triggers is not None and state == DetectorState.READY):
            end.why = f"the detector is in state '{state}' and gives no more images"
        elif late:
            end.why = f"no image for {self._settings.timeout:g} s beyond the exposure; state '{state}'"
        if end.why:
            self._armed_for = None  # some firmware gives the last image only after disarm: one more look
            self.control.disarm()

    def _lost(self, n: int, end: _End) -> Iterator[MissingFrame]:
        if n <= 0:
            return
        self._armed_for = None
        why = f"{end.unreadable}{end.why}; {self._dropped()}"
        for k, name in enumerate(self._series.still_missing(n)):
            yield MissingFrame(f"{name} ({why})".strip() if k == 0 else name)

    # frames of somebody else's series

    def _take_passively(
        self, request: Request, stop: threading.Event
    ) -> Iterator[Frame | MissingFrame | None]:
        self._drop_buffered()
        yield None
        n_left, limit, last = request.n_frames, self._limit(), None
        for frame in self._images(stop):
            if isinstance(frame, MonitorFrame):
                series_id, image_id, name = self._ids.of(frame, None)
                if (series_id, image_id) == last:
                    self._count_stale(1)
                    continue
                last, n_left = (series_id, image_id), n_left - 1
                limit.restart()
                yield self._finished(frame, name)
            elif frame is not None:
                n_left -= 1
                yield MissingFrame(str(frame))
            elif limit.reached():
                waited = f"no image for {self._settings.timeout:g} s; is the detector running?"
                yield MissingFrame(f"{waited} ({self._dropped()})")
                return
            if n_left == 0:
                return

    # helpers

    def _finished(self, frame: MonitorFrame, name: str) -> Frame:
        numbers = self._statistics.of(frame.image) | {"receive_time": frame.received_ns / 1e9}
        timestamp = frame.timestamp
        if timestamp is None:
            if self._settings.legacy_ids is LegacyIds.REFUSE:
                raise WireError(f"{self.name}: frame {name} carries no time (private tag ImageDateTime)")
            timestamp = frame.received_ns / 1e9
        good = frame.private.get("n_lost_pixels", 0) == 0
        return Frame(frame.image, timestamp, name, is_good=good, scalars=numbers)

    def _limit(self) -> Limit:
        """For the next image."""
        return Limit(self._settings.timeout + self.frame_time + self._times.delay)

    def _drop_buffered(self) -> None:
        """Empty the monitor's buffer, counting what was in it."""
        try:
            n_buffered = len(self.client.image_list())
        except ServiceRefused:
            return  # no list: stale frames are told by their ids
        if n_buffered:
            self._count_stale(n_buffered)
            self.client.clear_monitor()

    def _count_stale(self, n: int) -> None:
        self.n_stale += int(n)
        self._on_stale(self.n_stale)

    def _dropped(self) -> str:
        try:
            return f"monitor dropped {self.client.get('monitor', 'status', 'dropped').value}"
        except SfdaqError:
            return "monitor counters not readable"
