"""The Eiger as a source of frames: decisions and HTTP, no ophyd.

A series stays open over the points of a step scan: one arm, many triggers. Anything irregular (a pause, a
missing frame) ends the series, so that the next one starts with a number of its own and nothing old can be
taken for new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ...clients import SimplonClient
from ...clients.simplon import MonitorFrame
from ...errors import DetectorStateError, ServiceRefused, SfdaqError, WireError
from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame
from ...wire.simplon_states import ARMED, BUSY, MANY_PER_TRIGGER, DetectorState, TriggerMode
from .._debts import Debts
from .._source import Request
from .._worker import Worker
from ._control import EigerControl
from ._found import (
    ONE_THRESHOLD,
    Times,
    check_thresholds,
    differs,
    make_statistics,
    newest_image,
    read_size,
    read_times,
)
from ._plan import plan_series
from ._series import WINDOW, FrameIds, SeriesOrder
from ._settings import DEFAULT_TRIGGER_MODE, TRIGGER_MODES, EigerSettings, LegacyIds, Mode
from ._triggers import SoftwareTriggers

logger = logging.getLogger(__name__)

WAIT = 0.25
"""s one request for the next image waits."""

LARGEST_BUFFER = 1000
"""Frames the monitor is asked to hold at the most."""

UID_LENGTH = 26
"""Of a series' unique id, a ULID; one of ours is shorter."""

WINDOW_BYTES = 512 * 2**20
"""Frames that wait for an earlier one, in bytes; at least two."""


@dataclass
class _End:
    """How a trigger ends when frames do not come."""

    limit: Limit
    exposed: bool = False
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
    debts : Debts
        What could not be put back.
    on_stale : callable
        Called with the number of stale frames dropped so far.
    """

    def __init__(
        self,
        client: SimplonClient,
        name: str,
        debts: Debts,
        on_stale: Callable[[int], None] = lambda n: None,
    ):
        self.client, self.name = client, name
        self.control = EigerControl(client, name, debts)
        self._on_stale = on_stale
        self._stop = threading.Event()
        self._triggering = Worker(f"{name} triggers")
        self._series = SeriesOrder()
        self._settings = EigerSettings()
        self.mode = Mode.INTERNAL
        self._times = Times()
        self.n_stale = 0
        self._n_triggers_left = 0
        self._armed_for: int | None = None
        self._look_again = False
        self._threshold: object = None
        self._own_uid = ""
        self.frame_format: FrameFormat | None = None

    # hooks of the base

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it, and say what its frames look like."""
        self._settings, self._armed_for = settings, None
        self._threshold, self._look_again, self._own_uid = None, False, ""
        self._count_stale(-self.n_stale)
        self._ids = FrameIds(self.client, settings.legacy_ids)
        self.control.check_version()
        self.mode = self._decide_mode(settings.mode)
        if self.mode is Mode.MONITOR:
            self.control.pay("monitor/")
        else:
            self.control.make_idle()
            self.control.pay()
            self._set_trigger_mode()
            self.control.set("detector", "nimages", self._n_images(settings.frames_per_trigger))
        check_thresholds(self.control)
        self.control.set("monitor", "discard_new", self.mode is not Mode.MONITOR)
        self.control.set("monitor", "mode", "enabled")
        self.frame_format = self.read_format()
        self._series.window = max(2, min(WINDOW, WINDOW_BYTES // self.frame_format.frame_bytes))
        return self.frame_format

    def read_format(self) -> FrameFormat:
        """Say what frames look like, as the detector is set now."""
        shape, bits = self._size()
        self.refresh_times()
        self._statistics = make_statistics(self.control, f"u{bits // 8}", self._settings.exclude_masked)
        scalars = self._statistics.names | {"receive_time": "f8", "series_uid": f"U{UID_LENGTH}"}
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
        """End the open series; the next point arms again."""
        self._armed_for = None
        self.control.abort()

    def settings_change(self) -> None:
        """End the open series, before a parameter is written; what follows from it is read again."""
        self._look_again = True
        self.end_series()

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
        self._check_format()
        self._drop_buffered()
        if stop.is_set():
            return
        series_id = self.control.arm()
        if self.control.was_reset(series_id):
            self._look_again = True
            return self._make_ready(request, stop)
        self._series.start(series_id)
        self._own_uid = f"{time.strftime('%Y%m%dT%H%M%S')}_{series_id}"
        self._ids.restart()
        self._armed_for, self._n_triggers_left = plan.n_images, plan.n_triggers - plan.n_needed

    def _check_format(self) -> None:
        """Raise, before a frame is taken, if it would not be what was said at stage."""
        if self._look_again:
            now, self._look_again = self.read_format(), False
        else:
            self.refresh_times()
            shape, bits = self._size()
            now = replace(self.frame_format, shape=shape, dtype=f"<u{bits // 8}")
        if problem := differs(now, self.frame_format):
            raise DetectorStateError(f"{self.name}: {problem}; stage the device again")

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
            if series_id == self._series.series_id:
                self._check_threshold(frame)
            more = {"uid": frame.series_uid, "n_wanted": n_left}
            passed = self._series.accept(series_id, image_id, (frame, name), **more)
            if passed is None:
                self._count_stale(1)
                continue
            end.limit.restart()
            n_left -= len(passed)
            yield from self._in_order(passed)
        if n_left:
            passed = self._series.end(n_left)
            yield from self._in_order(passed)
            yield from self._lost(n_left - len(passed), end)

    def _in_order(self, passed: list) -> Iterator[Frame | MissingFrame]:
        for event_id, item in passed:
            if item is None:
                self._armed_for = None
                yield MissingFrame(event_id)
            else:
                yield self._finished(*item)

    def _check_threshold(self, frame: MonitorFrame) -> None:
        """Raise if images of another threshold come between: two of one number."""
        threshold = frame.private.get("threshold_id")
        if self._threshold is None:
            self._threshold = threshold
        elif threshold not in (None, self._threshold):
            raise DetectorStateError(
                f"{self.name}: images of threshold {threshold} come between those of threshold "
                f"{self._threshold}; {ONE_THRESHOLD}"
            )

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
        if triggers is not None and (problem := triggers.problem) is not None:
            if self.control.is_uninitialized():
                raise self.control.state_error(DetectorState.NA) from problem
            raise problem
        late = end.limit.reached()
        if triggers is not None and not late:
            exposed, end.exposed = end.exposed, triggers.done
            if not exposed:
                return  # what was there when the exposure ended comes with the next look
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
                self._check_threshold(frame)
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
        numbers = self._statistics.of(frame.image) | {
            "receive_time": frame.received_ns / 1e9,
            "series_uid": frame.series_uid or self._own_uid,
        }
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
