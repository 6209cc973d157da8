"""The Eiger as a source of frames, whatever interface they come from: decisions and HTTP, no ophyd.

A series stays open over the points of a step scan: one arm, many triggers. Anything irregular (a pause, a
missing frame) ends the series, so that the next one starts with a number of its own and nothing old can be
taken for new.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ...clients import SimplonClient
from ...errors import DetectorStateError, RequestError, ServiceRefused, UnknownOutcome
from ...wire.frame import Frame, FrameFormat, MissingFrame, Tables
from ...wire.simplon import ARMED, BUSY, MANY_PER_TRIGGER, DetectorState, TriggerMode
from .._source import Progress, Request, WrittenFile
from .._worker import Worker, ends_within
from ._control import EigerControl, Times, measure
from ._series import (
    DEFAULT_TRIGGER_MODE,
    TRIGGER_MODES,
    EigerSettings,
    Mode,
    TimestampSource,
    plan_series,
)

logger = logging.getLogger(__name__)


Items = Iterator[Frame | MissingFrame | FrameFormat | Tables | Progress | WrittenFile | None]


SHORT = 0.1
"""s of exposure that may be waited for before the first frame is asked for."""


class SoftwareTriggers:
    """Send `n` triggers one after the other, each once, from the moment it is made.

    One takes `duration` s, and its reply `margin` s more; `count_time` is sent along in trigger mode
    ``inte``. Once `stop` is set no further one is sent, and errors do not matter any more. Long ones are sent
    by `worker`.
    """

    def __init__(
        self,
        client: SimplonClient,
        n: int,
        duration: float,
        count_time: float | None,
        margin: float,
        stop: threading.Event,
        worker: Worker,
    ):
        self._client, self._n, self._duration, self._count_time = client, n, duration, count_time
        self._margin, self._stop = margin, stop
        self._problem: Exception | None = None
        self._sent: threading.Event | None = None
        if n * duration <= SHORT:
            self._run()
        else:
            self._sent = worker.do(self._run)

    def _run(self) -> None:
        try:
            for _ in range(self._n):
                if self._stop.is_set():
                    return
                self._client.trigger(self._duration, self._count_time, self._margin)
        except Exception as exc:
            self._problem = exc

    @property
    def done(self) -> bool:
        """Whether all are exposed, or one failed."""
        return self._sent is None or self._sent.is_set()

    @property
    def problem(self) -> Exception | None:
        """What went wrong with a trigger, unless it was given up."""
        return None if self._stop.is_set() else self._problem

    def check(self, control: EigerControl) -> None:
        """Raise what went wrong with a trigger, or that the detector started anew."""
        if (problem := self.problem) is not None:
            if control.is_uninitialized():
                raise control.state_error(DetectorState.NA) from problem
            raise problem

    def join(self) -> None:
        """Wait for the reply to the trigger under way."""
        if self._sent is not None:
            ends_within(self._sent, self._n * (self._duration + 2 * self._margin))


def differs(now: FrameFormat, before: FrameFormat) -> str:
    """Say how frames differ from what they were; empty if they do not."""
    if now.images == before.images:
        return ""
    if (now.shape, now.dtype) == (before.shape, before.dtype):
        return f"each exposure has {len(now.images)} images now, {len(before.images)} when it was staged"
    return f"images are {now.dtype} {now.shape} now, {before.dtype} {before.shape} when it was staged"


class SeriesSource(ABC):
    """Series of one Eiger: it is found, set, armed, triggered, and left as it was.

    Where its frames come from is the subclass', one per `Readout`: `MonitorSource`, `EigerStreamSource`,
    `FilesSource`. `on_stale` is called with the number of frames dropped so far because they were not of the
    exposure; `is_described` returns whether somebody was told already what frames look like, or has one.
    """

    interface: str
    """The module of the server that gives the frames, e.g. ``"monitor"``."""

    modes: frozenset[Mode] = frozenset({Mode.INTERNAL, Mode.EXTERNAL})
    """Who may run the detector."""

    def __init__(self, control: EigerControl):
        self.control, self.client, self.name = control, control.client, control.name
        self.on_stale: Callable[[int], object] = lambda n: None
        self.is_described: Callable[[], bool] = lambda: True
        self.n_stale = 0
        self.mode = Mode.INTERNAL
        self.frame_format: FrameFormat | None = None
        self._settings = EigerSettings()
        self._times = Times()
        self._stop = threading.Event()
        self._triggering = Worker(f"{self.name} triggers")
        self._armed_for: int | None = None  # images per trigger of the open series
        self._n_triggers_left = 0
        self._own_uid = ""
        self._look_again = False
        self._told_arrival = ""  # the series of which that was said

    # what the interface brings

    @abstractmethod
    def _interface_settings(self) -> dict[str, object]:
        """Check that the interface gives one frame after the other; return what it is to be set to."""

    @abstractmethod
    def _scalars(self, dtype: str) -> dict[str, str]:
        """Return names and numpy types of what every frame brings beside its image of type `dtype`."""

    @abstractmethod
    def _room_for(self, n_frames: int) -> dict[str, object]:
        """Return what the interface is to be set to, so that a series of `n_frames` finds room in it."""

    @abstractmethod
    def _drop_old(self) -> None:
        """Drop the frames that lie about, of before the series that is armed next."""

    @abstractmethod
    def _begin_series(self, series_id: int) -> None:
        """Take frames of this series from now on, and of no other."""

    @abstractmethod
    def _take_series(
        self, request: Request, triggers: SoftwareTriggers | None, stop: threading.Event
    ) -> Iterator[Frame | MissingFrame | FrameFormat | Tables | Progress | WrittenFile]:
        """Yield the frames of the series that is armed, in order; set `_armed_for` to None if it ended."""

    def _size_of_an_image(self) -> tuple[tuple[int, int], int]:
        """Return shape (y, x) and bit depth where there is no detector module to ask."""
        raise DetectorStateError(f"{self.name}: the detector does not tell the size of its images")

    def _read_on(self) -> None:
        """Take what still comes of a series that was ended, so that nobody else gets it."""
        return None

    # hooks of the base

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it, and say what its frames look like."""
        self._settings, self._armed_for = settings, None
        self._look_again, self._own_uid, self._told_arrival = False, "", ""
        if settings.mode not in self.modes:
            expected = f"{' or '.join(sorted(self.modes))} where frames come from the {self.interface}"
            raise RequestError(f"{self.name}.mode", settings.mode.value, expected)
        self._count_stale(-self.n_stale)
        self.control.check_version()
        self.mode = self._decide_mode(settings.mode)
        if self.mode is Mode.MONITOR:
            self.control.pay(f"{self.interface}/")
        else:
            self.control.make_idle()
            self.control.pay()
            measure(self.client)  # what a run tells of it is read while a series is open
        interface = self._interface_settings()
        wanted = {} if self.mode is Mode.MONITOR else self._detector_settings(settings.frames_per_trigger)
        self.control.set(wanted | interface)
        self.frame_format = self.read_format()
        return self.frame_format

    @property
    def frame_time(self) -> float:
        """Time from frame to frame as read last, s; 0 where the detector does not say."""
        return self._times.frame_time

    @property
    def trigger_delay(self) -> float:
        """Time from trigger to exposure as read last, s; 0 where the detector does not say."""
        return self._times.delay

    @property
    def rest_time(self) -> float:
        """Time for which what is late is waited for once a series is over, s."""
        return 0.0

    def read_times(self) -> None:
        """Read again how long an exposure takes."""
        self._times = self.control.times()

    def read_format(self) -> FrameFormat:
        """Say what frames look like, as the detector is set now."""
        shape, bits = self._size()
        self.read_times()
        dtype = f"u{bits // 8}"
        return FrameFormat(shape, f"<{dtype}", scalars=self._scalars(dtype), frame_time=self.frame_time)

    def frames(self, request: Request) -> Items:
        """Acquire; yields None once armed."""
        self._stop = stop = threading.Event()
        return self._take_own(request, stop)

    def before_trigger(self) -> None:
        """Do, in the thread that calls for a point, what must be done before anything is exposed."""
        return None

    def discard(self) -> None:
        """Give up the exposure in flight, at the detector too. Safe twice."""
        self._stop.set()
        self.client.interrupt()
        self._armed_for = None
        try:
            self.control.abort()
        except (ConnectionError, TimeoutError, UnknownOutcome) as exc:
            logger.warning("%s: the series is ended before the next one: %s", self.name, exc)

    def close(self) -> None:
        """Leave the detector and its interfaces as they were found. Safe twice."""
        self._stop.set()
        self.client.interrupt()
        self._armed_for = None
        try:
            self.control.restore(self._read_on)
        finally:
            self._triggering.end()

    @property
    def armed(self) -> bool:
        """Whether the next point needs no arming."""
        return self._armed_for is not None

    def _end_series(self) -> None:
        """End the open series; the next point arms again."""
        self._armed_for = None
        self.control.abort()

    def settings_change(self) -> None:
        """End the open series, before a parameter is written; what follows from it is read again."""
        self._look_again = True
        self._end_series()

    @property
    def _wants_detector_time(self) -> bool:
        return self._settings.timestamp_source is TimestampSource.DETECTOR

    def _tell_arrival(self, series: str) -> None:
        """Say, once per series, that the time of receipt stands for the detector's."""
        if series != self._told_arrival:
            self._told_arrival = series
            told = "%s: frames of series %s carry no time of the detector: theirs is the time of receipt"
            logger.warning(told, self.name, series)

    def _count_stale(self, n: int) -> None:
        self.n_stale += n
        self.on_stale(self.n_stale)

    @property
    def _longest(self) -> float:
        """Time that the next image may take, s."""
        return self._settings.timeout + self.frame_time + self._times.delay

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

    def _detector_settings(self, frames_per_trigger: int) -> dict[str, object]:
        """Return what the detector is to be set to: a trigger mode that fits, as it is or ours."""
        parameter = self.control.read("detector/config/trigger_mode")
        if parameter is None:
            raise DetectorStateError(f"{self.name}: the detector has no trigger_mode; is it initialized?")
        self._trigger_mode = parameter.value
        if parameter.value not in TRIGGER_MODES[self.mode]:
            self._trigger_mode = DEFAULT_TRIGGER_MODE[self.mode].value
        return {
            "detector/config/trigger_mode": self._trigger_mode,
            "detector/config/nimages": self._n_images(frames_per_trigger),
        }

    def _n_images(self, n_frames: int) -> int:
        return n_frames if self._trigger_mode in MANY_PER_TRIGGER else 1

    def _size(self) -> tuple[tuple[int, int], int]:
        """Return shape and bit depth, as configured or, where the interface is all there is, of an image."""
        size = self.control.size()
        return self._size_of_an_image() if size is None else size

    # frames of our own series

    def _take_own(self, request: Request, stop: threading.Event) -> Items:
        triggers, complete = None, False
        try:
            self._make_ready(request, stop)
            if stop.is_set():
                return
            yield None
            if self.mode is Mode.INTERNAL:
                triggers = self._send_triggers(request, stop)
            n_left = request.n_frames
            for item in self._take_series(request, triggers, stop):
                n_left -= isinstance(item, Frame | MissingFrame)
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
                self._end_series()
            elif self._n_triggers_left == 0:
                self._armed_for = None

    def _make_ready(self, request: Request, stop: threading.Event) -> None:
        """Arm, unless the open series has triggers left for this request."""
        plan = plan_series(self.mode, self._trigger_mode, self._settings.n_triggers, request)
        if self._armed_for == plan.n_images and self._n_triggers_left >= plan.n_needed:
            self._n_triggers_left -= plan.n_needed
            return
        self._end_series()
        wanted: dict[str, object] = {
            "detector/config/nimages": plan.n_images,
            "detector/config/ntrigger": plan.n_triggers,
        }
        self.control.set(wanted | self._room_for(request.n_frames))
        self._check_format()
        self._drop_old()
        if stop.is_set():
            return
        series_id = self.control.arm()
        if self.control.was_reset(series_id):
            self._look_again = True
            return self._make_ready(request, stop)
        self._begin_series(series_id)
        self._own_uid = f"{time.strftime('%Y%m%dT%H%M%S')}_{series_id}"
        self._armed_for, self._n_triggers_left = plan.n_images, plan.n_triggers - plan.n_needed

    def _check_format(self) -> None:
        """Raise, before a frame is taken, if it would not be what was said at stage."""
        before = self.frame_format
        assert before is not None  # `open` said it
        if self._look_again:
            now, self._look_again = self.read_format(), False
        else:
            self.read_times()
            shape, bits = self._size()
            now = replace(before, shape=shape, dtype=np.dtype(f"<u{bits // 8}"))
        if problem := differs(now, before):
            raise DetectorStateError(f"{self.name}: {problem}; stage the device again")

    def _send_triggers(self, request: Request, stop: threading.Event) -> SoftwareTriggers:
        n, duration, count_time = 1, self._times.delay + request.n_frames * self.frame_time, None
        if self._trigger_mode == TriggerMode.INTE:
            n, duration, count_time = request.n_frames, self._times.count_time, self._times.count_time
        margin = self._settings.timeout
        return SoftwareTriggers(self.client, n, duration, count_time, margin, stop, self._triggering)
