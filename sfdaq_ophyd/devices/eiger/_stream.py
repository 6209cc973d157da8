"""Frames from the stream: every one of our own series at full rate, compressed as they were sent."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...clients.eiger_stream import EigerFrame, EigerStream, Series
from ...errors import DetectorStateError, ServiceTimeout, ShapeError, WireError
from ...limits import Limit
from ...wire.compression import compiled_walk
from ...wire.frame import COMPRESSIONS, Frame, FrameFormat, MissingFrame, Tables
from ...wire.simplon import DetectorState
from .._acquisition import LossPolicy
from .._source import Request
from ._control import UID_LENGTH, EigerControl
from ._numbers import PackedFrames
from ._readings import DIFFERENCE, channels_of, make_statistics
from ._series import EigerSettings, FrameStatistics, SeriesOrder
from ._silence import GRACE, WAIT, Ending, why_missing
from ._source import SeriesSource
from ._triggers import SoftwareTriggers

logger = logging.getLogger(__name__)

LONGEST_REST = 5.0
"""s without a frame after which nothing more comes of a series that is over and whose end was not told."""

READ_ON = 10.0
"""s for which at the most the rest of an ended series is read."""

LARGE = 8 << 20
"""Bytes of a frame from which on its blocks are checked by compiled code."""

ENERGIES = ("photon_energy", "threshold_energy", "threshold/2/energy")
"""What mask and flat field hang on."""


class StreamSource(SeriesSource):
    """Frames of one Eiger out of its stream, version 2; one connection, open while the device is staged.

    Parameters
    ----------
    control : EigerControl
        Of the detector.
    endpoint : str
        Of the stream, e.g. ``"tcp://dcu:31001"``.
    """

    interface = "stream"
    _statistics: FrameStatistics

    def __init__(self, control: EigerControl, endpoint: str):
        super().__init__(control)
        self.stream = EigerStream(endpoint, timeout=None)
        self._events: queue.SimpleQueue[EigerFrame | Series | None] = queue.SimpleQueue()
        self.stream.subscribe(self._events.put)
        self.stream.on_series = self._events.put
        self._order = SeriesOrder(first=0)
        self._packed = PackedFrames(self.name)
        self._energies: tuple = ()
        self._tables_of: tuple | None = None  # energies for which they came
        self._n_refused = self._n_odd = 0
        self._unfinished = self._explained = False
        self._difference, self._difference_kind = "", "u"
        self._begun = ""  # the last series whose start came

    # hooks of the base

    def open(self, settings: EigerSettings) -> FrameFormat:
        """Find the detector as it is, configure it and its stream, and connect to that."""
        self._tables_of, self._unfinished = None, False
        frame_format = super().open(settings)
        self._drain()
        self.stream.open()
        self._connect()
        self._order.fit(frame_format.frame_bytes)
        if frame_format.frame_bytes >= LARGE:
            compiled_walk()
        return frame_format

    def read_format(self) -> FrameFormat:
        """Say what frames look like: an image per threshold, compressed as the detector does it."""
        found = super().read_format()
        compression = self.control.value("detector/config/compression")
        channels = channels_of(self.control)
        self.stream.channels, n = tuple(channels), len(channels)
        more = {f"image_{k}": (found.shape, found.dtype) for k in range(2, n + 1)}
        self._difference = f"image_{n}" if n > 1 and channels[-1] == DIFFERENCE else ""
        if self._difference:  # whether it is signed no document tells, but the first one that comes
            kind = np.dtype(f"<{self._difference_kind}{found.dtype.itemsize}")
            more[self._difference] = found.shape, kind
        return replace(
            found, more_images=more, compression=str(compression) if compression in COMPRESSIONS else "bslz4"
        )

    def discard(self) -> None:
        """Give up the exposure in flight, at the detector too. Safe twice."""
        self._stop.set()
        self._events.put(None)  # which wakes who waits for one
        self._tables_of = None  # those that came may have gone with the exposure: asked for again
        super().discard()

    def close(self) -> None:
        """Leave detector and stream as they were found, and disconnect. Safe twice."""
        try:
            super().close()
        finally:
            try:
                self.stream.close()
            finally:
                self._packed.end()
                self._drain()

    @property
    def rest_time(self) -> float:
        """Time for which what is late is waited for once a series is over, s."""
        return max(LONGEST_REST, 3 * self.frame_time)

    def state(self) -> str:
        """Say what came from the stream since it was opened."""
        return f"the stream: {self.stream.describe_state()}"

    def _interface_settings(self) -> dict[str, object]:
        if self.client.version == "1.6.0" or self.control.read("stream", "format") is None:
            raise DetectorStateError(
                f"{self.name}: this detector's stream has no format 'cbor' (API {self.client.version}); use "
                "readout='monitor'"
            )
        return self._room_for(0)

    def _room_for(self, n_frames: int) -> dict[str, object]:
        """Return all of the stream's settings: an initialize by somebody else has disabled it."""
        self._energies = tuple(self.control.value(f"detector/config/{name}") for name in ENERGIES)
        return {
            "stream/config/format": "cbor",
            "stream/config/header_detail": "basic" if self._energies == self._tables_of else "all",
            "stream/config/header_appendix": "",
            "stream/config/image_appendix": "",
            "stream/config/mode": "enabled",
        }

    def _scalars(self, dtype: str) -> dict[str, str]:
        self._statistics = make_statistics(self.control, dtype, self._settings.exclude_masked)
        times = {"receive_time": "f8", "real_time": "f8"}
        return dict.fromkeys(self._statistics.names, "f8") | times | {"series_uid": f"U{UID_LENGTH}"}

    def _drop_old(self) -> None:
        self._connect()
        self._read_on()
        self._drain()

    def _begin_series(self, series_id: int) -> None:
        self._order.start(series_id)
        uid = self.control.told_uid()
        self._order.uid = "" if self._order.is_past(uid) else uid
        self._n_refused, self._unfinished = 0, True
        self._packed.begin_series()
        self._n_odd = self.stream.counters["unparsable"]

    def _connect(self) -> None:
        """Return once the stream is connected: what is sent before goes to nobody."""
        try:
            self.stream.wait_connected(self._settings.timeout)
        except ServiceTimeout as exc:
            what = f"{self.name}: connecting to the stream's port, {self.stream.endpoints[0]}"
            hint = "Is that the port of the stream (31001), and open to this host?"
            raise ServiceTimeout(what, self._settings.timeout, "no answer", hint) from exc

    def _drain(self) -> None:
        """Drop what waits, counting frames."""
        n_frames = 0
        while not self._events.empty():
            n_frames += isinstance(self._events.get(), EigerFrame)
        if n_frames:
            self._count_stale(n_frames)

    def _read_on(self) -> None:
        """Wait for the end of the series, so that the next one, or the next client, gets none of it."""
        if not self._unfinished or not all(self.stream.connected):
            return
        whole, quiet, n_before = Limit(READ_ON), Limit(GRACE), -1
        while (series := self._ours()) is None or not series.ended:
            if (n := self.stream.counters["received"]) != n_before:
                n_before = n
                quiet.restart()
            if quiet.reached() or whole.reached():
                logger.warning("%s: no end of series %s came", self.name, self._order.series_id)
                break
            time.sleep(quiet.step(0.005))
        self._unfinished = False

    # frames of our own series

    def _ours(self) -> Series | None:
        """Return what came of the series that is open here, if anything did."""
        if self._order.uid:
            return self.stream.series.get(self._order.uid)
        for series in reversed(list(self.stream.series.values())):
            number_fits = series.series_id in (0, self._order.series_id)
            if number_fits and not self._order.is_past(series.unique_id):
                return series
        return None

    def _take_series(
        self, request: Request, triggers: SoftwareTriggers | None, stop: threading.Event
    ) -> Iterator[Frame | MissingFrame | FrameFormat | Tables]:
        n_left, n_taken, end = request.n_frames, 0, Ending(self._limit())
        self._packed.clear()
        self._explained = False
        while n_left and not end.over:
            quiet, passed = self._next(n_left)
            if stop.is_set():
                return
            if (tables := self._new_tables()) is not None:
                yield tables
            for item in self._finished(passed):
                every = self._settings.statistics_every
                wanted = every > 0 and n_taken % every == 0
                self._packed.put(item, self._statistics if wanted else None)
                n_taken += not isinstance(item, FrameFormat)
            n_left -= len(passed)
            if passed:
                end.restart()
            elif quiet or end.pace.left == 0:
                end.pace.restart()
                self._look_for_the_end(triggers, end)
            yield from self._packed.ready()
        if n_left:
            for item in self._lost(n_left, end):
                self._packed.put(item, None)
        yield from self._packed.ready(stop)

    def _new_tables(self) -> Tables | None:
        """Return what came with the beginning of the series, once."""
        series = self._ours()
        if series is None or series.start is None or self._begun == series.unique_id:
            return None
        self._begun = series.unique_id
        if not series.start.tables:
            return None
        self._tables_of = self._energies
        return Tables(self._begun, series.start.tables)

    def _next(self, n_wanted: int) -> tuple[bool, list]:
        """Wait for a message; return whether none came, and the frames that can go on now, in order."""
        quiet, passed = False, []
        try:
            event = self._events.get(timeout=WAIT)
        except queue.Empty:
            quiet, event = True, None
        if isinstance(event, EigerFrame):
            passed = self._accept(event.image_id, event, event.series_id, event.series_uid, n_wanted)
        if (series := self._ours()) is not None and len(series.refused) > self._n_refused:
            refused = list(series.refused.items())
            for image_id, reason in refused[self._n_refused :]:
                n = n_wanted - len(passed)
                passed += self._accept(image_id, reason, self._order.series_id, series.unique_id, n)
            self._n_refused = len(refused)
        return quiet, passed

    def _accept(self, image_id: int, item: EigerFrame | str, number, uid: str, n_wanted: int) -> list:
        """Put a frame, or why it was refused, in its place."""
        passed = self._order.accept(number, image_id, item, uid=uid, n_wanted=n_wanted)
        if passed is None and isinstance(item, EigerFrame):
            self._count_stale(1)
        return passed or []

    def _finished(self, passed: list) -> Iterator[Frame | MissingFrame | FrameFormat]:
        for event_id, item in passed:
            if isinstance(item, EigerFrame):
                try:
                    yield from self._new_format(item)
                    yield self._packed.frame(item, self.frame_format, self._statistics.names)
                    continue
                except (ShapeError, WireError) as exc:
                    if self._settings.loss_policy is LossPolicy.STRICT:
                        raise WireError(f"{self.name}: {exc}") from exc
                    item = str(exc)
            self._armed_for = None
            item = item or ("" if self._explained else self._explanation())
            self._explained = True  # once is enough, and takes several requests
            yield MissingFrame(f"{event_id} ({item})" if item else event_id)

    def _new_format(self, frame: EigerFrame) -> Iterator[FrameFormat]:
        """Yield what frames look like if the difference turns out otherwise, before anybody was told."""
        name, form = self._difference, self.frame_format
        if (image := frame.packed.get(name)) is None or form is None:
            return
        kind, self._difference_kind = self._difference_kind, image.dtype.kind
        if image.dtype.kind == form.images[name][1].kind:
            return
        if not self.is_described():
            self.frame_format = replace(
                form, more_images={**form.more_images, name: (form.shape, image.dtype)}
            )
            yield self.frame_format
        elif image.dtype.kind != kind:
            told = (self.name, image.dtype, form.images[name][1])
            logger.warning("%s: the difference is %s, described as %s; the next staging has it right", *told)

    def _look_for_the_end(self, triggers: SoftwareTriggers | None, end: Ending) -> None:
        """Find out whether anything more can come, now that nothing has for a moment."""
        series = self._ours()
        if series is not None and series.ended and not end.ended:
            end.ended, end.why = True, end.why or "the detector ended the series"
            end.rest = Limit(GRACE)
        if end.rest is not None:
            end.over = end.rest.reached()
            return
        if triggers is not None:
            triggers.check(self.control)
        late = end.limit.reached()
        if triggers is not None and not late:
            if not end.exposed:
                end.exposed = triggers.done
                end.quiet.restart()
            if not end.exposed or not end.quiet.reached():
                return
        state = self.control.working_state()
        if late:
            end.why = f"no image for {self._settings.timeout:g} s beyond the exposure; state '{state}'"
        elif triggers is not None or state == DetectorState.IDLE:
            end.why = f"the detector is in state '{state}', and no more images come"
        if end.why:
            end.why += f"; {self._explanation()}"
            self._armed_for = None
            end.rest = Limit(self.rest_time)
            self.client.disarm()  # the end of the series follows what is on its way

    def _lost(self, n: int, end: Ending) -> Iterator[Frame | MissingFrame | FrameFormat]:
        self._armed_for = None
        passed = self._order.end(n)
        yield from self._finished(passed)
        why = end.why if "; " in end.why else f"{end.why}; {self._explanation()}"
        for k, name in enumerate(self._order.still_missing(n - len(passed))):
            yield MissingFrame(f"{name} ({why})" if k == 0 else name)

    def _explanation(self) -> str:
        """Say why frames are missing."""
        n_odd = self.stream.counters["unparsable"] - self._n_odd
        return why_missing(self.control, self.stream, self._order, self._ours(), self.mode, n_odd)
