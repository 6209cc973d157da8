"""Frames from the stream: every one of our own series at full rate, compressed as they were sent."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ...clients.eiger_stream import EigerFrame, EigerStream, Series
from ...errors import DetectorStateError, ServiceTimeout, SfdaqError, ShapeError, WireError
from ...limits import Limit
from ...wire.compression import compiled_walk
from ...wire.frame import COMPRESSIONS, Frame, FrameFormat, MissingFrame, Tables
from ...wire.simplon import DetectorState
from .._acquisition import LossPolicy
from ._control import DIFFERENCE, UID_LENGTH, EigerControl
from ._numbers import FrameStatistics, make_statistics
from ._order import END_GRACE, Arrival, OrderedSource
from ._series import EigerSettings, Mode

logger = logging.getLogger(__name__)

WAIT = 0.1
"""s without a message after which the detector is looked at."""

BACKLOG = 4
"""Messages that may wait when numbers of a frame are computed; with more of them it goes without."""

LONGEST_REST = 5.0
"""s without a frame after which nothing more comes of a series that is over and whose end was not told."""

READ_ON = 10.0
"""s for which at the most the rest of an ended series is read."""

LARGE = 8 << 20
"""Bytes of a frame from which on its blocks are checked by compiled code."""

ENERGIES = ("photon_energy", "threshold_energy", "threshold/2/energy")
"""What mask and flat field hang on."""


SHARED = "another client reads this stream: each message goes to one of its clients"

EXPECTED = {"mode": "enabled", "format": "cbor"}
"""Of the stream's config."""


class EigerStreamSource(OrderedSource[EigerFrame]):
    """Frames of one Eiger out of its stream, version 2; one connection, open while the device is staged."""

    interface = "stream"
    grace = 1.0
    _statistics: FrameStatistics

    def __init__(self, control: EigerControl, endpoint: str):
        super().__init__(control, first=0)
        self.stream = EigerStream(endpoint, timeout=None)
        self._events: queue.SimpleQueue[EigerFrame | Series | None] = queue.SimpleQueue()
        self.stream.subscribe(self._events.put)
        self.stream.on_series = self._events.put
        self._energies: tuple = ()
        self._tables_of: tuple | None = None  # energies for which they came
        self._n_refused = self._n_odd = 0
        self._newest = -1  # image id of the series that was taken
        self._unfinished = False
        self._n_made = 0  # of one exposure
        self._last_time = -math.inf
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
        channels = self.control.channels()
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
                self._drain()

    @property
    def rest_time(self) -> float:
        """Time for which what is late is waited for once a series is over, s."""
        return max(LONGEST_REST, 3 * self.frame_time)

    def state(self) -> str:
        """Say what came from the stream since it was opened."""
        return f"the stream: {self.stream.describe_state()}"

    def _interface_settings(self) -> dict[str, object]:
        if self.client.version == "1.6.0" or self.control.read("stream/config/format") is None:
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
        self._n_refused, self._newest, self._unfinished = 0, -1, True
        self._last_time = -math.inf
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
        """Drop what waits now, however fast more comes, counting frames."""
        n_frames = 0
        with contextlib.suppress(queue.Empty):
            for _ in range(self._events.qsize()):
                n_frames += isinstance(self._events.get_nowait(), EigerFrame)
        if n_frames:
            self._count_stale(n_frames)

    def _read_on(self) -> None:
        """Wait for the end of the series, so that the next one, or the next client, gets none of it."""
        if not self._unfinished or not all(self.stream.connected):
            return
        whole, quiet, n_before = Limit(READ_ON), Limit(END_GRACE), -1
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

    def _arrivals(self, stop: threading.Event) -> Iterator[list[Arrival[EigerFrame]] | None]:
        pace, self._n_made = Limit(WAIT), 0
        while not stop.is_set():
            try:
                event = self._events.get(timeout=WAIT)
            except queue.Empty:
                event = None
            came: list[Arrival[EigerFrame]] = []
            series = self._ours()
            if isinstance(event, EigerFrame):
                came.append(Arrival(event.series_id, event.image_id, event.series_uid, event))
                if series is not None and event.series_uid == series.unique_id:
                    self._newest = max(self._newest, event.image_id)
            if series is not None and len(series.refused) > self._n_refused:
                came += self._refused_of(series)
            if came:
                yield came
            if event is None or (not came and pace.left == 0):
                pace.restart()
                yield None

    def _refused_of(self, series: Series) -> list[Arrival[EigerFrame]]:
        """Return what could not be taken and is due: not before frames that came before it and still wait."""
        refused = list(series.refused.items())[self._n_refused :]
        all_due = self._events.empty()  # looked at after it was known what is refused
        due = list(itertools.takewhile(lambda item: all_due or item[0] <= self._newest, refused))
        self._n_refused += len(due)
        number = self._order.series_id
        return [Arrival(number, image_id, series.unique_id, why) for image_id, why in due]

    def _new_tables(self) -> Iterator[Tables]:
        """Yield what came with the beginning of the series, once."""
        series = self._ours()
        if series is None or series.start is None or self._begun == series.unique_id:
            return
        self._begun = series.unique_id
        if series.start.tables:
            self._tables_of = self._energies
            yield Tables(self._begun, series.start.tables)

    def _is_told_over(self) -> bool:
        series = self._ours()
        return series is not None and series.ended

    def _made(self, name: str, frame: EigerFrame) -> Iterator[Frame | MissingFrame | FrameFormat]:
        every, n = self._settings.statistics_every, self._n_made
        self._n_made += 1
        try:
            yield from self._new_format(frame)
            made = self._checked(frame)
        except (ShapeError, WireError) as exc:
            if self._settings.loss_policy is LossPolicy.STRICT:
                raise WireError(f"{self.name}: {exc}") from exc
            yield from self._in_order([(name, str(exc))])
            return
        wanted = every > 0 and n % every == 0 and self._events.qsize() <= BACKLOG
        numbered = self._with_numbers(made) if wanted else made
        if isinstance(numbered, Frame) and numbered.lacks:
            logger.warning("%s: frame %s lacks %s", self.name, name, numbered.lacks)
        yield numbered

    def _checked(self, frame: EigerFrame) -> Frame:
        """Return a frame as files and events have it, without wrong images; raise if none is left."""
        form = self.frame_format
        assert form is not None  # `open` said it
        if self._wants_detector_time:
            self._look_at_time(frame)
        scalars: dict[str, float | str] = dict.fromkeys(self._statistics.names, math.nan)
        scalars |= {"receive_time": frame.received, "real_time": frame.real_time}
        made = Frame(
            image=None,
            timestamp=frame.timestamp if self._wants_detector_time else frame.received,
            event_id=frame.event_id,
            is_good=frame.is_good,
            lacks=frame.lacks,
            scalars=scalars | {"series_uid": frame.series_uid},
            packed=frame.packed,
        )
        problems = {}
        for name, image in frame.packed.items():
            try:  # what is cut short could be stored, and never be read
                image.check_blocks()
                problem = form.unlike(name, image) if name in form.images else ""
            except WireError as exc:
                problem = f"{name}: {exc}"
            if problem:
                problems[name] = problem
        made = _without(made, problems) if problems else made
        form.check(made)
        return made

    def _look_at_time(self, frame: EigerFrame) -> None:
        """Warn, once per series, if times do not grow."""
        if not frame.has_detector_time:
            return self._tell_arrival(frame.series_uid)  # which is of another clock
        if self._last_time < math.inf and not frame.timestamp > self._last_time:
            told = (self.name, frame.event_id, frame.timestamp, self._last_time)
            logger.warning("%s: frame %s is of %.6f s, not after the one before, of %.6f s", *told)
            self._last_time = math.inf
        else:
            self._last_time = max(frame.timestamp, self._last_time)

    def _with_numbers(self, frame: Frame) -> Frame | MissingFrame:
        """Return a frame with its numbers; an image whose bytes turn out not to be one is missing."""
        if "image" not in frame.packed:
            return frame
        try:
            numbers = self._statistics.of(frame.packed["image"].unpack())
        except WireError as exc:
            try:
                return _without(frame, {"image": f"image: {exc}"})
            except WireError:
                self._armed_for = None
                return MissingFrame(f"{frame.event_id} ({exc})")
        return replace(frame, scalars={**frame.scalars, **numbers})

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

    def _explanation(self) -> str:
        """Ask the detector, and return what explains that frames of the series are missing."""
        n_odd = self.stream.counters["unparsable"] - self._n_odd
        found = [f"{n_odd} messages were not understood"] if n_odd else []
        try:
            for name, expected in EXPECTED.items():
                parameter = self.control.read(f"stream/config/{name}")
                if parameter is not None and parameter.value != expected:
                    found.append(f"the stream's {name} is {parameter.value!r}, expected {expected!r}")
            dropped = self.client.get("stream", "status", "dropped").value
            waits = self.mode is Mode.EXTERNAL and self.client.state() == DetectorState.READY
        except SfdaqError:
            return "the stream's counters are not readable"
        if not all(self.stream.connected):
            found.append(f"{self.stream.endpoints[0]} is not connected")
        elif not found and not dropped:
            found.append(self._suspicion(waits))
        found.append(f"the stream dropped {dropped}")
        return ", ".join(found)

    def _suspicion(self, waits: bool) -> str:
        """Say what is to be thought of frames that the detector has sent, for all it knows."""
        ours = self._ours()
        if ours is not None and ours.looks_shared:
            return SHARED
        for other in list(self.stream.series.values()):
            same_number = other is not ours and other.series_id == self._order.series_id
            if same_number and not self._order.is_past(other.unique_id):
                return f"series {other.unique_id} of the same number came between: did the unit restart?"
        if ours is not None and ours.n_images:
            return "lost on the way, or taken by another client"
        return "no trigger came" if waits else f"perhaps {SHARED}"


def _without(frame: Frame, problems: Mapping[str, str]) -> Frame:
    left = {name: image for name, image in frame.packed.items() if name not in problems}
    why = "; ".join(problems.values())
    if not left:
        raise WireError(f"frame {frame.event_id}: {why}")
    lacks = f"{frame.lacks}; {why}" if frame.lacks else why
    return replace(frame, packed=left, is_good=False, lacks=lacks)
