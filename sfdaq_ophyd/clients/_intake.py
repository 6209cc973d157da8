"""What becomes of an image stream's messages; without sockets, and for one opening of the stream."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from ..calibration.raw_pixels import with_lost_packets
from ..errors import RequestError, WireError
from ..wire.detector_name import storage_cell
from ..wire.frame import Frame
from ..wire.json_text import MAX_HEADER_BYTES
from .ring import MAX_HOLD, Ring, check_max_hold

DRIFT = 2e-5
"""How fast a peer's clock and ours may part, s/s."""

SETTLED = 4
"""Stamps in a row that do not move the clock, after which it is trusted."""

JITTER = 1e-3
"""s by which the earliest arrival may be undercut without an effect on trust."""

MOST_CLOCKS = 8
"""Acquisitions whose clocks are kept."""

STOOD = 0.1
"""s by which a stamp is late, though nothing waits: then the clock stood, or goes slowly."""


class Clock:
    """Which of our times a stamp means: arrival is late by transfer and queueing, never early.

    So the smallest difference of arrival and stamp is the offset. It may drift, and is taken anew where a
    clock stood (a simulator's does): where stamps come late that nothing else can have held up.
    """

    def __init__(self):
        self._offset: float | None = None
        self._seen, self._newest = 0.0, 0.0
        self._settled = 0
        self._late: deque[float] = deque(maxlen=2 * SETTLED)

    def follow(self, stamp: float, arrival: float, quiet: bool = False) -> None:
        """Take note of what a peer stamped, s from any moment, and when it arrived, s since the epoch.

        `quiet`: nothing had come for a while, so that this one cannot have waited for others.
        """
        found = arrival - stamp
        if self._offset is None:
            self._offset, self._seen, self._newest = found, arrival, stamp
            return
        expected = self._offset + DRIFT * max(0.0, arrival - self._seen)
        self._offset, self._seen = min(found, expected), arrival
        stood = quiet and found > expected + STOOD
        if stood or found < expected - JITTER:
            self._settled = 0
        elif stamp > self._newest:  # one that comes after others have told its time says nothing new
            self._settled += 1
        self._newest = max(self._newest, stamp)
        if not stood:
            self._late.clear()
            return
        self._late.append(found)
        if len(self._late) == self._late.maxlen and found > self._late[0] - JITTER:
            self._offset = min(self._late)
            self._late.clear()

    @property
    def trusted(self) -> bool:
        """Whether it can tell what is older than a moment: of late it neither ran ahead nor stood."""
        return self._settled >= SETTLED

    def time(self, stamp: float) -> float | None:
        """Return when that was, s since the epoch; None if nothing is known yet."""
        return None if self._offset is None else self._offset + stamp


class Clocks:
    """The clocks of the acquisitions of a stream: a module's begins anew with each."""

    def __init__(self):
        self._from: list[tuple[tuple[int, int], Clock]] = []  # from which image on

    def begin(self, image: tuple[int, int]) -> None:
        """Have the clock begin anew with this image (its numbering and number); ports come to it in turn."""
        if all(first != image for first, _ in self._from):
            self._from = sorted([*self._from, (image, Clock())], key=lambda pair: pair[0])[-MOST_CLOCKS:]

    def of(self, image: tuple[int, int]) -> Clock:
        """Return the clock by which an image was taken."""
        return next((clock for first, clock in reversed(self._from) if first <= image), self._from[0][1])


logger = logging.getLogger(__name__)

MOST_KINDS = 20
"""Problems of messages that are told in the log."""


class EventIds:
    """Names for the frames of a stream, in order: the pulse id where known, else the frame number.

    Once one pulse came in several storage cells, the cell belongs to the name.
    """

    def __init__(self):
        self._last: tuple[int, int] | None = None
        self._with_cells = False

    def next(self, frame_number: int, pulse_id: int | None, daq_rec: int | None) -> str:
        """Return the name of the next frame."""
        if pulse_id is None:
            return str(frame_number)
        this = pulse_id, storage_cell(daq_rec or 0)
        if self._last is not None and this[0] == self._last[0] and this[1] != self._last[1]:
            self._with_cells = True
        self._last = this
        return f"{this[0]}.{this[1]}" if self._with_cells else str(pulse_id)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class StreamFrame(Frame):
    """A frame of an image stream.

    The event id is the pulse id where known, else the frame number. Once one pulse comes in several storage
    cells, the cell tells their frames apart: ``"21125820008.3"``. The pixels lie in a ring buffer and are
    yours as long as you keep the array or a view of it; keep many, and the stream runs out of buffers.

    Attributes
    ----------
    frame_number : int
        The detector's trigger counter.
    daq_rec : int or None
        How the frame was taken, of the first complete module; see `sfdaq_ophyd.wire.detector_name`.
    missing : tuple of int
        Blocks (modules, in memory order) that did not come; their pixels are 0xFFFF.
    incomplete : tuple of int
        Blocks that came with lost packets.
    acquisition : int
        Counted by this client from 0; grows when the numbering starts anew.
    n_dropped : int
        Images that were dropped here since the last one.
    received : float
        ``time.monotonic()`` when the last byte had been read.
    extra : Mapping
        The user's additional header (module streams), or all further fields (assembled stream).
    """

    image: np.ndarray
    frame_number: int
    daq_rec: int | None = None
    missing: tuple[int, ...] = ()
    incomplete: tuple[int, ...] = ()
    acquisition: int = 0
    n_dropped: int = 0
    received: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> np.ndarray:
        """The raw words, in which lost packets are 0xFFFF wherever the frame came from."""
        return self.image if self.is_good else with_lost_packets(self.image)

    @property
    def om_event_id(self) -> str:
        """The event id as OM writes it: the frame number."""
        return str(self.frame_number)


class Foreign(WireError):
    """A message is understood, and is of another detector or shape than this stream's."""


@dataclass(slots=True)
class Message:
    """One message of a port, as it is taken in.

    Attributes
    ----------
    parts : list of zmq.Frame
        Header and pixels.
    arrival : float
        When it was read, s since the epoch.
    now : float
        The same in counted time.
    quiet_until : float
        Its port was empty until then, s of the monotonic clock; 0 if it may have waited behind others.
    head, key : object
        What was made of the header.
    """

    port: int
    parts: list[zmq.Frame]
    arrival: float
    now: float
    quiet_until: float
    head: Any = None
    key: Any = None

    @property
    def header(self) -> bytes:
        """The first part; WireError if it is too long."""
        n_bytes = len(self.parts[0])
        if n_bytes > MAX_HEADER_BYTES:
            raise WireError(f"header of {n_bytes} bytes, expected at most {MAX_HEADER_BYTES}")
        return self.parts[0].bytes

    def check_pixels(self, n_bytes: int, what: str) -> None:
        """Raise WireError unless exactly so many bytes of pixels came."""
        found = [len(part) for part in self.parts[1:]]
        if found != [n_bytes]:
            more = " and further parts" if len(found) > 1 else ""
            raise WireError(
                f"{what}: {found[0] if found else 'no'} bytes of pixels{more}, expected {n_bytes}"
            )


class Intake(ABC):
    """What a stream makes of its messages; called by the receiving thread with every one of them.

    This is what differs from one wire format to another. `announce` reads what a message says of itself,
    once; `put` takes what it carries, and is called again where it raised `Full`. Among the `counters` are
    ``"foreign"`` and ``"unparsable"``; `last_problem` says what was wrong with the last of these messages.
    """

    counters: Counter[str]

    def __init__(self, endpoints: list[str]):
        self.endpoints, self.last_problem = endpoints, ""
        self._surprised = False
        self._kinds_told: set[str] = set()

    @abstractmethod
    def announce(self, message: Message) -> bool:
        """Read a header and take note of it; whether `put` shall follow. WireError if it is wrong.

        Where it shall, `message.head` is set, to anything but None.
        """

    @abstractmethod
    def put(self, message: Message) -> None:
        """Take in what a message carries, hand on what is finished; raise `Full` if there is no room yet."""

    @abstractmethod
    def taken(self, message: Message) -> float | None:
        """Return when a frame was taken, s since the epoch, if a clock that can be trusted tells."""

    @abstractmethod
    def begin_mark(self) -> None:
        """Take for old what was announced so far: it is counted and not handed on."""

    @abstractmethod
    def flush_through(self, message: Message) -> None:
        """Take for old what belongs to this message, and what was before it."""

    @property
    @abstractmethod
    def hold_left(self) -> float:
        """Time for which messages may stay with the sender for want of room, s; `put` takes them then."""

    def settle(self, now: float, unread: Collection[int]) -> float:
        """Do what time demands; return the s after which there is something to do even if nothing comes.

        Until `now`, s of counted time, all ports but those `unread`, in which messages lie, have been read.
        """
        return float("inf")

    @abstractmethod
    def release(self) -> None:
        """Let the memory of images go, once their readers have; counters stay."""

    def note_problem(self, port: int, exc: Exception) -> None:
        """Take note of a message that was wrong; whatever it held, the stream goes on."""
        self.counters["foreign" if isinstance(exc, Foreign) else "unparsable"] += 1
        text = str(exc) if isinstance(exc, WireError) else repr(exc)
        self.last_problem = f"{self.endpoints[port]}: {text}"
        logger.debug("%s", self.last_problem)
        if not isinstance(exc, WireError) and not self._surprised:
            logger.error("a message of %s was not understood", self.endpoints[port], exc_info=exc)
            self._surprised = True

    def tell_once(self, problem: str, message: Message) -> None:
        """Say in the log what is wrong with a message, and how it begins; once for each kind of problem."""
        kind = re.sub(r"[0-9]+", "", problem)[:80]
        if kind in self._kinds_told or len(self._kinds_told) >= MOST_KINDS:
            return
        self._kinds_told.add(kind)
        part = message.parts[0]
        told = (self.endpoints[message.port], problem, len(part), bytes(part.buffer[:64]).hex())
        logger.warning("%s: %s; %d bytes that begin with %s", *told)


class PixelIntake(Intake):
    """An intake of messages whose second part is pixels as they are, which are copied into a `Ring`.

    There is none before the first image, which tells the shape of the buffers. Finished frames go to
    `deliver`; the options are those of the streams. `on_free` is called, from any thread, when there is a
    buffer again after one was wanted in vain.
    """

    ring: Ring | None = None

    def __init__(
        self,
        endpoints: list[str],
        deliver: Callable[[StreamFrame], None],
        counters: Iterable[str],
        *,
        n_images: int | None = None,
        max_hold: float = MAX_HOLD,
        incomplete: str = "mark",
        on_free: Callable[[], object] = lambda: None,
    ):
        if incomplete not in ("mark", "drop"):
            raise RequestError("incomplete", incomplete, "'mark' or 'drop'")
        check_max_hold(max_hold)
        super().__init__(endpoints)
        self.counters = Counter(dict.fromkeys(counters, 0))
        self._deliver, self._keeps_bad = deliver, incomplete == "mark"
        self._n_images, self._max_hold, self._on_free = n_images, max_hold, on_free
        self._ids = EventIds()
        self._n_told = 0

    def _new_ring(self, shape: tuple[int, int], dtype: np.dtype | str) -> None:
        self.ring = Ring(shape, dtype, self._n_images, self._on_free)

    def _is_wanted(self, whole: bool) -> bool:
        """Count an image; return whether it is to be handed on."""
        self.counters["complete" if whole else "incomplete"] += 1
        wanted = whole or self._keeps_bad
        self.counters["dropped"] += not wanted
        return wanted

    def _dropped_since(self) -> int:
        """Return how many images were dropped here since this was asked last."""
        before, self._n_told = self._n_told, self.counters["dropped"]
        return self._n_told - before

    @property
    def hold_left(self) -> float:
        """Time for which messages may still be left with the sender while all buffers are in use, s."""
        return float("inf") if self.ring is None else self.ring.left

    def release(self) -> None:
        """Let the image buffers go, once their readers have; nothing can be received any more."""
        self.ring = None

    @abstractmethod
    def place(self, message: Message) -> np.ndarray | None:
        """Return where a message's pixels go, or None if nowhere; raise `Full` if there is no buffer yet."""

    @abstractmethod
    def placed(self, message: Message, place: np.ndarray) -> None:
        """Take note that they are there, and hand on what is finished."""

    def put(self, message: Message) -> None:
        """Put a message's pixels in their place; raise `Full` if there is none yet."""
        place = self.place(message)
        if place is not None:
            pixels = np.frombuffer(message.parts[1].buffer, place.dtype)
            np.copyto(place, pixels.reshape(place.shape))
            self.placed(message, place)
