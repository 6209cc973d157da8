"""Module frames in, images out: matched by frame number as they come. No sockets here.

An image is complete when every port has delivered its block. An image that cannot become complete, because
each missing port has gone on, fell silent or took too long, is handed on marked, or dropped, as configured.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

import numpy as np

from ..errors import WireError
from ..wire.module_header import CLOCK_PERIOD, ModuleHeader
from ._port import DRIFT, Numberings, Port
from ._ring import Ring
from ._stream_frame import StreamFrame

COUNTERS = ("received", "complete", "incomplete", "late", "duplicate", "dropped", "unparsable", "flushed")
"""``received``, ``late``, ``duplicate`` and ``unparsable`` count messages, the others images."""

LOST = 0xFFFF
"""Pixels that did not come, as slsReceiver pads them."""

REORDER = 4
"""A port that is this many frames ahead will not deliver an older one."""

MISFITS = 2
"""So many frames per port of another layout, and no image before: the first frame was the wrong one."""

_REMEMBERED = 4096


class Pending:
    """An image that is being filled."""

    __slots__ = ("image", "blocks", "arrival", "created", "last", "offset")

    def __init__(self, image: np.ndarray, arrival: float, now: float):
        self.image, self.arrival, self.created, self.last = image, arrival, now, now
        self.blocks: dict[int, ModuleHeader] = {}
        self.offset = float("inf")


class Assembler:
    """Match module frames by number.

    Parameters
    ----------
    endpoints : list of str
        One per port.
    deliver : callable
        Called with every finished `StreamFrame`, in order of frame numbers.
    shape : (int, int), optional
        Rows and columns of the image, which is good only if all of it came; default is what the first frame
        says, and then fewer ports than the detector has are enough.
    n_images : int, optional
        Buffers of the ring.
    max_age : float
        Seconds an image may wait for missing blocks, and a port may lag behind another.
    incomplete : str
        ``"mark"`` hands incomplete images on with `is_good` False, ``"drop"`` only counts them.
    n_packets : int, optional
        Packets that make a module frame complete; for detectors that read out fewer rows.
    """

    def __init__(
        self,
        endpoints: list[str],
        deliver: Callable[[StreamFrame], None],
        *,
        shape: tuple[int, int] | None = None,
        n_images: int | None = None,
        max_age: float = 1.0,
        incomplete: str = "mark",
        n_packets: int | None = None,
    ):
        self._numberings = Numberings(max_age)
        self.ports = [Port(endpoint, self._numberings) for endpoint in endpoints]
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self._deliver, self._max_age, self._mark = deliver, max_age, incomplete == "mark"
        self._shape, self._n_images, self._n_packets = shape, n_images, n_packets
        self._layout: tuple | None = None
        self._n_misfits = 0
        self.ring: Ring | None = None
        self._pending: dict[tuple[int, int], Pending] = {}
        self._finished: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._not_before = 0.0
        self._block_of_port: dict[int, int] = {}
        self._clock: tuple[int, float] | None = None  # ticks and offset of the last image

    @property
    def n_pending(self) -> int:
        """Images that are being filled."""
        return len(self._pending)

    def place(self, port: int, header: ModuleHeader, arrival: float, now: float) -> np.ndarray | None:
        """Return where to put the pixels of a frame; None if they are not wanted.

        Raises
        ------
        WireError
            The frame is not of this detector.
        """
        block = self._block(port, header)
        self.counters["received"] += 1
        if self.ports[port].follow(header, arrival, now, self._is_complete(header)):
            self._clock = None
            for other in self.ports:
                other.silent = False
        key = (self.ports[port].numbering, header.frame_number)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._open(key, arrival, now)
            if pending is None:
                return None
        if block in pending.blocks:
            self.counters["duplicate"] += 1
            return None
        (rows, columns), (_, across) = header.shape, header.detector_blocks
        y, x = block // across * rows, block % across * columns
        return pending.image[y : y + rows, x : x + columns]

    def placed(self, port: int, header: ModuleHeader, now: float) -> None:
        """Take note that the pixels are in their place; hand on what is finished."""
        key = (self.ports[port].numbering, header.frame_number)
        pending = self._pending[key]
        pending.blocks[self._block_of_port[port]] = header
        pending.last = now
        if self._is_complete(header) and header.ticks:
            pending.offset = min(pending.offset, self.ports[port].offset)
        self.settle()

    def end(self, port: int) -> None:
        """Take note of a port's end message."""
        self.ports[port].end()

    def settle(self, read_until: float | None = None) -> None:
        """Hand on, in order, what is complete or cannot become so.

        Parameters
        ----------
        read_until : float, optional
            Everything that came before this time has been seen; images wait no longer than `max_age` before.
        """
        while self._pending:
            key = min(self._pending)
            pending = self._pending[key]
            if len(pending.blocks) < len(self.ports) and not self._hopeless(key, pending, read_until):
                if len(self._pending) < max(2, self.ring.n_images * 3 // 4):
                    return
            del self._pending[key]
            self._finish(key, pending)

    def flush(self, now: float) -> None:
        """Give up what has begun: images with a block older than `now` are counted and not handed on."""
        self._not_before = now

    def release(self) -> None:
        """Let the image buffers go; nothing can be received any more."""
        self._pending.clear()
        self.ring = None

    def next_expiry(self) -> float | None:
        """Return when `settle` has something to do even if nothing comes; None if never."""
        if not self._pending:
            return None
        return min(pending.created for pending in self._pending.values()) + self._max_age

    def _block(self, port: int, header: ModuleHeader) -> int:
        if (header.shape, header.detector_blocks) != self._layout:
            self._lay_out(header)
        block = header.row * header.detector_blocks[1] + header.column
        if self._block_of_port.get(port) != block:
            if block in self._block_of_port.values():
                raise WireError(
                    f"module header: block {block} of another port from {self.ports[port].endpoint}"
                )
            self._block_of_port[port] = block
        return block

    def _lay_out(self, header: ModuleHeader) -> None:
        """Take the layout of the first frame; or another, if many say so and no image was complete yet."""
        if self._shape is not None and header.image_shape != tuple(self._shape):
            raise WireError(f"module header: an image of {header.image_shape}, expected {self._shape}")
        if self._layout is not None:
            self._n_misfits += 1
            if self.counters["complete"] or self._n_misfits < MISFITS * len(self.ports):
                found = f"block of {header.shape} in {header.detector_blocks} blocks"
                raise WireError(f"module header: {found}, expected {self._layout[0]} in {self._layout[1]}")
        self._n_misfits = 0
        self._pending.clear()
        self._block_of_port.clear()
        self._layout = (header.shape, header.detector_blocks)
        self.ring = Ring(header.image_shape, "u2", self._n_images)

    def _open(self, key: tuple[int, int], arrival: float, now: float) -> Pending | None:
        if key in self._finished:
            if counts_as := self._finished[key]:
                self.counters[counts_as] += 1
            return None
        image = self.ring.take()
        if image is None:
            self.counters["dropped"] += 1
            self._remember(key, "")
            return None
        pending = self._pending[key] = Pending(image, arrival, now)
        return pending

    def _remember(self, key: tuple[int, int], counts_as: str) -> None:
        """Count module frames that still come of this image as `counts_as`; empty: not at all."""
        self._finished[key] = counts_as
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)

    def _missing(self, pending: Pending) -> list[Port]:
        return [p for i, p in enumerate(self.ports) if self._block_of_port.get(i) not in pending.blocks]

    def _hopeless(self, key: tuple[int, int], pending: Pending, read_until: float | None) -> bool:
        missing = self._missing(pending)
        if read_until is not None and read_until - pending.created >= self._max_age:
            for port in missing:
                port.silent = port.silent or port.heard < pending.created
            return True
        numbering, number = key
        return all(port.silent or port.passed(numbering, number + REORDER) for port in missing)

    def _finish(self, key: tuple[int, int], pending: Pending) -> None:
        missing = self._missing(pending)
        self._remember(key, "late" if missing else "duplicate")
        if pending.created < self._not_before:
            self.counters["flushed"] += 1
            return
        frame = self._frame(key, pending)
        self.counters["incomplete" if frame.missing or frame.incomplete else "complete"] += 1
        if self._mark or not (frame.missing or frame.incomplete):
            self._deliver(frame)
        else:
            self.counters["dropped"] += 1

    def _is_complete(self, header: ModuleHeader) -> bool:
        return header.complete or header.n_packets == self._n_packets

    def _time(self, pending: Pending, ticks: int) -> float:
        """Return s since the epoch; where the least late port is missing, by what it said before."""
        offset = pending.offset
        if self._clock is not None and ticks > self._clock[0]:
            offset = min(offset, self._clock[1] + DRIFT * (ticks - self._clock[0]) * CLOCK_PERIOD)
        self._clock = (ticks, offset)
        return offset + ticks * CLOCK_PERIOD

    def _frame(self, key: tuple[int, int], pending: Pending) -> StreamFrame:
        (rows, columns), (down, across) = self._layout
        whole_detector = self._shape is not None or len(self.ports) >= down * across
        wanted = range(down * across) if whole_detector else sorted(self._block_of_port.values())
        n_wanted = down * across if whole_detector else len(self.ports)
        missing = tuple(block for block in wanted if block not in pending.blocks)
        for block in range(down * across):
            if block not in pending.blocks:
                y, x = block // across * rows, block % across * columns
                pending.image[y : y + rows, x : x + columns] = LOST
        whole = [pending.blocks[b] for b in sorted(pending.blocks) if self._is_complete(pending.blocks[b])]
        incomplete = tuple(b for b in sorted(pending.blocks) if not self._is_complete(pending.blocks[b]))
        first = whole[0] if whole else None
        pulse_id = first.pulse_id if first else None
        agree = all(header.pulse_id == pulse_id for header in whole)
        clock = first is not None and first.ticks and pending.offset < float("inf")
        return StreamFrame(
            image=pending.image,
            timestamp=self._time(pending, first.ticks) if clock else pending.arrival,
            event_id=str(key[1] if pulse_id is None else pulse_id),
            pulse_id=pulse_id,
            is_good=bool(whole) and agree and len(whole) == n_wanted,
            frame_number=key[1],
            daq_rec=first.daq_rec if first else None,
            missing=missing,
            incomplete=incomplete,
            acquisition=key[0],
            received=pending.last,
            extra=(first.extra or {}) if first else {},
        )
