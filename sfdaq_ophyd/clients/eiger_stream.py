"""The Eiger's stream, version 2: every frame at full rate, compressed as it was sent.

The detector control unit binds a PUSH socket: each message goes to exactly one of its clients, and what
nobody takes is dropped there. So one connection per detector, up before the detector is armed (wire reference
eiger, section 7.2).
"""

from __future__ import annotations

import logging
from bisect import bisect
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import zmq

from ..errors import RequestError, WireError
from ..wire.compression import ArrayBytes
from ..wire.eiger_stream import FrameRefused, SeriesImage, SeriesStart, UnknownMessage, decode_message
from ..wire.frame import Frame
from ..wire.simplon import event_id
from ._intake import Intake, Message
from .ring import MAX_HOLD, Memory, check_max_hold
from .stream import FrameStream

logger = logging.getLogger(__name__)

PORT = 31001
"""Of version 2, at the detector control unit."""

MAX_BYTES = 512 << 20
"""Messages in memory, by default; more stay with the sender."""

MAX_MESSAGE = 1 << 30
"""Bytes of one message: a start with all tables of a 16M has 145 MB per threshold."""

HIGH_WATER = 16
"""Messages that may wait in the socket: the largest have 72 MB."""

COUNTERS = (
    *("received", "images", "duplicate", "refused", "dropped", "unknown", "unparsable", "foreign"),
    *("flushed", "beyond"),
)

MOST_SERIES = 8
"""Series that are remembered."""

WITH_TABLES = 2
"""Series, the newest, whose tables are kept: those of a 16M have 145 MB per threshold."""

MOST_REFUSED = 10_000
"""Frames of a series of which it is remembered why they were not taken."""

MOST_TOLD = 20
"""Ids that a message lists."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class EigerFrame(Frame):
    """A frame of the Eiger's stream.

    Its images are in `packed`, compressed as they were sent; `pixels` decompresses the first one. Their bytes
    lie in the message that was received, and are yours as long as you keep them; keep many, and no more come.
    An image of a threshold that did not come or cannot be right is not there, and named in `lacks`; then
    `is_good` is False.

    Attributes
    ----------
    image_id : int
        Counted from 0 over the series.
    series_id : int
        What arming replied.
    series_uid : str
        The series' unique id.
    has_detector_time : bool
        Whether `timestamp` is the detector's start of the exposure, and not the arrival.
    received : float
        When the message was read, s since the epoch.
    real_time : float
        s for which the detector counted; NaN if it does not tell.
    user_data : object
        The ``image_appendix``.
    """

    image_id: int
    series_id: int
    series_uid: str
    has_detector_time: bool
    received: float
    real_time: float
    user_data: object = None

    @property
    def pixels(self) -> npt.NDArray[Any]:
        """The image, shape (y, x), decompressed anew at each call; 2**n - 1 where there is no data.

        Raises
        ------
        WireError
            Its bytes are not what they say they are, or it is not there.
        """
        if "image" not in self.packed:
            raise WireError(f"frame {self.event_id}: {self.lacks}")
        return self.packed["image"].unpack()


@dataclass(eq=False)
class Series:
    """What came of one series so far. Written by the receiving thread alone.

    Attributes
    ----------
    series_id : int
        What arming replied; it starts again after an initialization.
    unique_id : str
        The series' own.
    start : SeriesStart or None
        None if it went to another client, or before this one was connected.
    ended : bool
        Whether its end came, or another series began.
    refused : dict of int to str
        Frames that could not be taken for good, and why: they are missing as well.
    n_images : int
        Good images.
    """

    series_id: int
    unique_id: str
    start: SeriesStart | None = None
    ended: bool = False
    refused: dict[int, str] = field(default_factory=dict)
    n_images: int = 0
    # the first and last ids of the runs that came, ascending: what is lost takes room, not what came
    _firsts: list[int] = field(default_factory=list)
    _lasts: list[int] = field(default_factory=list)

    def add(self, image_id: int) -> None:
        """Note a good image that did not come before."""
        k = bisect(self._firsts, image_id)
        follows = k > 0 and self._lasts[k - 1] == image_id - 1
        leads = k < len(self._firsts) and self._firsts[k] == image_id + 1
        if follows and leads:
            del self._lasts[k - 1], self._firsts[k]
        elif follows:
            self._lasts[k - 1] = image_id
        elif leads:
            self._firsts[k] = image_id
        else:
            self._firsts.insert(k, image_id)
            self._lasts.insert(k, image_id)
        self.n_images += 1

    def refuse(self, image_id: int, reason: str) -> None:
        """Note why a frame is missing; of very many it is known only that they are."""
        if len(self.refused) < MOST_REFUSED:
            self.refused[image_id] = reason

    def has(self, image_id: int) -> bool:
        """Whether an image came, and is good.

        Parameters
        ----------
        image_id : int
            Counted from 0 in the series.
        """
        k = bisect(self._firsts, image_id)
        return k > 0 and image_id <= self._lasts[k - 1]

    def missing(self, n_images: int) -> list[int]:
        """Return the ids of images that did not come, or are not good.

        Parameters
        ----------
        n_images : int
            How many the series has, so ids below it are looked for.

        Returns
        -------
        list of int
            Ascending, `MOST_TOLD` of them at the most.
        """
        gaps = zip([0, *(last + 1 for last in self._lasts)], [*self._firsts, n_images])
        return list(islice((k for a, b in gaps for k in range(a, min(b, n_images))), MOST_TOLD))

    @property
    def looks_shared(self) -> bool:
        """Whether about every second image or fewer came, evenly: another client takes the others."""
        gaps = [b - a for a, b in zip(self._lasts, self._firsts[1:])]
        n_steps = self.n_images - 1 - (self._lasts[0] if gaps and self._firsts[0] == 0 else 0)
        steps = np.array(gaps)
        return len(gaps) > max(1, n_steps / 2) and bool(steps.max() <= 2 * np.median(steps))


class Messages(Intake):
    """Keep series apart and hand frames on, one message each."""

    def __init__(
        self,
        endpoints: list[str],
        deliver: Callable[[EigerFrame], None],
        on_series: Callable[[Series], object],
        memory: Memory,
        channels: Callable[[], Collection[str]] = tuple,
    ):
        super().__init__(endpoints)
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self._deliver, self._on_series, self._memory = deliver, on_series, memory
        self._channels = channels  # of a series whose start did not come
        self.series: OrderedDict[str, Series] = OrderedDict()
        self._n_announced = self._n_old = 0

    @property
    def hold_left(self) -> float:
        """Time for which messages may still be left with the sender for want of room, s."""
        return self._memory.left

    def announce(self, message: Message) -> bool:
        """Read a message; whether a frame is to follow."""
        self.counters["received"] += 1
        try:
            return self._read(message)
        except FrameRefused as exc:
            self.counters["refused"] += 1
            self._of(0, exc.series).refuse(exc.image_id, exc.reason)
            self.tell_once(exc.reason, message)
            raise
        except WireError as exc:
            self.tell_once(str(exc), message)
            if not isinstance(exc, UnknownMessage):
                raise
            self.counters["unknown"] += 1
            self.last_problem = f"{self.endpoints[0]}: {exc}"
            return False

    def _read(self, message: Message) -> bool:
        if len(message.parts) != 1:
            raise WireError(
                f"a message of {len(message.parts)} parts, expected one: is the stream's format legacy, or "
                "the port that of another service?"
            )
        base = np.frombuffer(message.parts[0].buffer, "u1")
        head = decode_message(base.data)
        if isinstance(head, SeriesImage):
            return self._announce_image(message, head, base)
        series = self._of(head.series_id, head.series_unique_id)
        if isinstance(head, SeriesStart):
            self._end_others(series)
            series.start = head
        else:
            series.ended = True
        self._on_series(series)
        return False

    def _of(self, series_id: int, unique_id: str) -> Series:
        series = self.series.get(unique_id)
        if series is None:
            series = self.series[unique_id] = Series(series_id, unique_id)
            while len(self.series) > MOST_SERIES:
                self.series.popitem(last=False)
        series.series_id = series.series_id or series_id
        return series

    def _end_others(self, series: Series) -> None:
        for other in self.series.values():
            if other is not series and not other.ended:
                other.ended = True
                self._on_series(other)
        self._forget_tables(list(self.series.values())[:-WITH_TABLES])

    def _forget_tables(self, of: Iterable[Series]) -> None:
        """Let go of the tables of series, which keep their whole messages in memory."""
        for series in of:
            if series.start is not None:
                series.start = replace(series.start, tables={})

    def _announce_image(self, message: Message, head: SeriesImage, base: np.ndarray) -> bool:
        series = self._of(head.series_id, head.series_unique_id)
        start = series.start
        wrong = dict(head.refused)
        if start is not None:
            wrong |= {
                channel: f"{channel} of {array.shape}, expected {start.shape} as the series began"
                for channel, array in head.data.items()
                if array.shape != start.shape
            }
            if wrong.keys() >= head.data.keys():
                raise FrameRefused(head.series_unique_id, head.image_id, "; ".join(wrong.values()))
        n_expected = 0 if start is None else start.number_of_images or 0
        if 0 < n_expected <= head.image_id:
            self.counters["beyond"] += 1
            told = f"image {head.image_id} of series {head.series_unique_id}, which was to have {n_expected}"
            self.tell_once(told, message)
        if series.has(head.image_id):
            self.counters["duplicate"] += 1
            return False
        images, lacks = _by_form(head, wrong, self._channels() if start is None else start.channels)
        if lacks:
            self.counters["refused"] += 1
            self.tell_once(lacks, message)
        self._n_announced += 1
        message.head, message.key = (series, head, images, lacks, base), self._n_announced
        return True

    def taken(self, message: Message) -> float | None:
        """Return None: the detector's clock need not be ours, and series tell what is old."""
        return None

    def begin_mark(self) -> None:
        """Take all images that have come for old."""
        self._n_old = self._n_announced

    def flush_through(self, message: Message) -> None:
        """Take this image for old."""
        self._n_old = message.key

    def put(self, message: Message) -> None:
        """Hand a frame on, with the bytes it came in."""
        if message.key <= self._n_old:
            self.counters["flushed"] += 1
            return
        series, head, images, lacks, base = message.head
        if not self._memory.admit(base):
            self.counters["dropped"] += 1
            series.refuse(head.image_id, "there was no room for it here: frames are not used fast enough")
            return
        series.add(head.image_id)
        self.counters["images"] += 1
        self._deliver(_frame(head, images, lacks, message.arrival))

    def release(self) -> None:
        """Let go of the tables of all series."""
        self._forget_tables(self.series.values())


def _by_form(
    head: SeriesImage, wrong: Mapping[str, str], channels: Collection[str]
) -> tuple[dict[str, ArrayBytes], str]:
    """Return the images that are right, by the frame's form, and which it lacks, and why."""
    came = {*head.data, *wrong}
    there = {*came, *(channels if len(came) < len(channels) else ())}
    images, lacks = {}, []
    ordered = sorted(there, key=lambda name: (name == "difference", name))  # a map's order says nothing
    for k, channel in enumerate(ordered, 1):
        form = "image" if k == 1 else f"image_{k}"
        if channel in head.data and channel not in wrong:
            images[form] = head.data[channel]
        else:
            lacks.append(f"{form}: {wrong.get(channel, f'{channel} did not come')}")
    return images, "; ".join(lacks)


def _frame(head: SeriesImage, images: Mapping[str, ArrayBytes], lacks: str, arrival: float) -> EigerFrame:
    time_ns, real = head.time_ns, head.real_time
    return EigerFrame(
        image=None,
        packed=images,
        is_good=not lacks,
        lacks=lacks,
        timestamp=arrival if time_ns is None else time_ns / 1e9,
        event_id=event_id(head.series_id, head.image_id),
        image_id=head.image_id,
        series_id=head.series_id,
        series_uid=head.series_unique_id,
        has_detector_time=time_ns is not None,
        received=arrival,
        real_time=float("nan") if real is None else real[0] / real[1],
        user_data=head.user_data,
    )


def stream_of(url: str) -> str:
    """Return the endpoint of the stream of a detector control unit.

    Parameters
    ----------
    url : str
        Of its REST interface, ``"http://dcu:80"``.

    Returns
    -------
    str
        ``"tcp://dcu:31001"``.

    Notes
    -----
    See wire reference eiger, section 7.
    """
    host = urlsplit(url).hostname or ""
    return f"tcp://{f'[{host}]' if ':' in host else host}:{PORT}"


class EigerStream(FrameStream[EigerFrame]):
    """Frames of one Eiger, from its stream of version 2.

    Parameters
    ----------
    endpoint : str
        E.g. ``tcp://dcu:31001``.
    max_bytes : int
        Messages that are kept in memory until their frames are gone; then the sender keeps its own, and the
        detector drops what does not fit there.
    max_hold : float
        s for which nothing is read while memory is full and no frame is given back; then frames are dropped
        here, and counted.
    timeout : float or None
        Longest wait of an iterator for a frame, s; None waits until the stream is closed.

    Attributes
    ----------
    counters : Counter
        Messages received, images, duplicate (ids), refused (wrong data, of one threshold at least), dropped
        (memory was full), unknown (types of message), unparsable, flushed, beyond (numbered above what the
        series was to have).
    series : OrderedDict of str to Series
        By unique id, the newest last.
    channels : tuple of str
        Those that images should have where the start of their series, which tells, did not come.

    Examples
    --------
    >>> with EigerStream("tcp://dcu:31001") as stream:  # doctest: +SKIP
    ...     for frame in stream:
    ...         print(frame.image_id, frame.timestamp, frame.pixels.max())
    """

    def __init__(
        self,
        endpoint: str,
        *,
        max_bytes: int = MAX_BYTES,
        max_hold: float = MAX_HOLD,
        timeout: float | None = 10.0,
    ):
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 1 << 20:
            raise RequestError("max_bytes", max_bytes, "an integer of at least 1 MiB")
        check_max_hold(max_hold)
        self._max_bytes, self._max_hold = max_bytes, max_hold
        self.on_series: Callable[[Series], object] = lambda series: None
        self.channels: tuple[str, ...] = ()
        super().__init__(
            [endpoint],
            timeout=timeout,
            socket_type=zmq.PULL,
            max_message=MAX_MESSAGE,
            high_water=HIGH_WATER,
        )

    @property
    def series(self) -> OrderedDict[str, Series]:
        """What came of the newest series, by unique id; the newest last."""
        return self._messages.series

    def _new_intake(self, on_free: Callable[[], object]) -> Messages:
        memory = Memory(self._max_bytes, self._max_hold, on_free)
        self._messages = Messages(
            self.endpoints,
            self._deliver,
            lambda series: self.on_series(series),
            memory,
            lambda: self.channels,
        )
        return self._messages
