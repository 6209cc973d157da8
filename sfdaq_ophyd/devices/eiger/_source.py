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

import numpy as np

from ...clients import SimplonClient
from ...errors import DetectorStateError, ServiceRefused, UnknownOutcome
from ...wire.frame import Frame, FrameFormat, MissingFrame
from ...wire.simplon_states import ARMED, BUSY, MANY_PER_TRIGGER, TriggerMode
from .._source import Request
from .._worker import Worker
from ..debts import Debts
from ._control import (
    EigerControl,
    check_thresholds,
    differs,
    make_statistics,
    newest_image,
    read_size,
    read_times,
)
from ._series import DEFAULT_TRIGGER_MODE, TRIGGER_MODES, WINDOW, EigerSettings, FrameIds, Mode
from ._taking import FrameTaking, SoftwareTriggers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesPlan:
    """What a series must be armed for, to serve one request.

    Attributes
    ----------
    n_images : int
        ``nimages``: frames of one trigger.
    n_triggers : int
        ``ntrigger``: triggers of the series.
    n_needed : int
        Triggers this request takes of them.
    """

    n_images: int
    n_triggers: int
    n_needed: int


def plan_series(mode: Mode, trigger_mode: str, n_triggers: int, request: Request) -> SeriesPlan:
    """Return what to arm for.

    Run by us, a step scan shares one series of `n_triggers` triggers, and a fly scan is one trigger of all
    its frames. With triggers from outside every request has a series of its own, so that no earlier edge
    counts.
    """
    many = trigger_mode in MANY_PER_TRIGGER
    if mode is Mode.INTERNAL:
        if request.flying:
            return SeriesPlan(request.n_frames, 1, 1) if many else _single(request.n_frames)
        needed = 1 if many else request.n_frames
        return SeriesPlan(request.n_frames if many else 1, max(needed, n_triggers), needed)
    if many:
        needed = request.n_frames // request.frames_per_trigger
        return SeriesPlan(request.frames_per_trigger, needed, needed)
    edges_more = 1 if trigger_mode == TriggerMode.EIES else 0  # n edges make n - 1 frames
    return _single(request.n_frames + edges_more)


def _single(n: int) -> SeriesPlan:
    return SeriesPlan(1, n, n)


LARGEST_BUFFER = 1000
"""Frames the monitor is asked to hold at the most."""

UID_LENGTH = 26
"""Of a series' unique id, a ULID; one of ours is shorter."""

WINDOW_BYTES = 512 * 2**20
"""Frames that wait for an earlier one, in bytes; at least two."""


class EigerSource(FrameTaking):
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
        super().__init__(client, name, EigerControl(client, name, debts), on_stale)
        self._stop = threading.Event()
        self._triggering = Worker(f"{name} triggers")
        self.mode = Mode.INTERNAL
        self.frame_format: FrameFormat | None = None
        self._n_triggers_left = 0
        self._look_again = False

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
        check_thresholds(self.control)
        wanted = {} if self.mode is Mode.MONITOR else self._detector_settings(settings.frames_per_trigger)
        monitor = {
            "monitor/config/discard_new": self.mode is not Mode.MONITOR,
            "monitor/config/mode": "enabled",
        }
        self.control.set(wanted | monitor)
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
        try:
            self.control.abort()
        except (ConnectionError, TimeoutError, UnknownOutcome) as exc:
            logger.warning("%s: the series is ended before the next one: %s", self.name, exc)

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

    def _detector_settings(self, frames_per_trigger: int) -> dict[str, object]:
        """Return what the detector is to be set to: a trigger mode that fits, as it is or ours."""
        parameter = self.control.read("detector", "trigger_mode")
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
        """Return shape and bit depth, as configured or, where the monitor is all there is, of an image."""
        size = read_size(self.control)
        if size is None:
            frame = newest_image(self.client, self.name, self._settings.timeout)
            size = frame.image.shape, 8 * frame.image.itemsize
        return size

    def refresh_times(self) -> None:
        """Read how long a frame takes."""
        self._times = read_times(self.control)

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
        wanted: dict[str, object] = {
            "detector/config/nimages": plan.n_images,
            "detector/config/ntrigger": plan.n_triggers,
        }
        room = min(max(request.n_frames, 100), LARGEST_BUFFER)
        buffer_size = self.control.read("monitor", "buffer_size")
        if buffer_size is not None and buffer_size.value < room:
            wanted["monitor/config/buffer_size"] = room
        self.control.set(wanted)
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
        before = self.frame_format
        assert before is not None  # `open` said it
        if self._look_again:
            now, self._look_again = self.read_format(), False
        else:
            self.refresh_times()
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
