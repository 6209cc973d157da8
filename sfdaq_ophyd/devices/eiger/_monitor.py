"""Frames from the monitor: of our own series, in order and complete, or somebody else's as they come."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator

from ...clients.simplon import MonitorFrame
from ...errors import DetectorStateError, FramesMissing, ServiceRefused, SfdaqError, WireError
from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame
from ...wire.simplon import event_id, typed
from .._acquisition import LossPolicy
from .._source import Request
from ._control import EigerControl
from ._numbers import FrameStatistics, make_statistics
from ._order import Arrival, OrderedSource, Passed
from ._series import EigerSettings, LegacyIds, Mode
from ._source import Items

logger = logging.getLogger(__name__)


WAIT = 0.25
"""s one request for the next image waits."""


LARGEST_BUFFER = 1000
"""Frames the monitor is asked to hold at the most."""

FEW_BYTES = 64 << 20
"""Old images that are fetched, and left out, rather than dropped together with those that come meanwhile."""

UID_LENGTH = 26
"""Of a series' unique id, a ULID; one of ours is shorter."""


ONE_THRESHOLD = (
    "the monitor gives an image for each threshold, under one number: leave one enabled "
    "(detector/config/threshold/<n>/mode, threshold/difference/mode)"
)


UNSURE = "images before it are missing; if another client took them, these pixels may be of one of those"
"""Why a frame whose ids were asked for after it came is not taken."""


NamedFrame = tuple[MonitorFrame, str]
"""A frame and its event id."""


class MonitorSource(OrderedSource[NamedFrame]):
    """Frames of one Eiger out of its monitor, one HTTP request each."""

    interface = "monitor"
    modes = frozenset(Mode)
    _statistics: FrameStatistics

    def __init__(self, control: EigerControl):
        super().__init__(control)
        self._unreadable = ""  # what was wrong with an image that came
        self._threshold: object = None
        self._n_local = 0
        self._old: set[tuple[int, int]] = set()  # images that lay in the buffer before the point

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it and its monitor, and say what its frames look like."""
        self._threshold, self._order.series_id, self._n_local = None, None, 0
        frame_format = super().open(settings)
        self._order.fit(frame_format.frame_bytes)
        return frame_format

    def _interface_settings(self) -> dict[str, object]:
        if len(enabled := self.control.thresholds()) > 1:
            raise DetectorStateError(f"{self.name}: thresholds {enabled} are enabled; {ONE_THRESHOLD}")
        return self._enabled()

    def _enabled(self, room: int = 0) -> dict[str, object]:
        """Return what the monitor is to be set to; its buffer too, if it holds fewer than `room` frames."""
        settings: dict[str, object] = {"monitor/config/discard_new": self.mode is not Mode.MONITOR}
        if room:
            buffer_size = self.control.read("monitor/config/buffer_size")
            if buffer_size is not None and (typed(buffer_size.value, "integer") or 0) < room:
                settings["monitor/config/buffer_size"] = room
        return settings | {"monitor/config/mode": "enabled"}

    def _scalars(self, dtype: str) -> dict[str, str]:
        self._statistics = make_statistics(self.control, dtype, self._settings.exclude_masked)
        return self._statistics.names | {"receive_time": "f8", "series_uid": f"U{UID_LENGTH}"}

    def _size_of_an_image(self) -> tuple[tuple[int, int], int]:
        timeout = self._settings.timeout
        try:
            frame = self.client.newest_image(timeout)
        except ServiceRefused as exc:
            if exc.code != 404:
                raise
            frame = self.client.next_image(timeout)  # which takes it out of the buffer
        if frame is None:
            raise FramesMissing(
                self.name, asked=1, got=0, detail="no image in the monitor to learn the size from"
            )
        height, width = frame.image.shape
        return (height, width), 8 * frame.image.itemsize

    def _room_for(self, n_frames: int) -> dict[str, object]:
        """Return all of the monitor's settings: an initialize by somebody else has disabled it."""
        return self._enabled(min(max(n_frames, 100), LARGEST_BUFFER))

    def _begin_series(self, series_id: int) -> None:
        self._order.start(series_id)
        self._unreadable, self._n_local = "", 0

    def _arrivals(self, stop: threading.Event) -> Iterator[list[Arrival[NamedFrame]] | None]:
        for frame in self._images(stop):
            if isinstance(frame, WireError):
                self._unreadable = f"{frame}; "  # its number shows as a gap in the ids
                ids_are_asked = self._settings.legacy_ids is LegacyIds.STATUS
                yield self._refused(str(frame)) if ids_are_asked else []  # a gap would cost the next one too
            elif frame is None:
                yield None
            else:
                series_id, image_id, name = self._ids_of(frame)
                if series_id == self._order.series_id:
                    self._check_threshold(frame)
                yield [Arrival(series_id, image_id, frame.series_uid, (frame, name))]

    def _refused(self, why: str) -> list[Arrival[NamedFrame]]:
        """Return an image that came and is unreadable, if the server tells its number."""
        try:
            series, image = self.client.last_taken()
        except SfdaqError:
            return []
        return [Arrival(series, image, "", why)]

    def _ids_of(self, frame: MonitorFrame) -> tuple[int, int, str]:
        """Return series, image and event id; WireError if the frame has none, and is refused then."""
        legacy = self._settings.legacy_ids
        if frame.series_id is not None and frame.image_id is not None:
            return frame.series_id, frame.image_id, frame.event_id
        if legacy is LegacyIds.STATUS:
            series, image = self.client.last_taken()
            return series, image, event_id(series, image)
        if legacy is LegacyIds.LOCAL:
            series, image = self._order.series_id or 0, self._n_local
            self._n_local += 1
            return series, image, f"local_{event_id(series, image)}"
        return -1, -1, frame.event_id  # which says what is missing, and what to do

    def _in_order(
        self, passed: Iterable[Passed[NamedFrame]], why: str = ""
    ) -> Iterator[Frame | MissingFrame | FrameFormat]:
        yield from super()._in_order(self._sure(passed), why)

    def _sure(self, passed: Iterable[Passed[NamedFrame]]) -> Iterator[Passed[NamedFrame]]:
        """Yield what passed; a frame after a gap is missing too if its ids came by a request of their own."""
        after_gap = False
        for name, frame in passed:
            asked = isinstance(frame, tuple) and None in (frame[0].series_id, frame[0].image_id)
            unsure = after_gap and asked and self._settings.legacy_ids is LegacyIds.STATUS
            yield name, UNSURE if unsure else frame
            after_gap = frame is None

    def _made(self, name: str, frame: NamedFrame) -> Iterator[Frame]:
        yield self._finished(*frame)

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
                yield from self.client.images(stop, WAIT, self._longest)
            except WireError as exc:
                if self._settings.loss_policy is LossPolicy.STRICT:
                    raise WireError(f"{self.name}: {exc}") from exc
                logger.warning("%s: %s", self.name, exc)
                yield exc

    def before_trigger(self) -> None:
        """Take note of what was there before; an image that comes after this is of the point.

        A few are told by their ids as they come, so that none is lost that comes meanwhile, as of a detector
        that another device triggers for the same point. Many, or ones without ids, are dropped at once.
        """
        if self.mode is not Mode.MONITOR or self.frame_format is None:
            return
        self._old = set()
        self.client.wait_out_images()
        with contextlib.suppress(ServiceRefused):  # no list
            self._old = set(self.client.image_list())
        has_ids = self._settings.legacy_ids is LegacyIds.REFUSE
        if not has_ids or len(self._old) * self.frame_format.frame_bytes > FEW_BYTES:
            self._old.clear()
            self._drop_old()
        self._count_stale(len(self._old))

    def frames(self, request: Request) -> Items:
        """Acquire; yields None once armed."""
        if self.mode is not Mode.MONITOR:
            return super().frames(request)
        self._stop = stop = threading.Event()
        return self._take_passively(request, stop)

    def _take_passively(self, request: Request, stop: threading.Event) -> Items:
        """Yield None, then the frames of series that somebody else runs, as they come."""
        yield None
        n_left, limit, last = request.n_frames, Limit(self._longest), None
        for frame in self._images(stop):
            if isinstance(frame, MonitorFrame):
                series_id, image_id, name = self._ids_of(frame)
                self._check_threshold(frame)
                if (series_id, image_id) in self._old:
                    self._old.remove((series_id, image_id))  # counted already
                    continue
                if (series_id, image_id) == last:
                    self._count_stale(1)
                    if limit.reached():
                        yield self._nothing_came()
                        return
                    continue
                last, n_left = (series_id, image_id), n_left - 1
                limit.restart()
                yield self._finished(frame, name)
            elif frame is not None:
                n_left -= 1
                yield MissingFrame(str(frame))
            elif limit.reached():
                yield self._nothing_came()
                return
            if n_left == 0:
                return

    def _nothing_came(self) -> MissingFrame:
        waited = f"no image for {self._settings.timeout:g} s; is the detector running?"
        return MissingFrame(f"{waited} ({self._explanation()})")

    def _finished(self, frame: MonitorFrame, name: str) -> Frame:
        scalars: dict[str, float | str] = {
            **self._statistics.of(frame.image),
            "receive_time": frame.received_ns / 1e9,
            "series_uid": frame.series_uid or self._own_uid,
        }
        timestamp = frame.received_ns / 1e9
        n_lost = frame.private.get("n_lost_pixels", 0)
        lacks = f"{n_lost} pixels lost in transmission" if n_lost else ""
        if self._wants_detector_time:
            if frame.timestamp is not None:
                timestamp = frame.timestamp
            elif self._settings.legacy_ids is not LegacyIds.REFUSE:
                self._tell_arrival(name.rpartition("_")[0])
            elif self._settings.loss_policy is LossPolicy.STRICT:
                raise WireError(f"{self.name}: frame {name} carries no time (private tag ImageDateTime)")
            else:
                no_time = "its time (private tag ImageDateTime): that of its receipt stands there"
                lacks = f"{lacks}; {no_time}" if lacks else no_time
        if lacks:
            logger.warning("%s: frame %s lacks %s", self.name, name, lacks)
        return Frame(frame.image, timestamp, name, is_good=not lacks, lacks=lacks, scalars=scalars)

    def _drop_old(self) -> None:
        """Empty the monitor's buffer, counting what was in it; for a series of our own its counters too.

        Of somebody else's series only what was in it goes: more may come meanwhile, and is of the point.
        """
        self.client.wait_out_images()
        n_buffered = 0
        with contextlib.suppress(ServiceRefused):  # no list: stale frames are told by their ids
            n_buffered = len(self.client.image_list())
        if self.mode is Mode.MONITOR and not n_buffered:
            return
        try:
            self.client.clear_monitor()
        except ServiceRefused:
            if n_buffered:
                raise
        else:
            self._count_stale(n_buffered)

    def _explanation(self) -> str:
        try:
            dropped = f"monitor dropped {self.client.get('monitor', 'status', 'dropped').value}"
        except SfdaqError:
            dropped = "monitor counters not readable"
        with contextlib.suppress(SfdaqError):
            mode = self.control.value("monitor/config/mode")
            if mode not in ("enabled", True, None):  # True: a word of 1.6, where it is a bool
                dropped += f"; the monitor is not enabled, its mode is {mode!r:.100}"
        return f"{self._unreadable}{dropped}"
